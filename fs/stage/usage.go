package stage

import "sync"

// meter is the disk of a tree as the store's limit shows it: no larger than
// the limit, and with no more free than the limit leaves. For that it knows
// what the staging files take, in bytes that the disk has set aside for them:
// counted once when the tree is opened, and from then on followed by each
// write and removal. Nothing on a writer's way walks a directory.
//
// What other parts of the store take, its owner says (Config.Rest). Packs on
// their way to the disk are not in it: as long as a content waits for ingest,
// the space gauge counts all of it as pack space to come.
type meter struct {
	Disk
	limit uint64 // 0: the disk is the limit
	rest  func() int64
	slots slots

	removing sync.Mutex // before mu

	mu struct {
		sync.Mutex
		staged  int64  // what the disk holds for staging files
		moved   int64  // by how much staged has changed, ups and downs both counted up
		leaving int64  // of files whose removal is under way
		removed uint64 // how many files were removed
	}
}

func newMeter(cfg Config) *meter {
	m := &meter{Disk: cfg.Disk, limit: cfg.Limit, rest: cfg.Rest, slots: slots{max: cfg.MaxOpen}}
	if m.rest == nil {
		m.rest = func() int64 { return 0 }
	}
	return m
}

// staged is what the staging files take.
func (m *meter) staged() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, m.mu.staged)
}

// used is what the store takes.
func (m *meter) used() uint64 { return uint64(m.staged() + max(0, m.rest())) }

// Space is the disk's, within the limit.
func (m *meter) Space() (Space, error) {
	sp, err := m.Disk.Space()
	if err != nil || m.limit == 0 {
		return sp, err
	}
	sp.Total = min(sp.Total, m.limit)
	sp.Free = min(sp.Free, m.limit-min(m.limit, m.used()))
	return sp, nil
}

// removed is how many files were removed so far.
func (m *meter) removed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.removed
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.staged += n
	m.mu.moved += max(n, -n)
}

// count walks the staging files and corrects what is followed: a disk may set
// aside more than was written and give it back later, and files are removed
// behind our back. While others write, the walk is unsure by as much as they
// have moved meanwhile; what lies within that is left as it is.
func (m *meter) count() error {
	m.mu.Lock()
	before := m.mu.moved
	m.mu.Unlock()
	var sum int64
	err := m.List(func(gen uint64) error {
		n, err := m.Allocated(gen)
		sum += n
		return err
	})
	if err != nil {
		return wrapDisk(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	unsure := m.mu.moved - before + m.mu.leaving
	m.mu.staged = min(max(m.mu.staged, sum-unsure), sum+unsure)
	return nil
}

// Remove takes the file's bytes off the account once they are free.
func (m *meter) Remove(gen uint64) error {
	_, err := m.remove(gen)
	return err
}

// remove gives how many bytes that were.
func (m *meter) remove(gen uint64) (int64, error) {
	m.removing.Lock() // the reaper and an evictor may come for the same file
	defer m.removing.Unlock()
	n, err := m.Allocated(gen)
	if err != nil {
		n = 0 // the next count sees it
	}
	m.mu.Lock()
	m.mu.leaving += n
	m.mu.Unlock()
	err = m.Disk.Remove(gen)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.leaving -= n
	if err != nil {
		return 0, err
	}
	m.mu.staged -= n
	m.mu.moved += n
	m.mu.removed++
	return n, nil
}

// Create and Open wait for others to be closed when too many files are open.
func (m *meter) Create(gen uint64) (File, error) { return m.measure(m.Disk.Create, gen) }
func (m *meter) Open(gen uint64) (File, error)   { return m.measure(m.Disk.Open, gen) }

func (m *meter) measure(open func(gen uint64) (File, error), gen uint64) (File, error) {
	if err := m.slots.take(); err != nil {
		return nil, err
	}
	f, err := open(gen)
	if err != nil {
		m.slots.open.Add(-1)
		return nil, err
	}
	return &measured{File: f, m: m, last: -1}, nil
}

// measured is a staging file whose growth its meter follows. One handle at a
// time writes to a generation, under the generation's lock.
type measured struct {
	File
	m    *meter
	last int64 // what the meter has of this file; -1: it was not written to yet
}

// Close gives the file's slot back.
func (f *measured) Close() error {
	f.m.slots.open.Add(-1)
	return f.File.Close()
}

// WriteAt asks the disk what the write took, since it alone knows: an
// overwrite takes nothing, one byte into a hole takes a block.
func (f *measured) WriteAt(b []byte, off int64) (int, error) {
	if f.last < 0 {
		f.last, _ = f.Allocated() // at worst the next count puts it right; so below
	}
	n, err := f.File.WriteAt(b, off)
	if now, err := f.Allocated(); err == nil {
		f.m.add(now - f.last)
		f.last = now
	}
	return n, err
}
