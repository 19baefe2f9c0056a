package stage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// world is a tree on a simulated metadata disk and a real staging directory,
// which a "kill" reopens with everything that was written, synced or not.
type world struct {
	t    testing.TB
	mem  *vfs.MemFS
	disk Disk
	eng  *state.Engine
	tree *Tree
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, mem: vfs.NewCrashableMem()}
	dir, err := os.MkdirTemp("", "stage")
	if err != nil {
		t.Fatal(err)
	}
	w.disk = NewDisk(dir)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w.open("boot1")
	return w
}

func (w *world) open(boot string) {
	w.t.Helper()
	var err error
	if w.eng, err = state.Open(state.Config{Dir: "s", FS: w.mem, BootID: boot, MemTable: 256 << 10, SegmentSize: 256 << 10}); err != nil {
		w.t.Fatal("open state: ", err)
	}
	if w.tree, err = Open(Config{Engine: w.eng, Disk: w.disk, Reserve: 1, Events: Events{Fault: func(s string, err error) { w.t.Error("fault:", s, err) }}}); err != nil {
		w.t.Fatal("open tree: ", err)
	}
}

// kill is kill -9 of the daemon: what was handed to the kernel is kept.
func (w *world) kill() {
	w.tree.Close() // stops the background work; writes nothing
	clone := w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 2))})
	w.eng.Close(false)
	w.mem = clone
	w.open("boot1")
}

func (w *world) close() {
	if err := errors.Join(w.tree.Close(), w.eng.Close(true)); err != nil {
		w.t.Error(err)
	}
}

