// Package harness drives stepfs from outside: it builds the binary, mounts,
// kills, unmounts, and looks at what the kernel says. It imports nothing of
// stepfs, so that what uses it sees exactly what a user sees.
//
// Read daemon.go first. Everything that a run makes lies below one Root, so
// that Root.Leftovers can tell what it left behind, and Root.Close take it away.
package harness
