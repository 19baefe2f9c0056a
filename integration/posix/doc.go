// Package posix holds the live tree against ext4: the same calls, made by the
// same processes in the same order, in a directory of the disk and in one on a
// mount. What they answer, what they change and what they leave must be equal.
//
// Read script_test.go first: what a script is and which calls there are. Then
// calls_test.go (how a call is made), worker_test.go (the processes that make
// them), lockstep_test.go (one step in both trees, and what is compared after
// it), commit_test.go (what a snapshot must show, as promised), random_test.go
// (where scripts come from, and how one that fails is made short) and
// differences_test.go (the differences that are wanted; docs/POSIX.md tells
// users of them).
//
// A script in testdata is a difference that was found once.
//
// STEPFS_POSIX_OPS sets how many operations the random test makes;
// RAPID_SEED repeats a run.
package posix
