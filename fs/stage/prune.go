package stage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"stepfs/internal/pace"
	"stepfs/internal/schema"
)

// A version of a key that was written before cut v and superseded before cut s
// is shown by the snapshots v to s-1. The index of deaths lists it under s: of
// all snapshots that show it, s-1 is the newest. When that one goes, the
// version is listed under the newest that is kept of the others, and when none
// is, it goes. So what is listed behind a snapshot is all that its end can
// free, whatever else the store holds.
//
// The queue is PrefixExpired: the numbers that no snapshot has and whose lists
// were not gone through yet. A cut puts its number there, and the record of its
// snapshot takes it off.

// pruneQueue is how many expired numbers are looked at in one go.
const pruneQueue = 1 << 16

// Prune frees what only snapshots have shown that are gone: versions of names
// and inodes, content, and its chunks. more: it did a part of it. Unless it is
// urgent it takes its time. Nothing else may run it meanwhile.
func (t *Tree) Prune(ctx context.Context, urgent bool) (more bool, err error) {
	p := pace.New(ctx, !urgent)
	// In this order: a cut below epoch is under way, or has ended, and then its
	// snapshot is recorded, or never will be.
	epoch := t.db.Epoch()
	under := t.cuts.under()
	queue, more, err := t.expired(epoch, under)
	buried := map[uint64]bool{}
	below, from := uint64(0), uint64(0) // the newest that is kept below from
	for _, seq := range queue {
		if err == nil {
			below, err = t.kept(below, from, seq, under)
		}
		if err == nil {
			err = t.pruneList(p, seq, below, buried)
		}
		from = seq
	}
	if err == nil {
		err = t.reapBuried(p, buried)
	}
	for ino := range buried { // what rests, or an error has left
		t.reaper.push(ino)
	}
	if err != nil {
		return false, err
	}
	return more, t.dropHolds(p)
}

// reapBuried frees the content of inodes that lost versions, so that its chunks
// can be given up at once; but for those that rest.
func (t *Tree) reapBuried(p *pace.Pace, inos map[uint64]bool) error {
	for ino := range inos {
		if err := p.Rest(); err != nil {
			return err
		}
		if t.reaper.resting(ino) {
			continue
		}
		if err := t.reaper.one(t, ino); err != nil {
			return err
		}
		delete(inos, ino)
	}
	return t.unlinkDoomed()
}

// ReapAll frees what is known to be dead of files, and gives up its chunks: also
// of those that rest, and what the job itself has deleted. It is for somebody
// who waits for that room, once; called again and again it would do nothing but
// look at the same long histories. Nothing else may run Prune meanwhile.
func (t *Tree) ReapAll(ctx context.Context) error {
	p := pace.New(ctx, true)
	inos, err := t.numbered(schema.PrefixReap)
	for _, ino := range inos {
		if err == nil {
			err = p.Rest()
		}
		if err == nil {
			err = t.reaper.one(t, ino)
		}
	}
	if err == nil {
		err = t.unlinkDoomed()
	}
	if err != nil {
		return err // what is left is still queued
	}
	return t.dropHolds(p)
}

// expired gives the queue, in order, but for cuts that are under way, and for
// the newest: its list still grows.
func (t *Tree) expired(epoch uint64, under []uint64) (queue []uint64, more bool, err error) {
	it, err := t.db.NewIter([]byte{schema.PrefixExpired}, schema.Numbered(schema.PrefixExpired, epoch-1))
	if err != nil {
		return nil, false, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		seq, err := schema.ParseNumbered(it.Key())
		switch {
		case err != nil:
			return nil, false, wrapDisk(err)
		case slices.Contains(under, seq):
			continue
		case len(queue) == pruneQueue:
			return queue, true, nil
		}
		queue = append(queue, seq)
	}
	return queue, false, wrapDisk(it.Error())
}

