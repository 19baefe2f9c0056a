package prune

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/restic/chunker"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
)

var alice, bob = bucket.Writer{0xa1}, bucket.Writer{0xb1}

// newBucket is an empty one of ours.
func newBucket(t *testing.T) *mem.Bucket {
	b := mem.New()
	config := &bucket.Config{ID: strings.Repeat("0a", 16), Polynomial: chunker.Pol(0x3DA3358B4DC173)}
	must(t, b.Put(t.Context(), bucket.ConfigKey, remote.Bytes(config.Encode())))
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, b remote.Bucket, w bucket.Writer) *Lease {
	t.Helper()
	l, err := Take(t.Context(), b, w)
	must(t, err)
	return l
}

// putPack puts a pack with that number.
func putPack(t *testing.T, b remote.Bucket, w bucket.Writer, seq uint64) bucket.Pack {
	t.Helper()
	p := bucket.Pack{Name: pack.Name{byte(seq)}, Writer: w, Seq: seq, Size: 3}
	must(t, b.Put(t.Context(), p.Key(), remote.Bytes([]byte("abc"))))
	return p
}

func ref(snapshot uint64, packs ...bucket.Pack) *bucket.Ref {
	return &bucket.Ref{Snapshot: snapshot, Root: pack.ID{byte(snapshot)}, Packs: packs}
}

// run prunes. Its clock is ahead.
func run(t *testing.T, b remote.Bucket, ahead time.Duration) Report {
	t.Helper()
	r, err := Run(t.Context(), b, Options{Grace: time.Hour, Now: func() time.Time { return time.Now().Add(ahead) }})
	must(t, err)
	return r
}

func keys(t *testing.T, b remote.Bucket, prefix string) (all []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), prefix, "") {
		must(t, err)
		all = append(all, o.Key)
	}
	return all
}

// What is forgotten goes in two runs, once it is old enough; what somebody has
// come to need in between is spared.
func TestRun(t *testing.T) {
	b := newBucket(t)
	l, other := take(t, b, alice), take(t, b, bob)
	p1, p2, p3 := putPack(t, b, alice, 1), putPack(t, b, alice, 2), putPack(t, b, alice, 3)
	must(t, l.Publish(t.Context(), ref(1, p1, p2)))
	must(t, l.Publish(t.Context(), ref(2, p2)))
	must(t, Forget(t.Context(), b, alice, 1))

	if r := run(t, b, 0); r.Epoch != 0 || r.Packs != 3 || r.Refs != 1 || r.Forgotten != 1 {
		t.Errorf("young packs: %+v", r)
	}
	if r := run(t, b, 2*time.Hour); r.Epoch != 1 || r.Condemned != (Amount{2, 6}) || r.Packs != 3 {
		t.Errorf("two are not needed: %+v", r)
	}
	// Bob has not renewed yet: he may name one of them. Alice has.
	must(t, other.Publish(t.Context(), ref(1, p3)))
	must(t, l.Renew(t.Context()))
	if l.MayUse(p1) || !l.MayUse(p2) || l.MayUse(p3) || !other.MayUse(p1) {
		t.Error("the list forbids what it does not, or the other way round")
	}
	var bad *RetiredError
	if err := l.Publish(t.Context(), ref(3, p1, p2, p3)); !errors.As(err, &bad) || !slices.Equal(bad.Packs, []bucket.Pack{p1, p3}) {
		t.Errorf("a ref names condemned packs: %v", err)
	}
	if r := run(t, b, 30*time.Minute); r.Epoch != 1 || !slices.Equal(r.Waiting, []bucket.Writer{bob}) || r.Deleted.Packs != 0 {
		t.Errorf("it waits: %+v", r)
	}
	if r := run(t, b, 2*time.Hour); r.Epoch != 2 || !slices.Equal(r.Fenced, []bucket.Writer{bob}) || r.Deleted != (Amount{1, 3}) || r.Spared != 1 || r.Packs != 2 {
		t.Errorf("one is deleted, one is spared: %+v", r)
	}
	if got := keys(t, b, bucket.PacksPrefix); !slices.Equal(got, []string{p2.Key(), p3.Key()}) {
		t.Error(got)
	}
	// The fenced one goes on, with what is there.
	if err := other.Publish(t.Context(), ref(2, p1, p3)); !errors.As(err, &bad) || !slices.Equal(bad.Packs, []bucket.Pack{p1}) {
		t.Errorf("a ref names a dead pack: %v", err)
	}
	must(t, other.Publish(t.Context(), ref(2, p3)))
	if r := run(t, b, 2*time.Hour); r.Epoch != 2 || len(r.Fenced) != 0 || r.Refs != 3 {
		t.Errorf("nothing is to be done: %+v", r)
	}
	// What is dead stays so.
	putPack(t, b, alice, 1)
	if r := run(t, b, 0); r.Deleted.Packs != 1 || l.MayUse(p1) {
		t.Errorf("a pack that was put late: %+v", r)
	}
}

