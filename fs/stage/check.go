package stage

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"

	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A check of the tree walks over the index twice, once by generation
// (check_gens.go) and once by inode (check_inodes.go, check_content.go), and holds what the two
// walks say of each other against each other: which inode has a hold on which
// generation. Then the versions that are superseded against the lists of
// deaths (check_deaths.go), and the staging files against the records. All of
// it is read from one view; in memory is what concerns one inode, or one
// generation.

// CheckStats count what Check has looked at.
type CheckStats struct {
	Inodes, Generations, StagingFiles uint64
}

// Check looks whether the tree's records and staging files agree, while the
// tree is used. An error says that it could not look; findings go to r.
func (t *Tree) Check(ctx context.Context, r *check.Run) (CheckStats, error) {
	return t.check(ctx, r, batchRoom)
}

func (t *Tree) check(ctx context.Context, r *check.Run, room int) (CheckStats, error) {
	run := *r
	var mu sync.Mutex // the walks go on side by side
	run.Report = func(f check.Finding) {
		t.named(&f)
		mu.Lock()
		defer mu.Unlock()
		r.Report(f)
	}
	c := &treeCheck{Tree: t, r: &run, ctx: ctx, room: room, unsure: map[uint64]bool{}}
	for _, step := range [...]func() error{c.holds, c.deaths, c.expired, c.strangers} {
		if err := step(); err != nil {
			return c.stats, fmt.Errorf("check the live tree: %w", err)
		}
	}
	return c.stats, nil
}

// treeCheck is one run of Check.
type treeCheck struct {
	*Tree
	r     *check.Run
	ctx   context.Context
	stats CheckStats
	room  int                  // of a batch
	es    []schema.ChunkExtent // chunkMapOf's, for reuse
	// unsure has the inodes of which something can't be read, so that nobody
	// knows what they name.
	unsure map[uint64]bool
}

// holds does both walks, side by side. Each is asked for what it yields more than
// once if they differ; what it finds beside that it says once.
func (c *treeCheck) holds() error {
	owned := c.once(c.generations)
	named := c.once(c.inodeHolds)
	return check.Compare(owned, named, func(m []byte) error {
		gen, ino := binary.BigEndian.Uint64(m), binary.BigEndian.Uint64(m[8:])
		if c.unsure[ino] {
			return nil
		}
		c.r.Leak("generation-unnamed", genName(gen), "inode %d has a hold on it, names nothing in it, and is not queued to be freed of it", ino)
		return nil
	}, nil) // what is named and has no hold was said by inodeHolds
}

// once makes a walk that checks and yields a set.
func (c *treeCheck) once(walk func(r *check.Run, yield func(m []byte) error) error) check.Set {
	r := c.r
	return func(yield func(m []byte) error) error {
		err := walk(r, yield)
		r = &check.Run{View: c.r.View, Report: func(check.Finding) {}}
		return err
	}
}

// hold is a member of the sets that holds compares.
func hold(buf []byte, gen, ino uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(buf[:0], gen), ino)
}

func genName(gen uint64) string { return fmt.Sprintf("generation %d", gen) }

func (c *treeCheck) counter(name string) float64 {
	v, err := c.r.View.Get(schema.MetaKey(name))
	if err != nil {
		return 1
	}
	n, _ := schema.ParseCounter(v)
	return float64(max(n, 1))
}

// Held yields each chunk that a generation, or the tree of a sealed step,
// names: once for each of them. It holds in memory a number for each chunk of
// the largest file.
func (t *Tree) Held(ctx context.Context, v *state.View, yield func(holder uint64, id [32]byte) error) error {
	r := &check.Run{View: v}
	seed := maphash.MakeSeed()
	seen, last := map[uint64]struct{}{}, uint64(0)
	err := r.Each(ctx, []byte{schema.PrefixChunkMap}, func(k, v []byte) error {
		es, err := schema.DecodeChunkMap(v)
		if err != nil || len(k) < 9 {
			return nil // Check says so
		}
		if gen := binary.BigEndian.Uint64(k[1:]); gen != last {
			clear(seen)
			last = gen
		}
		for _, e := range es {
			h := maphash.Bytes(seed, e.ID[:])
			if _, again := seen[h]; again {
				continue
			}
			seen[h] = struct{}{}
			if err := yield(last, e.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.Each(ctx, []byte{schema.PrefixTreeRef}, func(k, _ []byte) error {
		if len(k) != 9+32 {
			return nil
		}
		return yield(binary.BigEndian.Uint64(k[1:]), [32]byte(k[9:]))
	})
}

// Leaving says whether the chunks of a holder are being given up.
func (t *Tree) Leaving(v *state.View, holder uint64) (bool, error) {
	return (&check.Run{View: v}).Has(schema.Numbered(schema.PrefixDeadHold, holder))
}