// kept gives the newest number below seq that a snapshot has, or a cut under
// way, when below is the newest of those below from; 0: there is none. What
// lies below from is not looked at again: there may be the tombstones of a
// hundred thousand barriers.
func (t *Tree) kept(below, from, seq uint64, under []uint64) (uint64, error) {
	for _, u := range under {
		if u < seq {
			below = u
		}
	}
	it, err := t.db.NewIter(schema.Numbered(schema.PrefixSnapshot, from), schema.Numbered(schema.PrefixSnapshot, seq))
	if err != nil {
		return 0, wrapDisk(err)
	}
	defer it.Close()
	if it.Last() {
		n, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return 0, wrapDisk(err)
		}
		below = max(below, n)
	}
	return below, wrapDisk(it.Error())
}

// pruneList goes through what is listed behind the snapshot seq, which is gone,
// while below is the next older one, and notes in buried which inodes lost a
// version.
func (t *Tree) pruneList(p *pace.Pace, seq, below uint64, buried map[uint64]bool) error {
	prefix := schema.Numbered(schema.PrefixDeath, seq+1)
	return t.inBatches(p, prefix, deathBatch, func(tx *txn, batch []keyValue, last bool) error {
		if last {
			tx.Delete(schema.Numbered(schema.PrefixExpired, seq))
		}
		return t.pruneSome(tx, batch, below, buried)
	})
}

// deathBatch is how many deaths one transaction goes through; each costs a
// look-up or two under the ordering lock.
const deathBatch = 16

// keyValue is what stands in the index.
type keyValue struct{ key, value []byte }

