package stage

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What a snapshot alone needs is what its end would free. The index of deaths
// says which versions of inodes it alone shows: those listed behind it that
// came after the next older snapshot which is kept (see prune.go). Of the
// generations that such a version reads, the others need those that the next
// older and the next newer version read, too: a byte that was overwritten or
// cut off does not come back under the same inode, so what both sides of a
// version do not read, nothing beyond them does. But what an inode shares it may
// share again later: of that, all of its versions are asked. A generation that
// no inode needs then is freed, and of its chunks those that nobody else holds.
//
// So the cost is that of the files of which the snapshot shows a version of its
// own, whatever their history (but for what is shared) and the rest of the
// store.
//
// A snapshot that was forgotten counts as one that is kept until prune has
// removed it: unforget can bring it back, so until then nothing that it shows
// comes free by the end of another.
//
// Counted are the bytes of chunks as they lie in packs, and what is only
// staged as it lies on the disk. Not counted are hot copies, which go anyway
// when room is needed, and records of the index.

// Freeable gives the bytes that would come back if these snapshots, and no
// others, were removed and pruned.
func (t *Tree) Freeable(ctx context.Context, seqs ...uint64) (bytes int64, err error) {
	near, err := t.neighbours(seqs)
	if err != nil {
		return 0, err
	}
	f, err := t.freeable(ctx, near)
	return f.bytes, err
}

// neighbour is a snapshot, with those next to it that stay.
type neighbour struct {
	seq, next    uint64 // next: the next newer one that there is, whether it stays or not
	older, newer uint64 // 0, and the largest number: there is none
}

