package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// recover brings directory and index together: it removes temporary files,
// adopts packs that the index does not know, and notes those that are gone.
func (s *Store) recover() error {
	files, err := s.listPacks()
	if err != nil {
		return err
	}
	s.far.some.Store(true) // until it is known better
	defer func() { s.far.some.Store(s.anyAway()) }()
	if err := s.loadRefsFrom(); err != nil {
		return err
	}
	if err := s.loadPacks(files); err != nil {
		return err
	}
	// Their writer may have died before it had synced their names.
	if len(files) > 0 {
		if err := s.syncDir(); err != nil {
			return fmt.Errorf("sync pack directory: %w", err)
		}
	}
	if err := s.adoptAll(context.Background(), files); err != nil {
		return err
	}
	return s.markRefsFrom()
}

// loadRefsFrom reads from which pack on all references are known. Without the
// marker no pack is collectable.
func (s *Store) loadRefsFrom() error {
	n := uint64(math.MaxUint64)
	v, err := s.db.Get(schema.MetaKey(schema.MetaRefsFrom))
	if err == nil {
		n, err = schema.ParseCounter(v)
	}
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return fmt.Errorf("first pack with references: %w", err)
	}
	s.setRefsFrom(n)
	return nil
}

// markRefsFrom makes packs collectable from the next one on in a store that has
// no marker: a new one, one of an older version, or one that lost its index
// and with it every reference. It comes after the packs that are there were
// adopted, and is durable before the first new one.
func (s *Store) markRefsFrom() error {
	if s.refsFrom.Load() != math.MaxUint64 {
		return nil
	}
	var next uint64
	pos, err := s.db.Update(schema.KindPackState, func(tx *state.Tx) (err error) {
		next, err = s.nextNumber(tx)
		tx.Put(schema.MetaKey(schema.MetaRefsFrom), schema.Counter(next))
		return err
	})
	if err == nil {
		err = s.db.Sync(pos)
	}
	if err != nil {
		return fmt.Errorf("mark first pack with references: %w", err)
	}
	s.setRefsFrom(next)
	return nil
}

// listPacks gives the packs in the directory, whether they are here or, having a
// stub alone, away, and removes temporary files. Files that are not ours are left
// alone.
func (s *Store) listPacks() (files map[pack.Name]whereIs, err error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, err
	}
	files = make(map[pack.Name]whereIs)
	for _, n := range names {
		if name, ok := pack.ParseFileName(n); ok {
			files[name] = isHere
		} else if name, ok := parseStubName(n); ok {
			if files[name] != isHere {
				files[name] = isAway
			}
		} else if isTemp(n) {
			if err := s.fs.Remove(s.fs.PathJoin(s.dir, n)); err != nil {
				return nil, fmt.Errorf("remove leftover %s: %w", n, err)
			}
		}
	}
	return files, nil
}

// loadPacks reads all pack records and takes the packs that they name out of
// files, so that those that nobody knows are left. A pack that was retiring
// when the store was closed is live again: all that was done to it is complete
// chunk by chunk.
func (s *Store) loadPacks(files map[pack.Name]whereIs) error {
	it, err := s.db.NewIter(schema.PackBounds())
	if err != nil {
		return err
	}
	var retiring []*packInfo
	for ok := it.First(); ok; ok = it.Next() {
		number, err := schema.ParsePackKey(it.Key())
		if err != nil {
			return errors.Join(err, it.Close())
		}
		rec, err := schema.DecodePackRecord(it.Value())
		if err != nil {
			return errors.Join(fmt.Errorf("pack %d: %w", number, err), it.Close())
		}
		at, err := s.place(rec.Name, files)
		if err != nil {
			return errors.Join(fmt.Errorf("pack %d: %w", number, err), it.Close())
		}
		info := &packInfo{away: at == isAway || at == isGone}
		if rec.Naming > s.naming() {
			return errors.Join(fmt.Errorf("%w: pack %d is named by key %d, and there are %d: the store's config is older than its packs", ErrConfig, number, rec.Naming, s.naming()+1), it.Close())
		}
		s.enter(info, number, rec)
		if rec.State == schema.PackRetiring {
			retiring = append(retiring, info)
		}
		s.firstNew = number + 1
		switch at {
		case isLost:
			s.damage.losePack(number)
		case isAway:
			if files[rec.Name] != isAway { // the stub is gone
				s.damage.badFile(number)
			}
		case isGone:
			s.damage.badFile(number)
			_ = s.report(fmt.Errorf("%w: pack %s; the bucket has it", ErrMissing, pack.Name(rec.Name).FileName()))
		}
		delete(files, rec.Name)
	}
	if err := it.Close(); err != nil {
		return err
	}
	return s.setState(retiring, schema.PackLive)
}

