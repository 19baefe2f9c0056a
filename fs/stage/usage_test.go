package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"stepfs/internal/state"
)

// limitedWorld is a world on a memDisk with a store limit.
func limitedWorld(t testing.TB, conf func(*Config)) (*world, *memDisk) {
	t.Helper()
	disk := newMemDisk()
	w := &world{t: t, mem: vfs.NewCrashableMem(), disk: disk}
	var err error
	if w.eng, err = state.Open(state.Config{Dir: "s", FS: w.mem, BootID: "boot1", MemTable: 256 << 10, SegmentSize: 256 << 10}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Engine: w.eng, Disk: disk, Reserve: 1 << 20, Limit: 32 << 20}
	conf(&cfg)
	if w.tree, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w, disk
}

// fillUp appends until the store is full, and gives how much went in.
func (w *world) fillUp(ino, fh uint64) (off int64) {
	w.t.Helper()
	for {
		n, err := w.tree.Write(ino, fh, bytes.Repeat([]byte{'x'}, 128<<10), off)
		if errors.Is(err, ErrNoSpace) {
			return off
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if off += int64(n); off > 1<<30 {
			w.t.Fatal("the store does not get full")
		}
	}
}

func (w *world) unlink(name string) {
	w.t.Helper()
	if err := w.tree.Unlink(RootIno, name); err != nil {
		w.t.Fatal(err)
	}
}

// The account of the staging files is exact after any sequence of sparse
// writes, overwrites, cuts, deletes and evictions, on a disk of any kind.
func TestUsageFollows(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (*world, func() int64){
		"memory": func(t *testing.T) (*world, func() int64) {
			w, disk := memWorld(t)
			return w, disk.Bytes
		},
		"real": func(t *testing.T) (*world, func() int64) {
			w := newWorld(t)
			return w, func() int64 { return allocatedBelow(t, w.disk.(osDisk).dir) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, held := open(t)
			defer w.close()
			chunks := newMemChunks()
			rng := rand.New(rand.NewPCG(1, 2))
			same := func(when string) {
				t.Helper()
				w.reapAll()
				if got, want := w.tree.usage.staged(), held(); got != want {
					t.Fatalf("%s: %d bytes on the account, the disk holds %d", when, got, want)
				}
			}
			for round := range 40 {
				file := fmt.Sprint("f", rng.IntN(6))
				a, err := w.tree.Lookup(RootIno, file)
				if errors.Is(err, ErrNotExist) {
					ino, fh := w.create(file)
					w.mustWrite(ino, fh, 'a', 1+rng.IntN(300<<10), rng.Int64N(8<<20))
					w.shut(ino, fh)
					same("written")
					continue
				}
				switch rng.IntN(5) {
				case 0:
					w.unlink(file)
					same("unlinked")
				case 1:
					w.snap(a.Ino)
				case 2:
					w.store(chunks)
					w.evictAll()
					same("evicted")
				default:
					fh, err := w.tree.Open(a.Ino, unix.O_RDWR, Cred{})
					if err != nil {
						t.Fatal(err)
					}
					w.mustWrite(a.Ino, fh, 'b', 1+rng.IntN(300<<10), rng.Int64N(8<<20))
					w.shut(a.Ino, fh)
					same("written again")
				}
				if round%10 == 9 {
					before := w.tree.usage.staged()
					if err := w.tree.usage.count(); err != nil || w.tree.usage.staged() != before {
						t.Fatalf("counted: %d, %v; followed: %d", w.tree.usage.staged(), err, before)
					}
				}
			}
			if held() == 0 {
				t.Error("nothing was staged at the end: this proves little")
			}
			w.tree.cfg.Chunks = nil
		})
	}
}

func allocatedBelow(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		sum += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// What was on the disk before is counted when the tree is opened, and what
// others do to it by the next count.
func TestUsageIsCounted(t *testing.T) {
	w := newWorld(t)
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 1<<20, 5<<20)
	w.shut(ino, fh)
	before := w.tree.usage.staged()
	if before != 1<<20 {
		t.Fatalf("%d bytes used by a file of 1 MiB behind a hole", before)
	}
	w.kill()
	defer w.close()
	if got := w.tree.usage.staged(); got != before {
		t.Errorf("after a restart %d bytes, before %d", got, before)
	}
	dir := w.disk.(osDisk).dir
	must(t, os.Mkdir(dir+"/abcdef", 0o700))
	must(t, os.WriteFile(dir+"/abcdef/0000000abcdef000", make([]byte, 8192), 0o600)) // by name a generation
	must(t, w.tree.usage.count())
	if got := w.tree.usage.staged(); got != before+8192 {
		t.Errorf("%d bytes counted, want %d", got, before+8192)
	}
}

// A count beside writers corrects by no more than it can be sure of.
func TestCountBesideWriters(t *testing.T) {
	disk := newMemDisk()
	m := newMeter(Config{Disk: disk})
	f, err := m.Create(1)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 8*diskPage), 0)
	must(t, err)
	d := &listHook{Disk: disk}
	m.Disk = d
	d.after = func() { // the walk has passed by
		g, err := m.Create(2)
		must(t, err)
		_, err = g.WriteAt(make([]byte, 4*diskPage), 0)
		must(t, err)
	}
	must(t, m.count())
	if got := m.staged(); got != 12*diskPage {
		t.Errorf("%d bytes after a count beside a writer, want %d", got, 12*diskPage)
	}
	m.mu.staged += 1 << 30 // drift
	d.after = nil
	must(t, m.count())
	if got := m.staged(); got != 12*diskPage {
		t.Errorf("%d bytes after a correction, want %d", got, 12*diskPage)
	}
}

