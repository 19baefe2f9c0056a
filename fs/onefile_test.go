package fs

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// oneFile is the smallest file system that the server's own tests need: a root
// with one file, "f", whose content is a file on disk. It keeps nothing about
// its nodes, so that two processes can serve it one after the other.
type oneFile struct {
	fuse.RawFileSystem
	backing *os.File
	splice  bool // READ answers with a descriptor
	direct  bool // opens are FOPEN_DIRECT_IO
}

const oneFileNode = 2

func newOneFile(t testing.TB, path string) *oneFile {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &oneFile{RawFileSystem: fuse.NewDefaultRawFileSystem(), backing: f}
}

func (o *oneFile) attr(node uint64, out *fuse.Attr) fuse.Status {
	if node == fuse.FUSE_ROOT_ID {
		*out = fuse.Attr{Ino: 1, Mode: fuse.S_IFDIR | 0o777, Nlink: 2}
		return fuse.OK
	}
	st, err := o.backing.Stat()
	if err != nil {
		return fuse.EIO
	}
	*out = fuse.Attr{Ino: oneFileNode, Mode: fuse.S_IFREG | 0o666, Nlink: 1, Size: uint64(st.Size())}
	return fuse.OK
}

func (o *oneFile) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name != "f" {
		return fuse.ENOENT
	}
	out.NodeId, out.Generation = oneFileNode, 1
	return o.attr(oneFileNode, &out.Attr)
}

func (o *oneFile) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return o.attr(in.NodeId, &out.Attr)
}

func (o *oneFile) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return o.attr(in.NodeId, &out.Attr)
}

func (o *oneFile) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if o.direct {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

func (o *oneFile) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if o.splice {
		return fuse.ReadResultFd(o.backing.Fd(), int64(in.Offset), int(in.Size)), fuse.OK
	}
	n, err := o.backing.ReadAt(buf, int64(in.Offset))
	if n == 0 && err != nil && err.Error() != "EOF" {
		return nil, fuse.EIO
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (o *oneFile) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, err := o.backing.WriteAt(data, int64(in.Offset))
	if err != nil {
		return 0, fuse.EIO
	}
	return uint32(n), fuse.OK
}
