// Package frameworks tests that a whole checkpoint of every framework becomes
// a step, at the right moment, and that a torn one never counts as complete:
// with the built binary on a real mount, real PyTorch, and, for frameworks that
// are not to be had here, the system calls that they make.
//
// Read table.go first (what each framework does), then frameworks_test.go;
// rules_test.go is about the rules of a store's own.
package frameworks
