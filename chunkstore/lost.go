package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What a repair asks of packs: reading by an index that is being made, and what
// can't be read any more.

// Reader reads chunks where an index says that they are. It changes nothing.
type Reader struct{ s *Store }

// NewReader begins to read the packs in dir; Close ends that.
func NewReader(db DB, fs vfs.FS, dir string, cfg Config) (*Reader, error) {
	s, err := newStore(db, fs, dir, cfg)
	if err != nil {
		return nil, err
	}
	r := &Reader{s}
	if err := r.findAway(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// findAway notes which packs are only in the bucket.
func (r *Reader) findAway() error {
	records, err := allPacks(r.s.db)
	if err != nil {
		return err
	}
	for number, rec := range records {
		_, err := r.s.fs.Stat(r.s.fs.PathJoin(r.s.dir, pack.Name(rec.Name).FileName()))
		if err == nil {
			continue
		}
		if !oserror.IsNotExist(err) {
			return err
		}
		up, err := uploadOf(r.s.db, rec.Name)
		if err != nil {
			return err
		}
		if up != nil && up.State == schema.UploadOnly {
			r.s.enter(&packInfo{away: true}, number, *rec)
			r.s.far.some.Store(true)
		}
	}
	return nil
}

// ReadFrom is Store.ReadFrom.
func (r *Reader) ReadFrom(open OpenBucket) { r.s.ReadFrom(open) }

// Away is how many packs are only in the bucket.
func (r *Reader) Away() int {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return int(r.s.mu.totals.awayPacks)
}

// ReadBack is Store.ReadBack.
func (r *Reader) ReadBack(ctx context.Context, id ID, buf []byte) ([]byte, error) {
	return r.s.ReadBack(ctx, id, buf)
}

// Close gives back what reading took.
func (r *Reader) Close() {
	r.s.far.close()
	r.s.cache.drop()
	r.s.files.drop()
	r.s.coders.close()
}

// Lost calls fn for each chunk that somebody holds and that can't be there: the
// index does not know it, or its pack, or that of something that it is made from,
// is gone. What is in packs that are there is not read.
func (s *Store) Lost(ctx context.Context, fn func(id ID, holder uint64) error) error {
	it, err := s.db.NewIter(schema.ChunkRefBounds())
	if err != nil {
		return err
	}
	defer it.Close()
	var last ID
	gone := false
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		domain, id, holder, err := schema.ParseChunkRefKey(it.Key())
		if err == nil && n%1024 == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if domain != s.cfg.Domain {
			continue
		}
		if n == 0 || id != last {
			loc, err := s.getChunk(s.db, id)
			if err != nil && !errors.Is(err, state.ErrNotFound) {
				return err
			}
			there := err == nil && !s.damage.isLost(loc.Pack)
			if there {
				if there, err = s.readable(loc); err != nil {
					return err
				}
			}
			last, gone = id, !there
		}
		if gone {
			if err := fn(id, holder); err != nil {
				return err
			}
		}
	}
	return it.Error()
}

// ForgetEmpty forgets packs whose files are gone and from which nothing is read
// any more. Nothing else may use the store meanwhile.
func (s *Store) ForgetEmpty(ctx context.Context) error {
	empty := map[uint64]struct{}{}
	records, err := allPacks(s.db)
	if err != nil {
		return err
	}
	for number := range records {
		if s.damage.isLost(number) {
			empty[number] = struct{}{}
		}
	}
	if len(empty) == 0 {
		return nil
	}
	err = eachHeld(ctx, s.db, s.cfg.Domain, func(_ ID, loc schema.ChunkLoc, _ bool) error {
		delete(empty, loc.Pack)
		return nil
	})
	if err == nil {
		_, err = s.db.Update(schema.KindPackState, func(tx *state.Tx) error {
			for number := range empty {
				tx.Delete(schema.PackKey(number))
			}
			s.book = nil
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("forget packs that are gone: %w", err)
	}
	return nil
}
