package stage

import (
	"context"
	"fmt"
	"math/rand/v2"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// CheckCopies reads hot copies, or a share of them, and holds them against the
// names of their chunks, as isNamed knows those. It gives how many bytes it read.
func (t *Tree) CheckCopies(ctx context.Context, r *check.Run, share float64, isNamed func(id [32]byte, plain []byte) bool) (read uint64, err error) {
	var buf []byte
	err = r.Each(ctx, []byte{schema.PrefixHot}, func(k, _ []byte) error {
		gen, err := schema.ParseNumbered(k)
		if err != nil || rand.Float64() >= share {
			return nil // Check says so, or it is not its turn
		}
		es, err := t.CopyExtents(gen) // as it is now
		if err != nil {
			return err
		}
		for _, e := range es {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.Skip != 0 || e.Len != e.Raw {
				continue
			}
			if cap(buf) < int(e.Len) {
				buf = make([]byte, e.Len)
			}
			buf = buf[:e.Len]
			ok, err := t.ReadCopy(gen, buf, e.Off)
			if err == nil && !ok {
				return nil // evicted meanwhile
			}
			read += uint64(e.Len)
			if err == nil && isNamed(e.ID, buf) {
				continue
			}
			why := "it is not what was stored"
			if err != nil {
				why = err.Error()
			}
			f := check.Finding{Kind: check.Damage, What: "hot-copy", Object: genName(gen), Detail: fmt.Sprintf("its hot copy, at %d: %s", e.Off, why)}
			t.named(&f)
			r.Report(f)
			return nil
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("check hot copies: %w", err)
	}
	return read, err
}
