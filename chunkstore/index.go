package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// totals is what the indexed packs come to.
type totals struct{ packs, chunks, raw, stored, size uint64 }

func (t *totals) add(r schema.PackRecord) {
	t.packs++
	t.chunks += r.Chunks
	t.raw += r.Raw
	t.stored += r.Stored
	t.size += r.Size
}

// locate finds a chunk in the durable index, or state.ErrNotFound.
func (s *Store) locate(id ID) (schema.ChunkLoc, schema.PackRecord, error) {
	v, err := s.db.Get(schema.ChunkKey(s.cfg.Domain, id))
	if err != nil {
		return schema.ChunkLoc{}, schema.PackRecord{}, err
	}
	loc, err := schema.DecodeChunkLoc(v)
	if err != nil {
		return schema.ChunkLoc{}, schema.PackRecord{}, fmt.Errorf("chunk %x: %w", id, err)
	}
	if v, err = s.db.Get(schema.PackKey(loc.Pack)); err != nil {
		return schema.ChunkLoc{}, schema.PackRecord{}, err
	}
	rec, err := schema.DecodePackRecord(v)
	if err != nil {
		return schema.ChunkLoc{}, schema.PackRecord{}, fmt.Errorf("pack %d: %w", loc.Pack, err)
	}
	return loc, rec, nil
}

// indexPack makes a durable pack known, in one transaction, and makes that
// durable too. A chunk that another pack also has is from now on read from
// this one: it was stored again because the other could not be relied on.
func (s *Store) indexPack(name pack.Name, body int64, entries []pack.Entry) error {
	return s.index(name, body, entries, func(*state.Tx, ID) (bool, error) { return true, nil })
}

// index adds a pack and those of its chunks that want asks for.
func (s *Store) index(name pack.Name, body int64, entries []pack.Entry, want func(*state.Tx, ID) (bool, error)) error {
	rec := schema.PackRecord{Name: name, State: schema.PackLive, Domain: s.cfg.Domain, Size: packSize(body, entries)}
	for _, e := range entries {
		rec.Chunks++
		rec.Raw += uint64(e.Raw)
		rec.Stored += uint64(e.Stored)
	}
	pos, err := s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		number, err := s.takeNumber(tx)
		if err != nil {
			return err
		}
		for _, e := range entries {
			ok, err := want(tx, e.ID)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			tx.Put(schema.ChunkKey(s.cfg.Domain, e.ID), schema.ChunkLoc{
				Pack: number, Offset: e.PayloadOffset(), Stored: e.Stored, Raw: e.Raw,
				Type: uint8(e.Type), Enc: uint8(e.Enc), Ext: e.Ext,
			}.Encode())
		}
		tx.Put(schema.PackKey(number), rec.Encode())
		return nil
	})
	if err == nil {
		err = s.db.Sync(pos)
	}
	if err != nil {
		return fmt.Errorf("index pack %s: %w", name.FileName(), err)
	}
	s.damage.healed(entries)
	s.mu.Lock()
	s.mu.totals.add(rec)
	s.mu.Unlock()
	return nil
}

// takeNumber gives the next pack number. Transactions run one at a time, so
// reading the counter and raising it here gives every number once.
func (s *Store) takeNumber(tx *state.Tx) (uint64, error) {
	n := uint64(1)
	if v, err := tx.Get(schema.PackCounterKey()); err == nil {
		if n, err = schema.ParseCounter(v); err != nil {
			return 0, fmt.Errorf("pack counter: %w", err)
		}
	} else if !errors.Is(err, state.ErrNotFound) {
		return 0, err
	}
	n = max(n, s.firstNew)
	tx.Put(schema.PackCounterKey(), schema.Counter(n+1))
	return n, nil
}

func packSize(body int64, entries []pack.Entry) uint64 {
	return uint64(body) + uint64(pack.FooterSize(entries)) + pack.TrailerSize
}

// recover brings directory and index together: it removes temporary files,
// adopts packs that the index does not know, and notes those that are gone.
func (s *Store) recover() error {
	files, err := s.listPacks()
	if err != nil {
		return err
	}
	if err := s.loadPacks(files); err != nil {
		return err
	}
	for name := range files {
		if err := s.adopt(name); err != nil && !s.unreadable(name, err) {
			return err
		}
	}
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
// files, so that those that nobody knows are left.
func (s *Store) loadPacks(files map[pack.Name]struct{}) error {
	it, err := s.db.NewIter(schema.PackBounds())
	if err != nil {
		return err
	}
	var sum totals
	for ok := it.First(); ok; ok = it.Next() {
		number, err := schema.ParsePackKey(it.Key())
		if err != nil {
			return errors.Join(err, it.Close())
		}
		rec, err := schema.DecodePackRecord(it.Value())
		if err != nil {
			return errors.Join(fmt.Errorf("pack %d: %w", number, err), it.Close())
		}
		sum.add(rec)
		s.firstNew = number + 1
		if _, ok := files[rec.Name]; ok {
			delete(files, rec.Name)
		} else {
			s.damage.losePack(number)
		}
	}
	s.mu.totals = sum
	return it.Close()
}

// adopt indexes a pack that is in the directory but not in the index: its
// writer died in between. Chunks that another pack has stay where they are,
// unless that pack is gone.
func (s *Store) adopt(name pack.Name) error {
	f, err := s.readFooter(name)
	if err != nil {
		return err
	}
	return s.index(name, f.Body, f.Entries, func(tx *state.Tx, id ID) (bool, error) {
		v, err := tx.Get(schema.ChunkKey(s.cfg.Domain, id))
		if errors.Is(err, state.ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		loc, err := schema.DecodeChunkLoc(v)
		if err != nil {
			return true, nil // this pack's word is better than a record that can't be read
		}
		return s.damage.has(id, loc.Pack), nil
	})
}

func (s *Store) readFooter(name pack.Name) (pack.Footer, error) {
	path := s.fs.PathJoin(s.dir, name.FileName())
	file, err := s.fs.Open(path)
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
	case f.Domain != s.cfg.Domain:
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
// of all packs. Nothing else may use the store meanwhile. If it is interrupted,
// the next Open adopts what is missing. Packs whose footer can't be read are
// counted in Stats and left alone.
func (s *Store) RebuildIndex(ctx context.Context) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	files, err := s.listPacks()
	if err != nil {
		return fmt.Errorf("rebuild chunk index: %w", err)
	}
	if _, err := s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		tx.DeleteRange(schema.ChunkBounds())
		tx.DeleteRange(schema.PackBounds())
		return nil
	}); err != nil {
		return fmt.Errorf("rebuild chunk index: %w", err)
	}
	s.damage.reset()
	s.cache.drop()
	s.files.drop()
	s.mu.Lock()
	s.mu.totals = totals{}
	s.mu.Unlock()
	for name := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.adopt(name); err != nil && !s.unreadable(name, err) {
			return fmt.Errorf("rebuild chunk index: %w", err)
		}
	}
	return nil
}
