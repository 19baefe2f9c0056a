package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// An index object is a cache of footers, but a ref comes after those of its
// packs, so that a new machine finds all in them.

// index has packs that arrived be in index objects.
func (u *Uploads) index(ctx context.Context, packs []*neededPack) error {
	var x []bucket.Indexed
	var names [][32]byte
	size := 0
	flush := func() error {
		if len(names) == 0 {
			return nil
		}
		w, seq, err := u.reserveIndex(names)
		if err == nil {
			err = u.putIndex(ctx, &bucket.Index{Domain: u.s.cfg.Domain, Writer: w, Seq: seq, Packs: x}, names, false)
		}
		x, names, size = nil, nil, 0
		return err
	}
	for _, p := range packs {
		rec, err := uploadOf(u.s.db, p.name)
		if err != nil {
			return err
		}
		if rec == nil || rec.State != schema.UploadArrived {
			continue // in one by now
		}
		entry, err := u.indexed(p.name, *rec)
		if err != nil {
			return err
		}
		if size > 0 && size+len(entry.Footer) > bucket.IndexSize {
			if err := flush(); err != nil {
				return err
			}
		}
		x, names, size = append(x, entry), append(names, p.name), size+len(entry.Footer)
	}
	return flush()
}

// uploadOf gives what is known of a pack's upload; nil: nothing.
func uploadOf(g getter, name pack.Name) (*schema.PackUpload, error) {
	v, err := g.Get(schema.PackUploadKey(name))
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := schema.DecodePackUpload(v)
	return &rec, err
}

func (u *Uploads) indexed(name pack.Name, rec schema.PackUpload) (bucket.Indexed, error) {
	f, err := u.s.readFooter(name)
	if err != nil {
		return bucket.Indexed{}, err
	}
	return bucket.Indexed{Seq: rec.Seq, Size: int64(rec.Size), Footer: pack.AppendFooter(nil, f)}, nil
}

func (u *Uploads) reserveIndex(names [][32]byte) (w bucket.Writer, seq uint64, err error) {
	err = u.record(true, func(tx *state.Tx) (err error) {
		w, seq, err = u.numbers(tx, func(a *schema.Attachment) *uint64 { return &a.NextIndex }, 1)
		tx.Put(schema.Numbered(schema.PrefixIndexUpload, seq), schema.IndexUpload{Packs: names}.Encode())
		return err
	})
	return w, seq, err
}

// putIndex puts an index object, and records that its packs are in one.
func (u *Uploads) putIndex(ctx context.Context, x *bucket.Index, names [][32]byte, again bool) error {
	err := u.putOnce(ctx, x.Key(), remote.Bytes(x.Encode()), again)
	if errors.Is(err, ErrTaken) {
		err = u.isIndex(ctx, x)
	}
	if err != nil {
		return fmt.Errorf("upload an index of %d packs: %w", len(names), err)
	}
	return u.record(false, func(tx *state.Tx) error {
		for _, name := range names {
			rec, err := uploadOf(tx, name)
			if err != nil {
				return err
			}
			if rec != nil && rec.State == schema.UploadArrived { // else it was collected meanwhile
				rec.State = schema.UploadIndexed
				tx.Put(schema.PackUploadKey(name), rec.Encode())
			}
		}
		tx.Delete(schema.Numbered(schema.PrefixIndexUpload, x.Seq))
		return nil
	})
}

// isIndex says nothing if the index object under the number of x lists the same
// packs. Its bytes may be others: another version of us may have packed them.
func (u *Uploads) isIndex(ctx context.Context, x *bucket.Index) error {
	b, _, err := remote.ReadAll(ctx, u.b, x.Key(), 2*bucket.MaxIndex)
	if err != nil {
		return err
	}
	is, err := bucket.DecodeIndex(b, x.Writer, x.Seq)
	if err == nil && !slices.EqualFunc(is.Packs, x.Packs, func(a, b bucket.Indexed) bool { return is.Pack(a) == x.Pack(b) }) {
		err = fmt.Errorf("%w (%s)", ErrTaken, x.Key())
	}
	return err
}

// finishIndexes puts the index objects that an earlier attempt left. One of which
// a pack has been collected is given up; its others get into another. It comes
// before packs get other numbers than those that an index object may list.
func (u *Uploads) finishIndexes(ctx context.Context) error {
	for {
		key, v, err := u.firstIndex()
		if err != nil || key == nil {
			return err
		}
		x, names, err := u.leftIndex(key, v)
		switch {
		case err == nil:
			err = u.putIndex(ctx, x, names, true)
		case errors.Is(err, errGone), oserror.IsNotExist(err), errors.Is(err, pack.ErrFormat):
			err = u.record(true, func(tx *state.Tx) error {
				tx.Delete(key)
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
}

// firstIndex gives the first index object that is not known to have arrived.
func (u *Uploads) firstIndex() (key, v []byte, err error) {
	it, err := u.s.db.NewIter([]byte{schema.PrefixIndexUpload}, []byte{schema.PrefixIndexUpload + 1})
	if err != nil {
		return nil, nil, err
	}
	if it.First() {
		key, v = bytes.Clone(it.Key()), bytes.Clone(it.Value())
	}
	return key, v, errors.Join(it.Error(), it.Close())
}

// leftIndex makes such an object again.
func (u *Uploads) leftIndex(key, v []byte) (x *bucket.Index, names [][32]byte, err error) {
	left, err := schema.DecodeIndexUpload(v)
	if err != nil {
		return nil, nil, err
	}
	x = &bucket.Index{Domain: u.s.cfg.Domain}
	x.Writer, _ = u.Writer()
	if x.Seq, err = schema.ParseNumbered(key); err != nil {
		return nil, nil, err
	}
	for _, name := range left.Packs {
		rec, err := uploadOf(u.s.db, name)
		if err == nil && rec == nil {
			err = errGone
		}
		if err != nil {
			return nil, nil, err
		}
		entry, err := u.indexed(name, *rec)
		if err != nil {
			return nil, nil, err
		}
		x.Packs = append(x.Packs, entry)
	}
	return x, left.Packs, nil
}