// adoptAll indexes packs that are in the directory but not in the index: their
// writer died in between, or the index was lost.
//
// Of the copies that packs have of a chunk, one is taken that can be read: a
// delta only once its base is in the index, and less deep. Packs are met in any
// order, so what had no base yet is looked at again when all are known. A mark
// says that this is still to come, should it be interrupted.
func (s *Store) adoptAll(ctx context.Context, files map[pack.Name]whereIs) error {
	mark := schema.MetaKey(schema.MetaAdopt)
	_, err := s.db.Get(mark)
	interrupted := err == nil
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	if len(files) == 0 && !interrupted {
		return nil
	}
	if err := s.change(func(tx *state.Tx) { tx.Put(mark, schema.Counter(1)) }); err != nil {
		return err
	}
	again := make(map[uint64]pack.Name) // packs with chunks that had no base yet
	if interrupted {
		s.mu.Lock()
		for number, info := range s.mu.table {
			again[number] = info.rec.Name
		}
		s.mu.Unlock()
	}
	for name, at := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		number, waits, err := s.adopt(name, at)
		if err != nil && !s.unreadable(name, err) {
			return err
		}
		if waits {
			again[number] = name
		}
	}
	for more := len(again) > 0; more; {
		more = false
		for number, name := range again {
			found, waits, err := s.adoptRest(number, name)
			if err != nil {
				return err
			}
			if !waits {
				delete(again, number)
			}
			more = more || found
		}
	}
	return s.change(func(tx *state.Tx) { tx.Delete(mark) })
}

// change makes a change of the index durable.
func (s *Store) change(fn func(tx *state.Tx)) error {
	pos, err := s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		fn(tx)
		return nil
	})
	if err == nil {
		err = s.db.Sync(pos)
	}
	return err
}

// adopter chooses what is taken from a pack that is adopted.
type adopter struct {
	taken map[ID]uint8 // in this transaction, and how deep
	waits bool         // a delta's base is not there yet
}

// want: chunks that another pack has stay where they are, unless that can't be
// read.
func (a *adopter) want(l *ledger, e pack.Entry) (bool, error) {
	if _, ok := a.taken[e.ID]; ok {
		return false, nil
	}
	loc, err := l.s.getChunk(l.tx, e.ID)
	known := err == nil && !l.s.damage.has(e.ID, loc.Pack)
	if known || err != nil && !errors.Is(err, state.ErrNotFound) && !errors.Is(err, schema.ErrCorrupt) {
		return false, err
	}
	link, err := linkOf(chunkLoc(0, e))
	if err != nil {
		return false, err
	}
	if link.Depth > 0 {
		depth, ok := a.taken[link.ID]
		if !ok {
			base, err := l.s.getChunk(l.tx, link.ID)
			under, lerr := linkOf(base)
			ok, depth = err == nil && lerr == nil, under.Depth
		}
		if !ok || depth >= link.Depth {
			a.waits = true
			return false, nil
		}
	}
	a.taken[e.ID] = link.Depth
	return true, nil
}

