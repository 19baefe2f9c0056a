package chunkstore

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"syscall"

	"stepfs/chunkstore/pack"
	"stepfs/internal/state"
)

// damage remembers what was found damaged or missing since the store was
// opened. For new content a hit in it is a miss, so that saving the same data
// again heals it. Its size is that of the damage.
type damage struct {
	mu     sync.Mutex
	lost   map[uint64]struct{}    // packs whose file is gone
	chunks map[ID]struct{}        // chunks whose bytes are wrong
	bad    map[pack.Name]struct{} // pack files that can't be adopted
	files  map[uint64]struct{}    // packs whose file is gone or damaged, and that the bucket has
}

// badSector says that the disk does not give what is in one place of it. That need
// not last, so it is no proof of damage; but whoever goes through all of a store goes
// on, and a copy of what is there is worth storing.
func badSector(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EBADMSG) || errors.Is(err, syscall.EUCLEAN)
}

func (d *damage) has(id ID, number uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, lost := d.lost[number]
	_, bad := d.chunks[id]
	return lost || bad
}

func (d *damage) losePack(number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost == nil {
		d.lost = make(map[uint64]struct{})
	}
	d.lost[number] = struct{}{}
}

func (d *damage) badChunk(id ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.chunks == nil {
		d.chunks = make(map[ID]struct{})
	}
	d.chunks[id] = struct{}{}
}

// badFile notes a pack whose file is to be fetched again.
func (d *damage) badFile(number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files == nil {
		d.files = make(map[uint64]struct{})
	}
	d.files[number] = struct{}{}
}

// packs gives the packs in which something is damaged, or which are gone. in says
// in which a chunk lies.
func (d *damage) packs(in func(ID) (uint64, error)) []uint64 {
	d.mu.Lock()
	all := maps.Clone(d.files)
	if all == nil {
		all = map[uint64]struct{}{}
	}
	maps.Copy(all, d.lost)
	chunks := slices.Collect(maps.Keys(d.chunks))
	d.mu.Unlock()
	for _, id := range chunks {
		if number, err := in(id); err == nil {
			all[number] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// recalled forgets what was known of a pack, whose file is another one now.
func (d *damage) recalled(number uint64, in func(ID) (uint64, error)) error {
	d.mu.Lock()
	delete(d.lost, number)
	delete(d.files, number)
	chunks := slices.Collect(maps.Keys(d.chunks))
	d.mu.Unlock()
	for _, id := range chunks {
		at, err := in(id)
		if errors.Is(err, state.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if at == number {
			d.mu.Lock()
			delete(d.chunks, id)
			d.mu.Unlock()
		}
	}
	return nil
}

func (d *damage) badPack(name pack.Name) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad == nil {
		d.bad = make(map[pack.Name]struct{})
	}
	d.bad[name] = struct{}{}
}

// healed forgets chunks that have just been stored again.
func (d *damage) healed(entries []pack.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.chunks) == 0 {
		return
	}
	for _, e := range entries {
		delete(d.chunks, e.ID)
	}
}

// forget drops what is known of a pack that was removed, and of the chunks that
// died with it.
func (d *damage) forget(number uint64, dead []ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lost, number)
	delete(d.files, number)
	if len(d.chunks) == 0 {
		return
	}
	for _, id := range dead {
		delete(d.chunks, id)
	}
}

func (d *damage) isLost(number uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, lost := d.lost[number]
	return lost
}

func (d *damage) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost, d.chunks, d.bad, d.files = nil, nil, nil, nil
}

func (d *damage) counts() (lost, chunks, bad int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lost), len(d.chunks), len(d.bad)
}
