package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Evicting frees the files of packs that lie in the bucket as well:
//
//	choose  those read least lately that a published ref names. Not one that
//	        somebody depends on (an upload reads it), nor one that Collect is at.
//	stat    the object: it is there, and as long as the pack
//	stub    a small file that says what is in the pack, and where it is; synced,
//	        and its name, too
//	record  that the bucket's copy is relied on; synced, and with it all that was
//	        recorded of its upload
//	away    in memory: who does not find the file asks the bucket
//	unlink  the file.
//
// The invariant: a pack whose file is gone has a record that says where it is. A
// crash anywhere leaves the file, or that record. With both, the file is read: so
// nothing need be taken back, and a file that comes back needs no record.
//
// That the bucket keeps it is the ref's doing: no one removes what a ref names. When
// the ref goes, prune says for a day or more what is about to go: then it is fetched
// again, for whatever needs it here.

// evictBatch is how many packs share the syncs.
const evictBatch = 16

// Local is how many bytes the packs take that are here, and what is kept of others.
func (s *Store) Local() int64 {
	s.far.kept.mu.Lock()
	kept := s.far.kept.bytes
	s.far.kept.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.mu.totals.size) + kept
}

// Evict frees the files of packs, those read least lately first, until it has freed
// so many bytes or nothing is left that may go. It needs the bucket.
func (s *Store) Evict(ctx context.Context, need int64) (freed int64, err error) {
	tried := map[*packInfo]bool{} // that may not go, or can't
	for freed < need {
		batch, err := s.choose(need-freed, tried)
		if err != nil || len(batch) == 0 {
			return freed, err
		}
		n, err := s.evict(ctx, batch)
		freed += n
		if err != nil {
			return freed, fmt.Errorf("evict packs: %w", err)
		}
	}
	return freed, nil
}

// evicted is a pack that is to go.
type evicted struct {
	info *packInfo
	at   bucket.Pack
	rec  schema.PackUpload
	ok   bool // it may
}

// choose takes what goes next. It is given back by unchoose.
func (s *Store) choose(need int64, tried map[*packInfo]bool) (batch []*evicted, err error) {
	s.mu.Lock()
	type local struct {
		info *packInfo
		name pack.Name
		used uint64
	}
	var all []local
	for _, info := range s.mu.table {
		if !info.away && !info.evicting && !info.retiring && info.pins == 0 && !tried[info] {
			all = append(all, local{info, info.rec.Name, info.used})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b local) int { return cmp.Compare(a.used, b.used) })
	for _, l := range all {
		if need <= 0 || len(batch) == evictBatch {
			break
		}
		tried[l.info] = true
		up, err := uploadOf(s.db, l.name)
		if err != nil {
			s.unchoose(batch)
			return nil, err
		}
		if up == nil || up.State < schema.UploadNamed {
			continue
		}
		at := bucket.Pack{Name: l.name, Writer: up.Writer, Seq: up.Seq, Size: int64(up.Size)}
		if !s.stays(at) || !s.mayEvict(l.info) {
			continue
		}
		batch = append(batch, &evicted{info: l.info, rec: *up, at: at})
		need -= int64(up.Size)
	}
	return batch, nil
}

// stays says whether nobody is about to prune a pack in the bucket, as far as is
// known here: what is not known before the store was attached. Should that change,
// it is fetched again (Uploads.rescue).
func (s *Store) stays(p bucket.Pack) bool {
	u := s.up.Load()
	return u != nil && u.stays(p)
}

// mayEvict marks a pack, unless somebody depends on it by now.
func (s *Store) mayEvict(info *packInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info.evicting || info.away || info.pins > 0 || info.retiring || s.mu.table[info.number] != info {
		return false
	}
	info.evicting = true
	return true
}

func (s *Store) unchoose(batch []*evicted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range batch {
		e.info.evicting = false
	}
}

