package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/state"
)

// TestHealPacks: a pack that is damaged here, or gone, is read from the bucket, and
// fetched again; then all is as it was. While the bucket is down, or has it damaged
// as well, nothing changes.
func TestHealPacks(t *testing.T) {
	for name, harm := range map[string]struct {
		do      func(f *fixture, path string)
		readers bool // they notice
	}{
		"a bit of a chunk": {func(f *fixture, path string) { flipIn(f, path, 200) }, true},
		"a part's header":  {func(f *fixture, path string) { flipIn(f, path, pack.HeaderSize+40) }, false},
		"the footer":       {func(f *fixture, path string) { flipIn(f, path, -60) }, false},
		"the file is gone": {func(f *fixture, path string) { try(f.t, f.fs.Remove(path)); f.files.drop() }, true},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) { testHeal(t, harm.do, harm.readers, restart) })
		}
	}
}

// flipIn turns a bit of a file, counted from its end if at is negative.
func flipIn(f *fixture, path string, at int) {
	b := readFile(f.t, f.fs, path)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 4
	f.files.drop()
	writeFile(f.t, f.fs, path, b)
}

func testHeal(t *testing.T, harm func(*fixture, string), readers, restart bool) {
	var down, bad atomic.Bool
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if down.Load() {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, errors.New("no route to host"))}
		}
		return fault.Fault{Damage: bad.Load() && verb == "get" && strings.HasPrefix(key, bucket.PacksPrefix)}
	})
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	c := solid(randomBytes(1, 6000))
	refs := f.store(c)
	f.hold(1, refs)
	f.uploadTo(b, refs)
	path := f.fs.PathJoin(f.dir, f.local()[0])
	whole := readFile(t, f.fs, path)
	harm(f, path)
	if restart {
		f.close()
		f = openFixture(t, f.fs, "store", smallConfig())
		f.uploadTo(b)
	}
	f.far.pause = 0
	var told atomic.Int64
	f.cfg.Events.Damage = func(error) { told.Add(1) }
	checkContent(t, f, c, refs)
	if readers && !restart && told.Load() == 0 {
		t.Error("nobody was told of the damage that a reader met")
	}
	f.forget()
	f.far.pause = 0
	n, err := f.NextPack(0)
	try(t, err)
	found := 0
	try(t, f.Scrub(t.Context(), n, func(error) { found++ }, func(int64) error { return nil }))
	if got := findings(f, CheckOptions{ReadData: 1}); len(got) == 0 {
		t.Error("a check finds nothing")
	}
	down.Store(true)
	if n, err := f.HealPacks(t.Context()); n != 0 || !errors.Is(err, ErrUnreachable) {
		t.Errorf("healed %d without the bucket, %v", n, err)
	}
	down.Store(false)
	bad.Store(true)
	if n, err := f.HealPacks(t.Context()); n != 0 || !errors.Is(err, ErrCorrupt) {
		t.Errorf("healed %d from a damaged copy, %v", n, err)
	}
	bad.Store(false)
	if n, err := f.HealPacks(t.Context()); n != 1 || err != nil {
		t.Fatalf("healed %d, %v; the scrub found %d", n, err, found)
	}
	if !bytes.Equal(readFile(t, f.fs, path), whole) {
		t.Error("the file is not what it was")
	}
	f.cache.drop()
	down.Store(true)
	checkContent(t, f, c, refs)
	if got := findings(f, CheckOptions{ReadData: 1}); len(got) > 0 {
		t.Errorf("a check says %+v", got)
	}
	if st := f.Stats(); st.LostPacks+st.BadPacks+st.DamagedChunks+st.AwayPacks != 0 {
		t.Errorf("%+v", st)
	}
	if n, err := f.HealPacks(t.Context()); n != 0 || err != nil {
		t.Errorf("%d once more, %v", n, err)
	}
	for _, name := range must2(f.fs.List(f.dir)) {
		if !strings.HasSuffix(name, pack.Suffix) {
			t.Errorf("%s is left", name)
		}
	}
}

func must2(names []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return names
}

// TestRescue: what is away, and that somebody has forgotten in the bucket, is
// fetched before it is pruned there, and published again under other numbers. What
// is about to be pruned is not evicted.
func TestRescue(t *testing.T) {
	b := mem.New()
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	c := solid(randomBytes(1, 20_000))
	refs := f.store(c)
	f.hold(1, refs)
	u, ref := f.uploadTo(b, refs)
	f.evictAll()
	if len(f.local()) != 0 {
		t.Fatal("not evicted")
	}
	try(t, prune.Forget(t.Context(), b, ref.Writer, ref.Seq))
	run := func() {
		t.Helper()
		if _, err := prune.Run(t.Context(), b, prune.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	try(t, u.Renew(t.Context())) // nothing is on its way any more
	run()                        // condemned
	if len(f.local()) != 0 {
		t.Fatal("fetched before anybody knew")
	}
	try(t, u.Renew(t.Context()))
	if n := f.evictAll(); n != 0 {
		t.Errorf("%d bytes were evicted that are about to be pruned", n)
	}
	run()
	run() // gone
	f.forget()
	checkContent(t, f, c, refs)
	n := u.Needs()
	for _, r := range refs {
		try(t, n.Add(t.Context(), r.ID))
	}
	again := &bucket.Ref{Snapshot: 9, Record: []byte("r"), Root: refs[0].ID, RootLen: 1}
	try(t, n.Publish(t.Context(), again))
	f.update(func(tx *state.Tx) error { return u.Named(tx, again.Packs) })
	n.Release()
	f.evictAll()
	if len(f.local()) != 0 {
		t.Fatal("not evicted again")
	}
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	f.ReadFrom(func(context.Context) (remote.Bucket, error) { return b, nil })
	checkContent(t, f, c, refs)
}

// TestRescueTooLate: what is gone in the bucket is lost, which is said once; new
// content does not rely on it, and publishing goes on.
func TestRescueTooLate(t *testing.T) {
	b := mem.New()
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	c := solid(randomBytes(1, 3000))
	refs := f.store(c)
	f.hold(1, refs)
	u, ref := f.uploadTo(b, refs)
	f.evictAll()
	try(t, u.Renew(t.Context()))
	try(t, prune.Forget(t.Context(), b, ref.Writer, ref.Seq))
	_, err := prune.Run(t.Context(), b, prune.Options{})
	try(t, err)
	for _, p := range ref.Packs {
		try(t, b.Delete(t.Context(), p.Key()))
	}
	told := 0
	f.cfg.Events.Damage = func(error) { told++ }
	for range 3 {
		try(t, u.Renew(t.Context()))
	}
	if st := f.Stats(); st.LostPacks != len(ref.Packs) || told != len(ref.Packs) {
		t.Errorf("%d packs are lost, and it was told %d times: %+v", len(ref.Packs), told, st)
	}
	again := f.store(c)
	f.hold(2, again)
	f.uploadTo(b, again)
	f.evictAll()
	f.forget()
	checkContent(t, f, c, again)
}
