package schema

import "encoding/binary"

// Content is one version of a file's bytes: the stripes written by
// generations Base..Gen, clipped to Len. The zero Content is an empty file.
type Content struct {
	Gen   uint64 // newest generation that belongs to it; 0 = nothing was ever written
	Base  uint64 // generations below Base are hidden (O_TRUNC starts a new base)
	Len   int64  // bytes
	Alloc int64  // bytes of it that are data, not hole
	Mtime int64  // ns
}

// Inode is one version of an inode. Directories have no content.
type Inode struct {
	Mode, Nlink, UID, GID, Rdev uint32
	Atime, Ctime, Btime         int64  // ns
	Parent                      uint64 // directory of its last known name ...
	Name                        string // ... and that name

	// Live is what the job sees. Committed is what a snapshot of this version
	// shows: the content at the file's last barrier or close (nil: none yet,
	// the file is absent). Settled is the newest committed content known to be
	// durable: what a snapshot falls back to after a power cut.
	Live      Content
	Committed *Content
	Settled   *Content

	Deleted  bool // no link and no opener is left
	HasOlder bool // an older version of this key exists
	Marked   bool // Committed was taken of an append-only file still open
	Reverted bool // content had not settled when power failed, or its sync failed
	Failed   bool // a sync of the live content failed: fsync fails until truncated
	Grown    bool // a change of size has added a range; it may still be a hole
	Excluded bool // no snapshot shows it, nor what is made in it
}

const (
	inodeDeleted = 1 << iota
	inodeHasOlder
	inodeMarked
	inodeReverted
	inodeFailed
	inodeCommitted
	inodeSettled
	inodeGrown
	inodeExcluded
)

func appendContent(b []byte, c *Content) []byte {
	b = binary.AppendUvarint(b, c.Gen)
	b = binary.AppendUvarint(b, c.Base)
	b = binary.AppendVarint(b, c.Len)
	b = binary.AppendVarint(b, c.Alloc)
	return binary.AppendVarint(b, c.Mtime)
}

func (r *reader) content() Content {
	return Content{Gen: r.uint(), Base: r.uint(), Len: r.int(), Alloc: r.int(), Mtime: r.int()}
}

// Encode gives the inode's value.
func (n *Inode) Encode() []byte {
	var flags uint64
	set := func(on bool, f uint64) {
		if on {
			flags |= f
		}
	}
	set(n.Deleted, inodeDeleted)
	set(n.HasOlder, inodeHasOlder)
	set(n.Marked, inodeMarked)
	set(n.Reverted, inodeReverted)
	set(n.Failed, inodeFailed)
	set(n.Grown, inodeGrown)
	set(n.Excluded, inodeExcluded)
	set(n.Committed != nil, inodeCommitted)
	set(n.Settled != nil, inodeSettled)
	b := make([]byte, 0, 128)
	b = binary.AppendUvarint(b, flags)
	for _, v := range [...]uint32{n.Mode, n.Nlink, n.UID, n.GID, n.Rdev} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	for _, v := range [...]int64{n.Atime, n.Ctime, n.Btime} {
		b = binary.AppendVarint(b, v)
	}
	b = binary.AppendUvarint(b, n.Parent)
	b = putBytes(b, []byte(n.Name))
	b = appendContent(b, &n.Live)
	if n.Committed != nil {
		b = appendContent(b, n.Committed)
	}
	if n.Settled != nil {
		b = appendContent(b, n.Settled)
	}
	return b
}

// DecodeInode is the inverse of Encode.
func DecodeInode(v []byte) (*Inode, error) {
	r := &reader{b: v}
	flags := r.uint()
	n := &Inode{
		Deleted: flags&inodeDeleted != 0, HasOlder: flags&inodeHasOlder != 0, Marked: flags&inodeMarked != 0,
		Reverted: flags&inodeReverted != 0, Failed: flags&inodeFailed != 0, Grown: flags&inodeGrown != 0,
		Excluded: flags&inodeExcluded != 0,
	}
	for _, p := range [...]*uint32{&n.Mode, &n.Nlink, &n.UID, &n.GID, &n.Rdev} {
		*p = r.uint32()
	}
	for _, p := range [...]*int64{&n.Atime, &n.Ctime, &n.Btime} {
		*p = r.int()
	}
	n.Parent = r.uint()
	n.Name = string(r.bytes())
	n.Live = r.content()
	if flags&inodeCommitted != 0 {
		c := r.content()
		n.Committed = &c
	}
	if flags&inodeSettled != 0 {
		c := r.content()
		n.Settled = &c
	}
	return n, r.done("inode")
}

// Dentry is one version of a directory entry; Ino 0 says that the name is gone.
type Dentry struct {
	Ino      uint64
	Type     uint32 // S_IFMT bits
	HasOlder bool   // an older version of this key exists
	Hidden   bool   // excluded: the live tree alone shows it
}

const (
	dentryHasOlder = 1 << iota
	dentryHidden
)

// Encode gives the entry's value.
func (d Dentry) Encode() []byte {
	b := binary.AppendUvarint(nil, d.Ino)
	b = binary.AppendUvarint(b, uint64(d.Type))
	return append(b, boolByte(d.HasOlder)*dentryHasOlder|boolByte(d.Hidden)*dentryHidden)
}

// DecodeDentry is the inverse of Encode.
func DecodeDentry(v []byte) (Dentry, error) {
	r := &reader{b: v}
	d := Dentry{Ino: r.uint(), Type: r.uint32()}
	flags := r.fixed(1)[0]
	d.HasOlder, d.Hidden = flags&dentryHasOlder != 0, flags&dentryHidden != 0
	return d, r.done("dentry")
}

// Xattr is one version of an extended attribute.
type Xattr struct {
	Gone     bool
	HasOlder bool
	Value    []byte
}

// Encode gives the attribute's value.
func (x Xattr) Encode() []byte {
	return putBytes([]byte{boolByte(x.Gone), boolByte(x.HasOlder)}, x.Value)
}

// DecodeXattr is the inverse of Encode.
func DecodeXattr(v []byte) (Xattr, error) {
	r := &reader{b: v}
	f := r.fixed(2)
	x := Xattr{Gone: f[0] != 0, HasOlder: f[1] != 0}
	x.Value = append([]byte(nil), r.bytes()...)
	return x, r.done("xattr")
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
