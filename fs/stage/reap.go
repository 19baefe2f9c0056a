package stage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Reaping looks first and holds no lock meanwhile, then frees what it found.
// That is sound since what nobody needs is never needed again: a new content
// reads what the live one reads, or what is new, and versions that show
// anything else are not made but from versions that show it. But a generation
// that is nobody's of one inode may be shared with it once more by another, which
// names it: that is told (reaper.shares).
//
// Invariant: the record that makes a generation dead is synced before its
// staging file is unlinked; the dead generation stays listed (PrefixDoomed)
// until then.

// findings is what is dead of an inode.
type findings struct {
	ino     uint64
	begun   uint64   // what reaper.begin gave
	newest  uint64   // version of the inode when it was looked at
	looked  int      // how many versions of stripes there are
	stripes [][]byte // keys of those that no content reads
	gens    []uint64 // of whose bytes nothing is named
	shells  []uint64 // so, too, but contents are numbered by them
	pending []uint64 // contents that wait for ingest and are nobody's
	queue   [][]byte // keys of the queue that led here
	end     bool     // nothing is left of the inode but perhaps the mark that it is deleted
	mark    []byte   // key of that mark
}

// freeBatch is how many keys one transaction frees.
const freeBatch = 256

// reap frees what is dead of one inode. It gives the generations that contents
// are still numbered by but of whose bytes nothing is named, and how many times
// as long as it took the inode is to rest.
func (t *Tree) reap(ino uint64) (shells []uint64, rest time.Duration, err error) {
	f, err := t.findDead(ino)
	if err != nil {
		return nil, reapRest, err
	}
	rest = f.rest()
	// Should this end in the middle, the generations must not be forgotten, and
	// nothing must be stored that has lost some of its stripes.
	if len(f.stripes) > freeBatch {
		_, err := t.update(schema.KindReap, func(tx *txn) error {
			for _, gen := range f.gens {
				tx.Put(schema.ReapKey(ino, gen), nil)
			}
			for _, gen := range f.shells {
				tx.Put(schema.ReapKey(ino, gen), nil)
			}
			return t.dropPending(tx, f)
		})
		if err != nil {
			return nil, rest, err
		}
		if f.queue, err = t.queueKeys(ino); err != nil {
			return nil, rest, err
		}
	}
	for len(f.stripes) > freeBatch {
		_, err := t.update(schema.KindReap, func(tx *txn) error { deleteAll(tx, f.stripes[:freeBatch]); return nil })
		if err != nil {
			return nil, rest, err
		}
		f.stripes = f.stripes[freeBatch:]
	}
	_, err = t.update(schema.KindReap, func(tx *txn) error { return t.free(tx, f) })
	return f.shells, rest, err
}

// rest is how many times as long as it took to find this the inode is to rest.
func (f *findings) rest() time.Duration {
	if 4*len(f.stripes) >= f.looked {
		return reapRestFound
	}
	return reapRest
}

func deleteAll(tx *txn, keys [][]byte) {
	for _, k := range keys {
		tx.Delete(k)
	}
}

// free is the last transaction of reaping an inode.
func (t *Tree) free(tx *txn, f *findings) error {
	deleteAll(tx, f.stripes)
	if err := t.dropPending(tx, f); err != nil {
		return err
	}
	for _, gen := range f.gens {
		if t.reaper.shared(gen) { // it may be dead all the same: the next look says so
			tx.Put(schema.ReapKey(f.ino, gen), nil)
			t.reaper.note(tx, f.ino)
			continue
		}
		if err := t.dropGen(tx, f.ino, gen); err != nil {
			return err
		}
	}
	if f.end {
		if f.mark != nil {
			tx.Delete(f.mark)
		}
		if err := t.dropInode(tx, f.ino); err != nil {
			return err
		}
	}
	if t.reaper.done(f.ino, f.begun) { // else some of these keys may be new
		deleteAll(tx, f.queue)
		tx.Delete(schema.Numbered(schema.PrefixReap, f.ino))
	}
	return nil
}

// dropPending takes what is nobody's off what waits for ingest. That goes with
// the first of its stripes, or before: were it stored after, it would be taken
// for a hole, or for what older versions of those stripes show.
func (t *Tree) dropPending(tx *txn, f *findings) error {
	since, err := t.numberedSince(tx, f.ino, f.newest)
	if err != nil {
		return err
	}
	for _, gen := range f.pending {
		if !since[gen] {
			tx.Delete(schema.Numbered(schema.PrefixPending, gen))
		}
	}
	for _, gen := range f.gens {
		g, err := t.generation(gen)
		switch {
		case errors.Is(err, state.ErrNotFound):
		case err != nil:
			return wrapDisk(err)
		case g.Ino == f.ino:
			tx.Delete(schema.Numbered(schema.PrefixPending, gen))
		}
	}
	return nil
}

