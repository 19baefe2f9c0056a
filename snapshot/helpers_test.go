package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand"
	randv2 "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/restic/chunker"
	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/internal/check"
	"stepfs/internal/livetree"
	"stepfs/internal/state"
	"stepfs/snapshot"
	"stepfs/snapshot/inspect"
)

// The tests of this package drive the real layers, wired as the command wires
// them: only the disks below are simulated.

// world is a store: metadata and packs in memory, staging in a directory.
type world struct {
	t    testing.TB
	mem  *vfs.MemFS
	disk *gatedDisk
	conf func(*snapshot.Config) // applied at each open
	room func(*stage.Config)    // likewise
	boot string
	hurt bool // damage was done on purpose

	naming func(c *chunkstore.Config) // changes chunkConf at each open

	slowSync atomic.Int64           // ns that each sync of metadata takes longer
	failSync atomic.Pointer[error]  // what each sync of metadata answers
	failPack atomic.Pointer[error]  // what each write of a pack answers
	onLog    atomic.Pointer[func()] // called before each write and sync of the journal, also of a spare segment

	eng    *state.Engine
	chunks *chunkstore.Store
	tree   *stage.Tree
	m      *snapshot.Manager

	mu     sync.Mutex
	faults []string
	sealed []snapshot.Info
}

// newWorld opens an empty store. By default nothing is sealed by itself.
func newWorld(t testing.TB, conf func(*snapshot.Config)) *world {
	t.Helper()
	w := &world{t: t, mem: vfs.NewCrashableMem(), disk: newGatedDisk(stage.NewDisk(t.TempDir())), conf: conf, boot: "boot"}
	w.ok(w.mem.MkdirAll("s", 0o700)) // whoever makes a store makes its directory durable
	root, err := w.mem.OpenDir("/")
	w.ok(err)
	w.ok(errors.Join(root.Sync(), root.Close()))
	w.open()
	t.Cleanup(w.close)
	return w
}

var testPol = func() chunker.Pol {
	p, err := chunker.DerivePolynomial(rand.New(rand.NewSource(7)))
	if err != nil {
		panic(err)
	}
	return p
}()

// chunkConf has small chunks, so that little data takes all paths.
var chunkConf = chunkstore.Config{Polynomial: testPol, Key: [32]byte{1, 2, 3}, MinSize: 4 << 10, AverageBits: 12,
	MaxSize: 64 << 10, PackSize: 1 << 20, Workers: 2, CacheBytes: 1 << 20}

type chunkReader struct{ *chunkstore.Store }

func (r chunkReader) ReadChunk(ctx context.Context, id [32]byte, raw uint32, dst []byte, off int) error {
	return r.ReadAt(ctx, id, raw, dst, off)
}

// chunkConf is chunkConf, unless the world has a naming of its own.
func (w *world) chunkConf() chunkstore.Config {
	c := chunkConf
	if w.naming != nil {
		w.naming(&c)
	}
	return c
}

func (w *world) open() {
	w.t.Helper()
	var err error
	must := func(what string) {
		w.t.Helper()
		if err != nil {
			w.t.Fatalf("open %s: %v", what, err)
		}
	}
	fs := errorfs.Wrap(w.mem, errorfs.InjectorFunc(w.inject))
	w.eng, err = state.Open(state.Config{Dir: "s", FS: fs, BootID: w.boot, MemTable: 1 << 20, SegmentSize: 512 << 10})
	must("state")
	w.chunks, err = chunkstore.Open(w.eng, fs, "s/packs", w.chunkConf())
	must("chunks")
	var m *snapshot.Manager
	var opened atomic.Pointer[snapshot.Manager]
	var ready sync.WaitGroup
	ready.Add(1)
	live := stage.Config{Engine: w.eng, Disk: w.disk, Chunks: chunkReader{w.chunks}, Reserve: 1, Events: stage.Events{
		Happened: func(e stage.Event) {
			if m := opened.Load(); m != nil { // not what recovery does
				m.Happened(livetree.Event(e))
			}
		},
		Tight: func() { ready.Wait(); m.Tight() },
		Fault: w.fault,
	}}
	live.Wanted = func(first, until uint64) bool { ready.Wait(); return m.Wanted(first, until) }
	live.MakeRoom = func(ctx context.Context, free uint64) bool { ready.Wait(); return m.Relieve(ctx, free) }
	if w.room != nil {
		w.room(&live)
	}
	w.tree, err = stage.Open(live)
	must("tree")
	w.chunks.Copies(w.tree.HotChunk)
	cfg := snapshot.Config{DB: w.eng, Tree: livetree.New(w.tree), Chunks: w.chunks, SealQuiet: 24 * time.Hour, Workers: 2,
		Collector: livetree.Collector(w.chunks, 0),
		Events: snapshot.Events{Fault: w.fault, Sealed: func(i snapshot.Info) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sealed = append(w.sealed, i)
		}}}
	// What the tests write is no checkpoint inside.
	cfg.Inspect(func(context.Context, string) ([]inspect.Problem, error) { return nil, nil })
	if w.conf != nil {
		w.conf(&cfg)
	}
	m, err = snapshot.Open(cfg)
	must("snapshots")
	w.m = m
	opened.Store(m)
	ready.Done()
}

