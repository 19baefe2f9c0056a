package prune

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// seen is a bucket of which each read is looked at before it is made.
type seen struct {
	remote.Bucket
	before func(key string)
}

func (s seen) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	s.before(key)
	return s.Bucket.Get(ctx, key, p, off)
}

func (s seen) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	s.before(prefix)
	return s.Bucket.List(ctx, prefix, after)
}

// Between the moments at which one that prunes reads the list and the leases, a
// writer comes and another condemns what it wants to use.
func TestListBeforeLeases(t *testing.T) {
	b := newBucket(t)
	p := putPack(t, b, alice, 1)
	var l *Lease
	phase := ""
	s := seen{b, func(key string) {
		now, _, _ := strings.Cut(key, "/")
		if now != "retired" && now != "leases" || now == phase || l != nil {
			return
		}
		if phase != "" {
			l = take(t, b, bob)
			if r := run(t, b, 2*time.Hour); r.Condemned.Packs != 1 {
				t.Errorf("%+v", r)
			}
		}
		phase = now
	}}
	run(t, s, 4*time.Hour)
	if l == nil {
		t.Fatal("nothing is proved")
	}
	must(t, l.Publish(t.Context(), ref(1, p)))
	run(t, b, 4*time.Hour)
	if got := keys(t, b, bucket.PacksPrefix); !slices.Equal(got, []string{p.Key()}) {
		t.Errorf("a ref needs %s, and there is %v", p.Key(), got)
	}
}

// noLists is a bucket that has nothing to list but packs.
type noLists struct{ remote.Bucket }

func (n noLists) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	if strings.HasPrefix(prefix, bucket.PacksPrefix) {
		return n.Bucket.List(ctx, prefix, after)
	}
	return func(func(remote.Object, error) bool) {}
}

// What is needed is known without any list, and so is who has to be waited for.
func TestNoLists(t *testing.T) {
	b := newBucket(t)
	blind := noLists{b}
	var needed []string
	for _, w := range []bucket.Writer{alice, bob} {
		l := take(t, blind, w)
		for k := range uint64(3) {
			p := putPack(t, b, w, k+1)
			must(t, l.Publish(t.Context(), ref(k+1, p)))
			if k > 0 { // the last ref is in no lease yet
				needed = append(needed, p.Key())
			}
		}
		must(t, Forget(t.Context(), blind, w, 1))
		must(t, l.Renew(t.Context()))
	}
	if r := run(t, blind, 2*time.Hour); r.Epoch != 1 || r.Condemned.Packs < 2 {
		t.Errorf("%+v", r)
	}
	if r := run(t, blind, 2*time.Hour); r.Epoch != 2 || len(r.Fenced) != 2 || r.Deleted.Packs != 2 {
		t.Errorf("%+v", r)
	}
	slices.Sort(needed)
	if got := keys(t, b, bucket.PacksPrefix); !slices.Equal(got, needed) {
		t.Errorf("there is %v, want %v", got, needed)
	}
}