// adopt indexes one pack.
func (s *Store) adopt(name pack.Name, at whereIs) (number uint64, waits bool, err error) {
	f, err := s.readFooter(name)
	if err == nil && at == isAway {
		err = s.noteStub(name)
	}
	if err != nil {
		return 0, false, err
	}
	if f.Naming > s.naming() {
		return 0, false, fmt.Errorf("%w: pack %s is named by key %d, and there are %d: the store's config is older than its packs", ErrConfig, name.FileName(), f.Naming, s.naming()+1)
	}
	info, a := &packInfo{away: at == isAway}, &adopter{taken: make(map[ID]uint8)}
	err = s.index(info, s.newRecord(name, f), byDepth(f.Entries), a.want)
	return info.number, a.waits, err
}

// adoptRest takes from an adopted pack what is nowhere else and has its base by
// now.
func (s *Store) adoptRest(number uint64, name pack.Name) (found, waits bool, err error) {
	f, err := s.readFooter(name)
	if err != nil {
		if oserror.IsNotExist(err) || errors.Is(err, pack.ErrFormat) {
			err = nil // reading its chunks will say so
		}
		return false, false, err
	}
	a := &adopter{taken: make(map[ID]uint8)}
	_, err = s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		l := s.ledger(tx)
		it, err := l.references()
		if err != nil {
			return err
		}
		defer it.Close()
		for _, e := range byDepth(f.Entries) {
			ok, err := a.want(l, e)
			if err == nil && ok {
				err = errors.Join(l.addDead(number, -1, e.Stored), l.place(it, e.ID, chunkLoc(number, e)))
			}
			if err != nil {
				return err
			}
		}
		l.flush()
		return nil
	})
	return len(a.taken) > 0, a.waits, err
}

// byDepth gives entries with those that others of them are made from before
// those.
func byDepth(entries []pack.Entry) []pack.Entry {
	depth := func(e pack.Entry) uint8 {
		link, _ := linkOf(chunkLoc(0, e)) // a footer with a bad one was refused
		return link.Depth
	}
	out := slices.Clone(entries)
	slices.SortStableFunc(out, func(a, b pack.Entry) int { return cmp.Compare(depth(a), depth(b)) })
	return out
}

func (s *Store) readFooter(name pack.Name) (pack.Footer, error) {
	return readFooter(s.fs, s.dir, name, s.cfg.Domain)
}

// readFooter reads the footer of a pack in dir, or, if it is away, of its stub;
// pack.ErrFormat: it has none that can be used.
func readFooter(fs vfs.FS, dir string, name pack.Name, domain uint32) (pack.Footer, error) {
	var r io.ReaderAt
	var size int64
	file, err := fs.Open(fs.PathJoin(dir, name.FileName()))
	switch {
	case err == nil:
		defer file.Close()
		st, err := file.Stat()
		if err != nil {
			return pack.Footer{}, err
		}
		r, size = file, st.Size()
	case oserror.IsNotExist(err):
		s, serr := readStub(fs, dir, name)
		if oserror.IsNotExist(serr) {
			return pack.Footer{}, err
		}
		if serr != nil {
			return pack.Footer{}, fmt.Errorf("pack %s: %w", name.FileName(), serr)
		}
		r, size = s, s.at.Size
	default:
		return pack.Footer{}, err
	}
	f, got, err := pack.ReadFooter(r, size)
	switch {
	case badSector(err):
		return pack.Footer{}, fmt.Errorf("pack %s: %w: %w", name.FileName(), pack.ErrFormat, err)
	case err != nil:
		return pack.Footer{}, fmt.Errorf("pack %s: %w", name.FileName(), err)
	case got != name:
		return pack.Footer{}, fmt.Errorf("pack %s: %w: its footer is another pack's", name.FileName(), pack.ErrFormat)
	case f.Domain != domain:
		return pack.Footer{}, fmt.Errorf("pack %s: %w: domain %d", name.FileName(), pack.ErrFormat, f.Domain)
	}
	return f, nil
}

// unreadable says whether err is the pack's own fault. Then the file is left
// for `stepfs check` to look at, and the store works without it.
func (s *Store) unreadable(name pack.Name, err error) bool {
	if !errors.Is(err, pack.ErrFormat) {
		return false
	}
	s.damage.badPack(name)
	s.report(fmt.Errorf("%w: %w", ErrCorrupt, err))
	return true
}
