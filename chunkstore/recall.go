package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Recalling fetches the whole file of a pack from the bucket: of one that is
// damaged here, or gone without having been evicted, and of one that the bucket is
// about to lose. It is written aside, held against its name and every part's
// checksum, synced, and only then takes its place. Nothing need be recorded: a file
// that is here is read.

// recallRange is how much is asked for at a time.
const recallRange = 4 << 20

// uploaded gives where the bucket has a pack; nil: it has not got it.
func (s *Store) uploaded(number uint64) (*bucket.Pack, error) {
	rec, err := getPack(s.db, number)
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil // it was collected
	}
	if err != nil {
		return nil, err
	}
	up, err := uploadOf(s.db, rec.Name)
	if err != nil || up == nil || up.State < schema.UploadArrived {
		return nil, err
	}
	return &bucket.Pack{Name: rec.Name, Writer: up.Writer, Seq: up.Seq, Size: int64(up.Size)}, nil
}

// recall fetches a pack, unless it is being evicted or collected.
func (s *Store) recall(ctx context.Context, number uint64) (done bool, err error) {
	at, err := s.uploaded(number)
	if at == nil || err != nil {
		return false, err
	}
	done, err = s.takeBack(number, *at, func() (string, error) { return s.fetchPack(ctx, *at) })
	if err != nil {
		err = fmt.Errorf("fetch pack %s from the bucket: %w", at.Name.FileName(), err)
	}
	return done, err
}

// takeBack puts a file that is that pack, and durable, in the pack's place. Neither
// Collect nor Evict is at the pack meanwhile.
func (s *Store) takeBack(number uint64, at bucket.Pack, get func() (path string, err error)) (done bool, err error) {
	s.mu.Lock()
	info := s.mu.table[number]
	ok := info != nil && !info.evicting && !info.retiring
	if ok {
		info.evicting = true
	}
	s.mu.Unlock()
	if !ok {
		return false, nil
	}
	defer s.unchoose([]*evicted{{info: info}})
	tmp, err := get()
	if err != nil {
		return false, err
	}
	path := s.fs.PathJoin(s.dir, at.Name.FileName())
	if err := s.fs.Rename(tmp, path); err != nil {
		return false, err
	}
	s.files.forget(path) // of the file that was there
	if err := s.syncDir(); err != nil {
		return false, err
	}
	s.setAway(info, false)
	s.touch(number)
	if s.cfg.Events.Fetched != nil {
		s.cfg.Events.Fetched()
	}
	if err := s.removeStub(at.Name); err != nil {
		return true, err
	}
	return true, s.damage.recalled(number, func(id ID) (uint64, error) {
		loc, err := s.getChunk(s.db, id)
		return loc.Pack, err
	})
}

// fetchPack fetches a pack into a file of its own.
func (s *Store) fetchPack(ctx context.Context, at bucket.Pack) (path string, err error) {
	b, err := s.far.from(ctx)
	if err != nil {
		return "", err
	}
	path = s.fs.PathJoin(s.dir, fmt.Sprintf("%016x%s", s.tmpSeq.Add(1), tmpSuffix))
	for range 2 { // what is wrong may have become so on the way
		if err = s.download(ctx, b, at, path); !errors.Is(err, ErrCorrupt) {
			break
		}
	}
	if err != nil {
		_ = s.fs.Remove(path) // the next Open does it
	}
	return path, err
}

