// Package fs connects the kernel to the trees: it answers FUSE requests from
// the live tree (fs/stage) and from the snapshots (package snapshot).
//
// Read filesystem.go first: what a FileSystem is made of and every operation
// that it answers, by file. Then nodeid.go (how a node's number says where it
// lives, so that no table of nodes has to survive a restart), names.go (the
// directory of snapshots) and errno.go (the one table from our errors to
// errno). The connection itself is conn.go (mount, hand over), server.go (the
// read loop) and notify.go (what we tell the kernel unasked).
//
// Nothing here decides about content, durability or retention, and nothing
// about a node lives only in this package's memory: a successor that is
// handed the descriptor answers for the same nodes.
package fs
