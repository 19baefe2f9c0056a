package schema

import (
	"encoding/binary"
	"fmt"
)

// MetaScrub is not a counter: where the scrub is, and how the last pass went.
const MetaScrub = "scrub"

// Scrub is where the scrub of a store is.
type Scrub struct {
	Copies bool   // packs are done, hot copies are looked at
	Pos    uint64 // last pack or generation that was looked at
	End    uint64 // packs from this number on are the next pass's
	Now    ScrubPass
	Last   ScrubPass // Began 0: there was none
}

// ScrubPass is how a pass went, or goes.
type ScrubPass struct {
	Began, Took             int64 // ns
	Bytes, Findings, Healed uint64
}

const scrubVersion = 1

// Encode gives the value of MetaScrub.
func (s Scrub) Encode() []byte {
	b := []byte{scrubVersion, 0}
	if s.Copies {
		b[1] = 1
	}
	b = binary.AppendUvarint(binary.AppendUvarint(b, s.Pos), s.End)
	for _, p := range [...]ScrubPass{s.Now, s.Last} {
		b = binary.AppendVarint(binary.AppendVarint(b, p.Began), p.Took)
		for _, n := range [...]uint64{p.Bytes, p.Findings, p.Healed} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b
}

// DecodeScrub is the inverse of Encode.
func DecodeScrub(b []byte) (s Scrub, err error) {
	if len(b) < 2 || b[0] != scrubVersion || b[1] > 1 {
		return s, fmt.Errorf("%w: state of the scrub", ErrCorrupt)
	}
	r := reader{b: b[2:]}
	s.Copies, s.Pos, s.End = b[1] == 1, r.uint(), r.uint()
	for _, p := range [...]*ScrubPass{&s.Now, &s.Last} {
		p.Began, p.Took = r.int(), r.int()
		p.Bytes, p.Findings, p.Healed = r.uint(), r.uint(), r.uint()
	}
	return s, r.done("state of the scrub")
}
