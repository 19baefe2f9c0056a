// Package meter counts what a bucket is asked for and what came of it.
package meter

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"stepfs/chunkstore/remote"
)

// Counts is what is known of one verb.
type Counts struct {
	Calls    int64         // that have ended; a list is one, however long
	Failed   int64         // ended by an error that is not an answer
	Bytes    int64         // of objects that were put or got; of a list: objects
	Duration time.Duration // all together
}

// Stats is what was counted.
type Stats struct {
	Put, PutIfAbsent, Replace, Get, Stat, List, Delete Counts
	// Failed by what failed; together they are those of the verbs.
	Retryable, Damaged, Access, Other int64
	InFlight                          int64
}

// verb counts one verb.
type verb struct{ calls, failed, bytes, nanos atomic.Int64 }

func (v *verb) counts() Counts {
	return Counts{v.calls.Load(), v.failed.Load(), v.bytes.Load(), time.Duration(v.nanos.Load())}
}

// Bucket counts what goes to another.
type Bucket struct {
	inner                                              remote.Bucket
	put, putIfAbsent, replace, get, stat, list, delete verb
	retryable, damaged, access, other, inFlight        atomic.Int64
}

// New wraps a bucket.
func New(inner remote.Bucket) *Bucket { return &Bucket{inner: inner} }

// Unwrap implements remote.Wrapper.
func (b *Bucket) Unwrap() remote.Bucket { return b.inner }

func (b *Bucket) String() string { return b.inner.String() }

// Stats gives what was counted until now.
func (b *Bucket) Stats() Stats {
	return Stats{
		Put: b.put.counts(), PutIfAbsent: b.putIfAbsent.counts(), Replace: b.replace.counts(), Get: b.get.counts(),
		Stat: b.stat.counts(), List: b.list.counts(), Delete: b.delete.counts(),
		Retryable: b.retryable.Load(), Damaged: b.damaged.Load(), Access: b.access.Load(), Other: b.other.Load(),
		InFlight: b.inFlight.Load(),
	}
}

// begin begins a call; what it gives ends it.
func (b *Bucket) begin(v *verb) func(bytes int64, err error) {
	b.inFlight.Add(1)
	begun := time.Now()
	return func(bytes int64, err error) {
		b.inFlight.Add(-1)
		v.calls.Add(1)
		v.nanos.Add(int64(time.Since(begun)))
		if answered(err) {
			v.bytes.Add(bytes)
			return
		}
		v.failed.Add(1)
		switch {
		case errors.Is(err, remote.ErrRetryable):
			b.retryable.Add(1)
		case errors.Is(err, remote.ErrDamaged):
			b.damaged.Add(1)
		case errors.Is(err, remote.ErrAccess):
			b.access.Add(1)
		default:
			b.other.Add(1)
		}
	}
}

// answered says whether the store did what it is for.
func answered(err error) bool {
	return err == nil || err == io.EOF || errors.Is(err, remote.ErrNotExist) || errors.Is(err, remote.ErrExists) || errors.Is(err, remote.ErrChanged)
}

// moved is the bytes that a change has moved.
func moved(c remote.Content, err error) int64 {
	if err != nil {
		return 0
	}
	return c.Size
}

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	end := b.begin(&b.put)
	err := b.inner.Put(ctx, key, c)
	end(moved(c, err), err)
	return err
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	end := b.begin(&b.putIfAbsent)
	version, err := b.inner.PutIfAbsent(ctx, key, c)
	end(moved(c, err), err)
	return version, err
}

// ReplaceIfMatch implements remote.Bucket.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	end := b.begin(&b.replace)
	newVersion, err := b.inner.ReplaceIfMatch(ctx, key, version, c)
	end(moved(c, err), err)
	return newVersion, err
}

// Get implements remote.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	end := b.begin(&b.get)
	n, info, err := b.inner.Get(ctx, key, p, off)
	end(int64(n), err)
	return n, info, err
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (remote.Info, error) {
	end := b.begin(&b.stat)
	info, err := b.inner.Stat(ctx, key)
	end(0, err)
	return info, err
}

// List implements remote.Bucket. Its time is that of whoever goes through it,
// too.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		end := b.begin(&b.list)
		objects, failed := int64(0), error(nil)
		defer func() { end(objects, failed) }()
		for o, err := range b.inner.List(ctx, prefix, after) {
			if failed = err; err == nil {
				objects++
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// Delete implements remote.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	end := b.begin(&b.delete)
	err := b.inner.Delete(ctx, key)
	end(0, err)
	return err
}
