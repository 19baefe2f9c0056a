// Package livetree shows fs/stage to package snapshot. Neither imports the
// other: snapshot declares what it needs of a live tree, stage offers what a
// live tree can do, and the types meet here, for the command and for tests
// that wire the layers together.
package livetree

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// New makes a stage.Tree what package snapshot needs.
func New(t *stage.Tree) snapshot.Tree { return liveTree{t} }

type liveTree struct{ *stage.Tree }

// Cut freezes the tree.
func (t liveTree) Cut(inos []uint64, logs, force bool) (snapshot.Cut, error) {
	c, err := t.Tree.Cut(inos, logs, force)
	if err != nil {
		return nil, err
	}
	return cut{t.Tree, c}, nil
}

// CutWith freezes the tree and shows a hidden directory in it.
func (t liveTree) CutWith(dir uint64, name string, ino uint64) (snapshot.Cut, error) {
	c, err := t.Tree.CutWith(stage.Graft{Dir: dir, Name: name, Ino: ino})
	if errors.Is(err, stage.ErrNotExist) {
		return t.Cut(nil, true, true) // dir is gone, as the caller will find
	}
	if err != nil {
		return nil, err
	}
	return cut{t.Tree, c}, nil
}

// Find resolves a path below the root.
func (t liveTree) Find(path string) (ino uint64, dir bool, err error) {
	a, err := t.Tree.Find(path)
	return a.Ino, a.Mode&stage.ModeType == stage.ModeDir, err
}

// At gives the view of a snapshot.
func (t liveTree) At(seq uint64) snapshot.View { return view{t.Tree.At(seq)} }

// Now is what a snapshot taken now would show.
func (t liveTree) Now() snapshot.View { return view{t.Tree.Now()} }

// Event is what happened in the tree, in snapshot's terms.
func Event(e stage.Event) snapshot.Event {
	return snapshot.Event{Op: ops[e.Op], Dir: e.Dir, Name: e.Name, Ino: e.Ino, FromDir: e.FromDir, FromName: e.FromName, Over: e.Over}
}

var ops = [...]snapshot.Op{
	stage.OpCreate: snapshot.OpCreate, stage.OpMkdir: snapshot.OpMkdir, stage.OpWrite: snapshot.OpWrite,
	stage.OpTruncate: snapshot.OpWrite, stage.OpClose: snapshot.OpClose, stage.OpAbandon: snapshot.OpAbandon,
	stage.OpRename: snapshot.OpRename, stage.OpUnlink: snapshot.OpUnlink, stage.OpRmdir: snapshot.OpRmdir,
	stage.OpAttr: snapshot.OpAttr,
}

// Pending gives what waits for ingest.
func (t liveTree) Pending(fn func(snapshot.Frozen) (more bool)) error {
	return t.Tree.Pending(func(f *stage.Frozen) bool { return fn(frozen{f}) })
}

// cut is a stage.Cut with its tree.
type cut struct {
	tree *stage.Tree
	*stage.Cut
}

func (c cut) Seq() uint64      { return c.Cut.Seq }
func (c cut) Same() bool       { return c.Cut.Same }
func (c cut) Marked() []uint64 { return c.Cut.Marked }
func (c cut) NeedsSync() bool  { return c.tree.NeedsSync(c.Cut) }
func (c cut) Done()            { c.tree.CutDone(c.Cut) }

func (c cut) Sync(ctx context.Context) map[uint64]error { return c.tree.SyncCut(ctx, c.Cut) }

func (c cut) SyncAll(ctx context.Context) error { return c.tree.SettleCommitted(ctx) }

// view is a stage.View with snapshot's types.
type view struct{ *stage.View }

func (v view) Lookup(parent uint64, name string) (snapshot.Node, error) {
	a, err := v.View.Lookup(parent, name)
	if err != nil {
		return snapshot.Node{}, err
	}
	return v.node(a)
}

func (v view) Node(ino uint64) (snapshot.Node, error) {
	a, err := v.View.GetAttr(ino)
	if err != nil {
		return snapshot.Node{}, err
	}
	return v.node(a)
}

func (v view) node(a stage.Attr) (snapshot.Node, error) {
	mark := ""
	if a.Mode&unix.S_IFMT == unix.S_IFREG {
		var err error
		if mark, err = v.View.Marks(a.Ino); err != nil {
			return snapshot.Node{}, err
		}
	}
	return snapshot.Node{
		Ino: a.Ino, Mode: a.Mode, UID: a.UID, GID: a.GID, Rdev: a.Rdev, Nlink: a.Nlink,
		Size: a.Size, Alloc: a.Blocks * 512, Mtime: a.Mtime, Ctime: a.Ctime, Mark: mark,
	}, nil
}

func (v view) ReadDir(dir uint64, after string, max int) ([]snapshot.Entry, error) {
	entries, err := v.View.ReadDir(dir, after, max)
	out := make([]snapshot.Entry, len(entries))
	for i, e := range entries {
		out[i] = snapshot.Entry{Name: e.Name, Ino: e.Ino, Type: e.Type}
	}
	return out, err
}

// frozen is a stage.Frozen with the chunk store's types.
type frozen struct{ *stage.Frozen }

func (f frozen) Segments() ([]chunkstore.Segment, error) {
	segs, err := f.Frozen.Segments()
	out := make([]chunkstore.Segment, len(segs))
	for i, s := range segs {
		out[i] = chunkstore.Segment(s)
	}
	return out, err
}
