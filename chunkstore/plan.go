package chunkstore

import "stepfs/chunkstore/pack"

// Plan says what is known of a content from earlier ones. It only saves work and
// space; it may be empty, or of anything else.
type Plan struct {
	// Pieces say where chunks may lie, in order, without overlap.
	Pieces []Piece
	// Whole: what lies between the first piece and the last one is known so well
	// that it is cut there, whether or not anything is as it was.
	Whole bool
}

// Piece is a place where a chunk may lie, and what it may be made from: of the
// chunk ID what its window says. The zero ID: nothing is known.
type Piece struct {
	Off int64
	Len uint32
	ID  ID
	At  int64 // where ID lies in the content that it is from
	pack.Window
	Phase uint8 // where the window is wide: the offset of an element in the file, modulo 2
}

// End is where the piece ends.
func (p Piece) End() int64 { return p.Off + int64(p.Len) }

// Unmoved is the plan of a content of which an earlier version lies in refs. If
// both end at the same place, the same things lie at the same places.
func Unmoved(refs []Ref, segs []Segment) Plan {
	p := Plan{Pieces: make([]Piece, len(refs))}
	for i, r := range refs {
		p.Pieces[i] = Piece{Off: r.Off, Len: r.Len, ID: r.ID, At: r.Off}
	}
	n, m := len(refs), len(segs)
	p.Whole = n > 0 && m > 0 && refs[n-1].End() == segs[m-1].Off+segs[m-1].Len
	return p
}

// Limits gives the lengths of the shortest and the longest chunk that a plan should
// have; what ends a content may be shorter.
func (s *Store) Limits() (min, max int64) { return int64(s.cfg.MinSize), int64(s.cfg.MaxSize) }
