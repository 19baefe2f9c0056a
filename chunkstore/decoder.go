package chunkstore

import (
	"fmt"
	"sync"

	"github.com/zeebo/blake3"

	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
)

// decoder turns payloads into plain bytes, and names those. All who read chunks
// share it, wherever the payloads come from.
type decoder struct {
	coders  coders
	namings namings
	hashers *sync.Pool // *blake3.Hasher, of the newest key
	buffers *bufferPool
}

// newDecoder makes one that keeps so many bytes of unused buffers. Chunks are named
// by the last of the keys.
func newDecoder(keys namings, keep int64) decoder {
	key := keys[len(keys)-1]
	return decoder{
		coders:  newCoders(),
		namings: keys,
		hashers: &sync.Pool{New: func() any { return newHasher(key) }},
		buffers: newBufferPool(keep),
	}
}

// decode gives the plain bytes of a payload in dst, whose length says how many
// there must be. It does not check their name. base is the window of a delta.
func (d *decoder) decode(enc pack.Encoding, payload, dst, base []byte) error {
	c := d.coders.get()
	defer d.coders.put(c)
	return decodeWith(c, enc, payload, dst, base)
}

// window gives what a delta of rawLen bytes is from, of its base, which it takes.
func (d *decoder) window(link pack.Base, whole *buffer, rawLen uint32) *buffer {
	if link.Window == (pack.Window{}) {
		return whole
	}
	defer d.buffers.put(whole)
	b := d.buffers.get(link.Size(rawLen))
	link.Take(b.bytes, whole.bytes)
	return b
}

func decodeWith(c *codec.Coder, enc pack.Encoding, payload, dst, base []byte) error {
	switch enc {
	case pack.EncZstd:
		return c.DecodeZstd(dst, payload)
	case pack.EncPlanes:
		return c.Decode(dst, payload, nil)
	case pack.EncDelta:
		return c.Decode(dst, payload, base)
	}
	return fmt.Errorf("unknown encoding %d", enc)
}

// name gives the chunk name of b.
func (d *decoder) name(b []byte) ID {
	h := d.hashers.Get().(*blake3.Hasher)
	defer d.hashers.Put(h)
	return nameWith(h, b)
}

// named says whether b is the chunk id.
func (d *decoder) named(b []byte, id ID) bool {
	_, ok := d.namedBy(b, id)
	return ok
}

// namedBy says by which key it is.
func (d *decoder) namedBy(b []byte, id ID) (number uint8, ok bool) {
	h := d.hashers.Get().(*blake3.Hasher)
	defer d.hashers.Put(h)
	return d.namings.by(h, id, b)
}

func newHasher(key [32]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // only for a key that is not 32 bytes
	}
	return h
}

// nameWith gives the chunk name of b.
func nameWith(h *blake3.Hasher, b []byte) (id ID) {
	h.Reset()
	_, _ = h.Write(b) // never fails
	h.Sum(id[:0])
	return id
}

// coders are those that are not in use: each holds a few MiB of scratch.
type coders chan *codec.Coder

func newCoders() coders { return make(coders, maxLoads()) }

func (p coders) get() *codec.Coder {
	select {
	case c := <-p:
		return c
	default:
		return codec.NewCoder()
	}
}

func (p coders) put(c *codec.Coder) {
	select {
	case p <- c:
	default:
		c.Close()
	}
}

func (p coders) close() {
	for {
		select {
		case c := <-p:
			c.Close()
		default:
			return
		}
	}
}