// inject makes operations of the metadata disk slow, or fail.
func (w *world) inject(op errorfs.Op) error {
	if fn := w.onLog.Load(); fn != nil && strings.Contains(op.Path, "/journal/") {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			(*fn)()
		}
	}
	var fail *error
	switch {
	case strings.Contains(op.Path, "/packs"):
		if op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt || op.Kind == errorfs.OpCreate {
			fail = w.failPack.Load()
		}
	case strings.Contains(op.Path, "/journal") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo):
		time.Sleep(time.Duration(w.slowSync.Load()))
		fail = w.failSync.Load()
	}
	if fail != nil {
		return *fail
	}
	return nil
}

func (w *world) fault(what string, err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, what+": "+err.Error())
}

// noFaults fails the test if something in the background failed.
func (w *world) noFaults() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.faults {
		w.t.Error("fault:", f)
	}
}

// findings is what the checks of all layers have to say.
func (w *world) findings() (out []check.Finding) {
	w.t.Helper()
	v := w.eng.View()
	defer v.Close()
	r := &check.Run{View: v, Report: func(f check.Finding) { out = append(out, f) }}
	ctx := context.Background()
	_, err := w.chunks.Check(ctx, r, chunkstore.CheckOptions{Holders: w.tree})
	w.ok(err)
	_, err = w.tree.Check(ctx, r)
	w.ok(err)
	_, err = snapshot.Check(ctx, r)
	w.ok(err)
	return out
}

func (w *world) stop(clean bool) error {
	return errors.Join(w.m.Close(), w.tree.Close(), w.chunks.Close(), w.eng.Close(clean))
}

func (w *world) close() {
	if w.m == nil {
		return
	}
	w.disk.openGate()
	if w.eng.Err() == nil && !w.hurt {
		if fs := w.findings(); len(fs) > 0 {
			w.t.Errorf("the check finds %d things: %+v", len(fs), fs[:min(len(fs), 4)])
		}
	}
	if err := w.stop(true); err != nil && w.eng.Err() == nil {
		w.t.Error("close:", err)
	}
	w.m = nil
}

// restart closes the store as a daemon does, and opens it again.
func (w *world) restart() {
	w.t.Helper()
	if err := w.stop(true); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// kill is kill -9 of the daemon: what the kernel was given is kept.
func (w *world) kill() {
	w.t.Helper()
	clone := w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: randv2.New(randv2.NewPCG(1, 2))})
	_ = w.stop(false) // only to end its goroutines: it writes to the old disk
	w.mem = clone
	w.open()
}

// powerCut loses all metadata that was not synced. (Staging is a real
// directory and keeps everything.)
func (w *world) powerCut() {
	w.t.Helper()
	clone := w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: randv2.New(randv2.NewPCG(1, 2))})
	_ = w.stop(false)
	w.mem, w.boot = clone, w.boot+"+"
	w.open()
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ctx() context.Context { return w.t.Context() }

// dir makes a directory with its parents and gives its inode.
func (w *world) dir(path string) uint64 {
	w.t.Helper()
	ino := uint64(stage.RootIno)
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		a, err := w.tree.Mknod(ino, name, stage.ModeDir|0o755, 0, stage.Cred{})
		if errors.Is(err, stage.ErrExist) {
			a, err = w.tree.Lookup(ino, name)
		}
		w.ok(err)
		ino = a.Ino
	}
	return ino
}

func splitPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// openFile opens a file for writing, making it with its parents.
func (w *world) openFile(path string, flags uint32) (ino, fh uint64) {
	w.t.Helper()
	d, name := splitPath(path)
	parent := w.dir(d)
	if a, err := w.tree.Lookup(parent, name); err == nil {
		fh, err := w.tree.Open(a.Ino, flags|unix.O_WRONLY, stage.Cred{})
		w.ok(err)
		return a.Ino, fh
	}
	a, fh, err := w.tree.Create(parent, name, 0o644, flags|unix.O_WRONLY, stage.Cred{})
	w.ok(err)
	return a.Ino, fh
}

