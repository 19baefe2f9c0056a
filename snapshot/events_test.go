package snapshot_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// Barriers that expire together are told of together.
func TestBarriersExpiredTogether(t *testing.T) {
	h := &hands{}
	var mu sync.Mutex
	var told []int
	w := newWorld(t, func(c *snapshot.Config) {
		keeping(h, nil)(c)
		c.Events.BarriersExpired = func(n int, _ string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n)
		}
	})
	var seqs []uint64
	for k := range 5 {
		seqs = append(seqs, w.barrier(w.put("log", fmt.Sprint(k))))
	}
	gone, err := w.m.Expire("a test", seqs[:4]...)
	w.ok(err)
	if len(gone) != 4 || len(told) != 1 || told[0] != 4 {
		t.Errorf("%d gone, told of %v", len(gone), told)
	}
}

// SpaceLow comes when hot copies no longer make up for what is missing, once,
// and again only after there was room.
func TestSpaceLow(t *testing.T) {
	var mu sync.Mutex
	told := 0
	count := func() int { mu.Lock(); defer mu.Unlock(); return told }
	w := newWorld(t, func(c *snapshot.Config) {
		c.UseGrace, c.KeepSteps = -1, true
		c.Events.SpaceLow = func(free, low uint64) {
			mu.Lock()
			defer mu.Unlock()
			if told++; free >= low {
				t.Errorf("%d free of %d is not low", free, low)
			}
		}
	})
	w.limit(64<<20, 1<<20)
	for k := range 20 { // 6 MiB in packs, 120 in hot copies
		name := fmt.Sprintf("checkpoint-%d", k)
		if _, err := w.tryPut(name+"/model", noise(1, 6<<20)); err != nil {
			t.Fatal(err)
		}
		w.step(name)
		w.stored(name)
	}
	if n := count(); n != 0 {
		t.Fatalf("told %d times while hot copies fill the store", n)
	}
	for round := 1; round <= 2; round++ {
		k := 0
		for ; count() < round; k++ { // live files: nothing can be given up for them
			if _, err := w.tryPut(fmt.Sprintf("data-%d", k), noise(int64(100*round+k), 1<<20)); err != nil {
				break
			}
		}
		until(t, "space is low", func() bool { return count() >= round })
		time.Sleep(100 * time.Millisecond)
		if n := count(); n != round {
			t.Fatalf("told %d times, want %d", n, round)
		}
		if _, err := w.tree.Find(fmt.Sprintf("data-%d", k)); errors.Is(err, stage.ErrNotExist) {
			k-- // there was no room for its name either
		}
		for ; k >= 0; k-- {
			w.remove(fmt.Sprintf("data-%d", k))
		}
		until(t, "there is room again", func() bool {
			_, err := w.m.Keep(w.ctx())
			w.ok(err)
			w.m.Tight()
			free, low, err := w.tree.Room()
			w.ok(err)
			return free >= 3*low
		})
	}
}
