package stage

import (
	"stepfs/internal/schema"
)

// File types and mode bits, as in stat(2).
const (
	ModeType = 0o170000
	ModeDir  = 0o040000
	ModeReg  = 0o100000
	ModeLink = 0o120000
	modePerm = 0o7777
	setgid   = 0o2000
)

// RootIno is the inode number of the live tree's root.
const RootIno = 1

// MaxIno is the greatest inode number: 39 bits, so that a number tells in which
// snapshot an inode is shown, too (package fs). None is given out twice, so a
// store that has made half a trillion files makes no more.
const MaxIno = 1<<39 - 1

// MaxName is the longest name of an entry, in bytes.
const MaxName = 255

// Attr is what stat(2) shows of an inode. Times are ns since the epoch; Blocks
// counts 512 bytes.
type Attr struct {
	Ino                        uint64
	Mode                       uint32 // S_IFMT bits and permissions
	Nlink, UID, GID, Rdev      uint32
	Size, Blocks               int64
	Atime, Mtime, Ctime, Btime int64
}

// SetAttr says what to change; nil fields stay.
type SetAttr struct {
	Mode, UID, GID            *uint32
	Size, Atime, Mtime, Ctime *int64
	Handle                    uint64 // through which Size is set (ftruncate); 0: by path
}

// Cred is who asks. Permissions are checked by the kernel
// (default_permissions); this is for ownership of new inodes.
type Cred struct{ UID, GID, PID, Umask uint32 }

// Dirent is one entry of a directory; Type is S_IFMT bits. Hidden says that it
// is excluded: views do not list it.
type Dirent struct {
	Name   string
	Ino    uint64
	Type   uint32
	Hidden bool
}

// StatFS is what statfs(2) shows, in blocks of Bsize bytes.
type StatFS struct {
	Blocks, Bfree, Bavail, Files, Ffree uint64
	Bsize                               uint32
}

// attrOf shows an inode with content c: the live one, or that of a snapshot.
func attrOf(ino uint64, n *schema.Inode, c *schema.Content) Attr {
	a := Attr{
		Ino: ino, Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev,
		Size: c.Len, Blocks: (c.Alloc + 511) / 512,
		Atime: n.Atime, Mtime: c.Mtime, Ctime: n.Ctime, Btime: n.Btime,
	}
	if isDir(n) {
		a.Size, a.Blocks = 4096, 8
	}
	return a
}

func isDir(n *schema.Inode) bool { return n.Mode&ModeType == ModeDir }
func isReg(n *schema.Inode) bool { return n.Mode&ModeType == ModeReg }
