package attach

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/snapshot/published"
)

// openFile is a file that somebody has open. Its snapshot stays open as long: if
// it is forgotten meanwhile, reading goes on while its bytes are there.
type openFile struct {
	of   *shown
	snap *published.Opened
	file *published.File
	path string // for messages: its name
}

// Open opens a regular file.
func (f *FileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	o, err := f.open(asking(cancel), nodeID(in.NodeId))
	if err != nil {
		return f.told("open", err)
	}
	out.Fh, out.OpenFlags = f.files.Add(o), fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (f *FileSystem) open(ctx context.Context, n nodeID) (*openFile, error) {
	if !n.isSnapshot() {
		return nil, errIsDir
	}
	s, err := f.snapshotOf(n)
	if err != nil {
		return nil, err
	}
	page, e, err := f.entry(ctx, s, n)
	switch {
	case err != nil:
		return nil, err
	case e.IsDir():
		return nil, errIsDir
	case !e.IsReg():
		return nil, errInvalid
	}
	snap, err := f.opts.Snapshots.Open(ctx, s.step)
	if err != nil {
		return nil, err
	}
	file, err := snap.Tree.File(ctx, page, n.place())
	if err != nil {
		snap.Release()
		return nil, f.opts.Snapshots.Explain(ctx, s.step, fmt.Errorf("%s in %s: %w", e.Name, s.step.ID(), err))
	}
	return &openFile{s, snap, file, e.Name}, nil
}

// Read fills buf, which is the reply's own memory, from a file.
func (f *FileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	o, ok := f.files.Get(in.Fh)
	if !ok {
		return nil, f.told("read", errStale)
	}
	ctx := asking(cancel)
	n, err := o.file.ReadInOrder(ctx, buf, int64(in.Offset), &o.snap.Run)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s in %s of %s: %w", o.path, o.of.step.ID(), o.of.step.Writer, err)
		return nil, f.told("read", f.opts.Snapshots.Explain(ctx, o.of.step, err))
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Lseek answers SEEK_DATA and SEEK_HOLE; the kernel does the rest itself.
func (f *FileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	o, ok := f.files.Get(in.Fh)
	if !ok || in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return f.told("seek", errInvalid)
	}
	off, err := o.file.SeekTo(int64(in.Offset), in.Whence == unix.SEEK_DATA)
	if err != nil {
		return f.told("seek", errNXIO)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// Release ends an open file; nobody waits for the answer.
func (f *FileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if o, ok := f.files.Take(in.Fh); ok {
		o.file.Leave(&o.snap.Run)
		o.snap.Release()
	}
}
