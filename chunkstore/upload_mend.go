package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
)

// Mended says what a look at the store's packs in the bucket has found.
type Mended struct {
	Packs int // that have arrived, as far as the store knows
	Sent  int // that were not there, and were sent again
	Lost  int // that were not there, and can't be had here either
}

// Mend looks whether the packs that the store has sent are in the bucket, and
// sends those again that are not and are still here: under the same key, since
// that is how refs know them. What prune has deleted is not missed: its lists say
// so, and what comes back all the same is forbidden, and goes again. It may be
// called while a snapshot is being published. After an error it says what was done.
func (u *Uploads) Mend(ctx context.Context) (m Mended, err error) {
	at := u.attached.Load()
	if at == nil {
		return m, errors.New("the bucket was not reached yet")
	}
	if err := at.lease.Renew(ctx); err != nil {
		return m, leased(err)
	}
	missing, err := u.missing(ctx, at, &m)
	if err != nil {
		return m, err
	}
	u.pinNamed(missing)
	defer u.unpin(missing)
	var broken error // what can't be sent keeps no other back
	for _, p := range missing {
		switch sent, err := u.sendAgain(ctx, p); {
		case err != nil && (ctx.Err() != nil || Remotely(err)):
			return m, err
		case err != nil:
			broken = err
			m.Lost++
		case sent:
			m.Sent++
		default:
			m.Lost++
		}
	}
	return m, broken
}

// missing gives the packs that have arrived, that may be used, and that are not
// there. A list may be old: who is not in it is asked for.
func (u *Uploads) missing(ctx context.Context, at *writing, m *Mended) (missing []*neededPack, err error) {
	there := map[uint64]struct{}{}
	for o, err := range u.b.List(ctx, bucket.PacksPrefix, "") {
		if err != nil {
			return nil, err
		}
		if p, ok := bucket.ParsePackKey(o.Key); ok && p.Writer == at.as {
			there[p.Seq] = struct{}{}
		}
	}
	err = u.eachArrived(func(p *neededPack) {
		m.Packs++
		if _, ok := there[p.rec.Seq]; !ok && at.lease.MayUse(p.pack()) {
			missing = append(missing, p)
		}
	})
	if err != nil {
		return nil, err
	}
	gone := missing[:0]
	for _, p := range missing {
		_, err := u.b.Stat(ctx, p.pack().Key())
		if err != nil && !errors.Is(err, remote.ErrNotExist) {
			return nil, err
		}
		if err != nil {
			gone = append(gone, p)
		}
	}
	return gone, nil
}

// eachArrived calls fn for each pack that is known to have arrived.
func (u *Uploads) eachArrived(fn func(p *neededPack)) (err error) {
	it, err := u.s.db.NewIter([]byte{schema.PrefixPackUpload}, []byte{schema.PrefixPackUpload + 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Error(), it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := schema.DecodePackUpload(it.Value())
		if err == nil && len(it.Key()) != 1+len(pack.Name{}) {
			err = fmt.Errorf("%w: the key of a pack's upload %x", ErrCorrupt, it.Key())
		}
		if err != nil {
			return err
		}
		if rec.State != schema.UploadReserved {
			fn(&neededPack{name: pack.Name(it.Key()[1:]), rec: rec})
		}
	}
	return nil
}

// pinNamed finds packs by their names, and pins those that are here.
func (u *Uploads) pinNamed(packs []*neededPack) {
	if len(packs) == 0 {
		return
	}
	by := make(map[pack.Name]*neededPack, len(packs))
	for _, p := range packs {
		by[p.name] = p
	}
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	for _, info := range u.s.mu.table {
		if p := by[info.rec.Name]; p != nil && !info.retiring {
			info.pins++
			p.info = info
		}
	}
}

func (u *Uploads) unpin(packs []*neededPack) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	for _, p := range packs {
		if p.info != nil {
			p.info.pins--
		}
	}
}

// sendAgain puts a pack where it was; false: it is not here any more.
func (u *Uploads) sendAgain(ctx context.Context, p *neededPack) (bool, error) {
	if p.info == nil {
		return false, nil
	}
	if _, err := u.s.fs.Stat(u.s.fs.PathJoin(u.s.dir, p.name.FileName())); oserror.IsNotExist(err) {
		return false, nil
	}
	err := u.withPack(p, func(c remote.Content) error { return u.putOnce(ctx, p.pack().Key(), c, true) })
	if err == nil {
		u.packs.Add(1)
		u.bytes.Add(int64(p.rec.Size))
	}
	return err == nil, err
}
