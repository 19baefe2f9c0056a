package stage

import "stepfs/internal/schema"

// pageSize is what a disk keeps or loses as one when power fails.
const pageSize = schema.InlineBlock

// fillEdges completes the pages that a write covers in part: before the first
// bytes of a generation go to a page of its staging file, the older bytes
// around them do. Another write to the page may be recorded and not reach the
// disk: then the page shows older bytes there, and not zeros.
func (t *Tree) fillEdges(w *writing) error {
	if w.rec.Live.Base == w.g.id {
		return nil // whole: nothing older lies below
	}
	end := w.off + int64(len(w.data))
	first, last := w.off/pageSize*pageSize, (end-1)/pageSize*pageSize
	for at := first; at <= last; at += max(last-first, pageSize) {
		if at >= w.off && at+pageSize <= end {
			continue
		}
		b, own, err := t.olderPage(w, at)
		if err != nil {
			return err
		}
		if b == nil || len(own) > 0 {
			continue
		}
		if _, err := w.g.file.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}

// olderPage gives the bytes of the live page at `at` that older generations
// than w.g hold, zeros between them (nil: there are none), and the fragments
// of the page that are in w.g already.
func (t *Tree) olderPage(w *writing, at int64) (b []byte, own []schema.Fragment, err error) {
	live, s := &w.n.rec.Live, stripeOf(at)
	if at >= live.Len {
		return nil, nil, nil
	}
	fs := w.n.tail.frags
	if c := &w.n.tail; !c.ok || c.stripe != s || c.gen != live.Gen {
		if fs, _, err = t.stripe(w.n.ino, s, live); err != nil {
			return nil, nil, err
		}
	}
	base := int64(s) * stripeSize
	in := uint32(at - base)
	var older []schema.Fragment
	for _, f := range fs {
		switch {
		case f.End() <= in || f.Off >= in+pageSize:
		case f.Gen == w.g.id:
			own = append(own, f)
		default:
			older = append(older, f)
		}
	}
	if older == nil {
		return nil, own, nil
	}
	b = make([]byte, min(pageSize, live.Len-at))
	return b, own, t.readStripe(older, b, base, in)
}

// spilled gives the page that an inline block becomes in a staging file.
func (t *Tree) spilled(w *writing, blk uint32, inline []byte) ([]byte, error) {
	at := int64(blk) * pageSize
	b, own, err := t.olderPage(w, at)
	if err != nil || b == nil {
		return inline, err
	}
	if len(b) < len(inline) {
		b = append(b, make([]byte, len(inline)-len(b))...)
	}
	in := uint32(at % stripeSize)
	for _, f := range own {
		lo, hi := max(f.Off, in)-in, min(f.End()-in, uint32(len(inline)))
		if lo < hi {
			copy(b[lo:hi], inline[lo:hi])
		}
	}
	return b, nil
}
