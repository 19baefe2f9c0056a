package chunkstore

import (
	"context"
	"fmt"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

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

// allStubs refuses to go on if what is in a pack that is away is only known to the
// index that is about to be thrown away.
func (s *Store) allStubs() error {
	s.mu.Lock()
	var away []pack.Name
	for _, info := range s.mu.table {
		if info.away {
			away = append(away, info.rec.Name)
		}
	}
	s.mu.Unlock()
	for _, name := range away {
		if _, err := s.readFooter(name); err != nil {
			return fmt.Errorf("pack %s is only in the bucket, and nothing here says what is in it (a mount with the bucket fetches it): %w", name.FileName(), err)
		}
	}
	return nil
}

func (s *Store) rebuild(ctx context.Context) error {
	files, err := s.listPacks()
	if err != nil {
		return err
	}
	if err := s.allStubs(); err != nil {
		return err
	}
	known := s.refsFrom.Load() <= 1
	if _, err := s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		tx.DeleteRange(schema.ChunkBounds())
		tx.DeleteRange(schema.PackBounds())
		tx.DeleteRange(schema.ChunkDeadBounds())
		tx.DeleteRange(schema.ChunkBaseBounds())
		tx.Delete(schema.MetaKey(schema.MetaRefsFrom))
		tx.Put(schema.MetaKey(schema.MetaAdopt), schema.Counter(1)) // until it is done
		s.book = nil
		clear(s.stale)
		return nil
	}); err != nil {
		return err
	}
	s.damage.reset()
	s.cache.drop()
	s.files.drop()
	s.far.reset()
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
	if err := s.change(func(tx *state.Tx) { tx.Delete(schema.MetaKey(schema.MetaAdopt)) }); err != nil {
		return err
	}
	s.setRefsFrom(from)
	err = s.loadPacks(files)
	s.far.some.Store(s.anyAway())
	return err
}
