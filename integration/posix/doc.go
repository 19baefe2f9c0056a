// Package posix holds the live tree against ext4: the same calls, made by the
// same processes in the same order, in a directory of the disk and in one on a
// mount. What they answer, what they change and what they leave must be equal.
//
// Read script_test.go first: what a script is. Then calls_test.go (which calls
// there are; how each is made is in the files beside it), worker_test.go (the
// processes that make them), lockstep_test.go (one step in both trees),
// compare_test.go (what is compared after it), commit_test.go (what a snapshot
// must show, as promised; follow_test.go tells it what happens), random_test.go
// (where scripts come from) and differences_test.go (what is not compared, and
// why; docs/POSIX.md tells users of it).
//
// A script in testdata is a difference that was found once.
//
// STEPFS_POSIX_OPS sets how many operations the random test makes, STEPFS_SEED
// repeats a run.
package posix
