package storedir

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kind is what matters about the filesystem below a store.
type Kind struct {
	Name   string
	Shared bool   // another machine may have it mounted at the same time: flock may be local to this one
	Advice string // what a person should know; "" when all is well
}

// A store is not refused for the name of its filesystem: those that are shared,
// or that nobody here has heard of, are asked (probe) for the four things that
// stepfs stands on, and only one that fails is refused. What remains is advice.
const (
	adviceMemory  = "it is in memory: everything in the store is lost with the machine's power, or when it is unmounted"
	adviceOverlay = "it is a container's own layer: everything in the store goes when the container is removed, and every first write to an old file copies it; put the store on a volume"
	adviceShared  = "every fsync waits for the network, and a stepfs on another node is kept out by a lease alone; a local disk is faster and safer"
	adviceUser    = "what an fsync is worth there depends on the program behind it; a local disk is faster and safer"
	adviceOther   = "stepfs is not tested on it; ext4, xfs and btrfs are"
)

// kinds maps statfs(2) magic numbers; not all are in x/sys/unix.
var kinds = map[uint64]Kind{
	unix.EXT4_SUPER_MAGIC:      {Name: "ext4"}, // and ext2, ext3
	unix.XFS_SUPER_MAGIC:       {Name: "xfs"},
	unix.BTRFS_SUPER_MAGIC:     {Name: "btrfs"},
	0x2fc12fc1:                 {Name: "zfs", Advice: adviceOther},
	0xca451a4e:                 {Name: "bcachefs", Advice: adviceOther},
	unix.F2FS_SUPER_MAGIC:      {Name: "f2fs", Advice: adviceOther},
	unix.TMPFS_MAGIC:           {Name: "tmpfs", Advice: adviceMemory},
	unix.RAMFS_MAGIC:           {Name: "ramfs", Advice: adviceMemory},
	unix.OVERLAYFS_SUPER_MAGIC: {Name: "overlay", Advice: adviceOverlay},
	unix.NFS_SUPER_MAGIC:       {Name: "NFS", Shared: true, Advice: adviceShared},
	0x0bd00bd0:                 {Name: "Lustre", Shared: true, Advice: adviceShared},
	0x47504653:                 {Name: "GPFS", Shared: true, Advice: adviceShared},
	0x19830326:                 {Name: "BeeGFS", Shared: true, Advice: adviceShared},
	0x00c36400:                 {Name: "CephFS", Shared: true, Advice: adviceShared},
	0x01161970:                 {Name: "GFS2", Shared: true, Advice: adviceShared},
	0x7461636f:                 {Name: "OCFS2", Shared: true, Advice: adviceShared},
	0x0000517b:                 {Name: "SMB", Shared: true, Advice: adviceShared},
	0xff534d42:                 {Name: "CIFS", Shared: true, Advice: adviceShared},
	0xfe534d42:                 {Name: "SMB2", Shared: true, Advice: adviceShared},
	unix.V9FS_MAGIC:            {Name: "9p", Shared: true, Advice: adviceUser},
	unix.FUSE_SUPER_MAGIC:      {Name: "FUSE", Shared: true, Advice: adviceUser},
}

// kindOf looks the filesystem up; one that is unknown counts as shared, the
// careful answer.
func kindOf(path string) (Kind, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Kind{}, err
	}
	magic := uint64(uint32(st.Type))
	if k, ok := kinds[magic]; ok {
		return k, nil
	}
	return Kind{Name: fmt.Sprintf("filesystem 0x%x", magic), Shared: true, Advice: adviceOther}, nil
}

// overwriteInPlace has btrfs write over a new file of the directory where it
// lies. Segments of the journal are written once with zeros so that a record
// needs no room on the disk any more; a copy on write would need it, on a full
// disk. They have checksums of their own. Other filesystems do so, or can't.
func overwriteInPlace(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return // the journal says so
	}
	defer f.Close()
	if kind, err := kindOf(dir); err != nil || kind.Name != "btrfs" {
		return
	}
	const noCopyOnWrite = 0x00800000 // FS_NOCOW_FL
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCopyOnWrite) // without it a full disk is found out later
	}
}
