package stage

import (
	"bytes"
	"context"
	"fmt"

	"stepfs/internal/schema"
)

// What was stored proves what a generation's own copy has to say: below the length
// that is stored it never changes. A copy that was found to say otherwise, or that
// can't be read, is wrong: as far as its bytes are stored, they come from chunks from
// then on, checked against their names. That is known for as long as the tree is open;
// the next scrub finds it again. What is not stored yet nobody can check.

// Distrust notes that a generation's own copy is wrong.
func (t *Tree) Distrust(gen uint64) { t.gens.distrust(gen, nil) }

func (gt *genTable) distrust(id uint64, err error) {
	gt.mu.Lock()
	_, known := gt.wrong[id]
	gt.wrong[id] = struct{}{}
	gt.mu.Unlock()
	if err != nil && !known {
		gt.t.fault("a hot copy can't be read, its chunks are", err)
	}
}

// trust forgets a copy that is gone.
func (gt *genTable) trust(id uint64) {
	gt.mu.Lock()
	defer gt.mu.Unlock()
	delete(gt.wrong, id)
}

func (gt *genTable) isWrong(id uint64) bool {
	gt.mu.Lock()
	defer gt.mu.Unlock()
	_, wrong := gt.wrong[id]
	return wrong
}

// verify looks whether the content was read as it had been stored before: a copy that
// has gone bad meanwhile must not be stored as if that had been written. Where old
// chunks lie whole in what the content shows of a generation, they are the new ones as
// well, as a rule; where the content was cut otherwise, the copy is held against them.
func (f *Frozen) verify(ctx context.Context, es []schema.ChunkExtent) error {
	same := map[int64]schema.ChunkExtent{}
	for _, e := range es {
		same[e.Off] = e
	}
	lists := map[uint64]*chunkList{}
	check := func(gen uint64, from, to int64) error {
		l := lists[gen]
		if l == nil {
			stored, err := f.t.CopyExtents(gen)
			if err != nil {
				return err
			}
			l = &chunkList{es: stored}
			lists[gen] = l
		}
		for len(l.es) > 0 && l.es[0].Off < from {
			l.es = l.es[1:]
		}
		for ; len(l.es) > 0 && l.es[0].Off+int64(l.es[0].Len) <= to; l.es = l.es[1:] {
			if e := l.es[0]; same[e.Off] != e {
				if err := f.t.compareCopy(ctx, gen, e); err != nil {
					return err
				}
			}
		}
		return nil
	}
	gen, from, to := uint64(0), int64(0), int64(0) // a range in which one generation shows
	err := f.t.stripes(f.p.Ino, &f.p.Content, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		for _, fr := range fs {
			off, end := int64(s)*stripeSize+int64(fr.Off), min(int64(s)*stripeSize+int64(fr.End()), f.p.Content.Len)
			if fr.Gen == gen && off == to {
				to = end
				continue
			}
			if err := check(gen, from, to); err != nil {
				return false, err
			}
			gen, from, to = fr.Gen, off, end
		}
		return true, nil
	})
	if err == nil {
		err = check(gen, from, to)
	}
	return err
}

// compareCopy holds a generation's own copy, if it has one, against a chunk of it. One
// that can't be read proves nothing.
func (t *Tree) compareCopy(ctx context.Context, gen uint64, e schema.ChunkExtent) error {
	own, want := make([]byte, e.Len), make([]byte, e.Len)
	if ok, err := t.ReadCopy(gen, own, e.Off); !ok || err != nil || t.gens.isWrong(gen) {
		return nil // then it was not read from there
	}
	if err := t.cfg.Chunks.ReadChunk(ctx, e.ID, e.Raw, want, int(e.Skip)); err != nil || bytes.Equal(own, want) {
		return nil
	}
	t.Distrust(gen)
	return fmt.Errorf("%w: the hot copy of generation %d is not what was stored, at %d: its chunks are read from now on", ErrIO, gen, e.Off)
}
