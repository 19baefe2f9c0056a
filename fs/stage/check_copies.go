package stage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// CheckCopies reads hot copies, or a share of them, and holds them against the
// names of their chunks, as isNamed knows those: as many chunks at a time as
// there are cores. It gives how many bytes it read.
func (t *Tree) CheckCopies(ctx context.Context, r *check.Run, share float64, isNamed func(id [32]byte, plain []byte) bool) (read uint64, err error) {
	c := &copiesCheck{t: t, r: r, isNamed: isNamed}
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	err = r.Each(wctx, []byte{schema.PrefixHot}, func(k, _ []byte) error {
		gen, err := schema.ParseNumbered(k)
		if err != nil || rand.Float64() >= share {
			return nil // Check says so, or it is not its turn
		}
		es, err := t.CopyExtents(gen) // as it is now
		if err != nil {
			return err
		}
		done := &atomic.Bool{} // there is no copy any more, or it was reported
		for _, e := range es {
			if err := wctx.Err(); err != nil {
				return err
			}
			if e.Skip != 0 || e.Len != e.Raw {
				continue
			}
			work.Go(func() error { return c.extent(gen, e, done) })
		}
		return nil
	})
	if first := work.Wait(); first != nil {
		err = first
	}
	if err != nil {
		err = fmt.Errorf("check hot copies: %w", err)
	}
	return c.read.Load(), err
}

// copiesCheck is one run of CheckCopies.
type copiesCheck struct {
	t       *Tree
	r       *check.Run
	isNamed func(id [32]byte, plain []byte) bool
	read    atomic.Uint64
	buffers sync.Pool  // of *[]byte
	report  sync.Mutex // held while a finding is told
}

// extent checks a chunk of a copy.
func (c *copiesCheck) extent(gen uint64, e schema.ChunkExtent, done *atomic.Bool) error {
	if done.Load() {
		return nil
	}
	buf, _ := c.buffers.Get().(*[]byte)
	if buf == nil || cap(*buf) < int(e.Len) {
		b := make([]byte, e.Len)
		buf = &b
	}
	defer c.buffers.Put(buf)
	plain := (*buf)[:e.Len]
	ok, err := c.t.ReadCopy(gen, plain, e.Off)
	if err == nil && !ok {
		done.Store(true) // evicted meanwhile
		return nil
	}
	c.read.Add(uint64(e.Len))
	if err == nil && c.isNamed(e.ID, plain) || done.Swap(true) {
		return nil
	}
	why := "it is not what was stored"
	if err != nil {
		why = err.Error()
	}
	f := check.Finding{Kind: check.Damage, What: "hot-copy", Object: genName(gen), Detail: fmt.Sprintf("its hot copy, at %d: %s", e.Off, why)}
	c.t.named(&f)
	c.report.Lock()
	defer c.report.Unlock()
	c.r.Report(f)
	return nil
}
