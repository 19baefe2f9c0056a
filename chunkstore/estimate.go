package chunkstore

import (
	"context"
	"fmt"

	"stepfs/chunkstore/pack"
)

// Estimator finds out what content would take in packs, without a store: it
// splits, names and encodes as a store does, and keeps nothing but the names.
// It is for one goroutine.
type Estimator struct {
	s    *Store
	w    *worker
	seen map[ID]struct{}

	Raw, New, Stored int64 // bytes: added; of those not seen before; of those encoded
}

// estimateBuffers is how much memory waits for the next chunk.
const estimateBuffers = 32 << 20

// NewEstimator makes one. Close ends it.
func NewEstimator(cfg Config) (*Estimator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, decoder: newDecoder(cfg.namings(), estimateBuffers)}
	return &Estimator{s: s, w: s.newWorker(), seen: map[ID]struct{}{}}, nil
}

// Close gives up what the encoder has.
func (e *Estimator) Close() { e.w.coder.Close() }

// Add counts one content.
func (e *Estimator) Add(ctx context.Context, src Source) error {
	segs, err := coalesce(src.Segments())
	if err != nil {
		return err
	}
	e.w.begin(src, Plan{})
	defer e.w.release()
	for _, seg := range segs {
		for e.w.seek(seg); e.w.pos < e.w.limit; {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := e.w.next()
			if err != nil {
				return fmt.Errorf("estimate: %w", err)
			}
			part, id := c.part, c.id
			n := int64(len(part) - pack.PartHeaderSize)
			at := e.w.pos
			e.w.pos += n
			e.Raw += n
			if _, ok := e.seen[id]; ok {
				continue
			}
			e.seen[id] = struct{}{}
			e.New += n
			out := e.s.encode(e.w.coder, part, at, nil)
			e.Stored += int64(len(out.out))
			e.s.buffers.put(out.scratch)
		}
	}
	return nil
}
