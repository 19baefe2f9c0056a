package snapshot

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// publish has a stored step published. The ref is recorded, with its bytes, before
// it is put, so that whoever goes on after a crash puts the very same. fresh: it
// was not published before.
func (p *publisher) publish(ctx context.Context, i Info) (fresh bool, err error) {
	u, err := p.m.refUpload(p.m.db, i.Seq)
	if err != nil || u != nil && u.State == schema.UploadArrived {
		return false, err
	}
	again := u != nil
	if !again {
		if u, err = p.makeRef(ctx, i); err != nil {
			return false, err
		}
	}
	if err := p.up.Put(ctx, bucket.RefKey(u.Writer, u.Seq), remote.Bytes(u.Object), again); err != nil {
		return false, fmt.Errorf("put its ref: %w", err)
	}
	f, err := bucket.DecodeRef(u.Object, u.Writer, u.Seq)
	if err != nil {
		return false, fmt.Errorf("its ref: %w", err)
	}
	u.State, u.Time, u.Object = schema.UploadArrived, p.m.cfg.Now().UnixNano(), nil
	_, err = p.m.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixRefUpload, i.Seq), u.Encode())
		return p.up.Named(tx, f.Packs)
	})
	return true, err
}

// makeRef uploads all that a step needs, and records its ref.
func (p *publisher) makeRef(ctx context.Context, i Info) (*schema.RefUpload, error) {
	needs := p.up.Needs()
	defer needs.Release()
	w := treeWalk{ctx: ctx, chunks: p.m.cfg.Chunks, needs: needs}
	rootLen, err := w.root(i)
	if err != nil {
		return nil, fmt.Errorf("find what it needs: %w", err)
	}
	packs, err := needs.Upload(ctx)
	if err != nil {
		return nil, err
	}
	u := &schema.RefUpload{State: schema.UploadReserved}
	pos, err := p.m.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		rec, err := tx.Get(schema.Numbered(schema.PrefixSnapshot, i.Seq))
		if err != nil {
			return err
		}
		writer, seq, err := p.up.RefNumber(tx)
		if err != nil {
			return err
		}
		f := bucket.Ref{Domain: p.up.Domain(), Writer: writer, Seq: seq, Snapshot: i.Seq, Record: rec,
			Root: i.Tree, RootLen: rootLen, Packs: packs}
		u.Writer, u.Seq, u.Object = writer, seq, f.Encode()
		if len(u.Object) > bucket.MaxRef {
			return fmt.Errorf("its ref would have %d bytes", len(u.Object))
		}
		tx.Put(schema.Numbered(schema.PrefixRefUpload, i.Seq), u.Encode())
		return nil
	})
	if err == nil {
		err = p.m.db.Sync(pos)
	}
	if err != nil {
		return nil, fmt.Errorf("record its ref: %w", err)
	}
	return u, nil
}

// treeWalk finds the packs that a step needs, in the order in which a restore
// meets them: those of its tree's objects and of its files' chunks.
type treeWalk struct {
	ctx    context.Context
	chunks Chunks
	needs  *chunkstore.Needs
}

// object reads an object of the tree.
func (w *treeWalk) object(id [32]byte) ([]byte, error) {
	if err := w.needs.Add(w.ctx, id); err != nil {
		return nil, err
	}
	return w.chunks.ReadBack(w.ctx, id, nil)
}

func (w *treeWalk) root(i Info) (length uint32, err error) {
	if i.Tree == [32]byte{} {
		return 0, errStaged
	}
	b, err := w.object(i.Tree)
	if err != nil {
		return 0, err
	}
	seq, _, dir, err := schema.DecodeRoot(b)
	if err == nil && seq != i.Seq {
		err = fmt.Errorf("%w: its root is that of snapshot %d", chunkstore.ErrCorrupt, seq)
	}
	if err == nil {
		err = w.dir(dir.Dir, 0)
	}
	return uint32(len(b)), err
}

// dir goes through a directory, which is one page or an index of pages.
func (w *treeWalk) dir(ref schema.ObjectRef, depth int) error {
	if depth > maxDepth {
		return errors.New("directories below each other without end")
	}
	b, err := w.object(ref.ID)
	if err != nil {
		return err
	}
	if len(b) == 0 || b[0] != schema.ObjectIndex {
		return w.page(b, depth)
	}
	pages, err := schema.DecodePages(b)
	for _, p := range pages {
		if b, err = w.object(p.ID); err == nil {
			err = w.page(b, depth)
		}
		if err != nil {
			return err
		}
	}
	return err
}

func (w *treeWalk) page(b []byte, depth int) error {
	entries, err := schema.DecodePage(b)
	for k := range entries {
		e := &entries[k]
		switch {
		case e.IsDir():
			err = w.dir(e.Dir, depth+1)
		case e.IsReg():
			err = w.file(e)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	return err
}

func (w *treeWalk) file(e *schema.TreeEntry) error {
	if err := w.extents(e.Chunks); err != nil {
		return err
	}
	for _, p := range e.Pages {
		b, err := w.object(p.ID)
		if err != nil {
			return err
		}
		es, err := schema.DecodeExtents(b)
		if err == nil {
			err = w.extents(es)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWalk) extents(es []schema.ChunkExtent) error {
	for _, e := range es {
		if err := w.needs.Add(w.ctx, e.ID); err != nil {
			return err
		}
	}
	return nil
}
