// Package integration tests stepfs as its users meet it: the built binary, a
// real mount, real PyTorch, and the faults of real machines. Nothing here
// imports a package of stepfs.
//
// Read main_test.go first, then the test that is nearest to what you change:
//
//	kill_test.go      kill -9 of the daemon at random moments, again and again;
//	                  model_test.go, worker_test.go, actions_test.go,
//	                  calls_test.go and record_test.go say what must be there
//	powercut_test.go  the same with a disk that stops
//	torch_test.go     checkpoints by torch.save, from one process and from four
//	rmtree_test.go    snapshots read while the job removes everything
//	tools_test.go     cp, diff, rsync, find between live tree and snapshots
//	barrier_test.go   what a barrier holds: settle, torn files, group commit
//	command_test.go   the commands, as a user types them
//	badinput_test.go  what must be refused, and how
//	signal_test.go    SIGTERM, Ctrl-C, busy mounts
//	fulldisk_test.go  a disk that runs full under the store
//
// STEPFS_PACKS=all loses every pack once; STEPFS_ROUNDS and STEPFS_SEED set the length and the seed of the random
// harnesses; STEPFS_RACE=1 builds the binary with the race detector;
// STEPFS_BIN takes a binary as it is. Each harness prints its seed and what it
// did, and fails when that proves nothing.
package integration
