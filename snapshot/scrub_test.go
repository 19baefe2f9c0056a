package snapshot_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// scrubs opens the world again with a scrub at full speed.
func (w *world) scrubs(conf func(*snapshot.Config)) {
	w.t.Helper()
	w.conf = func(c *snapshot.Config) {
		c.ScrubRate = 1 << 40
		if conf != nil {
			conf(c)
		}
	}
	w.restart()
}

// scrubbed waits until a pass has ended.
func (w *world) scrubbed() (p schema.ScrubPass) {
	w.t.Helper()
	w.until("a pass of the scrub ends", func() bool { p = w.m.ScrubReport().Last; return p.Began > 1 })
	return p
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// wearCopies flips bytes of all staging files from an offset on, one in each step.
func (w *world) wearCopies(from, step int64) {
	w.t.Helper()
	w.ok(w.disk.List(func(gen uint64) error {
		f, err := w.disk.Open(gen)
		w.ok(err)
		for off := from; flip(f, off) && step > 0; off += step {
		}
		return f.Close()
	}))
}

// wearChunks does so in packs where they hold data from an offset on, up to another.
func (w *world) wearChunks(data string, from, to, step int) {
	w.t.Helper()
	n := 0
	for _, name := range w.packs() {
		f, err := w.mem.OpenReadWrite("s/packs/"+name, vfs.WriteCategoryUnspecified)
		w.ok(err)
		st, err := f.Stat()
		w.ok(err)
		b := make([]byte, st.Size())
		_, err = f.ReadAt(b, 0)
		w.ok(err)
		for off := from; off < to; off += step {
			if at := strings.Index(string(b), data[off:off+16]); at >= 0 {
				flip(f, int64(at))
				n++
			}
		}
		w.ok(f.Close())
	}
	if n == 0 {
		w.t.Fatal("no chunk was harmed")
	}
}

func (w *world) packs() (names []string) {
	w.t.Helper()
	all, err := w.mem.List("s/packs")
	w.ok(err)
	for _, name := range all {
		if strings.HasSuffix(name, ".pack") {
			names = append(names, name)
		}
	}
	return names
}

// rightOrError reads a file in a snapshot and the live tree, 1000 bytes at a time, and
// gives how many of these were an error. None may be wrong.
func (w *world) rightOrError(seq uint64, path, data string) (refused int) {
	w.t.Helper()
	for _, r := range []reader{w.tree.At(seq), live{w.tree}} {
		a, err := w.tree.Find(path)
		w.ok(err)
		b := make([]byte, 1000)
		for off := 0; off < len(data); off += len(b) {
			n, err := r.Read(a.Ino, b, int64(off))
			if err != nil {
				refused++
			} else if string(b[:n]) != data[off:min(len(data), off+len(b))] {
				w.t.Fatalf("wrong data at %d", off)
			}
		}
	}
	return refused
}

// TestScrubBothDamaged: where chunk and hot copy are damaged both, nobody gets wrong
// bytes, and what there is stays.
func TestScrubBothDamaged(t *testing.T) {
	w := newWorld(t, nil)
	w.hurt = true
	data := noise(1, 300_000)
	w.put("model", data)
	i := w.step("7")
	w.drain()
	w.wearCopies(100, 3000)
	w.wearChunks(data, 1000, 299_000, 3000)
	w.scrubs(nil)
	if p := w.scrubbed(); p.Findings == 0 || p.Healed != 0 {
		t.Errorf("%+v", p)
	}
	if n := w.rightOrError(i.Seq, "model", data); n == 0 {
		t.Error("everything is there: this proves nothing")
	}
	if w.hot() == 0 {
		t.Error("the hot copy is gone")
	}
}

// TestScrubEachOtherHeals: a hot copy is damaged in one place, a chunk in another, and
// the scrub comes by the copy first, since it goes on where another daemon left it: the
// copy does not go before the chunk was stored again from it.
func TestScrubEachOtherHeals(t *testing.T) {
	w := newWorld(t, nil)
	data := noise(1, 300_000)
	w.put("model", data)
	i := w.step("7")
	w.drain()
	w.wearCopies(290_000, 0)
	w.wearChunks(data, 1000, 1001, 1)
	w.ok(w.stop(true))
	e, err := state.Open(state.Config{Dir: "s", FS: w.mem, BootID: w.boot})
	w.ok(err)
	_, err = e.Update(schema.KindRegistry, func(tx *state.Tx) error {
		tx.Put(schema.MetaKey(schema.MetaScrub), (&schema.Scrub{Copies: true, Now: schema.ScrubPass{Began: 1}}).Encode())
		return nil
	})
	w.ok(err)
	w.ok(e.Close(true))
	w.conf = func(c *snapshot.Config) { c.ScrubRate = 1 << 40 }
	w.open()
	w.until("the hot copy is gone", func() bool { return w.hot() == 0 })
	if n := w.rightOrError(i.Seq, "model", data); n > 0 {
		t.Errorf("%d reads fail", n)
	}
}

// TestEvictHealsFirst: packs are gone, and hot copies have to go: not before what was in
// those packs was stored again.
func TestEvictHealsFirst(t *testing.T) {
	w := newWorld(t, nil)
	w.hurt = true
	data := noise(1, 300_000)
	w.put("model", data)
	i := w.step("7")
	w.drain()
	for _, name := range w.packs() {
		w.ok(w.mem.Remove("s/packs/" + name))
	}
	w.conf = func(c *snapshot.Config) { c.ScrubRate, c.HotLimit = -1, 1 }
	w.restart()
	w.until("the hot copy is gone", func() bool { w.m.Tight(); return w.hot() == 0 })
	if n := w.rightOrError(i.Seq, "model", data); n > 0 {
		t.Errorf("%d reads fail", n)
	}
}
