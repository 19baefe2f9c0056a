package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"stepfs/internal/schema"
)

// Barriers expire oldest first. The cursor stands before the oldest one that
// was not visited; behind it are steps and the few barriers that could not go,
// since somebody holds or reads them, or that have become barriers when their
// name was removed. Those are asked again each time. So a pass costs what
// expires and what is held, however many barriers and steps there are.

// dropBarriers removes the barriers that are due.
func (k *keeper) dropBarriers(ctx context.Context, count func(int)) error {
	if err := k.dropBehind(ctx, count); err != nil {
		return err
	}
	for {
		vs, end, err := k.dueBarriers()
		if err != nil {
			return err
		}
		if _, err := k.batch(ctx, vs, count); err != nil {
			return err
		}
		if end {
			return nil
		}
	}
}

// dueBarriers moves the cursor over a batch of barriers that are due. end says
// that the next one is not, or not yet there. Those of the batch count as
// behind the cursor until they are gone.
func (k *keeper) dueBarriers() (vs []victim, end bool, err error) {
	k.mu.Lock()
	from, p, left := k.cursor, k.policy, k.barriers-len(k.behind)
	k.mu.Unlock()
	it, err := k.m.db.NewIter(schema.Numbered(schema.PrefixSnapshot, from), []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return nil, false, err
	}
	now := k.m.clock.now()
	end = true
	for ok := it.First(); ok; ok = it.Next() {
		if end = len(vs) < expireBatch; !end {
			break
		}
		seq, s, e := snapshotAt(it.Key(), it.Value())
		if err = e; err != nil {
			break
		}
		if s.Name == "" {
			d := p.barrier(now-time.Duration(s.Clock), left-1)
			if d.Keep || k.m.isHidden(seq) {
				break
			}
			vs, left = append(vs, victim{seq, d.Why}), left-1
		}
		from = seq + 1
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cursor = from
	for _, v := range vs {
		k.behind[v.seq] = true
	}
	return vs, end, nil
}

func snapshotAt(key, value []byte) (uint64, *schema.Snapshot, error) {
	seq, err := schema.ParseNumbered(key)
	if err != nil {
		return 0, nil, err
	}
	s, err := schema.DecodeSnapshot(value)
	if err != nil {
		return 0, nil, fmt.Errorf("snapshot %d: %w", seq, err)
	}
	return seq, s, nil
}

// dropBehind asks the barriers behind the cursor once more.
func (k *keeper) dropBehind(ctx context.Context, count func(int)) error {
	k.mu.Lock()
	behind := slices.Sorted(maps.Keys(k.behind))
	total, p := k.barriers, k.policy
	k.mu.Unlock()
	now := k.m.clock.now()
	var vs []victim
	for n, seq := range behind {
		i, err := k.m.Get(seq)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		d := p.barrier(now-i.Clock, total-1-n)
		if !d.Keep && len(i.Holds) == 0 && i.Name == "" {
			vs = append(vs, victim{seq, d.Why})
		}
	}
	for batch := range slices.Chunk(vs, expireBatch) {
		if _, err := k.batch(ctx, batch, count); err != nil {
			return err
		}
	}
	return nil
}
