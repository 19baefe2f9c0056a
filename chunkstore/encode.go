package chunkstore

import (
	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
)

// Hurry has what is stored from now on left as it is, since somebody waits for
// the room that staged bytes take: a backlog must not fill the disk while it is
// being compressed. What would have gained is noted, and encoded later by
// Collect.
func (s *Store) Hurry(on bool) { s.hurry.Store(on) }

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
	plain, raw := part[pack.PartHeaderSize:], encoded{enc: pack.EncRaw, out: part}
	hint := codec.Hint{Offset: offset}
	if s.hurry.Load() {
		raw.hasty = c.Guess(plain, nil, hint) != codec.Raw
		return raw
	}
	var under, ext []byte
	if base != nil {
		under, ext = base.plain.bytes, base.link.Append(nil)
	}
	room := pack.PartHeaderSize + len(ext)
	scratch := s.buffers.get(room + codec.Bound(len(plain)))
	out, form, _ := c.Encode(scratch.bytes[:room], plain, under, hint)
	switch form {
	case codec.Delta:
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