func (w *world) pwrite(ino, fh uint64, data string, off int64) {
	w.t.Helper()
	n, err := w.tree.Write(ino, fh, []byte(data), off)
	if err != nil || n != len(data) {
		w.t.Fatalf("write: %d, %v", n, err)
	}
}

func (w *world) closeFile(ino, fh uint64) {
	w.t.Helper()
	w.ok(w.tree.Flush(ino, fh, false))
	w.tree.Release(ino, fh)
}

// put writes a file as open(O_TRUNC), write, close do.
func (w *world) put(path, data string) uint64 {
	w.t.Helper()
	ino, fh := w.openFile(path, unix.O_TRUNC)
	if data != "" {
		w.pwrite(ino, fh, data, 0)
	}
	w.closeFile(ino, fh)
	return ino
}

// remove is rm -rf.
func (w *world) remove(path string) {
	w.t.Helper()
	a, err := w.tree.Find(path)
	w.ok(err)
	d, name := splitPath(path)
	p, err := w.tree.Find(d)
	w.ok(err)
	if a.Mode&stage.ModeType != stage.ModeDir {
		w.ok(w.tree.Unlink(p.Ino, name))
		return
	}
	es, err := w.tree.ReadDir(a.Ino, "", 1<<20)
	w.ok(err)
	for _, e := range es {
		w.remove(path + "/" + e.Name)
	}
	w.ok(w.tree.Rmdir(p.Ino, name))
}

// barrier is fsync of some files. What it answers is always a snapshot.
func (w *world) barrier(inos ...uint64) uint64 {
	w.t.Helper()
	seq, err := w.m.Barrier(w.ctx(), "fsync", inos...)
	w.ok(err)
	if _, err := w.m.Get(seq); err != nil {
		w.t.Errorf("a barrier answered %d, which is not published: %v", seq, err)
	}
	return seq
}

// step seals the root under a name.
func (w *world) step(name string) snapshot.Info {
	w.t.Helper()
	i, err := w.m.Snapshot(w.ctx(), "", name, "xattr", nil)
	w.ok(err)
	return i
}

func (w *world) drain() {
	w.t.Helper()
	w.ok(w.m.Drain(w.ctx(), nil))
}

// read gives a file's content in a snapshot; ok is false when it is absent.
func (w *world) read(seq uint64, path string) (data string, ok bool) {
	w.t.Helper()
	v := w.tree.At(seq)
	a, err := lookup(v, path)
	if errors.Is(err, stage.ErrNotExist) {
		return "", false
	}
	w.ok(err)
	return string(readAll(w.t, v, a)), true
}

// want checks what a snapshot shows of a file.
func (w *world) want(seq uint64, path, data string) {
	w.t.Helper()
	got, ok := w.read(seq, path)
	if !ok || got != data {
		w.t.Errorf("snapshot %d, %s: %s (there: %v), want %s", seq, path, brief(got), ok, brief(data))
	}
}

func (w *world) wantAbsent(seq uint64, path string) {
	w.t.Helper()
	if got, ok := w.read(seq, path); ok {
		w.t.Errorf("snapshot %d shows %s: %s", seq, path, brief(got))
	}
}

func brief(s string) string {
	if len(s) > 40 {
		return s[:20] + "…" + s[len(s)-10:]
	}
	return s
}

func lookup(v *stage.View, path string) (stage.Attr, error) {
	a, err := v.GetAttr(stage.RootIno)
	for _, name := range strings.Split(path, "/") {
		if name != "" && err == nil {
			a, err = v.Lookup(a.Ino, name)
		}
	}
	return a, err
}

func readAll(t testing.TB, v *stage.View, a stage.Attr) []byte {
	t.Helper()
	b := make([]byte, a.Size+1)
	n, err := v.Read(a.Ino, b, 0)
	if err != nil || int64(n) != a.Size {
		t.Fatalf("read inode %d: %d of %d bytes, %v", a.Ino, n, a.Size, err)
	}
	return b[:n]
}

// until waits for something that happens in the background.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// noise gives bytes that do not compress.
func noise(seed int64, n int) string {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return string(b)
}

// text gives n bytes that say what they are.
func text(s string, n int) string { return string(bytes.Repeat([]byte(s), n/len(s)+1)[:n]) }

// image is the store as a kill of the daemon at this moment leaves it, not
// opened yet. Its staging directory is the same one.
func (w *world) image() *world {
	return &world{t: w.t, boot: w.boot, conf: w.conf, disk: w.disk,
		mem: w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: randv2.New(randv2.NewPCG(1, 2))})}
}