// numberedSince gives the numbers of the contents that versions from seq on
// need: what was committed since an inode was looked at waits for ingest now.
// What such a version would have fallen back to is not needed any more once it
// is durable, and then it must not be taken for new.
func (t *Tree) numberedSince(tx *txn, ino, seq uint64) (map[uint64]bool, error) {
	it, err := tx.NewIter(schema.InodePrefix(ino), schema.After(schema.InodeKey(ino, seq)))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	out, marks := map[uint64]bool{}, t.marks(ino)
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := schema.DecodeInode(it.Value())
		if err != nil {
			return nil, wrapDisk(fmt.Errorf("inode %d: %w", ino, err))
		}
		out[rec.Live.Gen] = true
		if rec.Committed != nil {
			out[rec.Committed.Gen] = true
		}
		if rec.Settled != nil && (rec.Committed == nil || !settledBy(marks, rec.Committed)) {
			out[rec.Settled.Gen] = true
		}
	}
	return out, wrapDisk(it.Error())
}

// findDead looks for what is dead of an inode.
func (t *Tree) findDead(ino uint64) (*findings, error) {
	f := &findings{ino: ino}
	// Under the ordering lock: what is counted by then is recorded, too.
	_, err := t.update(schema.KindReap, func(*txn) error { f.begun = t.reaper.look(ino); return nil })
	if err != nil {
		return nil, err
	}
	// The queue first: what is queued after it was read is for the next time.
	if f.queue, err = t.queueKeys(ino); err != nil {
		return nil, err
	}
	// Then the stripes are held as they are, and then the contents are asked
	// for: were it the other way round, those of a content that is new would be
	// taken for nobody's.
	prefix := schema.StripeInode(ino)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	need, waits, err := t.needed(f)
	if err != nil {
		return nil, err
	}
	dead, live, err := deadStripes(f, it, need)
	if err != nil {
		return nil, wrapDisk(err)
	}
	for _, k := range f.queue {
		_, gen, err := schema.ParseUnsettledKey(k) // of the same form
		if err != nil {
			return nil, wrapDisk(err)
		}
		dead[gen] = true
	}
	for gen := range dead {
		switch {
		case live[gen]:
			if err := t.comesBack(gen, ino); err != nil {
				return nil, err
			}
		case numbers(need, gen):
			f.shells = append(f.shells, gen)
		default:
			f.gens = append(f.gens, gen)
		}
	}
	slices.Sort(f.gens)
	slices.Sort(f.shells)
	// The oldest version of a stripe goes first: if a crash leaves some, it must
	// not be one that a newer one hid.
	slices.Reverse(f.stripes)
	return f, t.findPending(f, live, waits)
}

// queueKeys gives the keys of the queue that name generations of an inode.
func (t *Tree) queueKeys(ino uint64) (keys [][]byte, err error) {
	prefix := schema.Numbered(schema.PrefixReap, ino)
	it, err := t.db.NewIter(schema.ReapKey(ino, 0), schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		keys = append(keys, append([]byte(nil), it.Key()...))
	}
	return keys, wrapDisk(it.Error())
}

// findPending finds contents of the inode that wait for ingest though no version
// has them: some of their bytes are still named, or they would be dead as a
// whole. A rollback has an inode name bytes of others, whose contents wait for
// reasons of their own.
func (t *Tree) findPending(f *findings, live, waits map[uint64]bool) error {
	for gen := range live {
		if waits[gen] {
			continue
		}
		v, err := t.db.Get(schema.Numbered(schema.PrefixPending, gen))
		if errors.Is(err, state.ErrNotFound) {
			continue
		}
		if err != nil {
			return wrapDisk(err)
		}
		p, err := schema.DecodePending(v)
		if err != nil {
			return wrapDisk(fmt.Errorf("pending %d: %w", gen, err))
		}
		if p.Ino == f.ino {
			f.pending = append(f.pending, gen)
		}
	}
	return nil
}

// deadStripes finds the versions of stripes that no needed content reads:
// version v of a stripe, whose successor is v2, is read by contents with
// Base <= v <= Gen < v2. It gives the generations that dead versions name, and
// those that the others do.
func deadStripes(f *findings, it *pebble.Iterator, need []schema.Content) (dead, live map[uint64]bool, err error) {
	dead, live = map[uint64]bool{}, map[uint64]bool{}
	last, next := int64(-1), newest // next: the version that follows this one
	var fs []schema.Fragment
	for ok := it.First(); ok; ok = it.Next() {
		s, gen, err := schema.ParseStripeKey(it.Key())
		if err != nil {
			return nil, nil, err
		}
		if int64(s) != last {
			last, next = int64(s), newest
		}
		used := reads(need, gen, next)
		next = gen
		if fs, err = schema.AppendStripe(fs[:0], it.Value()); err != nil {
			return nil, nil, fmt.Errorf("inode %d stripe %d: %w", f.ino, s, err)
		}
		f.looked++
		set := live
		if !used {
			f.stripes = append(f.stripes, append([]byte(nil), it.Key()...))
			set = dead
			set[gen] = true
		}
		for _, fr := range fs {
			set[fr.Gen] = true
		}
	}
	return dead, live, it.Error()
}

