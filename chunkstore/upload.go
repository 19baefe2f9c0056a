package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Uploading, of the packs that a snapshot needs (upload_needs.go) and that others
// have not sent (upload_there.go):
//
//	reserve  a number for each pack that has none, recorded and synced before
//	         the first request
//	put      the packs, each verified while its sum is taken (upload_pack.go)
//	index    the packs that are in no index object yet: its number and what is
//	         in it are recorded and synced, then it is put (upload_index.go)
//	ref      by the store's lease, last (upload_publish.go)
//
// Each step is recorded behind it. After a crash a number may have been used or
// not: so what was reserved by an earlier attempt is compared with what lies
// there before anything is sent. Nothing is put under a key twice that differs.
//
// Others may prune the bucket meanwhile. A pack that lies there is relied on only
// while the lease allows it; one that it does not allow any more gets another
// number, and is sent again.
//
// The invariant: whatever ends it, and wherever, what is in the bucket names only
// what is there; and what has arrived, and may stay, is not sent again.

var (
	// ErrOtherBucket: the store belongs to another bucket.
	ErrOtherBucket = errors.New("the store uploads to another bucket")
	// ErrTaken: something else lies under a key that is the store's own.
	ErrTaken = errors.New("another store has uploaded under this one's name: is there a copy of this store, or was it put back from a backup?")
)

// Uploads are what a store has in a bucket, and is putting there.
type Uploads struct {
	s       *Store
	storeID string
	open    OpenBucket
	b       remote.Bucket // nil before Attach

	attached atomic.Pointer[writing]
	renewed  atomic.Pointer[time.Time] // when the lease was
	trust    time.Duration             // so long what it says of packs is believed
	keep     uint64                    // packs of a snapshot that is being published have this number at least

	packs, bytes atomic.Int64 // that arrived since the start
}

// writing is a store's place in its bucket.
type writing struct {
	as     bucket.Writer
	lease  *prune.Lease
	others *others
}

// trustLease is much more than there is between two renewals of the lease, and
// much less than prune gives whoever may rely on a pack.
const trustLease = time.Hour

// uploadWorkers is how many packs are put at a time.
const uploadWorkers = 4

// OpenBucket gives the bucket to which a store uploads.
type OpenBucket func(ctx context.Context) (remote.Bucket, error)

// Uploads gives the uploads to a bucket, which is opened by Attach.
func (s *Store) Uploads(open OpenBucket, storeID string) *Uploads {
	u := &Uploads{s: s, open: open, storeID: storeID, keep: bucket.KeepNone, trust: trustLease}
	s.up.Store(u)
	return u
}

// Writer is the store's name in the bucket; ok is false before Attach.
func (u *Uploads) Writer() (w bucket.Writer, ok bool) {
	if at := u.attached.Load(); at != nil {
		return at.as, true
	}
	return w, false
}

// Attachment gives the bucket to which a store belongs; nil: to none.
func (s *Store) Attachment() (*schema.Attachment, error) { return attachment(s.db) }

func attachment(g getter) (*schema.Attachment, error) {
	v, err := g.Get(schema.MetaKey(schema.MetaBucket))
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := schema.DecodeAttachment(v)
	return &a, err
}

// Attach makes the store one of those of the bucket, or finds that it is. An
// empty place becomes a bucket the first time, and is one that was lost later.
// bucket.ErrOther, ErrOtherBucket and bucket.ErrForeign: the store is not, and
// can't be. It is not safe for concurrent use, and comes before all that follows.
func (u *Uploads) Attach(ctx context.Context) error {
	if _, ok := u.Writer(); ok {
		return nil
	}
	at, err := attachment(u.s.db)
	if err == nil && u.b == nil {
		u.b, err = u.open(ctx)
	}
	if err != nil {
		return err
	}
	if at == nil {
		at, err = u.join(ctx)
	} else {
		err = u.rejoin(ctx, at)
	}
	if err == nil {
		err = u.introduce(ctx, at.Writer)
	}
	var lease *prune.Lease
	if err == nil {
		lease, err = prune.Take(ctx, u.b, at.Writer)
	}
	if err != nil {
		return fmt.Errorf("attach the store to %s: %w", u.b, err)
	}
	u.attached.Store(&writing{at.Writer, lease, newOthers(u.b, at.Writer, u.s.cfg.Domain)})
	u.noteRenewed()
	return nil
}

func (u *Uploads) noteRenewed() {
	now := time.Now()
	u.renewed.Store(&now)
}

// stays says whether nobody is about to prune a pack, as far as is known. Who has
// not asked for long knows nothing.
func (u *Uploads) stays(p bucket.Pack) bool {
	at, when := u.attached.Load(), u.renewed.Load()
	return at != nil && when != nil && time.Since(*when) < u.trust && at.lease.MayUse(p)
}

// own is the config of a bucket that this store would make.
func (u *Uploads) own(w bucket.Writer) *bucket.Config {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	c := u.s.cfg
	return &bucket.Config{ID: hex.EncodeToString(id[:]), Created: time.Now().UTC().Truncate(time.Second), Writer: w,
		Polynomial: c.Polynomial, Key: c.Key, Domain: c.Domain}
}