// evict takes some packs through all steps. What can't go stays, and is no error
// unless it is the bucket's.
func (s *Store) evict(ctx context.Context, batch []*evicted) (freed int64, err error) {
	defer s.unchoose(batch)
	if err := s.statAll(ctx, batch); err != nil {
		return 0, err
	}
	some := false
	for _, e := range batch {
		if !e.ok {
			continue
		}
		err := s.writeStub(e.at)
		if errors.Is(err, pack.ErrFormat) || badSector(err) || oserror.IsNotExist(err) {
			e.ok = false // damage, for the scrub to see to
			continue
		}
		if err != nil {
			return 0, err
		}
		some = true
	}
	if !some {
		return 0, nil
	}
	if err := s.syncDir(); err != nil {
		return 0, err
	}
	if err := s.relyOn(batch); err != nil {
		return 0, err
	}
	for _, e := range batch {
		if !e.ok {
			continue
		}
		if aerr := s.sendAway(e); aerr != nil {
			err = errors.Join(err, aerr)
			continue
		}
		freed += e.at.Size
	}
	return freed, err
}

// statAll looks whether the bucket has the packs.
func (s *Store) statAll(ctx context.Context, batch []*evicted) error {
	b, err := s.far.from(ctx)
	if err == nil {
		err = s.isOurs(ctx, b)
	}
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(uploadWorkers)
	for _, e := range batch {
		g.Go(func() error {
			info, err := b.Stat(ctx, e.at.Key())
			if err == nil && info.Size == e.at.Size {
				e.ok = true
				return nil
			}
			if err == nil || errors.Is(err, remote.ErrNotExist) {
				_ = s.report(fmt.Errorf("%w: pack %s was uploaded, and is not in the bucket as it was: %d bytes of %d (%v)", ErrMissing, e.at.Key(), info.Size, e.at.Size, err))
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// relyOn records that the bucket has what is about to go.
func (s *Store) relyOn(batch []*evicted) error {
	pos, err := s.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		for _, e := range batch {
			if e.ok {
				up, err := uploadOf(tx, e.at.Name)
				if err != nil {
					return err
				}
				if up == nil || *up != e.rec { // it has got another number meanwhile
					e.ok = false
					continue
				}
				e.rec.State = schema.UploadOnly
				tx.Put(schema.PackUploadKey(e.at.Name), e.rec.Encode())
			}
		}
		return nil
	})
	if err == nil {
		err = s.db.Sync(pos)
	}
	return err
}

// sendAway removes the file of a pack on which nothing depends any more.
func (s *Store) sendAway(e *evicted) error {
	s.far.some.Store(true)
	s.setAway(e.info, true)
	path := s.fs.PathJoin(s.dir, e.at.Name.FileName())
	err := s.fs.Remove(path)
	s.files.forget(path)
	if err != nil && !oserror.IsNotExist(err) {
		s.setAway(e.info, false) // with both, the file is read
		return err
	}
	return nil
}

// setAway notes where the file of a pack is.
func (s *Store) setAway(info *packInfo, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.table[info.number] != info || info.away == away {
		return
	}
	s.mu.totals.sub(info.rec, s.collectable(info.number), info.away)
	info.away = away
	s.mu.totals.add(info.rec, s.collectable(info.number), info.away)
}

// NameOld is Named of a ref that arrived long ago, if it is still there.
func (u *Uploads) NameOld(ctx context.Context, w bucket.Writer, seq uint64) error {
	ref, err := bucket.ReadRef(ctx, u.b, w, seq)
	if errors.Is(err, bucket.ErrGone) || errors.Is(err, remote.ErrNotExist) || errors.Is(err, bucket.ErrFormat) || errors.Is(err, remote.ErrDamaged) {
		return nil // what it names may be pruned
	}
	if err != nil {
		return err
	}
	return u.record(false, func(tx *state.Tx) error { return u.Named(tx, ref.Packs) })
}

// Named records that a ref that has arrived names packs, in the transaction that
// records its arrival.
func (u *Uploads) Named(tx *state.Tx, packs []bucket.Pack) error {
	for _, p := range packs {
		rec, err := uploadOf(tx, p.Name)
		if err != nil {
			return err
		}
		if rec != nil && rec.State == schema.UploadIndexed && rec.Writer == p.Writer && rec.Seq == p.Seq {
			rec.State = schema.UploadNamed
			tx.Put(schema.PackUploadKey(p.Name), rec.Encode())
		}
	}
	return nil
}
