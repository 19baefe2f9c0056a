package stage

import (
	"maps"
	"slices"
	"sync"

	"stepfs/internal/schema"
)

// An unsettled mark says of a generation that its staging file holds bytes
// that no sync has covered. It is put by the write that makes it so and taken
// off by the sync. A file that is appended to and synced in turns has its mark
// put and taken off each time, and an index that was asked for it would have
// to pass all that: so marks are kept in memory too, one for each generation
// that waits for a sync.

// mark is the unsettled mark of one generation.
type mark struct {
	gen uint64
	schema.Unsettled
}

// markTable holds all marks that the index holds.
type markTable struct {
	mu  sync.Mutex
	all map[uint64][]mark // by inode; a slice is never changed in place
}

func (mt *markTable) init() { mt.all = map[uint64][]mark{} }

// load reads the marks that an earlier daemon left.
func (mt *markTable) load(t *Tree) error {
	it, err := t.db.NewIter([]byte{schema.PrefixUnsettled}, []byte{schema.PrefixUnsettled + 1})
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		ino, gen, err := schema.ParseUnsettledKey(it.Key())
		if err != nil {
			return wrapDisk(err)
		}
		u, err := schema.DecodeUnsettled(it.Value())
		if err != nil {
			return wrapDisk(err)
		}
		mt.set(ino, mark{gen, u}, true)
	}
	return wrapDisk(it.Error())
}

// set puts a mark, or takes it off.
func (mt *markTable) set(ino uint64, m mark, on bool) {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(mt.all[ino]), func(old mark) bool { return old.gen == m.gen })
	if on {
		list = append(list, m)
	}
	if len(list) == 0 {
		delete(mt.all, ino)
		return
	}
	mt.all[ino] = list
}

// inos gives the inodes that have marks, in order.
func (mt *markTable) inos() []uint64 {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	return slices.Sorted(maps.Keys(mt.all))
}

// marks gives the unsettled marks of an inode, in no order.
func (t *Tree) marks(ino uint64) []mark {
	t.unsettled.mu.Lock()
	defer t.unsettled.mu.Unlock()
	return t.unsettled.all[ino]
}

// putMark and dropMark record a change of a mark. Whoever puts one holds the
// inode's or the generation's mutex, so that it is there once they are free.
func (t *Tree) putMark(tx *txn, ino, gen uint64, settled int64) {
	u := schema.Unsettled{Settled: settled}
	tx.Put(schema.UnsettledKey(ino, gen), u.Encode())
	tx.then(func() { t.unsettled.set(ino, mark{gen, u}, true) })
}

func (t *Tree) dropMark(tx *txn, ino, gen uint64) {
	tx.Delete(schema.UnsettledKey(ino, gen))
	tx.then(func() { t.unsettled.set(ino, mark{gen: gen}, false) })
}

// eachMarked calls fn for each inode that has unsettled marks.
func (t *Tree) eachMarked(fn func(ino uint64, marks []mark) error) error {
	for _, ino := range t.unsettled.inos() {
		if err := fn(ino, t.marks(ino)); err != nil {
			return err
		}
	}
	return nil
}

// settledBy says whether all bytes of a committed content are durable once the
// journal is: no generation in it has an unsettled mark, but for bytes behind
// the length that a sync has covered.
func settledBy(marks []mark, c *schema.Content) bool {
	for _, m := range marks {
		if m.gen >= c.Base && m.gen <= c.Gen && (m.gen != c.Gen || c.Len > m.Settled) {
			return false
		}
	}
	return true
}
