// Package suites runs what others wrote against a real mount: fio, stress-ng,
// dbench, SQLite, git, tar, rsync, cp, HDF5, numpy, compileall. What they find
// must be what they find on ext4.
//
// main_test.go mounts, tree_test.go says what of a tree must survive a copy,
// again_test.go does everything once more through a snapshot of the same
// moment. STEPFS_SUITES=long runs each for longer.
package suites
