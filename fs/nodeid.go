package fs

// nodeID is the number by which the kernel names a node, and at the same time
// the inode number that stat(2) shows. It says by itself where the node lives,
// so that a restarted daemon knows every node the kernel still holds, and it
// is never given to anything else:
//
//	live      ino                                          (root: 1)
//	snapshot  1<<63 | view<<61 | slot<<39 | ino            slot >= 1
//	names     1<<63 | number                               slot 0, see names.go
//
// ino is the inode's number in the live tree (39 bits), slot (22 bits) stands
// for one snapshot, see Registry.Slot. A file in a snapshot therefore never
// has the number of the live file, nor of the file in another snapshot.
//
// view keeps the ways to one snapshot apart. A directory has one parent: were
// snapshots/12000 and snapshots/12000@77 the same node, the kernel would move
// the one's dentries below the other each time somebody looks at it.
type nodeID uint64

// view is the way on which a snapshot was reached.
type view uint8

const (
	byStep     view = iota // snapshots/<step>, snapshots/<scope>/<step>
	byRevision             // …/<step>@<seq>
	byBarrier              // snapshots/.barriers/<seq>
)

const (
	inoBits  = 39
	slotBits = 22
	viewBits = 2

	maxIno  = 1<<inoBits - 1 // stage.MaxIno
	maxSlot = 1<<slotBits - 1

	snapshotBit nodeID = 1 << 63
)

// snapshotNode is the node of inode ino in the snapshot that owns slot.
func snapshotNode(v view, slot uint32, ino uint64) nodeID {
	return snapshotBit | nodeID(v)<<(inoBits+slotBits) | nodeID(slot)<<inoBits | nodeID(ino)
}

// nameNode is the node of a synthetic name.
func nameNode(number uint64) nodeID { return snapshotBit | nodeID(number) }

func (n nodeID) isLive() bool     { return n&snapshotBit == 0 }
func (n nodeID) isSnapshot() bool { return n&snapshotBit != 0 && n.slot() != 0 }
func (n nodeID) isName() bool     { return n&snapshotBit != 0 && n.slot() == 0 }

func (n nodeID) slot() uint32 { return uint32(n >> inoBits & maxSlot) }
func (n nodeID) view() view   { return view(n >> (inoBits + slotBits) & (1<<viewBits - 1)) }

// ino is the inode's number in its tree; of a synthetic name, its number.
func (n nodeID) ino() uint64 {
	if n.isLive() {
		return uint64(n)
	}
	return uint64(n & maxIno)
}

// sibling is the node of another inode in the same tree as n.
func (n nodeID) sibling(ino uint64) nodeID {
	if n.isLive() {
		return nodeID(ino)
	}
	return n&^maxIno | nodeID(ino)
}