// A dry run says the same and changes nothing.
func TestDryRun(t *testing.T) {
	b := newBucket(t)
	l := take(t, b, alice)
	must(t, l.Publish(t.Context(), ref(1, putPack(t, b, alice, 1))))
	putPack(t, b, alice, 2)
	for range 3 {
		before := keys(t, b, "")
		opt := Options{Grace: time.Hour, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }}
		opt.DryRun = true
		dry, err := Run(t.Context(), b, opt)
		must(t, err)
		if got := keys(t, b, ""); !slices.Equal(got, before) {
			t.Errorf("it has changed something: %v, was %v", got, before)
		}
		opt.DryRun = false
		r, err := Run(t.Context(), b, opt)
		must(t, err)
		if dry.Deleted != r.Deleted || dry.Condemned != r.Condemned || !slices.Equal(dry.Fenced, r.Fenced) || dry.Epoch != r.Epoch {
			t.Errorf("it says %+v, and then %+v", dry, r)
		}
	}
}

// A snapshot is published once, whenever an answer is lost or a process ends.
func TestPublishOnce(t *testing.T) {
	inner := newBucket(t)
	p := putPack(t, inner, alice, 1)
	lost := remote.Fail("put", "", remote.ErrRetryable, fault.ErrInjected)
	for _, f := range []fault.Fault{{Before: lost}, {After: lost}, {Late: lost, Delay: 10 * time.Millisecond}} {
		for _, crash := range []bool{false, true} {
			b := newBucket(t)
			must(t, b.Put(t.Context(), p.Key(), remote.Bytes([]byte("abc"))))
			hit := false
			faulty := fault.New(b, func(verb, key string) fault.Fault {
				if verb != "put-if-absent" || !strings.HasPrefix(key, bucket.RefsPrefix) || hit {
					return fault.Fault{}
				}
				hit = true
				return f
			})
			l := take(t, faulty, alice)
			first := ref(1, p)
			if err := l.Publish(t.Context(), first); !errors.Is(err, fault.ErrInjected) {
				t.Fatal(err)
			}
			if crash {
				l = take(t, b, alice)
			}
			again := ref(1, p)
			must(t, l.Publish(t.Context(), again))
			faulty.Wait()
			n, err := readNeeds(t.Context(), b, []slotted{{Lease: bucket.Lease{Writer: alice, Next: again.Seq + 1}}})
			must(t, err)
			if n.refs != 1 {
				t.Errorf("%+v, crash %v: published %d times", f, crash, n.refs)
			}
			if got, err := readRef(t.Context(), b, alice, again.Seq); err != nil || got.Snapshot != 1 {
				t.Errorf("%+v, crash %v: %v, %v", f, crash, got, err)
			}
		}
	}
}

// Of two processes under one name the second publishes, and the first is told.
func TestTwins(t *testing.T) {
	b := newBucket(t)
	p := putPack(t, b, alice, 1)
	one := take(t, b, alice)
	must(t, one.Publish(t.Context(), ref(1, p)))
	two := take(t, b, alice)
	must(t, two.Publish(t.Context(), ref(2, p)))
	if err := one.Publish(t.Context(), ref(3, p)); !errors.Is(err, ErrTaken) {
		t.Errorf("both publish: %v", err)
	}
	if err := one.Renew(t.Context()); !errors.Is(err, ErrTaken) {
		t.Errorf("both renew: %v", err)
	}
	must(t, two.Publish(t.Context(), ref(4, p)))
	if n := len(keys(t, b, bucket.LeasesPrefix)); n != 1 {
		t.Errorf("%d leases", n)
	}
}

// What a writer keeps is left alone for as long as it renews its lease.
func TestKeep(t *testing.T) {
	b := newBucket(t)
	l := take(t, b, alice)
	l.Keep(2)
	must(t, l.Renew(t.Context()))
	putPack(t, b, alice, 1)
	kept := putPack(t, b, alice, 2)
	for range 5 {
		run(t, b, 2*time.Hour)
		must(t, l.Renew(t.Context()))
	}
	if got := keys(t, b, bucket.PacksPrefix); !slices.Equal(got, []string{kept.Key()}) {
		t.Errorf("%v is left", got)
	}
	for range 5 {
		run(t, b, 2*time.Hour)
	}
	if got := keys(t, b, bucket.PacksPrefix); got != nil {
		t.Errorf("%v is kept for a writer that is gone", got)
	}
}

// Nobody waits for a writer that has released its lease.
func TestRelease(t *testing.T) {
	b := newBucket(t)
	l := take(t, b, alice)
	p := putPack(t, b, alice, 1)
	must(t, l.Release(t.Context()))
	must(t, l.Release(t.Context()))
	run(t, b, 2*time.Hour)
	if r := run(t, b, 2*time.Hour); len(r.Fenced) != 0 || r.Deleted.Packs != 1 {
		t.Errorf("%+v", r)
	}
	var bad *RetiredError
	if err := l.Publish(t.Context(), ref(1, p)); !errors.As(err, &bad) {
		t.Errorf("it publishes what is gone: %v", err)
	}
}

