package stage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// What inodes say of generations is looked up in the order of generations, many
// claims at a time, in a walk over the index beside them. Looking up each when
// it comes up would cost ten times as much: versions of a file are generations
// that lie far apart.

// claim is what an inode says of a generation.
type claim struct {
	gen, ino uint64
	what     claimKind
	off, end int64 // claimBytes: that a needed content reads
}

type claimKind uint8

const (
	claimSeen  claimKind = iota // it names it, and its hold was yielded before
	claimNamed                  // a content or stripe of it names it, or did until it was queued
	claimLive                   // likewise, and its content goes on in it
	claimBytes                  // likewise, and a needed content reads bytes of it
	claimMark                   // it is marked as not synced; that names nothing
)

func compareClaims(a, b claim) int {
	switch {
	case a.gen != b.gen:
		return cmp.Compare(a.gen, b.gen)
	case a.ino != b.ino:
		return cmp.Compare(a.ino, b.ino)
	}
	return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.off, b.off), cmp.Compare(a.end, b.end))
}

// joinClaims makes one of two claims where one says all.
func joinClaims(a *claim, b claim) bool {
	switch {
	case a.gen != b.gen || a.ino != b.ino:
		return false
	case a.what == claimNamed && (b.what == claimLive || b.what == claimBytes):
		*a = b
	case b.what == claimNamed && a.what != claimMark:
	case a.what != b.what:
		return false
	case a.what == claimBytes:
		if b.off < a.off || b.off > a.end {
			return false
		}
		a.end = max(a.end, b.end)
	}
	return true
}

// claims are those of a walk over inodes.
type claims struct {
	*treeCheck
	r     *check.Run
	yield func(m []byte) error // is given each hold of an inode on what it names, once
	ino   uint64               // whose claims are coming in
	held  batch[claim]
	buf   []byte
}

func (c *treeCheck) newClaims(r *check.Run, yield func(m []byte) error) *claims {
	a := &claims{treeCheck: c, r: r, yield: yield}
	a.held = batch[claim]{room: c.room, compare: compareClaims, join: joinClaims, answer: a.answer}
	return a
}

// add makes a claim of the inode that is looked at.
func (a *claims) add(gen uint64, what claimKind, off, end int64) error {
	if gen == 0 { // is none
		return nil
	}
	if what == claimNamed { // the contents of a version and of the next are mostly of the same generations
		for k := len(a.held.all) - 1; k >= max(0, len(a.held.all)-4); k-- {
			if p := &a.held.all[k]; p.gen == gen && p.ino == a.ino && p.what != claimMark {
				return nil
			}
		}
	}
	return a.held.add(claim{gen: gen, ino: a.ino, what: what, off: off, end: end})
}

// holding is a generation as those that name it find it.
type holding struct {
	rec   schema.Generation
	found bool
	// unread: there is a record, and it can't be read.
	unread bool
	inos   []uint64 // that share it, in order
	// ranges of the file that its blocks in the index and its chunk map hold
	inline, stored spans
}

func (h *holding) heldBy(ino uint64) bool {
	if !h.found {
		return false
	}
	_, shared := slices.BinarySearch(h.inos, ino)
	return shared || h.rec.Ino == ino
}

// answer looks all claims up. What is left says which holds of the inode that is
// looked at were yielded.
func (a *claims) answer(all []claim) (left []claim, err error) {
	g, err := a.openGens()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	left = all[:0] // what is overwritten was answered
	for rest := all; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].gen == rest[0].gen {
			n++
		}
		if err := a.ctx.Err(); err != nil {
			return nil, err
		}
		h, err := g.read(rest[:n])
		if err == nil {
			err = a.judge(rest[:n], h)
		}
		if err != nil {
			return nil, err
		}
		for _, q := range rest[:n] {
			if q.ino == a.ino && q.what != claimMark && (len(left) == 0 || left[len(left)-1].gen != q.gen) {
				left = append(left, claim{gen: q.gen, ino: q.ino, what: claimSeen})
			}
		}
		rest = rest[n:]
	}
	return left, nil
}