// reads says whether one of the contents, in the order of their generations,
// reads a stripe's version gen, whose successor is next. Bases never fall, so
// the last content below next has the highest base of them, and the first at
// or above gen the lowest.
func reads(need []schema.Content, gen, next uint64) bool {
	k, _ := slices.BinarySearchFunc(need, gen, func(c schema.Content, g uint64) int { return cmp.Compare(c.Gen, g) })
	return k < len(need) && need[k].Gen < next && need[k].Base <= gen
}

// numbers says whether one of the contents is numbered by gen.
func numbers(need []schema.Content, gen uint64) bool {
	_, ok := slices.BinarySearchFunc(need, gen, func(c schema.Content, g uint64) int { return cmp.Compare(c.Gen, g) })
	return ok
}

// dropInode removes what hangs on an inode that no version is left of.
func (t *Tree) dropInode(tx *txn, ino uint64) error {
	tx.Delete(schema.Numbered(schema.PrefixSymlink, ino))
	return wrapDisk(tx.DeletePrefix(schema.XattrInode(ino)))
}

// dropGen takes inode ino's hold on a generation away, and dooms the
// generation when no other inode has one.
func (t *Tree) dropGen(tx *txn, ino, gen uint64) error {
	key := schema.Numbered(schema.PrefixGen, gen)
	v, err := tx.Get(key)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return wrapDisk(err)
	}
	g, err := schema.DecodeGeneration(v)
	if err != nil {
		return wrapDisk(fmt.Errorf("generation %d: %w", gen, err))
	}
	others, err := t.otherRefs(tx, gen, ino)
	if err != nil {
		return err
	}
	tx.Delete(schema.GenRefKey(gen, ino))
	if g.Ino == ino {
		t.dropMark(tx, ino, gen)
		tx.Delete(schema.Numbered(schema.PrefixPending, gen))
		g.Ino = 0
	}
	t.freeables.touch(gen)
	if others || g.Ino != 0 {
		tx.Put(key, g.Encode())
		return nil
	}
	return t.doomGen(tx, gen, g)
}

// doomGen deletes all that the index knows of a generation.
func (t *Tree) doomGen(tx *txn, gen uint64, g schema.Generation) error {
	tx.Delete(schema.Numbered(schema.PrefixGen, gen))
	tx.Delete(schema.Numbered(schema.PrefixHot, gen))
	if g.Inline {
		if err := tx.DeletePrefix(schema.Numbered(schema.PrefixInline, gen)); err != nil {
			return wrapDisk(err)
		}
	}
	if g.Stored > 0 { // its chunks are given up one by one, see Prune
		tx.Put(schema.Numbered(schema.PrefixDeadHold, gen), nil)
	}
	if g.File {
		tx.Put(schema.Numbered(schema.PrefixDoomed, gen), nil)
	}
	return nil
}

func (t *Tree) otherRefs(tx *txn, gen, ino uint64) (bool, error) {
	prefix := schema.Numbered(schema.PrefixGenRef, gen)
	it, err := tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, wrapDisk(err)
	}
	defer it.Close()
	own := string(schema.GenRefKey(gen, ino))
	for ok := it.First(); ok; ok = it.Next() {
		if string(it.Key()) != own {
			return true, nil
		}
	}
	return false, wrapDisk(it.Error())
}

// unlinkDoomed unlinks the staging files of dead generations, once their
// death is durable.
func (t *Tree) unlinkDoomed() error {
	gens, err := t.numbered(schema.PrefixDoomed)
	if err != nil || len(gens) == 0 {
		return err
	}
	if err := t.db.Sync(t.db.Pos()); err != nil {
		return wrapDisk(err)
	}
	for _, gen := range gens {
		evicted, err := t.has(schema.Numbered(schema.PrefixGen, gen))
		if err = errors.Join(err, t.gens.forget(gen)); err != nil {
			return wrapDisk(err)
		}
		n, err := t.usage.remove(gen)
		if err != nil {
			return wrapDisk(err)
		}
		if !evicted {
			t.reaped.Add(n)
		}
	}
	_, err = t.update(schema.KindReap, func(tx *txn) error {
		for _, gen := range gens {
			tx.Delete(schema.Numbered(schema.PrefixDoomed, gen))
		}
		return nil
	})
	return err
}

// Reaped gives how many bytes of staging files of dead content were removed
// since the tree was opened.
func (t *Tree) Reaped() int64 { return t.reaped.Load() }
