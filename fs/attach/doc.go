// Package attach shows what is published in a bucket as a read-only file system,
// without a store: snapshots/<step> as a mount of the store that made it would
// (snapshot/published says what is there and reads it).
//
// Read filesystem.go first, then nodeid.go: a node's number says where it lies,
// so there is no table of nodes, however many files somebody walks over.
// snapshots.go has what is kept of each snapshot, names.go the directories above
// them.
package attach