// neighbours looks around snapshots, which it gives in order. A cut under way
// counts as a snapshot that stays.
func (t *Tree) neighbours(seqs []uint64) ([]neighbour, error) {
	seqs = slices.Compact(slices.Sorted(slices.Values(seqs)))
	under := t.cuts.under() // before the records: see Prune
	near := make([]neighbour, len(seqs))
	it, err := t.db.NewIter([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	for k, seq := range seqs {
		n := neighbour{seq: seq, newer: newest}
		for _, u := range under {
			if u < seq {
				n.older = u
			} else if u > seq {
				n.newer = min(n.newer, u)
			}
		}
		if it.SeekLT(schema.Numbered(schema.PrefixSnapshot, seq)) {
			n.older = max(n.older, numberAt(it))
		}
		if it.SeekGE(schema.Numbered(schema.PrefixSnapshot, seq+1)) {
			n.newer = min(n.newer, numberAt(it))
		}
		n.next = n.newer
		near[k] = n
	}
	for k := 1; k < len(near); k++ {
		if near[k].older == near[k-1].seq {
			near[k].older = near[k-1].older
		}
	}
	for k := len(near) - 2; k >= 0; k-- {
		if near[k].newer == near[k+1].seq {
			near[k].newer = near[k+1].newer
		}
	}
	return near, wrapDisk(it.Error())
}

// numberAt is the number of the key at which an iterator stands.
func numberAt(it *pebble.Iterator) uint64 { return binary.BigEndian.Uint64(it.Key()[1:]) }

// freed is what the end of some snapshots would free.
type freed struct {
	bytes  int64
	lo, hi uint64 // the generations that the snapshot's own versions read lie in [lo, hi]
	final  bool   // all of it is durable, and stored
}

// loser finds what inodes would name no more.
type loser struct {
	t    *Tree
	lost map[uint64]uint64          // generation -> the first inode that loses it
	also map[loss]bool              // and other inodes; few
	ends map[uint64]bool            // the snapshots that would be removed
	kept map[uint64]map[uint64]bool // inode -> what versions that stay read; see shared.go
	freed
}

type loss struct{ gen, ino uint64 }

func (l *loser) lose(gen, ino uint64) {
	if first, ok := l.lost[gen]; !ok {
		l.lost[gen] = ino
	} else if first != ino {
		l.also[loss{gen, ino}] = true
	}
}

func (l *loser) loses(gen, ino uint64) bool { return l.lost[gen] == ino || l.also[loss{gen, ino}] }

func (t *Tree) freeable(ctx context.Context, near []neighbour) (f freed, err error) {
	l := &loser{t: t, lost: map[uint64]uint64{}, also: map[loss]bool{}, ends: map[uint64]bool{}, kept: map[uint64]map[uint64]bool{},
		freed: freed{lo: math.MaxUint64, final: true}}
	for _, n := range near {
		l.ends[n.seq] = true
	}
	for _, n := range near {
		if err := l.listed(ctx, n); err != nil {
			return f, err
		}
	}
	f = l.freed
	gone := map[uint64]bool{} // holders of chunks
	for _, n := range near {
		gone[schema.TreeHolder(n.seq)] = true
	}
	for gen := range l.lost {
		dead, err := l.unnamed(gen)
		if err != nil {
			return f, err
		}
		if dead {
			gone[gen] = true
		}
	}
	sum := summer{t: t, freed: func(holder uint64) bool { return gone[holder] }}
	for holder := range gone {
		if err := errors.Join(ctx.Err(), sum.add(holder)); err != nil {
			return f, err
		}
	}
	f.bytes, f.final = sum.bytes, f.final && !sum.staged
	return f, nil
}

// listed goes through the inodes' versions in the lists behind a snapshot. (Its
// own, and those of snapshots behind it that are gone: until they are pruned
// they list what it shows.)
func (l *loser) listed(ctx context.Context, n neighbour) error {
	end := []byte{schema.PrefixDeath + 1}
	if n.next != newest {
		end = schema.Numbered(schema.PrefixDeath, n.next+1)
	}
	it, err := l.t.db.NewIter(schema.Numbered(schema.PrefixDeath, n.seq+1), end)
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := it.Key()
		v, err := versionOf(key)
		if err != nil {
			return wrapDisk(err)
		}
		switch at := binary.BigEndian.Uint64(key[1:]); {
		case key[9] < schema.PrefixInode: // names, by the thousand perhaps
			ok = it.SeekGE(schema.DeathKey(at, []byte{schema.PrefixInode}))
			continue
		case key[9] > schema.PrefixInode:
			ok = it.SeekGE(schema.Numbered(schema.PrefixDeath, at+1))
			continue
		case v > n.older && v <= n.seq:
			if err := l.version(binary.BigEndian.Uint64(key[10:]), v, n); err != nil {
				return err
			}
		}
		ok = it.Next()
	}
	return wrapDisk(it.Error())
}

// version notes the generations that a version of an inode reads, and those
// next to it do not.
func (l *loser) version(ino, v uint64, n neighbour) error {
	own, err := l.contents(ino, v, v)
	if err != nil || len(own) == 0 {
		return err
	}
	others, err := l.contents(ino, n.older, 0)
	if err != nil {
		return err
	}
	newer, err := l.contents(ino, n.newer, v+1)
	if err != nil {
		return err
	}
	others = append(others, newer...)
	own = slices.DeleteFunc(own, func(c schema.Content) bool {
		return slices.ContainsFunc(others, func(o schema.Content) bool { return o.Gen == c.Gen && o.Base == c.Base })
	})
	if len(own) == 0 {
		return nil // its attributes alone were changed
	}
	reads, kept := map[uint64]bool{}, map[uint64]bool{}
	for _, c := range own {
		if err := l.t.namedBy(ino, c, reads, true); err != nil {
			return err
		}
	}
	for _, c := range others {
		if err := l.t.namedBy(ino, c, kept, false); err != nil {
			return err
		}
	}
	for gen := range reads {
		l.lo, l.hi = min(l.lo, gen), max(l.hi, gen)
		if !kept[gen] {
			l.lose(gen, ino)
		}
	}
	return nil
}

// contents gives what an inode's newest version from least to seq reads: none
// if there is no such version. Of the live version that is the live content,
// too.
func (l *loser) contents(ino, seq, least uint64) (out []schema.Content, err error) {
	it, err := l.t.db.NewIter(schema.InodePrefix(ino), schema.After(schema.InodePrefix(ino)))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	if !it.SeekGE(schema.InodeKey(ino, seq)) || seqOf(it.Key()) < least {
		return nil, wrapDisk(it.Error())
	}
	rec, err := schema.DecodeInode(it.Value())
	if err != nil || rec.Deleted || !isReg(rec) {
		return nil, wrapDisk(err)
	}
	newest := !it.Prev()
	if rec.Excluded && !newest {
		return nil, wrapDisk(it.Error())
	}
	if rec.Committed != nil {
		out = append(out, *rec.Committed)
	}
	if rec.Settled != nil && (rec.Committed == nil || !settledBy(l.t.marks(ino), rec.Committed)) {
		out = append(out, *rec.Settled)
		l.final = false
	}
	if newest {
		out = append(out, rec.Live)
	}
	return out, wrapDisk(it.Error())
}

// namedBy puts the generations into set that a content is numbered by or reads,
// as the reaper sees it: a stripe's version that is read counts as a whole.
// With own also those under whose number its stripes stand.
func (t *Tree) namedBy(ino uint64, c schema.Content, set map[uint64]bool, own bool) error {
	if c.Gen == 0 {
		return nil
	}
	set[c.Gen] = true
	c.Len = math.MaxInt64
	return t.stripes(ino, &c, 0, func(_ uint32, fs []schema.Fragment, gen uint64) (bool, error) {
		if own {
			set[gen] = true
		}
		for _, f := range fs {
			set[f.Gen] = true
		}
		return true, nil
	})
}

// unnamed says whether no inode but those that lose it names a generation.
func (l *loser) unnamed(gen uint64) (bool, error) {
	rec, err := l.t.generation(gen)
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if rec.Ino != 0 && !l.loses(gen, rec.Ino) {
		return false, nil // if it has come back to it, there is a reference, too
	}
	prefix := schema.Numbered(schema.PrefixGenRef, gen)
	it, err := l.t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		ino := binary.BigEndian.Uint64(it.Key()[len(prefix):])
		if !l.loses(gen, ino) {
			return false, nil
		}
		if stays, err := l.stays(gen, ino); err != nil || stays {
			return false, err
		}
	}
	return true, wrapDisk(it.Error())
}