// judge holds the claims on one generation against what it is.
func (a *claims) judge(all []claim, h *holding) error {
	named := uint64(0) // the last inode of which it is known that it names it
	for _, q := range all {
		if q.what != claimMark && q.ino != named {
			named = q.ino
			if q.what != claimSeen && h.heldBy(q.ino) {
				a.buf = hold(a.buf, q.gen, q.ino)
				if err := a.yield(a.buf); err != nil {
					return err
				}
			}
		}
		switch {
		case h.unread: // which is said by generation
		case q.what == claimMark && (!h.found || h.rec.Ino != q.ino || !h.rec.File):
			a.r.Leak("unsettled-mark", a.inodeName(q.ino), "generation %d is marked as not synced, and is not a staging file of this inode", q.gen)
		case q.what == claimLive && !h.found:
			a.r.Damage("generation-missing", a.inodeName(q.ino), "its content goes on in generation %d, of which there is no record", q.gen)
		case q.what == claimBytes:
			a.bytes(q, h)
		}
	}
	return nil
}

// bytes checks that the bytes that a content needs are where they should be.
func (a *claims) bytes(q claim, h *holding) {
	missing := func(why string) { a.missing(q, why) }
	switch {
	case !h.found:
		missing("of which there is no record")
	case !h.heldBy(q.ino):
		a.r.Damage("hold-missing", a.inodeName(q.ino), "bytes %d to %d are in generation %d, on which it has no hold: it may be freed", q.off, q.end, q.gen)
	case h.rec.File || h.rec.Inline: // the file is looked for by generation
		if h.rec.Inline && !h.inline.cover(q.off, q.end) {
			missing("whose blocks in the index are not all there")
		}
		// What is said to be stored is, though there is still a copy to read it from.
		if end := min(q.end, h.rec.Stored); !h.stored.cover(q.off, end) {
			a.r.Damage("stored-short", a.inodeName(q.ino), "bytes %d to %d are said to be stored by generation %d, whose chunk map has a gap there: they go with its copy", q.off, end, q.gen)
		}
	case q.end > h.rec.Stored:
		missing(fmt.Sprintf("which is neither staged nor stored so far (%d bytes are)", h.rec.Stored))
	case !h.stored.cover(q.off, q.end):
		missing("whose chunk map has a gap there")
	}
}

func (a *claims) missing(q claim, why string) {
	a.r.Damage("content-missing", a.inodeName(q.ino), "bytes %d to %d are in generation %d, %s", q.off, q.end, q.gen, why)
}

// gensReader reads generations in order.
type gensReader struct {
	c     *treeCheck
	kinds [4]*check.Cursor // of gensReaderKinds
	h     holding
	key   []byte
	es    []schema.ChunkExtent
}

var gensReaderKinds = [4]byte{schema.PrefixGen, schema.PrefixGenRef, schema.PrefixInline, schema.PrefixChunkMap}