// download writes a pack into a file, verifies and syncs it.
func (s *Store) download(ctx context.Context, b remote.Bucket, at bucket.Pack, path string) error {
	f, err := s.fs.Create(path, "stepfs-pack")
	if err != nil {
		return err
	}
	buf := s.buffers.get(int(min(at.Size, recallRange)))
	defer s.buffers.put(buf)
	for off := int64(0); off < at.Size && err == nil; off += int64(len(buf.bytes)) {
		part := buf.bytes[:min(int64(len(buf.bytes)), at.Size-off)]
		if _, _, err = b.Get(ctx, at.Key(), part, off); err == nil {
			_, err = f.Write(part)
		} else if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %s is shorter than %d bytes", ErrCorrupt, at.Key(), at.Size)
		} else {
			err = s.far.failed(ctx, err)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return verifyFile(s.fs, path, at)
}

// verifyFile says whether a file is that pack, whole.
func verifyFile(fs vfs.FS, path string, at bucket.Pack) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, name, err := pack.Verify(f, at.Size)
	if err == nil && name != at.Name {
		err = fmt.Errorf("%w: its footer is another pack's", pack.ErrFormat)
	}
	if errors.Is(err, pack.ErrFormat) {
		err = fmt.Errorf("%w: %s: %w", ErrCorrupt, at.Key(), err)
	}
	return err
}

// HealPacks fetches again the packs that were found damaged or gone and that the
// bucket has. It says how many it fetched.
func (s *Store) HealPacks(ctx context.Context) (healed int, err error) {
	for _, number := range s.damage.packs(func(id ID) (uint64, error) {
		loc, err := s.getChunk(s.db, id)
		return loc.Pack, err
	}) {
		done, rerr := s.recall(ctx, number)
		if done {
			healed++
		}
		if errors.Is(rerr, ErrUnreachable) || ctx.Err() != nil {
			return healed, rerr
		}
		err = errors.Join(err, rerr)
	}
	return healed, err
}

// Needs begins a list of the store's own packs; it need not upload.
func (s *Store) Needs() *Needs {
	n := (&Uploads{s: s}).Needs()
	n.Alone()
	n.stays = true
	return n
}

// Fetch has all of the packs be here. Since they are depended on, they stay.
func (n *Needs) Fetch(ctx context.Context) error {
	if !n.u.s.far.some.Load() {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploadWorkers)
	for _, p := range n.packs {
		if away, busy := n.u.s.isGoing(p.info); away || busy {
			g.Go(func() error { return n.u.s.bringBack(ctx, p.info) })
		}
	}
	return g.Wait()
}

// isGoing says whether a pack is away, and whether somebody is about to change that.
func (s *Store) isGoing(info *packInfo) (away, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return info.away, info.evicting
}

// bringBack fetches a pack that is depended on. One that was about to go when it
// became so is waited for.
func (s *Store) bringBack(ctx context.Context, info *packInfo) error {
	for {
		away, busy := s.isGoing(info)
		switch {
		case busy:
			select {
			case <-time.After(movePoll):
				continue
			case <-s.closing:
				return ErrClosed
			case <-ctx.Done():
				return ctx.Err()
			}
		case !away:
			return nil
		}
		if at, err := s.uploaded(info.number); at == nil || err != nil {
			return errors.Join(err, fmt.Errorf("%w: pack %d is neither here nor in the bucket", ErrMissing, info.number))
		}
		if done, err := s.recall(ctx, info.number); err != nil || done {
			return err
		}
	}
}

// rescue fetches what is away and about to be pruned in the bucket: somebody took
// the refs that named it, and things here still need it.
func (u *Uploads) rescue(ctx context.Context) error {
	at := u.attached.Load()
	if at == nil || !u.s.far.some.Load() {
		return nil
	}
	u.s.mu.Lock()
	var away []uint64
	for number, info := range u.s.mu.table {
		if info.away {
			away = append(away, number)
		}
	}
	u.s.mu.Unlock()
	for _, number := range away {
		p, err := u.s.uploaded(number)
		if err == nil && p != nil && !at.lease.MayUse(*p) {
			_, err = u.s.recall(ctx, number)
		}
		if errors.Is(err, ErrMissing) || errors.Is(err, ErrCorrupt) { // too late: who needs it is told
			if !u.s.damage.isLost(number) {
				u.s.damage.losePack(number)
				_ = u.s.report(err)
			}
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
