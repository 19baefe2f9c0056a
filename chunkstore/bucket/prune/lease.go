package prune

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

var (
	// ErrTaken: another process publishes as the same writer. Whoever gets this
	// is a copy, or has been copied, and has to stop or become another writer.
	ErrTaken = errors.New("another process publishes under this writer's name")
	// errBusy: others were faster each time.
	errBusy = errors.New("the lease was changed by others each time")
)

// attempts is how often something is begun anew that others have interfered with.
const attempts = 10

// Lease is a writer's right to publish. Its methods may be called at the same
// time; but for MayUse and Keep they make requests, one after the other. After
// an error the next call finds out what came of it.
type Lease struct {
	b      remote.Bucket
	holder bucket.Holder
	list   atomic.Pointer[bucket.Retired] // newest that was read; never nil
	keep   atomic.Uint64

	mu struct {
		sync.Mutex
		slotted        // as last seen in the bucket
		known   bool   // nobody can have changed it but those who fence
		fresh   bool   // list was read after the lease was opened
		list    list   // that list
		issued  uint64 // the ref whose put has begun and has had no answer; 0: none
		used    uint64 // refs up to this one are settled
		last    *bucket.Ref
	}
}

// slotted is a lease and its version.
type slotted struct {
	bucket.Lease
	version string
}

func readLease(ctx context.Context, b remote.Bucket, slot uint64) (slotted, error) {
	var l *bucket.Lease
	info, err := read(ctx, b, bucket.LeaseKey(slot), bucket.MaxLease, func(p []byte) (err error) {
		l, err = bucket.DecodeLease(p, slot)
		return err
	})
	if err != nil {
		return slotted{}, err
	}
	return slotted{*l, info.Version}, nil
}

// Take opens the lease of a writer, and makes it the first time. Whoever held it
// before publishes no more: he gets ErrTaken.
func Take(ctx context.Context, b remote.Bucket, w bucket.Writer) (*Lease, error) {
	l := &Lease{b: b}
	_, _ = rand.Read(l.holder[:]) // never fails
	l.keep.Store(bucket.KeepNone)
	l.mu.list = noList()
	l.list.Store(l.mu.list.Retired)
	for range attempts {
		err := l.take(ctx, w)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, ErrTaken) { // by a request of the last holder that has come late
			return nil, fmt.Errorf("take the lease of writer %s: %w", w, err)
		}
	}
	return nil, ErrTaken
}

func (l *Lease) take(ctx context.Context, w bucket.Writer) error {
	if err := l.find(ctx, w); err != nil {
		return err
	}
	l.mu.known = true
	l.mu.issued = l.mu.Next // by whoever held it, perhaps
	if l.mu.Closed() {
		l.mu.issued-- // he may not know what became of his last one
	}
	return l.ready(ctx)
}

// find finds the writer's lease, or makes one in the first slot that is free.
func (l *Lease) find(ctx context.Context, w bucket.Writer) error {
	for slot := uint64(0); ; {
		at, err := readLease(ctx, l.b, slot)
		switch {
		case errors.Is(err, remote.ErrNotExist):
			at = slotted{Lease: bucket.Lease{Slot: slot, Writer: w, Next: bucket.FirstRef, Keep: bucket.KeepNone}}
			at.version, err = l.b.PutIfAbsent(ctx, at.Key(), remote.Bytes(at.Encode()))
			if errors.Is(err, remote.ErrExists) {
				continue // see whose it is
			}
		case err == nil && at.Writer != w:
			slot++
			continue
		}
		l.mu.slotted = at
		return err
	}
}

// Renew reads the newest retired list and says so in the lease. Who does not do
// so for as long as prune is patient is fenced, which costs an upload what it
// wanted to reuse, and nothing else. It is one request when nothing is new.
func (l *Lease) Renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.fresh = false
	return l.ready(ctx)
}

// MayUse says whether a ref may name a pack. What it says of a pack may change
// with each Renew and Publish.
func (l *Lease) MayUse(p bucket.Pack) bool { return !l.list.Load().Has(p.ID()) }

// Keep says that the writer's packs from seq on are for refs that are still to
// be put: prune leaves them alone for as long as the lease is renewed. It gets
// into the bucket with the next Renew or Publish.
func (l *Lease) Keep(seq uint64) { l.keep.Store(seq) }

// Release closes the lease: prune need not wait for this writer. The next Renew
// or Publish opens it again.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range attempts {
		if err := l.look(ctx); err != nil {
			return err
		}
		if l.mu.Closed() {
			return nil
		}
		if err := l.replace(ctx, bucket.Lease{Keep: bucket.KeepNone}); !errors.Is(err, remote.ErrChanged) {
			return err
		}
	}
	return errBusy
}

// ready leaves the lease open, with the epoch of a list that was read after it
// was opened, and with a Next that was not used yet.
func (l *Lease) ready(ctx context.Context) error {
	m := &l.mu
	for range attempts {
		err := l.look(ctx)
		if err != nil {
			return err
		}
		switch {
		case m.Holder != l.holder:
			m.fresh = false
			err = l.replace(ctx, bucket.Lease{Holder: l.holder, Keep: l.keep.Load()})
		case !m.fresh:
			err = l.readNewest(ctx)
		case m.Epoch != m.list.Epoch, m.Next <= m.used, m.Keep != l.keep.Load():
			err = l.replace(ctx, bucket.Lease{Holder: l.holder, Epoch: m.list.Epoch, Keep: l.keep.Load()})
		default:
			return nil
		}
		if err != nil && !errors.Is(err, remote.ErrChanged) {
			return err
		}
	}
	return errBusy
}

// look leaves the lease known and no ref open.
func (l *Lease) look(ctx context.Context) error {
	m := &l.mu
	if !m.known {
		at, err := readLease(ctx, l.b, m.Slot)
		if err != nil {
			return err
		}
		if at.Writer != m.Writer || !at.Closed() && at.Holder != l.holder {
			return ErrTaken
		}
		m.slotted, m.known = at, true
	}
	return l.settle(ctx)
}

func (l *Lease) readNewest(ctx context.Context) error {
	got, err := newest(ctx, l.b, l.mu.list)
	if err != nil {
		return err
	}
	if got.Epoch < l.mu.Epoch {
		return fmt.Errorf("%w: %s", errLost, bucket.RetiredKey(l.mu.Epoch))
	}
	l.mu.list, l.mu.fresh = got, true
	l.list.Store(got.Retired)
	return nil
}

// replace puts another content of the lease in the place of the one that is
// known. No ref is open.
func (l *Lease) replace(ctx context.Context, to bucket.Lease) error {
	m := &l.mu
	to.Slot, to.Writer, to.Count, to.Next = m.Slot, m.Writer, m.Count+1, max(m.Next, m.used+1)
	m.known = false
	version, err := l.b.ReplaceIfMatch(ctx, to.Key(), m.version, remote.Bytes(to.Encode()))
	if err == nil {
		m.slotted, m.known = slotted{to, version}, true
	}
	return err
}
