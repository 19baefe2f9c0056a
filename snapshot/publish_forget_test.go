package snapshot_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/schema"
	"stepfs/snapshot"
)

// forgetting is a world that publishes to b; nothing is pruned but on request.
func forgetting(t *testing.T, b remote.Bucket, more func(*snapshot.Config)) *world {
	w := newWorld(t, keeping(&hands{}, func(c *snapshot.Config) {
		byHand(c)
		if more != nil {
			more(c)
		}
	}))
	w.publishTo(b, snapshot.Publish{})
	return w
}

func (w *world) forgetIn(bucket bool, names ...string) {
	w.t.Helper()
	_, err := w.m.Forget(snapshot.Forget{Names: names, By: "test", Bucket: bucket})
	w.ok(err)
}

// inBucket waits until these are what is published, and nothing is pending.
func (w *world) inBucket(b remote.Bucket, want ...snapshot.Info) {
	w.t.Helper()
	w.until("the bucket has forgotten", func() bool {
		r, err := w.m.PublishReport()
		w.ok(err)
		return r.Forget == 0 && len(refs(w.t, b)) <= len(want)
	})
	got := refs(w.t, b)
	for _, i := range want {
		if got[i.Seq] == nil {
			w.t.Errorf("%s is not in the bucket any more", i.ID())
		}
	}
}

// pending is how many the bucket has yet to forget.
func (w *world) pending() int {
	w.t.Helper()
	r, err := w.m.PublishReport()
	w.ok(err)
	return r.Forget
}

// recorded says whether something is known of a snapshot's ref.
func (w *world) recorded(seq uint64) bool {
	_, err := w.eng.Get(schema.Numbered(schema.PrefixRefUpload, seq))
	return err == nil
}

// The bucket keeps what is forgotten here, unless it is to forget it too; and that
// it does when it is removed here, not before.
func TestForgetInBucket(t *testing.T) {
	b := mem.New()
	w := forgetting(t, b, nil)
	one, two, three := w.step("1"), w.step("2"), w.step("3")
	w.published()
	w.forgetIn(false, "1")
	w.forgetIn(true, "2", "3")
	if w.pending() != 0 {
		t.Error("the bucket forgets what can be brought back")
	}
	_, err := w.m.Unforget("", []string{"3"})
	w.ok(err)
	w.restart()
	w.inBucket(b, one, two, three)
	w.prune()
	w.inBucket(b, one, three)
	if w.recorded(two.Seq) || !w.recorded(one.Seq) {
		t.Error("what is recorded of refs is not what there is")
	}
	w.forgetIn(true, "3")
	w.prune()
	w.inBucket(b, one)
	w.noFaults()
}

// While the bucket can't be reached it waits, also across a kill, and keeps no step
// from being published; a bucket that refuses is a fault, once.
func TestForgetInBucketLater(t *testing.T) {
	base := mem.New()
	var away atomic.Pointer[error]
	b := fault.New(base, func(verb, key string) (f fault.Fault) {
		if err := away.Load(); err != nil && verb == "replace" && strings.HasPrefix(key, bucket.RefsPrefix) {
			f.Before = remote.Fail(verb, key, *err, nil)
		}
		return f
	})
	w := forgetting(t, b, nil)
	one := w.step("1")
	w.published()
	away.Store(&remote.ErrRetryable)
	w.forgetIn(true, "1")
	w.prune()
	w.until("it has tried", func() bool {
		r, err := w.m.PublishReport()
		w.ok(err)
		return r.Forget == 1 && r.ForgetErr != nil && r.Err == nil
	})
	two := w.step("2")
	w.published()
	w.kill()
	if w.pending() != 1 {
		t.Error("a kill has it forgotten")
	}
	w.noFaults()
	if got := refs(t, base); got[one.Seq] == nil || got[two.Seq] == nil {
		t.Error("one of two is not there: ", got)
	}
	away.Store(nil)
	w.restart()
	w.inBucket(base, two)
	w.noFaults()

	away.Store(&remote.ErrAccess)
	w.forgetIn(true, "2")
	w.prune()
	w.until("it is a fault", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.faults) == 1
	})
}

// A rule of the store's forgets nothing in the bucket, unless it is told so; and
// what is given up to make room stays there in any case.
func TestRetentionInBucket(t *testing.T) {
	for _, too := range []bool{false, true} {
		p, err := snapshot.ParsePolicy(map[string]string{"keep-last": "1"})
		if err != nil {
			t.Fatal(err)
		}
		b := mem.New()
		w := forgetting(t, b, func(c *snapshot.Config) { c.ForgetInBucket = too })
		one, two, three := w.step("1"), w.step("2"), w.step("3")
		w.published()
		gone, err := w.m.Expire("room", one.Seq)
		if w.ok(err); len(gone) != 1 {
			t.Fatal(gone)
		}
		w.m.SetPolicy(p)
		_, err = w.m.ForgetByPolicy(nil, false, false)
		w.ok(err)
		w.prune()
		if _, err := w.m.Get(two.Seq); err == nil {
			t.Fatal("the policy keeps 2")
		}
		if too {
			w.inBucket(b, one, three)
		} else {
			w.inBucket(b, one, two, three)
		}
	}
}

// A ref that was put without an answer, and whose snapshot is gone by the time that
// this is found out, goes as well; and nothing stays behind of one that was not.
func TestForgetInBucketUnknown(t *testing.T) {
	for _, arrived := range []bool{true, false} {
		base := mem.New()
		d := &dying{left: 1, after: arrived, dead: make(chan struct{})}
		var alive atomic.Bool
		w := forgetting(t, fault.New(base, func(verb, key string) fault.Fault {
			if alive.Load() || d.left == 1 && (verb != "put-if-absent" || !strings.HasPrefix(key, bucket.RefsPrefix)) {
				return fault.Fault{}
			}
			return d.rule(verb, key)
		}), nil)
		one := w.step("1")
		<-d.dead
		w.until("it is not published", func() bool {
			r, err := w.m.PublishReport()
			w.ok(err)
			return r.Err != nil
		})
		w.forgetIn(true, "1")
		w.prune()
		if w.pending() != 1 {
			t.Error("nothing is pending")
		}
		alive.Store(true)
		w.restart()
		w.inBucket(base)
		w.until("it is not recorded any more", func() bool { return !w.recorded(one.Seq) })
		w.noFaults()
	}
}
