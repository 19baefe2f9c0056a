package attach

import "github.com/hanwen/go-fuse/v2/fuse"

// The kernel refuses changes by itself, since the mount is read-only; if somebody
// mounts it anew for writing, these do.

func (f *FileSystem) SetAttr(_ <-chan struct{}, _ *fuse.SetAttrIn, _ *fuse.AttrOut) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Mknod(_ <-chan struct{}, _ *fuse.MknodIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Mkdir(_ <-chan struct{}, _ *fuse.MkdirIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Symlink(_ <-chan struct{}, _ *fuse.InHeader, _, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Link(_ <-chan struct{}, _ *fuse.LinkIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Unlink(_ <-chan struct{}, _ *fuse.InHeader, _ string) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Rmdir(_ <-chan struct{}, _ *fuse.InHeader, _ string) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Rename(_ <-chan struct{}, _ *fuse.RenameIn, _, _ string) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) Create(_ <-chan struct{}, _ *fuse.CreateIn, _ string, _ *fuse.CreateOut) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) SetXAttr(_ <-chan struct{}, _ *fuse.SetXAttrIn, _ string, _ []byte) fuse.Status {
	return fuse.EROFS
}

func (f *FileSystem) RemoveXAttr(_ <-chan struct{}, _ *fuse.InHeader, _ string) fuse.Status {
	return fuse.EROFS
}