func (c *treeCheck) openGens() (g *gensReader, err error) {
	g = &gensReader{c: c}
	for k, kind := range gensReaderKinds {
		if g.kinds[k], err = c.r.Cursor(kind); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

func (g *gensReader) Close() (err error) {
	for _, k := range g.kinds {
		err = errors.Join(err, k.Close())
	}
	return err
}

// each calls fn for the keys of a kind that belong to a generation, from the
// one with the number part on, if they have such numbers.
func (g *gensReader) each(kind int, gen uint64, part uint32, fn func(k, v []byte) (bool, error)) error {
	g.key = binary.BigEndian.AppendUint64(append(g.key[:0], gensReaderKinds[kind]), gen)
	prefix := g.key
	if part > 0 {
		g.key = binary.BigEndian.AppendUint32(g.key, part)
	}
	return g.kinds[kind].Each(g.key, prefix, fn)
}

// read gives the generation that all are claims on: of its ranges, those that
// they ask for.
func (g *gensReader) read(all []claim) (*holding, error) {
	gen := all[0].gen
	h := &g.h
	*h = holding{inos: h.inos[:0], inline: h.inline[:0], stored: h.stored[:0]}
	err := g.each(0, gen, 0, func(_, v []byte) (more bool, err error) {
		h.rec, err = schema.DecodeGeneration(v)
		h.found, h.unread = err == nil, err != nil
		return false, unlessCorrupt(err)
	})
	if err != nil || !h.found {
		return h, err
	}
	from, to := int64(-1), int64(0)
	others := false
	for _, q := range all {
		others = others || q.ino != h.rec.Ino
		if q.what != claimBytes {
			continue
		}
		if from < 0 || q.off < from {
			from = q.off
		}
		to = max(to, q.end)
	}
	if others {
		err = g.each(1, gen, 0, func(k, _ []byte) (bool, error) {
			if len(k) == 17 { // else said by generation
				h.inos = append(h.inos, binary.BigEndian.Uint64(k[9:]))
			}
			return true, nil
		})
	}
	if err == nil && from >= 0 && h.rec.Inline {
		err = g.inBlocks(gen, from, to)
	}
	if err == nil && from >= 0 && from < min(to, h.rec.Stored) {
		err = g.inChunks(gen, from, min(to, h.rec.Stored))
	}
	return h, err
}

// inBlocks reads which bytes from off to end are in blocks in the index.
func (g *gensReader) inBlocks(gen uint64, off, end int64) error {
	return g.each(2, gen, uint32(off/schema.InlineBlock), func(k, v []byte) (bool, error) {
		if len(k) != 13 {
			return true, nil
		}
		at := int64(binary.BigEndian.Uint32(k[9:])) * schema.InlineBlock
		g.h.inline.add(at, at+min(int64(len(v)), schema.InlineBlock))
		return at+schema.InlineBlock < end, nil
	})
}

// inChunks reads which bytes from off to end the chunk map covers. An extent
// that crosses the end of a page stands in both.
func (g *gensReader) inChunks(gen uint64, off, end int64) error {
	return g.each(3, gen, uint32(off/schema.ChunkPage), func(k, v []byte) (more bool, err error) {
		if len(k) != 13 {
			return true, nil // said by generation
		}
		at := int64(binary.BigEndian.Uint32(k[9:])) * schema.ChunkPage
		if g.es, err = schema.AppendChunkMap(g.es[:0], v); err != nil {
			g.h.stored.add(at, at+schema.ChunkPage) // likewise; what it meant is not known
			err = unlessCorrupt(err)
		} else {
			for _, e := range g.es {
				g.h.stored.add(max(at, e.Off), min(at+schema.ChunkPage, e.Off+int64(e.Len)))
			}
		}
		return at+schema.ChunkPage < end, err
	})
}

// spans are ranges of a file, in order, apart from each other.
type spans [][2]int64

// add adds a range. They come in order, unless somebody has written a chunk map
// that no one of ours would write.
func (s *spans) add(off, end int64) {
	k := len(*s) - 1
	switch {
	case off >= end:
	case k < 0 || off > (*s)[k][1]:
		*s = append(*s, [2]int64{off, end})
	case off >= (*s)[k][0]:
		(*s)[k][1] = max((*s)[k][1], end)
	default:
		all := append(slices.Clone(*s), [2]int64{off, end})
		slices.SortFunc(all, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
		*s = (*s)[:0]
		for _, r := range all {
			s.add(r[0], r[1])
		}
	}
}

// cover says whether a range is in them as a whole.
func (s spans) cover(off, end int64) bool {
	if off >= end {
		return true
	}
	k, found := slices.BinarySearchFunc(s, off, func(r [2]int64, off int64) int { return cmp.Compare(r[0], off) })
	if !found {
		k--
	}
	return k >= 0 && end <= s[k][1]
}
