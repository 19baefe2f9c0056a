package chunkstore

import (
	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
)

// Haste says how little time there is to store content.
type Haste int32

const (
	// Unhurried: all is done that saves space.
	Unhurried Haste = iota
	// NoDeltas: nothing is made from a base, since ingest lags behind the job.
	NoDeltas
	// Unencoded: chunks are left as they are, since somebody waits for the room
	// that staged bytes take: a backlog must not fill the disk while it is being
	// compressed. What would have gained is noted, and encoded later by Collect.
	Unencoded
)

// Hurry says how what is stored from now on is to be stored.
func (s *Store) Hurry(h Haste) { s.haste.Store(int32(h)) }

func (s *Store) hurried(h Haste) bool { return Haste(s.haste.Load()) >= h }

// encoded is how a chunk is stored: out has room for a part header and the
// extension; scratch, if not nil, is the buffer that holds it and goes back to
// the pool after use.
type encoded struct {
	enc     pack.Encoding
	ext     []byte
	out     []byte
	scratch *buffer
	hasty   bool // worth encoding, but there was no time
}

// payload is what out has behind the part's header.
func (c encoded) payload() []byte { return c.out[pack.PartHeaderSize+len(c.ext):] }

// encode chooses how to store the plain bytes part[pack.PartHeaderSize:], which
// lie at offset in their file: a number that only its last bits matter of.
func (s *Store) encode(c *codec.Coder, part []byte, offset int64, base *base) encoded {
	plain, hint := part[pack.PartHeaderSize:], base.hint(offset)
	if s.hurried(Unencoded) {
		return encoded{enc: pack.EncRaw, out: part, hasty: c.Plan(plain, nil, hint).Form() != codec.Raw}
	}
	return s.encodePlan(c, part, base, c.Plan(plain, base.content(), hint))
}

// encodePlan is encode by a plan that was made of the same.
func (s *Store) encodePlan(c *codec.Coder, part []byte, base *base, plan codec.Plan) encoded {
	plain, raw := part[pack.PartHeaderSize:], encoded{enc: pack.EncRaw, out: part}
	var under, ext []byte
	if base != nil {
		under, ext = base.content(), base.link.Append(nil)
	}
	room := pack.PartHeaderSize + len(ext)
	scratch := s.buffers.get(room + codec.Bound(len(plain)))
	out, form, _ := c.EncodePlan(scratch.bytes[:room], plain, under, plan)
	switch form {
	case codec.Delta, codec.Rounded:
		copy(out[pack.PartHeaderSize:], ext)
		return encoded{enc: pack.EncDelta, ext: ext, out: out, scratch: scratch}
	case codec.Blocks:
		return encoded{enc: pack.EncPlanes, out: out[len(ext):], scratch: scratch}
	case codec.Zstd:
		// A frame stands alone in a pack, as it always has: the header that
		// comes before it covers its form.
		return encoded{enc: pack.EncZstd, out: out[len(ext)+codec.FormSize:], scratch: scratch}
	}
	s.buffers.put(scratch)
	return raw
}
