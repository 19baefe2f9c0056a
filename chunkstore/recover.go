package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"math"

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
	for name := range files {
		if err := s.adopt(name); err != nil && !s.unreadable(name, err) {
			return err
		}
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

// listPacks gives the packs in the directory and removes temporary files.
// Files that are not ours are left alone.
func (s *Store) listPacks() (map[pack.Name]struct{}, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, err
	}
	files := make(map[pack.Name]struct{})
	for _, n := range names {
		if name, ok := pack.ParseFileName(n); ok {
			files[name] = struct{}{}
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
func (s *Store) loadPacks(files map[pack.Name]struct{}) error {
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
		info := &packInfo{}
		s.enter(info, number, rec)
		if rec.State == schema.PackRetiring {
			retiring = append(retiring, info)
		}
		s.firstNew = number + 1
		if _, ok := files[rec.Name]; ok {
			delete(files, rec.Name)
		} else {
			s.damage.losePack(number)
		}
	}
	if err := it.Close(); err != nil {
		return err
	}
	return s.setState(retiring, schema.PackLive)
}

// adopt indexes a pack that is in the directory but not in the index: its
// writer died in between. Chunks that another pack has stay where they are,
// unless that pack is gone.
func (s *Store) adopt(name pack.Name) error {
	f, err := s.readFooter(name)
	if err != nil {
		return err
	}
	return s.index(&packInfo{}, s.newRecord(name, f.Body, f.Entries), f.Entries, func(l *ledger, id ID) (bool, error) {
		loc, err := s.getChunk(l.tx, id)
		if errors.Is(err, state.ErrNotFound) || errors.Is(err, schema.ErrCorrupt) {
			return true, nil // this pack's word is better than a record that can't be read
		}
		return err == nil && s.damage.has(id, loc.Pack), err
	})
}

func (s *Store) readFooter(name pack.Name) (pack.Footer, error) {
	return readFooter(s.fs, s.dir, name, s.cfg.Domain)
}

// readFooter reads the footer of a pack in dir; pack.ErrFormat: it has none that
// can be used.
func readFooter(fs vfs.FS, dir string, name pack.Name, domain uint32) (pack.Footer, error) {
	file, err := fs.Open(fs.PathJoin(dir, name.FileName()))
	if err != nil {
		return pack.Footer{}, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return pack.Footer{}, err
	}
	f, got, err := pack.ReadFooter(file, st.Size())
	switch {
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

// RebuildIndex throws the chunk index away and makes it again from the footers
// of all packs (rebuild.go). Nothing else may use the store meanwhile. If it is
// interrupted, the next Open adopts what is missing, but what is dead is counted
// only when it is done again. Packs whose footer can't be read are counted in
// Stats and left alone. References stay; but packs get new numbers, so if some
// are older than references, from now on all are.
func (s *Store) RebuildIndex(ctx context.Context) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	if err := s.beginCollect(ctx); err != nil {
		return err
	}
	defer s.endCollect()
	if err := s.rebuild(ctx); err != nil {
		return fmt.Errorf("rebuild chunk index: %w", err)
	}
	return nil
}

func (s *Store) rebuild(ctx context.Context) error {
	files, err := s.listPacks()
	if err != nil {
		return err
	}
	known := s.refsFrom.Load() <= 1
	if _, err := s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		tx.DeleteRange(schema.ChunkBounds())
		tx.DeleteRange(schema.PackBounds())
		tx.DeleteRange(schema.ChunkDeadBounds())
		tx.Delete(schema.MetaKey(schema.MetaRefsFrom))
		s.book = nil
		clear(s.stale)
		return nil
	}); err != nil {
		return err
	}
	s.damage.reset()
	s.cache.drop()
	s.files.drop()
	s.mu.Lock()
	clear(s.mu.table)
	clear(s.mu.names)
	s.mu.Unlock()
	x, err := IndexPacks(ctx, s.db, s.fs, s.dir, s.cfg.Domain, nil)
	if err != nil {
		return err
	}
	for k, name := range x.Unreadable {
		n, _ := pack.ParseFileName(name)
		s.unreadable(n, x.Broken[k])
	}
	from := uint64(1)
	if !known {
		if from, err = NextPack(s.db); err != nil {
			return err
		}
	}
	if _, err = CountDead(ctx, s.db, s.cfg.Domain, func(Dead) (uint64, error) { return from, nil }); err != nil {
		return err
	}
	s.setRefsFrom(from)
	return s.loadPacks(files)
}