// snap cuts and publishes, as snapshot.Manager does.
func (w *world) snap(inos ...uint64) uint64 {
	w.t.Helper()
	c, err := w.tree.Cut(inos, false, true)
	if err != nil {
		w.t.Fatal(err)
	}
	for ino, err := range w.tree.SyncCut(w.t.Context(), c) {
		w.t.Fatal(ino, err)
	}
	_, err = w.eng.Update(schema.KindCommit, func(tx *state.Tx) error {
		publish(tx, c.Seq)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.tree.CutDone(c)
	return c.Seq
}

// modelFile is what a file must hold.
type modelFile struct {
	ino       uint64
	live      []byte
	committed []byte // nil: never committed
	fh        uint64
	open      bool
}

type model struct {
	*world
	files map[string]*modelFile
	excl  bool // name "x" is excluded
	snaps map[uint64]map[string][]byte
}

func (m *model) check(rt *rapid.T) {
	rt.Helper()
	var want []string
	for name, f := range m.files {
		want = append(want, name)
		m.same(rt, "live "+name, f.live, func(a *Attr, dst []byte) (int, error) {
			var err error
			if *a, err = m.tree.Lookup(RootIno, name); err != nil {
				return 0, err
			}
			return m.tree.Read(a.Ino, 0, dst, 0)
		})
	}
	sort.Strings(want)
	es, err := m.tree.ReadDir(RootIno, "", 1000)
	if err != nil {
		rt.Fatal(err)
	}
	var got []string
	for _, e := range es {
		got = append(got, e.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		rt.Fatalf("live names %v, want %v", got, want)
	}
	if fs := treeFindings(m.tree); len(fs) > 0 {
		rt.Fatalf("the check finds %+v", fs)
	}
	for seq, files := range m.snaps {
		v := m.tree.At(seq)
		es, err := v.ReadDir(RootIno, "", 1000)
		if err != nil || len(es) != len(files) {
			rt.Fatalf("snapshot %d: %d entries %v, want %d, %v", seq, len(es), es, len(files), err)
		}
		for name, want := range files {
			m.same(rt, fmt.Sprintf("snapshot %d %s", seq, name), want, func(a *Attr, dst []byte) (int, error) {
				var err error
				if *a, err = v.Lookup(RootIno, name); err != nil {
					return 0, err
				}
				return v.Read(a.Ino, dst, 0)
			})
		}
	}
}

func (m *model) same(rt *rapid.T, what string, want []byte, read func(a *Attr, dst []byte) (int, error)) {
	rt.Helper()
	got := make([]byte, len(want)+10)
	var a Attr
	n, err := read(&a, got)
	if err != nil || a.Size != int64(len(want)) {
		rt.Fatalf("%s: size %d, want %d, %v", what, a.Size, len(want), err)
	}
	if !bytes.Equal(got[:n], want) {
		i := 0
		for i < n && i < len(want) && got[i] == want[i] {
			i++
		}
		rt.Fatalf("%s: %d bytes, want %d; first difference at %d", what, n, len(want), i)
	}
}

// TestModel drives one tree and a plain map through random operations, with
// cuts, reaping, storing, eviction and daemon deaths between them, and
// compares the live tree and every snapshot after each.
func TestModel(t *testing.T) {
	ops := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		chunks := newMemChunks()
		m := &model{world: w, files: map[string]*modelFile{}, snaps: map[uint64]map[string][]byte{}}
		w.tree.cfg.Chunks = chunks
		m.exclude(rt, true)
		defer w.close()
		seed := byte(1)
		for range rapid.IntRange(5, 40).Draw(rt, "n") {
			seed++
			ops++
			m.step(rt, seed, chunks)
			m.check(rt)
		}
		m.end(rt)
	})
	if ops == 0 {
		t.Fatal("no operation ran")
	}
	t.Logf("%d operations", ops)
}

// end gives up all files and snapshots: nothing may be left.
func (m *model) end(rt *rapid.T) {
	for name, f := range m.files {
		err := m.tree.Unlink(RootIno, name)
		if err == nil && f.open {
			err = m.tree.Flush(f.ino, f.fh, false)
			m.tree.Release(f.ino, f.fh)
		}
		if err != nil {
			rt.Fatal(err)
		}
	}
	err := expire(m.eng, append(slices.Collect(maps.Keys(m.snaps)), m.snap(), m.snap())...)
	if err == nil {
		m.tree.settler.wait()
		err = prune(m.t, m.tree)
	}
	if l := leftovers(m.eng); err != nil || len(l) > 0 {
		rt.Fatalf("%d keys are left: %q; %v", len(l), l[:min(len(l), 10)], err)
	}
}

var names4 = []string{"a", "b", "c", "x"}

// hidden says whether no snapshot shows a name.
func (m *model) hidden(name string) bool { return m.excl && name == "x" }

// exclude has name "x" excluded, or not; what is there is closed before.
func (m *model) exclude(rt *rapid.T, on bool) {
	var patterns []string
	if m.excl = on; on {
		patterns = []string{"x"}
	}
	if f := m.files["x"]; f != nil {
		m.shut(f.ino, f.fh)
		if f.open = false; !on {
			f.committed = clone(f.live)
		}
	}
	e, err := ParseExcludes(patterns)
	if err == nil {
		err = m.tree.Exclude(e)
	}
	if err != nil {
		rt.Fatal(err)
	}
}

func (m *model) step(rt *rapid.T, seed byte, chunks *memChunks) {
	name := rapid.SampledFrom(names4).Draw(rt, "name")
	f := m.files[name]
	op := rapid.SampledFrom([]string{"write", "write", "write", "append", "append", "truncate", "trunc-open", "close", "close", "unlink", "rename", "snap", "fsync", "punch", "copy", "copy", "kill", "reap", "store", "evict", "expire", "exclude"}).Draw(rt, "op")
	fail := func(err error) {
		rt.Helper()
		if err != nil {
			rt.Fatalf("%s %s: %v", op, name, err)
		}
	}
	switch op {
	case "copy":
		m.copy(rt, name)
	case "write", "append", "trunc-open":
		if f == nil {
			a, fh, err := m.tree.Create(RootIno, name, 0o644, unix.O_RDWR, Cred{})
			fail(err)
			f = &modelFile{ino: a.Ino, fh: fh, open: true}
			m.files[name] = f
		}
		if !f.open {
			flags := uint32(unix.O_RDWR)
			if op == "trunc-open" {
				flags |= unix.O_TRUNC
			}
			fh, err := m.tree.Open(f.ino, flags, Cred{})
			fail(err)
			f.fh, f.open = fh, true
			if op == "trunc-open" {
				f.live = nil
			}
		}
		off := int64(len(f.live))
		if op != "append" {
			off = rapid.SampledFrom([]int64{0, 1, 100, 4096, 60000, 70000, 1<<20 - 5, 1 << 20, 3<<20 + 7}).Draw(rt, "off")
		}
		n := rapid.SampledFrom([]int{1, 10, 4096, 5000, 66000, 1 << 20, 1<<20 + 3}).Draw(rt, "len")
		data := bytes.Repeat([]byte{seed}, n)
		_, err := m.tree.Write(f.ino, f.fh, data, off)
		fail(err)
		f.live = grow(f.live, off+int64(n))
		copy(f.live[off:], data)
	case "truncate":
		if f == nil {
			return
		}
		size := rapid.SampledFrom([]int64{0, 1, 99, 4097, 50000, 1 << 20, 1<<20 + 1, 4 << 20}).Draw(rt, "size")
		_, err := m.tree.SetAttr(f.ino, SetAttr{Size: &size})
		fail(err)
		f.live = append([]byte(nil), grow(f.live, size)[:size]...)
		if !f.open && !m.hidden(name) {
			f.committed = clone(f.live)
		}
	case "punch":
		if f == nil || !f.open {
			return
		}
		off := rapid.Int64Range(0, 1<<20).Draw(rt, "off")
		fail(m.tree.Fallocate(f.ino, f.fh, off, 100000, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE))
		for i := off; i < min(off+100000, int64(len(f.live))); i++ {
			f.live[i] = 0
		}
	case "close":
		if f != nil && f.open {
			fail(m.tree.Flush(f.ino, f.fh, false))
			m.tree.Release(f.ino, f.fh)
			if f.open = false; !m.hidden(name) {
				f.committed = clone(f.live)
			}
		}
	case "unlink":
		if f != nil {
			fail(m.tree.Unlink(RootIno, name))
			delete(m.files, name)
			if f.open {
				fail(m.tree.Flush(f.ino, f.fh, false))
				m.tree.Release(f.ino, f.fh)
			}
		}
	case "rename":
		to := rapid.SampledFrom(names4).Draw(rt, "to")
		if f == nil || to == name {
			return
		}
		if m.hidden(name) { // what comes into sight is committed if it is closed
			m.shut(f.ino, f.fh)
			f.open, f.committed = false, clone(f.live)
		}
		fail(m.tree.Rename(RootIno, name, RootIno, to, 0))
		if old := m.files[to]; old != nil && old.open {
			m.tree.Release(old.ino, old.fh)
		}
		m.files[to] = f
		delete(m.files, name)
	case "snap", "fsync":
		var seq uint64
		switch {
		case op == "fsync" && f != nil && m.hidden(name):
			fail(m.tree.SyncLive(f.ino))
			seq = m.snap()
		case op == "fsync" && f != nil:
			f.committed = clone(f.live)
			seq = m.snap(f.ino)
		default:
			seq = m.snap()
		}
		s := map[string][]byte{}
		for name, f := range m.files {
			if f.committed != nil && !m.hidden(name) {
				s[name] = f.committed
			}
		}
		m.snaps[seq] = s
	case "kill":
		m.kill()
		m.tree.cfg.Chunks = chunks
		for _, f := range m.files {
			f.open = false
		}
	case "exclude":
		m.exclude(rt, !m.excl)
	case "reap":
		m.tree.settler.wait()
		m.reapAll()
	case "store":
		fail(chunks.storeAll(m.tree))
	case "expire":
		for _, seq := range slices.Sorted(maps.Keys(m.snaps)) {
			if rapid.Bool().Draw(rt, "goes") {
				fail(expire(m.eng, seq))
				delete(m.snaps, seq)
			}
		}
		fail(prune(m.t, m.tree))
		if l := unheld(m.eng); len(l) > 0 {
			rt.Fatal(l)
		}
	case "evict":
		var gens []uint64
		fail(m.tree.Hot(func(gen uint64, _ int64) bool { gens = append(gens, gen); return true }))
		for _, g := range gens {
			fail(m.tree.Evict(g))
		}
		fail(m.tree.UnlinkEvicted())
	}
}

// copy copies a range, most often from the same offset, out of a live file or a
// snapshot to a live file, which is made or opened for it.
func (m *model) copy(rt *rapid.T, to string) {
	from := rapid.SampledFrom(names4).Draw(rt, "from")
	c := Copy{}
	var src []byte
	if f := m.files[from]; f != nil {
		c.Src, src = f.ino, f.live
	}
	if seqs := slices.Sorted(maps.Keys(m.snaps)); len(seqs) > 0 && rapid.Bool().Draw(rt, "of a snapshot") {
		seq := rapid.SampledFrom(seqs).Draw(rt, "seq")
		c.From = m.tree.At(seq)
		a, err := c.From.Lookup(RootIno, from)
		if errors.Is(err, ErrNotExist) {
			return
		}
		c.Src, src = a.Ino, m.snaps[seq][from]
	}
	if c.Src == 0 {
		return
	}
	f := m.files[to]
	switch {
	case f == nil:
		a, fh, err := m.tree.Create(RootIno, to, 0o644, unix.O_RDWR, Cred{})
		if err != nil {
			rt.Fatal(err)
		}
		f = &modelFile{ino: a.Ino, fh: fh, open: true}
		m.files[to] = f
	case !f.open:
		fh, err := m.tree.Open(f.ino, unix.O_WRONLY, Cred{})
		if err != nil {
			rt.Fatal(err)
		}
		f.fh, f.open = fh, true
	}
	c.Dst, c.Fh, c.Len = f.ino, f.fh, 1<<40
	offs := []int64{0, 0, 0, 1, 4096, 60000, 1<<20 - 5, 2<<20 + 1}
	c.SrcOff = rapid.SampledFrom(offs).Draw(rt, "off")
	if c.DstOff = c.SrcOff; rapid.IntRange(0, 4).Draw(rt, "moved") == 0 {
		c.DstOff = rapid.SampledFrom(offs).Draw(rt, "to")
	}
	if rapid.Bool().Draw(rt, "part") {
		c.Len = rapid.SampledFrom([]int64{1, 4096, 70000, 1 << 20, 2<<20 + 9}).Draw(rt, "len")
	}
	n, err := m.tree.CopyRange(c)
	want := min(c.Len, max(0, int64(len(src))-c.SrcOff))
	if c.From == nil && c.Src == c.Dst && want > 0 && c.SrcOff < c.DstOff+want && c.DstOff < c.SrcOff+want {
		if !errors.Is(err, ErrInvalid) {
			rt.Fatalf("overlapping ranges: %v", err)
		}
		return
	}
	if err != nil || n != want {
		rt.Fatalf("%d bytes copied, want %d, %v", n, want, err)
	}
	if n > 0 {
		data := clone(src[c.SrcOff:][:n])
		f.live = append([]byte(nil), grow(f.live, c.DstOff+n)...)
		copy(f.live[c.DstOff:], data)
	}
}

func grow(b []byte, n int64) []byte {
	if int64(len(b)) >= n {
		return b
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

// clone is never nil: an empty content is a content.
func clone(b []byte) []byte { return append([]byte{}, b...) }
