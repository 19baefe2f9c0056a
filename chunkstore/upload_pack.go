package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// putPack has one pack arrive, and records it.
func (u *Uploads) putPack(ctx context.Context, p *neededPack) error {
	err := u.withPack(p, func(c remote.Content) error { return u.arrive(ctx, p, c) })
	if err != nil {
		return err
	}
	p.rec.State = schema.UploadArrived
	return u.record(false, func(tx *state.Tx) error {
		tx.Put(schema.PackUploadKey(p.name), p.rec.Encode())
		return nil
	})
}

// withPack calls fn with a pack that is about to leave. One that is damaged is said
// to be so, and does not.
func (u *Uploads) withPack(p *neededPack, fn func(c remote.Content) error) error {
	s := u.s
	f, err := s.files.acquire(s.fs.PathJoin(s.dir, p.name.FileName()))
	if oserror.IsNotExist(err) {
		s.damage.losePack(p.info.number)
		return s.report(fmt.Errorf("%w: pack %s", ErrMissing, p.name.FileName()))
	}
	if err != nil {
		return fmt.Errorf("open pack: %w", err)
	}
	defer s.files.release(f)
	defer dropCache(f.File)
	body := s.polite(f)
	sum, foot, name, err := pack.Verify(body, int64(p.rec.Size))
	if err == nil && name != p.name {
		err = fmt.Errorf("%w: its footer is another pack's", pack.ErrFormat)
	}
	if err == nil && foot.Naming != s.naming() {
		err = ErrOlder
	}
	if err != nil {
		err = fmt.Errorf("pack %s is not uploaded: %w", p.name.FileName(), err)
		if errors.Is(err, pack.ErrFormat) {
			return s.report(fmt.Errorf("%w: %w", ErrCorrupt, err))
		}
		return err
	}
	if err := fn(remote.Content{Body: body, Size: int64(p.rec.Size), CRC: sum}); err != nil {
		return fmt.Errorf("upload pack %s: %w", p.name.FileName(), err)
	}
	return nil
}

// arrive returns once a pack lies under its key, byte for byte. If something else
// does, that is a damaged copy, to which nothing points: the pack gets another
// number.
func (u *Uploads) arrive(ctx context.Context, p *neededPack, c remote.Content) error {
	err := u.putOnce(ctx, p.pack().Key(), c, p.old)
	if errors.Is(err, ErrTaken) {
		if err := u.renumber(p); err != nil {
			return err
		}
		err = u.putOnce(ctx, p.pack().Key(), c, false)
	}
	if err == nil {
		u.packs.Add(1)
		u.bytes.Add(c.Size)
	}
	return err
}

// renumber gives a pack another number.
func (u *Uploads) renumber(p *neededPack) error {
	return u.record(true, func(tx *state.Tx) error {
		w, seq, err := u.numbers(tx, func(a *schema.Attachment) *uint64 { return &a.NextPack }, 1)
		if err != nil {
			return err
		}
		p.rec.Writer, p.rec.Seq = w, seq
		tx.Put(schema.PackUploadKey(p.name), p.rec.Encode())
		return nil
	})
}
