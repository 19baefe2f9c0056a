//go:build race

package snapshot_test

// raced: the race detector is on, and no time means anything.
const raced = true
