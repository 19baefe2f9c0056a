package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// publish has a stored step published. fresh: it was not before.
func (p *publisher) publish(ctx context.Context, i Info) (fresh bool, err error) {
	if u, err := p.m.refUpload(p.m.db, i.Seq); err != nil || u != nil {
		return false, err
	}
	f, err := p.putRef(ctx, i)
	if errors.Is(err, chunkstore.ErrOlder) {
		if i, err = p.renewer.renew(ctx, i); err == nil {
			f, err = p.putRef(ctx, i)
		}
	}
	if err != nil {
		return false, err
	}
	barrier := i.Name == ""
	if fresh, err = p.record(f, barrier); err == nil && barrier {
		p.forgetBarriers(ctx, f)
	}
	return fresh, err
}

// record notes that a snapshot has its ref. It is durable before there is another
// ref: of the last alone the lease says later that it has arrived.
func (p *publisher) record(f *bucket.Ref, barrier bool) (fresh bool, err error) {
	key := schema.Numbered(schema.PrefixRefUpload, f.Snapshot)
	pos, err := p.m.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		u, err := p.m.refUpload(tx, f.Snapshot)
		if fresh = u == nil; err == nil && fresh {
			tx.Put(key, schema.RefUpload{Writer: f.Writer, Seq: f.Seq, Time: p.m.cfg.Now().UnixNano(), Barrier: barrier}.Encode())
			if !barrier { // whose ref may go soon: nothing is evicted for it
				err = p.up.Named(tx, f.Packs)
			}
		}
		return err
	})
	if err == nil {
		err = p.m.db.Sync(pos)
	}
	if err != nil {
		return false, fmt.Errorf("record the ref of snapshot %d: %w", f.Snapshot, err)
	}
	return fresh, nil
}

// catchUp finds out what came of a ref that was put last, by this daemon or the
// one before it, without an answer.
func (p *publisher) catchUp(ctx context.Context) error {
	f, err := p.up.Last(ctx)
	if f == nil || err != nil {
		return err
	}
	i, err := p.m.Get(f.Snapshot)
	if errors.Is(err, ErrNotExist) {
		return p.forgets.found(f)
	}
	if err == nil && i.Tree != f.Root {
		return nil // of a store that was put back from a backup
	}
	if err != nil {
		return err
	}
	barrier := i.Name == ""
	fresh, err := p.record(f, barrier)
	if err == nil && fresh {
		if barrier {
			p.forgetBarriers(ctx, f)
		}
		p.did(f.Snapshot, barrier, true)
	}
	return err
}

// theirsAttempts is how often a step is tried that needs what others have sent,
// and that is being pruned. Then all that it needs is sent.
const theirsAttempts = 3

// putRef uploads all that a step needs and nobody else has, and puts its ref.
func (p *publisher) putRef(ctx context.Context, i Info) (f *bucket.Ref, err error) {
	for range theirsAttempts {
		if f, err = p.tryRef(ctx, i, false); !errors.Is(err, chunkstore.ErrTheirs) {
			return f, err
		}
	}
	return p.tryRef(ctx, i, true)
}

func (p *publisher) tryRef(ctx context.Context, i Info, alone bool) (*bucket.Ref, error) {
	needs := p.up.Needs()
	defer needs.Release()
	if alone {
		needs.Alone()
	}
	w := treeWalk{ctx: ctx, chunks: p.m.cfg.Chunks, needs: needs}
	rootLen, err := w.root(i)
	if err != nil {
		return nil, fmt.Errorf("find what it needs: %w", err)
	}
	rec, err := readSnapshot(p.m.db, i.Seq)
	if err != nil {
		return nil, err
	}
	rec.Holds = slices.DeleteFunc(rec.Holds, func(h schema.Hold) bool { return h.Name == PinHold }) // of this disk
	f := &bucket.Ref{Domain: p.up.Domain(), Snapshot: i.Seq, Record: rec.Encode(), Root: i.Tree, RootLen: rootLen}
	return f, needs.Publish(ctx, f)
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
