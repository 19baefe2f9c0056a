// Package faults breaks what stepfs stands on, again and again, and holds what
// is there afterwards against what was acknowledged: the built binary, real
// mounts, real disks.
//
// Read main_test.go first, then the fault that you want to know about:
//
//	machine_test.go    a store on a disk whose power fails: ext4, xfs, btrfs
//	sequences_test.go  all sequences of up to two operations, cut at a barrier
//	ranks_test.go      four ranks that save, cut at a random moment
//	inject_test.go     strace lets the daemon's k-th system call fail
//	stall_test.go      SIGSTOP, the OOM killer, the death of the job
//	flip_test.go       one bit of the store is another
//
// Each prints its seed and its counts, keeps what was acknowledged outside the
// mount, and fails when it proved nothing. STEPFS_SEED repeats a run. How much
// is done: STEPFS_CUTS power cuts, STEPFS_FLIPS flipped bits, every
// STEPFS_STRIDE-th system call, STEPFS_STALL seconds without the daemon; make
// soak has the long variants.
package faults