type listHook struct {
	Disk
	after func()
}

func (d *listHook) List(fn func(gen uint64) error) error {
	err := d.Disk.List(fn)
	if d.after != nil {
		d.after()
	}
	return err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The limit is where writes end, at half of what is free: each byte will need
// its pack space. What is deleted can be written again at once.
func TestStoreLimit(t *testing.T) {
	var rest atomic.Int64
	rest.Store(5 << 20)
	w, disk := limitedWorld(t, func(c *Config) { c.Rest = rest.Load })
	ino, fh := w.create("f")
	got, want := w.fillUp(ino, fh), int64(32-5-1)<<20/2
	if got > want || got < want-256<<10 {
		t.Errorf("%d bytes went in, want %d", got, want)
	}
	st, err := w.tree.StatFS()
	must(t, err)
	if st.Blocks != 32<<20/4096 || st.Bavail*4096 > 128<<10 {
		t.Errorf("statfs of the full store: %+v", st)
	}
	if _, _, err := w.tree.Create(RootIno, "g", 0o644, unix.O_RDWR, Cred{}); err != nil && !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	w.shut(ino, fh)
	for range 3 { // no waiting, no retrying
		w.unlink("f")
		ino, fh = w.create("f")
		w.mustWrite(ino, fh, 'b', 8<<20, 0)
		w.shut(ino, fh)
	}
	disk.mu.Lock()
	disk.space.Free = 3 << 20 // somebody else fills the disk
	disk.mu.Unlock()
	ino, fh = w.create("h")
	time.Sleep(spaceAge)
	if off := w.fillUp(ino, fh); off > 0 {
		t.Errorf("%d bytes went to a full disk", off)
	}
	rest.Store(40 << 20) // over the limit
	u, err := w.tree.Usage()
	if err != nil || u.Free != 0 || u.Used <= u.Limit || u.Reserve != 1<<20 || u.Unstored != 8<<20 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// Whoever asks for statfs all the time does not have all that waits for ingest
// counted all the time; what is written is taken off at once all the same.
func TestStatFSCountsSeldom(t *testing.T) {
	w, _ := limitedWorld(t, func(*Config) {})
	ino, fh := w.create("f")
	counts, count := 0, w.tree.space.count
	w.tree.space.count = func() (int64, error) {
		counts++
		time.Sleep(50 * time.Millisecond) // there is much to count
		return count()
	}
	time.Sleep(countAge)
	before, err := w.tree.StatFS()
	must(t, err)
	w.mustWrite(ino, fh, 'a', 1<<20, 0)
	for i := range 500 {
		st, err := w.tree.StatFS()
		must(t, err)
		if fell := (before.Bavail - st.Bavail) * 4096; fell < 1<<20 {
			t.Fatalf("call %d: a MiB was written, and %d bytes less are free", i, fell)
		}
	}
	if counts == 0 || counts > 50 {
		t.Errorf("%d counts for 500 calls", counts)
	}
	w.shut(ino, fh)
}

// A writer that would be refused waits for what can be given up, and for
// nothing else.
func TestWriterWaitsForRoom(t *testing.T) {
	var w *world
	calls, gives := 0, true
	w, _ = limitedWorld(t, func(c *Config) {
		c.MakeRoom = func(ctx context.Context, free uint64) bool {
			calls++
			if gives {
				time.Sleep(10 * time.Millisecond)
				w.evictAll()
			}
			return gives
		}
	})
	ino, fh := w.create("old")
	w.mustWrite(ino, fh, 'a', 12<<20, 0)
	w.shut(ino, fh)
	w.store(newMemChunks())
	time.Sleep(hotAge) // statfs need not know at once
	w.tree.space.stale()
	st, err := w.tree.StatFS()
	must(t, err)
	if st.Bavail*4096 != 31<<20/2 { // packs take nothing in this test
		t.Errorf("a hot copy is not free: %+v", st)
	}
	ino, fh = w.create("new")
	w.mustWrite(ino, fh, 'b', 15<<20, 0) // there is room for 9
	if calls == 0 || w.tree.usage.staged() != 15<<20 {
		t.Errorf("%d calls, %d bytes staged", calls, w.tree.usage.staged())
	}
	w.wantLive(ino, bytes.Repeat([]byte{'b'}, 15<<20))

	calls, gives = 0, false
	start := time.Now()
	for k := range 20 {
		if _, err := w.tree.Write(ino, fh, make([]byte, 2<<20), int64(20+2*k)<<20); !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > 5*vainAge || calls > 1000 {
		t.Errorf("20 refusals took %v and %d calls", took, calls)
	}
	w.tree.space.patience = time.Second
	calls, gives = 0, true // it claims to give, and does not
	time.Sleep(barrenAge)
	start = time.Now()
	if _, err := w.tree.Write(ino, fh, make([]byte, 2<<20), 20<<20); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if took := time.Since(start); took < w.tree.space.patience/2 || took > 5*w.tree.space.patience {
		t.Errorf("a writer waited %v", took)
	}
	w.tree.cfg.Chunks = nil
}

// Room tells what is free to writers, and Tight is told early.
func TestLowWater(t *testing.T) {
	tight := 0
	w, disk := limitedWorld(t, func(c *Config) { c.Events.Tight = func() { tight++ } })
	free, low, err := w.tree.Room()
	if err != nil || low != 2<<20 || free != 31<<20 {
		t.Errorf("free %d, low %d, %v", free, low, err)
	}
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 8<<20, 0)
	if tight != 0 {
		t.Error("there was room, and it was tight")
	}
	off := w.fillUp(ino, fh)
	if tight == 0 {
		t.Error("the store got full, and it was never tight")
	}
	if free, _, err = w.tree.Room(); err != nil || free > 256<<10 {
		t.Errorf("%d bytes free at %d, %v", free, off, err)
	}
	w.shut(ino, fh)
	w.unlink("f")
	w.reapAll()
	disk.mu.Lock()
	disk.space.Files, disk.space.FilesFree = 1000, minInodes+10
	disk.mu.Unlock()
	if free, _, err = w.tree.Room(); err != nil || free != 0 {
		t.Errorf("%d bytes free without inodes, %v", free, err)
	}
}

func TestDefaultReserve(t *testing.T) {
	for total, want := range map[uint64]uint64{
		100 << 20: 25 << 20, 600 << 20: 64 << 20, 10 << 30: 10 << 30 / 50, 2 << 40: 1 << 30,
	} {
		if got := DefaultReserve(total); got != want {
			t.Errorf("of %d: %d, want %d", total, got, want)
		}
	}
}

func TestGrowth(t *testing.T) {
	var g growth
	now, n := time.Now(), int64(1<<40)
	step := func(samples int, perSecond int64) {
		for range samples {
			now, n = now.Add(10*time.Second), n+10*perSecond
			g.add(now, n)
		}
	}
	step(3, 1000)
	if g.rate() != 0 || g.lasts(1000) != 0 {
		t.Errorf("a rate of %v after half a minute", g.rate())
	}
	step(6, 1000)
	if r := g.rate(); r < 999 || r > 1001 {
		t.Errorf("rate %v, want 1000", r)
	}
	if d := g.lasts(3_600_000); d.Round(time.Minute) != time.Hour {
		t.Errorf("lasts %v, want an hour", d)
	}
	step(90, 3000) // a quarter of an hour
	if r := g.rate(); r < 2200 || r > 2999 {
		t.Errorf("rate %v, on its way from 1000 to 3000", r)
	}
	step(2000, 0)
	if r := g.rate(); r > 1 {
		t.Errorf("rate %v long after it ended", r)
	}
	step(100, -1000)
	if d := g.lasts(1 << 30); d != 0 {
		t.Errorf("lasts %v while it shrinks", d)
	}
}
