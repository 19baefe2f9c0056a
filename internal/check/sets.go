package check

import (
	"hash/maphash"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Set yields its members, in any order, each at least once. It can be asked
// again and yields the same.
type Set func(yield func(member []byte) error) error

// Comparing two sets that do not fit into memory: members are put into buckets
// by their hash, and of each bucket only a sum of the hashes is kept. Where the
// sums agree, the members do (but for one case in 2^64). Buckets that differ
// are gone through again, as many at a time as fit into memory. So two sets
// that are equal, which is the rule, cost one pass each and some kilobytes.
const (
	buckets = 1 << 13
	atOnce  = 1 << 17 // members held in memory, unless a single bucket has more
)

// tally is one set as far as buckets tell.
type tally [buckets]struct{ sum, count uint64 }

// side says in which sets a member was seen.
type side uint8

const (
	inA side = 1 << iota
	inB
)

// Compare finds what only a and only b have. Either func may be nil: then
// nobody asks. Both sets are asked at the same time; the funcs are called
// afterwards. A set that yields members more than once makes the first pass
// useless, not the result wrong.
func Compare(a, b Set, onlyA, onlyB func(member []byte) error) error {
	c := comparison{seed: maphash.MakeSeed()}
	var ta, tb *tally
	var both errgroup.Group
	both.Go(func() (err error) { ta, err = c.tally(a); return err })
	both.Go(func() (err error) { tb, err = c.tally(b); return err })
	if err := both.Wait(); err != nil {
		return err
	}
	wanted, held := map[uint64]bool{}, uint64(0)
	for k := range ta {
		if ta[k] == tb[k] {
			continue
		}
		if n := ta[k].count + tb[k].count; held > 0 && held+n > atOnce {
			if err := c.differ(a, b, wanted, onlyA, onlyB); err != nil {
				return err
			}
			clear(wanted)
			held = 0
		}
		wanted[uint64(k)] = true
		held += ta[k].count + tb[k].count
	}
	if len(wanted) == 0 {
		return nil
	}
	return c.differ(a, b, wanted, onlyA, onlyB)
}

type comparison struct{ seed maphash.Seed }

func (c comparison) hash(m []byte) (h, bucket uint64) {
	h = maphash.Bytes(c.seed, m)
	return h, h >> 32 % buckets
}

func (c comparison) tally(s Set) (*tally, error) {
	t := &tally{}
	return t, s(func(m []byte) error {
		h, k := c.hash(m)
		t[k].sum += h
		t[k].count++
		return nil
	})
}

// differ compares the members of some buckets one by one.
func (c comparison) differ(a, b Set, wanted map[uint64]bool, onlyA, onlyB func([]byte) error) error {
	seen := map[string]side{}
	collect := func(s Set, in side) error {
		return s(func(m []byte) error {
			if _, k := c.hash(m); wanted[k] {
				seen[string(m)] |= in
			}
			return nil
		})
	}
	if err := collect(a, inA); err != nil {
		return err
	}
	if err := collect(b, inB); err != nil {
		return err
	}
	for _, m := range slices.Sorted(maps.Keys(seen)) {
		in, report := seen[m], onlyA
		if in == inB {
			report = onlyB
		}
		if in == inA|inB || report == nil {
			continue
		}
		if err := report([]byte(m)); err != nil {
			return err
		}
	}
	return nil
}