// summer adds up what holders take: generations, and trees of sealed steps.
type summer struct {
	t      *Tree
	freed  func(holder uint64) bool
	bytes  int64
	staged bool // some of that is not stored yet
}

func (s *summer) add(holder uint64) error {
	prefix := schema.Numbered(schema.PrefixChunkMap, holder)
	if schema.IsTreeHolder(holder) {
		prefix = schema.Numbered(schema.PrefixTreeRef, holder)
	} else if err := s.addStaged(holder); err != nil {
		return err
	}
	if s.t.cfg.Chunks == nil {
		return nil
	}
	it, err := s.t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	var ids [][32]byte
	for ok := it.First(); ok; ok = it.Next() {
		some, err := heldBy(it.Key(), it.Value())
		if err != nil {
			return wrapDisk(err)
		}
		ids = append(ids, some...)
	}
	if err := it.Error(); err != nil || len(ids) == 0 {
		return wrapDisk(err)
	}
	n, err := s.t.cfg.Chunks.Sole(holder, ids, s.freed)
	s.bytes += n
	return wrapDisk(err)
}

// addStaged adds what of a generation lies in a staging file or in the index
// and in no chunk yet.
func (s *summer) addStaged(gen uint64) error {
	rec, err := s.t.generation(gen)
	if errors.Is(err, state.ErrNotFound) || err == nil && !rec.File && !rec.Inline {
		return nil // freed meanwhile, or evicted
	}
	if err != nil {
		return err
	}
	waits, err := s.t.has(schema.Numbered(schema.PrefixPending, gen))
	if err != nil || rec.Stored > 0 && !waits {
		return err // a hot copy
	}
	s.staged = true
	n, err := s.t.takes(gen, rec)
	s.bytes += n
	if err != nil || rec.Stored == 0 {
		return err
	}
	v, err := s.t.db.Get(schema.Numbered(schema.PrefixHot, gen))
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	hot, err2 := schema.ParseCounter(v)
	s.bytes -= min(n, int64(hot))
	return wrapDisk(errors.Join(err, err2))
}

// takes says what a generation takes outside packs.
func (t *Tree) takes(gen uint64, rec schema.Generation) (sum int64, err error) {
	if rec.File {
		sum, err = t.usage.Allocated(gen)
		return sum, wrapDisk(err)
	}
	from := schema.Numbered(schema.PrefixInline, gen)
	it, err := t.db.NewIter(from, schema.After(from))
	if err != nil {
		return 0, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		sum += int64(len(it.Value()))
	}
	return sum, wrapDisk(it.Error())
}

// has says whether a key is in the index.
func (t *Tree) has(key []byte) (bool, error) {
	_, err := t.db.Get(key)
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	return err == nil, wrapDisk(err)
}