// What prune can't know all of it leaves alone.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(ctx context.Context, b *mem.Bucket) error
		want  error
	}{
		"no bucket":     {func(ctx context.Context, b *mem.Bucket) error { return b.Delete(ctx, bucket.ConfigKey) }, bucket.ErrForeign},
		"groups":        {func(ctx context.Context, b *mem.Bucket) error { return b.Put(ctx, "groups/a/1", remote.Bytes(nil)) }, bucket.ErrVersion},
		"no ref":        {func(ctx context.Context, b *mem.Bucket) error { return b.Delete(ctx, bucket.RefKey(alice, 1)) }, errLost},
		"no last ref":   {func(ctx context.Context, b *mem.Bucket) error { return b.Delete(ctx, bucket.RefKey(alice, 2)) }, errLost},
		"no list":       {func(ctx context.Context, b *mem.Bucket) error { return b.Delete(ctx, bucket.RetiredKey(1)) }, errLost},
		"damaged ref":   {func(_ context.Context, b *mem.Bucket) error { return b.Damage(bucket.RefKey(alice, 1), 50) }, bucket.ErrFormat},
		"damaged lease": {func(_ context.Context, b *mem.Bucket) error { return b.Damage(bucket.LeaseKey(0), 50) }, bucket.ErrFormat},
		"damaged list":  {func(_ context.Context, b *mem.Bucket) error { return b.Damage(bucket.RetiredKey(1), 50) }, bucket.ErrFormat},
		"no leases":     {func(ctx context.Context, b *mem.Bucket) error { return b.Delete(ctx, bucket.LeaseKey(0)) }, nil},
	} {
		b := newBucket(t)
		l := take(t, b, alice)
		p := putPack(t, b, alice, 1)
		for k := range uint64(3) {
			must(t, l.Publish(t.Context(), ref(k+1, p)))
		}
		putPack(t, b, alice, 2)
		run(t, b, 2*time.Hour)
		must(t, l.Renew(t.Context()))
		must(t, c.spoil(t.Context(), b))
		_, err := Run(t.Context(), b, Options{})
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(keys(t, b, bucket.PacksPrefix)); n != 2 {
			t.Errorf("%s: %d packs are left", name, n)
		}
	}
}

// Forgetting is done once, and can be said of a ref that somebody has deleted.
func TestForget(t *testing.T) {
	b := newBucket(t)
	l := take(t, b, alice)
	p := putPack(t, b, alice, 1)
	must(t, l.Publish(t.Context(), ref(1, p)))
	must(t, l.Publish(t.Context(), ref(2, p)))
	must(t, b.Delete(t.Context(), bucket.RefKey(alice, 2)))
	for range 2 {
		for seq := range uint64(2) {
			must(t, Forget(t.Context(), b, alice, seq+1))
			if _, err := readRef(t.Context(), b, alice, seq+1); !errors.Is(err, bucket.ErrGone) {
				t.Errorf("ref %d: %v", seq+1, err)
			}
		}
	}
	must(t, l.Publish(t.Context(), ref(3, p)))
	if r := run(t, b, 2*time.Hour); r.Refs != 1 || r.Forgotten != 2 {
		t.Errorf("%+v", r)
	}
}

// Names that are not ours are left alone, wherever they are, and nothing is held up
// by them: not even those that look much like ours.
func TestStrangers(t *testing.T) {
	b := newBucket(t)
	dead := bucket.Pack{Name: pack.Name{1}, Writer: alice, Seq: 1}
	strangers := []string{"readme", "photos/cat",
		"packs/readme", "packs/01/0100.pack", dead.Key() + ".bak", strings.Replace(dead.Key(), "packs/01/", "packs/02/", 1),
		"index/readme", bucket.IndexKey(alice, 1) + ".bak", "index/" + alice.String() + "/1", "refs/readme", bucket.RefKey(alice, 1) + ".tmp", "refs/" + alice.String() + "/1",
		"leases/readme", bucket.LeaseKey(7) + "0", "retired/readme", "retired/0", bucket.RetiredKey(0) + ".old", "catalogs/readme", "catalogs/" + alice.String() + "/0-0", "writers/readme"}
	for _, key := range strangers {
		must(t, b.Put(t.Context(), key, remote.Bytes([]byte("of "+key))))
	}
	l := take(t, b, alice)
	p := putPack(t, b, alice, 1)
	x := &bucket.Index{Writer: alice, Seq: 1, Packs: []bucket.Indexed{{Seq: 1, Size: 3}}}
	must(t, b.Put(t.Context(), x.Key(), remote.Bytes(x.Encode())))
	must(t, l.Publish(t.Context(), ref(1, p)))
	must(t, Forget(t.Context(), b, alice, 1))
	deleted, indexes := 0, 0
	for range 4 {
		r := run(t, b, 2*time.Hour)
		deleted += r.Deleted.Packs
		indexes += r.Indexes
		must(t, l.Renew(t.Context()))
	}
	if deleted != 1 || indexes != 1 {
		t.Errorf("%d packs and %d index objects were deleted, besides strangers", deleted, indexes)
	}
	for _, key := range strangers {
		if got, _, err := remote.ReadAll(t.Context(), b, key, 1000); err != nil || string(got) != "of "+key {
			t.Errorf("%s is %q now, %v", key, got, err)
		}
	}
}