// join attaches the store for the first time.
func (u *Uploads) join(ctx context.Context) (*schema.Attachment, error) {
	w := bucket.NewWriter()
	own := u.own(w)
	cfg, err := bucket.Join(ctx, u.b, own)
	if err != nil {
		return nil, err
	}
	if err := fits(cfg, own); err != nil {
		return nil, err
	}
	at := &schema.Attachment{Writer: w, NextPack: 1, NextIndex: 1}
	if _, err := hex.Decode(at.Bucket[:], []byte(cfg.ID)); err != nil {
		return nil, fmt.Errorf("%w: its ID", bucket.ErrFormat)
	}
	return at, u.s.change(func(tx *state.Tx) { tx.Put(schema.MetaKey(schema.MetaBucket), at.Encode()) })
}

// fits says whether chunks are cut and named in the bucket as they are here.
func fits(cfg, own *bucket.Config) error {
	if cfg.Same(own) {
		return nil
	}
	if cfg.Domain != own.Domain {
		return fmt.Errorf("%w: its chunks are of domain %d, those of this store of %d (bucket %s); make a new store with --remote, and import or copy into it",
			bucket.ErrOther, cfg.Domain, own.Domain, cfg.ID)
	}
	return fmt.Errorf("%w: its chunks are cut and named with another polynomial and key (bucket %s); the next mount with --remote takes them over",
		bucket.ErrOther, cfg.ID)
}

// rejoin finds the bucket that the store belongs to.
func (u *Uploads) rejoin(ctx context.Context, at *schema.Attachment) error {
	cfg, err := bucket.Read(ctx, u.b)
	if errors.Is(err, remote.ErrNotExist) {
		return fmt.Errorf("%w: it belongs to bucket %x, and there is none here", ErrOtherBucket, at.Bucket)
	}
	if err != nil {
		return err
	}
	if cfg.ID != hex.EncodeToString(at.Bucket[:]) {
		return fmt.Errorf("%w: it belongs to bucket %x, and this is bucket %s", ErrOtherBucket, at.Bucket, cfg.ID)
	}
	if own := u.own(bucket.Writer{}); !cfg.Same(own) {
		return fmt.Errorf("%w: the store's config names chunks by another key than the bucket that it joined (%s), as one from before that does: put the newer one back",
			bucket.ErrOther, cfg.ID)
	}
	return nil
}

// introduce says in the bucket who this is, if that does not lie there already.
func (u *Uploads) introduce(ctx context.Context, w bucket.Writer) error {
	b, _, err := remote.ReadAll(ctx, u.b, bucket.WriterKey(w), bucket.MaxWriter)
	if errors.Is(err, remote.ErrNotExist) {
		host, _ := os.Hostname() // for people
		i := &bucket.WriterInfo{Domain: u.s.cfg.Domain, Writer: w, Store: u.storeID, Host: host, Created: time.Now().UTC().Truncate(time.Second)}
		_, err := u.b.PutIfAbsent(ctx, bucket.WriterKey(w), remote.Bytes(i.Encode()))
		return err
	}
	if err != nil {
		return err
	}
	is, err := bucket.DecodeWriter(b, w)
	if err == nil && is.Store != u.storeID {
		err = fmt.Errorf("%w: writer %s is store %s", bucket.ErrOther, w, is.Store)
	}
	return err
}

// numbers gives out numbers in a transaction, which does so once.
func (u *Uploads) numbers(tx *state.Tx, of func(a *schema.Attachment) *uint64, n int) (w bucket.Writer, first uint64, err error) {
	at, err := attachment(tx)
	if err != nil {
		return w, 0, err
	}
	if at == nil {
		return w, 0, fmt.Errorf("%w: it belongs to none any more", ErrOtherBucket)
	}
	next := of(at)
	first = *next
	*next += uint64(n)
	tx.Put(schema.MetaKey(schema.MetaBucket), at.Encode())
	return at.Writer, first, nil
}

// Domain is that of all chunks.
func (u *Uploads) Domain() uint32 { return u.s.cfg.Domain }

// putOnce has an object arrive that nobody else puts under its key; again: an
// earlier attempt may have done so.
func (u *Uploads) putOnce(ctx context.Context, key string, c remote.Content, again bool) error {
	for {
		if again {
			_, same, err := remote.Same(ctx, u.b, key, c)
			switch {
			case same:
				return nil
			case err == nil:
				return fmt.Errorf("%w (%s)", ErrTaken, key)
			case !errors.Is(err, remote.ErrNotExist):
				return err
			}
		}
		c.Fresh = true
		_, err := u.b.PutIfAbsent(ctx, key, c)
		if again || !errors.Is(err, remote.ErrExists) {
			return err
		}
		again = true
	}
}

// record makes a change of what is known of uploads.
func (u *Uploads) record(durable bool, fn func(tx *state.Tx) error) error {
	pos, err := u.s.db.Update(schema.KindUpload, fn)
	if err == nil && durable {
		err = u.s.db.Sync(pos)
	}
	if err != nil {
		return fmt.Errorf("record an upload: %w", err)
	}
	return nil
}

// Arrived is how many packs, and bytes, have arrived since the store was opened.
func (u *Uploads) Arrived() (packs, bytes int64) { return u.packs.Load(), u.bytes.Load() }
