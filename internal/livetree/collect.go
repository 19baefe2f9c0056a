package livetree

import (
	"context"

	"stepfs/chunkstore"
	"stepfs/snapshot"
)

// Collector gives package snapshot the chunk store's Collect. What is not
// urgent writes packs again at rate bytes a second, once half of them is dead or
// something in them was stored in a hurry; what is urgent does so at full speed,
// once a quarter is dead.
func Collector(s *chunkstore.Store, rate int64) snapshot.Collector { return collector{s, rate} }

type collector struct {
	chunks *chunkstore.Store
	rate   int64
}

func (c collector) Collect(ctx context.Context, urgent bool, freed func(bytes int64)) error {
	o := chunkstore.CollectOptions{Rate: c.rate, Gentle: true, Encode: true}
	if urgent {
		o = chunkstore.CollectOptions{DeadShare: 0.25}
	}
	told := int64(0)
	o.Progress = func(s chunkstore.CollectStats) {
		net := s.Freed - s.Written
		freed(net - told)
		told = net
	}
	s, err := c.chunks.Collect(ctx, o)
	o.Progress(s) // what an end in the middle left untold
	return err
}
