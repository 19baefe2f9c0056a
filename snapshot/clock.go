package snapshot

import (
	"errors"
	"sync"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Store time goes on while a daemon has the store open, by the monotonic
// clock, and stands still while none has. So an age in store time is never more
// than the true one, and a wall clock that jumps, forward or back, lets nothing
// expire early. Each snapshot's record says at what store time it was taken.
//
// Where store time stands is kept in a sample (PrefixClock), one at a time, and
// in the newest snapshot. What a crash loses of it makes things younger.
type clock struct {
	db    *state.Engine
	ticks func() time.Duration

	mu      sync.Mutex
	base    time.Duration // store time at tick 0
	sampled time.Duration // store time of the sample
	hasOne  bool
}

// openClock goes on where the last daemon stopped.
func openClock(cfg *Config) (*clock, error) {
	c := &clock{db: cfg.DB, ticks: cfg.Ticks}
	last, err := lastKey(c.db, schema.PrefixClock)
	if err == nil && last != nil {
		var n uint64
		n, err = schema.ParseNumbered(last)
		c.sampled, c.hasOne = time.Duration(n), true
	}
	if err != nil {
		return nil, err
	}
	stood := c.sampled
	last, err = lastKey(c.db, schema.PrefixSnapshot)
	if err == nil && last != nil {
		var v []byte
		if v, err = c.db.Get(last); err == nil {
			var s *schema.Snapshot
			if s, err = schema.DecodeSnapshot(v); err == nil {
				stood = max(stood, time.Duration(s.Clock))
			}
		}
	}
	// From 1 on: 0 is a snapshot from before there was a clock.
	c.base = max(stood, 1) - c.ticks()
	return c, err
}

// lastKey gives the greatest key of a kind, nil when there is none.
func lastKey(db *state.Engine, prefix byte) ([]byte, error) {
	it, err := db.NewIter([]byte{prefix}, []byte{prefix + 1})
	if err != nil {
		return nil, err
	}
	var key []byte
	if it.Last() {
		key = append(key, it.Key()...)
	}
	return key, errors.Join(it.Error(), it.Close())
}

// now is the store time.
func (c *clock) now() time.Duration { return c.base + c.ticks() }

// sample records where the clock stands, if that is further than every, and
// what more adds.
func (c *clock) sample(every time.Duration, more func(tx *state.Tx)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.hasOne && now-c.sampled < every || c.hasOne && now == c.sampled {
		return nil
	}
	_, err := c.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		if c.hasOne {
			tx.Delete(schema.Numbered(schema.PrefixClock, uint64(c.sampled)))
		}
		tx.Put(schema.Numbered(schema.PrefixClock, uint64(now)), schema.Counter(tx.Epoch()-1))
		more(tx)
		return nil
	})
	if err == nil {
		c.sampled, c.hasOne = now, true
	}
	return err
}
