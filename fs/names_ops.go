package fs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
)

// openText opens a status file: what it says is rendered now and stays the
// same for this handle. Its size may be another one by now, so the kernel is
// told not to go by it.
func (f *FileSystem) openText(n nodeID, out *fuse.OpenOut) fuse.Status {
	text, err := f.text(n)
	if err != nil {
		return status(err)
	}
	out.Fh, out.OpenFlags = f.texts.Add(text), fuse.FOPEN_DIRECT_IO|fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (f *FileSystem) text(n nodeID) ([]byte, error) {
	of, err := f.nameOf(n)
	if err != nil {
		return nil, err
	}
	if of.kind != textName && of.kind != jsonName {
		return nil, stage.ErrInvalid
	}
	return f.opts.Status(of.kind == jsonName)
}

func (f *FileSystem) readText(n nodeID, in *fuse.ReadIn, buf []byte) (int, error) {
	text, ok := f.texts.Get(in.Fh)
	if !ok { // opened with a predecessor
		var err error
		if text, err = f.text(n); err != nil {
			return 0, err
		}
		text = f.texts.Adopt(in.Fh, text)
	}
	if in.Offset >= uint64(len(text)) {
		return 0, nil
	}
	return copy(buf, text[in.Offset:]), nil
}

// scopeOf gives the scope whose snapshots the synthetic directory n lists, if
// it is one in which snapshots can be made.
func (f *FileSystem) scopeOf(n nodeID) (string, error) {
	of, err := f.nameOf(n)
	if err != nil {
		return "", err
	}
	if of.kind != dirName || f.opts.SnapshotsOnly {
		return "", stage.ErrReadOnly
	}
	return of.scope, nil
}

// mkdirSnapshot is "mkdir snapshots/<name>": it takes a snapshot under that
// name. It is not interrupted, for the reason that Fsync is not.
func (f *FileSystem) mkdirSnapshot(parent nodeID, name string, uid uint32, out *fuse.EntryOut) fuse.Status {
	scope, err := f.scopeOf(parent)
	if err != nil {
		return status(err)
	}
	if _, err := f.lookupName(parent, name); err == nil {
		return status(stage.ErrExist)
	}
	info, err := f.manager.SnapshotAs(context.Background(), scope, name, "mkdir", uid, nil)
	if err != nil {
		return status(err)
	}
	n, err := f.snapshotNode(byStep, info)
	if err != nil {
		return status(err)
	}
	return f.lookupNode(n, out)
}

// rmdirSnapshot is "rmdir snapshots/<name>": it removes a snapshot that was
// made under a name. A step cannot be removed so, which protects it from the
// rmtree of a job.
func (f *FileSystem) rmdirSnapshot(parent nodeID, name string, uid uint32) fuse.Status {
	scope, err := f.scopeOf(parent)
	if err != nil {
		return status(err)
	}
	n, err := f.lookupName(parent, name)
	if err != nil {
		return status(err)
	}
	if !n.isSnapshot() || n.view() != byStep {
		return status(stage.ErrReadOnly)
	}
	return status(f.manager.Remove(context.Background(), joinScope(scope, name), uid))
}
