package meter_test

import (
	"context"
	"testing"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/meter"
	"stepfs/chunkstore/remote/remotetest"
)

func TestConformance(t *testing.T) {
	remotetest.Suite{New: func(*testing.T) remote.Bucket { return meter.New(mem.New()) }}.Run(t)
}

func TestCounts(t *testing.T) {
	var err error
	b := meter.New(fault.New(mem.New(), func(string, string) fault.Fault { return fault.Fault{Before: err} }))
	use := func() {
		ctx, c := t.Context(), remote.Bytes([]byte("12345"))
		_ = b.Put(ctx, "a", c)
		_ = b.Put(ctx, "b", c)
		_, _ = b.PutIfAbsent(ctx, "a", c) // an answer, but no bytes
		_, _ = b.ReplaceIfMatch(ctx, "a", "x", c)
		_, _, _ = b.Get(ctx, "a", make([]byte, 3), 0)
		_, _, _ = b.Get(ctx, "a", make([]byte, 3), 4) // the last byte
		_, _, _ = b.Get(ctx, "no", make([]byte, 3), 4)
		_, _ = b.Stat(ctx, "a")
		for range b.List(ctx, "", "") {
		}
		_ = b.Delete(ctx, "a")
	}
	use()
	got := b.Stats()
	for _, c := range []*meter.Counts{&got.Put, &got.PutIfAbsent, &got.Replace, &got.Get, &got.Stat, &got.List, &got.Delete} {
		if c.Duration <= 0 {
			t.Errorf("%+v took no time", *c)
		}
		c.Duration = 0
	}
	want := meter.Stats{
		Put: meter.Counts{Calls: 2, Bytes: 10}, PutIfAbsent: meter.Counts{Calls: 1}, Replace: meter.Counts{Calls: 1},
		Get: meter.Counts{Calls: 3, Bytes: 4}, Stat: meter.Counts{Calls: 1}, List: meter.Counts{Calls: 1, Bytes: 2}, Delete: meter.Counts{Calls: 1},
	}
	if got != want {
		t.Errorf("counted\n%+v, want\n%+v", got, want)
	}
	for _, err = range []error{remote.ErrRetryable, remote.ErrDamaged, remote.ErrAccess, context.Canceled} {
		use()
	}
	got = b.Stats()
	// Of a list that is empty by now nothing fails: its objects would.
	if got.Retryable != 9+1 || got.Damaged != 9+1 || got.Access != 9+1 || got.Other != 9+1 || got.Put.Failed != 8 || got.List.Failed != 4 || got.InFlight != 0 {
		t.Errorf("counted %+v", got)
	}
}
