package snapshot_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"stepfs/fs/stage"
)

// limit gives the world a store limit; packs count, the metadata is in memory.
func (w *world) limit(bytes, reserve uint64) {
	w.t.Helper()
	w.room = func(c *stage.Config) {
		c.Limit, c.Reserve = bytes, reserve
		c.Rest = func() int64 { return int64(w.chunks.Stats().Size) }
	}
	w.restart()
}

func (w *world) hot() (sum int64) {
	w.t.Helper()
	w.ok(w.tree.Hot(func(_ uint64, n int64) bool { sum += n; return true }))
	return sum
}

// tryPut writes a file as put does, in pieces as the kernel hands them over,
// and gives the first error and how long the slowest write took.
func (w *world) tryPut(path, data string) (slowest time.Duration, err error) {
	w.t.Helper()
	ino, fh := w.openFile(path, 0)
	defer w.closeFile(ino, fh)
	const piece = 256 << 10
	for off := 0; off < len(data); off += piece {
		start := time.Now()
		if _, err := w.tree.Write(ino, fh, []byte(data[off:min(off+piece, len(data))]), int64(off)); err != nil {
			return slowest, err
		}
		slowest = max(slowest, time.Since(start))
	}
	return slowest, nil
}

// Hot copies stay while there is room, and go in time: a writer at full speed
// is refused nothing and hardly waits while there are some to give up.
func TestHotCopiesGoInTime(t *testing.T) {
	w := newWorld(t, nil)
	w.limit(64<<20, 1<<20)
	data := noise(1, 6<<20)
	want := map[string]uint64{}
	var slowest time.Duration
	for k := range 30 { // the same bytes each time: packs take 6 MiB, hot copies would take 180
		name := fmt.Sprintf("checkpoint-%d", k)
		slow, err := w.tryPut(name+"/model", data)
		if err != nil {
			t.Fatalf("step %d: %v (%d bytes hot)", k, err, w.hot())
		}
		slowest = max(slowest, slow)
		want[name] = w.step(name).Seq
		w.stored(name)
		if k == 4 && w.hot() != 5*6<<20 {
			t.Errorf("%d bytes hot with much room", w.hot())
		}
	}
	if slowest > time.Second {
		t.Errorf("a write took %v", slowest)
	}
	if h := w.hot(); h == 0 || h > 58<<20 {
		t.Errorf("%d bytes hot at the end", h)
	}
	for name, seq := range want {
		w.want(seq, name+"/model", data)
	}
	w.noFaults()
}

// Where nothing pushes, eviction leaves twice the low-water mark free, and no more.
func TestLowWaterMark(t *testing.T) {
	w := newWorld(t, nil)
	w.limit(64<<20, 8<<20) // a mark of 4 MiB
	for k := range 20 {
		name := fmt.Sprint("checkpoint-", k)
		w.put(name+"/model", noise(2, 2<<20))
		w.step(name)
		w.stored(name)
	}
	free, low, err := w.tree.Room()
	if err != nil || low != 4<<20 || free < low || w.hot() != 40<<20 {
		t.Fatalf("free %d, low %d, hot %d, %v: the sizes do not suit the test", free, low, w.hot(), err)
	}
	ino, fh := w.openFile("more", 0)
	for off := int64(0); free >= low; off += 256 << 10 {
		w.pwrite(ino, fh, noise(3, 256<<10), off)
		free, _, err = w.tree.Room()
		w.ok(err)
	}
	w.m.Tight()
	until(t, "twice the mark is free", func() bool {
		free, _, err := w.tree.Room()
		w.ok(err)
		return free >= 2*low
	})
	time.Sleep(100 * time.Millisecond)
	if free, _, err := w.tree.Room(); err != nil || free > 2*low+4<<20 || w.hot() == 0 {
		t.Errorf("%d free, %d hot, %v", free, w.hot(), err)
	}
	w.closeFile(ino, fh)
}

// A hot copy that can't go does not make a writer wait for it for ever, and
// what can't be had at all costs no hot copy.
func TestNothingToGiveUp(t *testing.T) {
	w := newWorld(t, nil)
	w.limit(32<<20, 1<<20)
	w.put("checkpoint-1/log", noise(1, 4<<20))
	w.step("1")
	w.stored("1")
	ino, fh := w.openFile("checkpoint-1/log", 0)
	if err := w.tree.Fallocate(ino, fh, 0, 1<<30, 0); !errors.Is(err, stage.ErrNoSpace) || w.hot() == 0 {
		t.Errorf("a fallocate of a gigabyte: %v, %d bytes hot", err, w.hot())
	}
	w.pwrite(ino, fh, noise(2, 1<<20), 4<<20) // its copy now holds what no chunk has
	time.Sleep(150 * time.Millisecond)
	start := time.Now()
	if _, err := w.tryPut("big", noise(3, 20<<20)); !errors.Is(err, stage.ErrNoSpace) {
		t.Fatalf("20 MiB where 11 have room: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("refused after %v", took)
	}
	if w.hot() < 4<<20 {
		t.Errorf("%d bytes hot: a copy that holds what no chunk has is gone", w.hot())
	}
	w.closeFile(ino, fh)
	w.noFaults()
}

// When room is scarce, what a barrier holds is stored without waiting for its
// age; what the live tree alone has is not.
func TestStoredEarlyWhenTight(t *testing.T) {
	w := newWorld(t, nil)
	w.limit(32<<20, 1<<20)
	ino := w.put("kept", noise(1, 8<<20))
	seq := w.barrier(ino)
	time.Sleep(50 * time.Millisecond)
	if pendings(w) != 1 {
		t.Fatal("a barrier's content is stored though there is room")
	}
	if _, err := w.tryPut("scratch", noise(2, 12<<20)); !errors.Is(err, stage.ErrNoSpace) {
		t.Fatalf("12 MiB where 7 have room: %v", err)
	}
	until(t, "the barrier's content is stored", func() bool { return w.chunks.Stats().Size >= 8<<20 })
	a, err := w.tree.Find("scratch")
	w.ok(err)
	if a.Size < 9<<20 { // 8 MiB in packs and no hot copy leave room for 11
		t.Errorf("%d bytes written before the store was full", a.Size)
	}
	if pendings(w) != 1 || w.chunks.Stats().Size > 9<<20 {
		t.Errorf("%d contents wait, %d bytes in packs: want what was not in a snapshot to wait", pendings(w), w.chunks.Stats().Size)
	}
	w.want(seq, "kept", noise(1, 8<<20))
	w.noFaults()
}
