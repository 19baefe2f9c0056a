package attach

import "github.com/hanwen/go-fuse/v2/fuse"

// nodeID is the number by which the kernel names a node. It says by itself where
// the node's entry lies:
//
//	names     number                                       1: the root, see names.go
//	snapshot  1<<63 | slot<<41 | page<<16 | place          slot >= 1
//
// slot stands for a snapshot under one name (22 bits), page for a page of one of
// its directories that was looked at (25 bits, see snapshots.go; page 0 has the
// snapshot's own directory alone), place for an entry in it (16 bits). A file of
// several names has several nodes, which show the same inode number.
type nodeID uint64

const (
	placeBits = 16
	pageBits  = 25
	slotBits  = 22

	maxPlace = 1<<placeBits - 1
	maxPage  = 1<<pageBits - 1
	maxSlot  = 1<<slotBits - 1

	snapshotBit nodeID = 1 << 63

	rootNode nodeID = fuse.FUSE_ROOT_ID
)

func snapshotNode(slot uint32, page, place int) nodeID {
	return snapshotBit | nodeID(slot)<<(pageBits+placeBits) | nodeID(page)<<placeBits | nodeID(place)
}

func (n nodeID) isSnapshot() bool { return n&snapshotBit != 0 }
func (n nodeID) slot() uint32     { return uint32(n >> (pageBits + placeBits) & maxSlot) }
func (n nodeID) page() int        { return int(n >> placeBits & maxPage) }
func (n nodeID) place() int       { return int(n & maxPlace) }

// inode numbers, as stat(2) shows them: those of names are their nodes', and in a
// snapshot
//
//	1<<63 | slot<<39 | ino      ino as in the store that made it (39 bits)
//
// so no two snapshots show the same.
func inodeNumber(slot uint32, ino uint64) uint64 {
	const inoBits = 39
	return 1<<63 | uint64(slot)<<inoBits | ino&(1<<inoBits-1)
}