// inBatches calls fn with what stands under a prefix, some at a time, each time
// in a transaction of its own; last says that nothing follows.
func (t *Tree) inBatches(p *pace.Pace, prefix []byte, size int, fn func(tx *txn, batch []keyValue, last bool) error) error {
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok, last := it.First(), false; !last; {
		if err := p.Rest(); err != nil {
			return err
		}
		var batch []keyValue
		for ; ok && len(batch) < size; ok = it.Next() {
			batch = append(batch, keyValue{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
		}
		if err := it.Error(); err != nil {
			return wrapDisk(err)
		}
		last = !ok
		if _, err := t.update(schema.KindPrune, func(tx *txn) error { return fn(tx, batch, last) }); err != nil {
			return err
		}
	}
	return nil
}

// pruneSome takes away the versions of some deaths, or lists them behind the
// snapshot below, which shows them.
func (t *Tree) pruneSome(tx *txn, deaths []keyValue, below uint64, buried map[uint64]bool) error {
	gone := map[string]bool{}
	for _, death := range deaths {
		d := death.key
		tx.Delete(d)
		version, err := versionOf(d)
		if err != nil {
			return wrapDisk(err)
		}
		if version > below {
			gone[string(d[9:])] = true
		} else {
			tx.Put(schema.DeathKey(below+1, d[9:]), nil)
		}
	}
	for key := range gone {
		if err := t.bury(tx, []byte(key), gone); err != nil {
			return err
		}
		if key[0] == schema.PrefixInode {
			buried[binary.BigEndian.Uint64([]byte(key[1:9]))] = true
		}
	}
	return nil
}

// versionOf gives the version of the key that a death names.
func versionOf(death []byte) (uint64, error) {
	if len(death) < 9+1+8 {
		return 0, fmt.Errorf("%w: death %x", schema.ErrCorrupt, death)
	}
	return ^binary.BigEndian.Uint64(death[len(death)-8:]), nil
}

// bury takes away a dead version, and what is of no use without it.
func (t *Tree) bury(tx *txn, key []byte, gone map[string]bool) error {
	tx.Delete(key)
	switch key[0] {
	case schema.PrefixInode:
		return t.buryInode(tx, key)
	case schema.PrefixDentry, schema.PrefixXattr:
		return t.buryTombstone(tx, key, gone)
	}
	return wrapDisk(fmt.Errorf("%w: a death names the key %x", schema.ErrCorrupt, key))
}

// buryInode has the reaper look for what a version of an inode alone named.
func (t *Tree) buryInode(tx *txn, key []byte) error {
	v, err := tx.Get(key)
	if err != nil {
		return ignoreGone(err)
	}
	ino := binary.BigEndian.Uint64(key[1:])
	rec, err := schema.DecodeInode(v)
	if err != nil {
		return wrapDisk(fmt.Errorf("inode %d: %w", ino, err))
	}
	t.drops(tx, ino, rec, nil)
	t.reaper.note(tx, ino)
	return nil
}

// buryTombstone: where the last version that a tombstone hides goes, it goes,
// too, and so do those that hid nothing but it. gone are the keys that this
// transaction takes away.
func (t *Tree) buryTombstone(tx *txn, key []byte, gone map[string]bool) error {
	prefix := key[:len(key)-8]
	it, err := tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.SeekGE(schema.After(key)); ok; ok = it.Next() {
		if !gone[string(it.Key())] {
			return nil // hidden, too
		}
	}
	// Of those above, up to the oldest that shows something.
	for ok := it.SeekLT(key); ok; ok = it.Prev() {
		if gone[string(it.Key())] {
			continue
		}
		stone, err := isTombstone(it.Key(), it.Value())
		if err != nil || !stone {
			return wrapDisk(err)
		}
		tx.Delete(append([]byte(nil), it.Key()...))
	}
	return wrapDisk(it.Error())
}

func isTombstone(k, v []byte) (bool, error) {
	if k[0] == schema.PrefixDentry {
		d, err := schema.DecodeDentry(v)
		return d.Ino == 0, err
	}
	x, err := schema.DecodeXattr(v)
	return x.Gone, err
}

// dropHolds gives up the chunks of generations that are dead, and of the trees
// of snapshots that are gone.
func (t *Tree) dropHolds(p *pace.Pace) error {
	holders, err := t.numbered(schema.PrefixDeadHold)
	for _, h := range holders {
		if err == nil {
			err = t.dropHold(p, h)
		}
	}
	return err
}

// dropHold gives up the chunks of one holder, some at a time.
func (t *Tree) dropHold(p *pace.Pace, holder uint64) error {
	prefix := schema.Numbered(schema.PrefixChunkMap, holder)
	if schema.IsTreeHolder(holder) {
		prefix = schema.Numbered(schema.PrefixTreeRef, holder)
	}
	return t.inBatches(p, prefix, holdBatch, func(tx *txn, batch []keyValue, last bool) error {
		var ids [][32]byte
		for _, kv := range batch {
			tx.Delete(kv.key)
			some, err := heldBy(kv.key, kv.value)
			if err != nil {
				return wrapDisk(err)
			}
			ids = append(ids, some...)
		}
		if last {
			tx.Delete(schema.Numbered(schema.PrefixDeadHold, holder))
		}
		return t.dropChunks(tx, holder, ids)
	})
}

// holdBatch is how many keys of a holder one transaction gives up: a page of a
// chunk map names a dozen chunks, and each costs a look-up or two.
const holdBatch = 4

// heldBy gives the chunks that one key of a holder names.
func heldBy(k, v []byte) ([][32]byte, error) {
	if k[0] == schema.PrefixTreeRef && len(k) == 9+32 {
		return [][32]byte{[32]byte(k[9:])}, nil
	}
	es, err := schema.DecodeChunkMap(v)
	return chunkIDs(es), err
}

// dropChunks gives up a holder's hold on chunks.
func (t *Tree) dropChunks(tx *txn, holder uint64, ids [][32]byte) error {
	if t.cfg.Chunks == nil || len(ids) == 0 {
		return nil
	}
	return t.cfg.Chunks.Drop(tx.Tx, holder, ids)
}

func chunkIDs(es []schema.ChunkExtent) [][32]byte {
	ids := make([][32]byte, len(es))
	for k, e := range es {
		ids[k] = e.ID
	}
	return ids
}
