package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/check"
	"stepfs/internal/simdisk"
	"stepfs/snapshot"
)

// injected is a fault of the disk.
type injected struct {
	name  string
	err   error // nil: it is only slow
	lasts int   // operations that fail in a row
}

var injections = []injected{
	{"EIO", syscall.EIO, 1}, {"ENOSPC", syscall.ENOSPC, 1}, {"EDQUOT", syscall.EDQUOT, 1}, {"EINTR", syscall.EINTR, 1},
	{"short write", simdisk.Short{N: 1000, Err: syscall.ENOSPC}, 1}, {"slow", nil, 1},
	{"EIO for a while", syscall.EIO, 7}, {"ENOSPC for a while", syscall.ENOSPC, 7},
}

// fatal says that Pebble ends the process when such an operation fails: that is
// the death of the daemon, which other tests are about.
func fatal(op simdisk.Op) bool {
	name := path.Base(op.Path)
	return strings.HasPrefix(name, "MANIFEST") || strings.HasPrefix(name, "marker") || name == "index"
}

// promise is what a caller was told: a snapshot shows a file so.
type promise struct {
	seq        uint64
	path, data string
	sealed     bool // or an older content with a mark: who synced the file is told of a failure, not who seals
}

// job uses a store on a disk with faults, and notes what it was told.
type job struct {
	s        *store
	rng      *rand.Rand
	files    map[string]*jobFile
	promises []promise
	wrong    error // what must not be, whatever fails
	failures int   // calls that were told of an error
}

type jobFile struct {
	ino, fh uint64
	data    string
	unsure  bool // an operation on it failed: it may have happened or not
}

func (j *job) check(err error) bool {
	if err != nil {
		j.failures++
	}
	return err == nil
}

func (j *job) write(name string, size int) {
	f := j.files[name]
	if f == nil {
		a, fh, err := j.s.tree.Create(stage.RootIno, name, 0o644, unix.O_RDWR, stage.Cred{})
		if !j.check(err) {
			return
		}
		f = &jobFile{ino: a.Ino, fh: fh}
		j.files[name] = f
	}
	data := noise(j.rng, size)
	off := int64(0)
	if j.rng.IntN(2) == 0 {
		off = int64(len(f.data))
	}
	n, err := j.s.tree.Write(f.ino, f.fh, data, off)
	if !j.check(err) || n < size {
		f.unsure = true
		return
	}
	b := make([]byte, max(len(f.data), int(off)+size))
	copy(b, f.data)
	copy(b[off:], data)
	f.data = string(b)
}

// fsync is a barrier; what it acknowledges has to be there from then on.
func (j *job) fsync(names ...string) {
	var inos []uint64
	for _, name := range names {
		if f := j.files[name]; f != nil {
			inos = append(inos, f.ino)
		}
	}
	seq, err := j.s.m.Barrier(ctx, "fsync", inos...)
	if j.check(err) {
		j.promise(seq, false, names...)
	}
}

func (j *job) promise(seq uint64, sealed bool, names ...string) {
	for _, name := range names {
		if f := j.files[name]; f != nil && !f.unsure {
			j.promises = append(j.promises, promise{seq, name, f.data, sealed})
		}
	}
}

// read holds what is there against what was written.
func (j *job) read(name string) {
	f := j.files[name]
	if f == nil || f.unsure {
		return
	}
	b := make([]byte, len(f.data)+1)
	n, err := j.s.tree.Read(f.ino, 0, b, 0)
	if j.check(err) && string(b[:n]) != f.data {
		j.wrong = errors.Join(j.wrong, fmt.Errorf("%s: %s read, %s was written", name, brief(string(b[:n])), brief(f.data)))
	}
}

func (j *job) shut(name string) {
	f := j.files[name]
	if f == nil {
		return
	}
	if !j.check(j.s.tree.Flush(f.ino, f.fh, false)) {
		f.unsure = true
	}
	j.s.tree.Release(f.ino, f.fh)
}

func (j *job) reopen(name string) {
	if f := j.files[name]; f != nil {
		fh, err := j.s.tree.Open(f.ino, unix.O_RDWR, stage.Cred{})
		if f.fh = fh; !j.check(err) {
			delete(j.files, name)
		}
	}
}

// work is the same for a seed, but for what the background does meanwhile.
func (j *job) work() {
	j.write("small", 2000)
	j.write("big", 70000)
	j.fsync("small", "big")
	j.write("big", 9000)
	j.fsync("small")
	j.fsync("big")
	j.fsync("big") // again, perhaps after it failed
	j.read("big")
	j.shut("big")
	if f := j.files["big"]; f != nil {
		j.check(j.s.tree.Settle(f.ino))
	}
	j.fsync("big")
	i, err := j.s.m.Snapshot(ctx, "", "one", "mkdir", nil)
	if j.check(err) {
		j.promise(i.Seq, true, "big")
	}
	j.check(j.s.m.Drain(ctx, nil))
	j.read("big")
	j.reopen("big")
	j.write("big", 3000)
	j.fsync("big")
	j.check(j.s.tree.Rename(stage.RootIno, "small", stage.RootIno, "moved", 0))
	j.check(j.s.tree.Rename(stage.RootIno, "moved", stage.RootIno, "small", 0))
	j.write("gone", 67000)
	j.fsync("gone")
	j.shut("gone")
	j.check(j.s.tree.Unlink(stage.RootIno, "gone"))
	_, err = j.s.m.Forget(snapshot.Forget{Names: []string{"one"}})
	j.check(err)
	j.fsync()
	_, err = j.s.m.Snapshot(ctx, "", "two", "mkdir", nil)
	j.check(err)
	j.check(j.s.m.Drain(ctx, nil))
	j.read("big")
	j.shut("small")
	j.shut("big")
}

// faults are injected into one run.
type injection struct {
	injected
	k    int // the operation that fails
	seed uint64

	mu   sync.Mutex
	ops  int
	hits int
	op   simdisk.Op // the first that failed
}

func (i *injection) see(op simdisk.Op) error {
	i.mu.Lock()
	i.ops++
	hit := i.ops >= i.k && i.ops < i.k+i.lasts && !fatal(op)
	if _, short := i.err.(simdisk.Short); short && op.Kind != simdisk.Write {
		hit = false
	}
	if hit {
		if i.hits++; i.hits == 1 {
			i.op = op
		}
	}
	i.mu.Unlock()
	if hit && i.err == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if !hit {
		return nil
	}
	return i.err
}

func (i *injection) String() string {
	return fmt.Sprintf("%s at operation %d, seed %d, %s %s", i.name, i.k, i.seed, i.op.Kind, i.op.Path)
}

// run is one run with one injection. through says that it was over before the
// operation that should fail.
func (i *injection) run(told, kept *atomic.Int64) (through bool, err error) {
	disk := newDisk()
	disk.Before(i.see)
	j := &job{rng: rand.New(rand.NewPCG(i.seed, 1)), files: map[string]*jobFile{}}
	ended := make(chan error, 1)
	go func() {
		s, err := open(disk, storeConf{boot: "boot", cold: true})
		if err == nil {
			j.s = s
			j.work()
			_ = s.close(true) // its error is about what the injection did
		} else {
			j.failures++
		}
		ended <- nil
	}()
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		b := make([]byte, 1<<20)
		return false, fmt.Errorf("it hangs: a lock is held\n%s", b[:runtime.Stack(b, true)])
	}
	disk.Before(nil)
	if j.wrong != nil {
		return false, j.wrong
	}
	if i.err == nil && j.failures > 0 {
		return false, fmt.Errorf("%d calls failed on a disk that is only slow", j.failures)
	}
	told.Add(int64(j.failures))
	kept.Add(int64(len(j.promises)))
	rng := rand.New(rand.NewPCG(i.seed, uint64(i.k)))
	for what, left := range map[string]*simdisk.Disk{"restart": disk.Kill(), "power cut": disk.Cut(rng)} {
		if err := keeps(left, what, j.promises); err != nil {
			return false, fmt.Errorf("after a %s: %w", what, err)
		}
	}
	return i.hits == 0 && i.ops < i.k, nil
}

// runAll runs injections at the same time; none of them leaves a goroutine.
func runAll(is []*injection, told, kept *atomic.Int64) (through bool, err error) {
	before := ours()
	var wg sync.WaitGroup
	var over atomic.Int64
	errs := make([]error, len(is))
	for n, i := range is {
		wg.Go(func() {
			done, err := i.run(told, kept)
			if err != nil {
				errs[n] = fmt.Errorf("%v: %w", i, err)
			}
			if done {
				over.Add(1)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	for end := time.Now().Add(20 * time.Second); ours() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			return false, fmt.Errorf("after one of %v: %d goroutines are left, %d were before\n%s", is, ours(), before, b[:runtime.Stack(b, true)])
		}
	}
	return int(over.Load()) == len(is), nil
}

// ours counts goroutines that the store has started. (Pebble leaves one of its
// own when it can't open; the daemon ends then.)
func ours() int {
	b := make([]byte, 1<<20)
	all := string(b[:runtime.Stack(b, true)])
	return strings.Count(all, "created by stepfs/") - strings.Count(all, "created by stepfs/internal/sim")
}

// keeps opens a store on a disk that is well again: all that was promised is
// there, and it can be used.
func keeps(disk *simdisk.Disk, boot string, promises []promise) error {
	if boot == "restart" {
		boot = "boot"
	}
	s, err := open(disk, storeConf{boot: boot, passive: true})
	if err != nil {
		return err
	}
	defer s.close(false)
	newest := map[uint64]bool{}
	infos, err := s.m.Barriers(0, 1<<20)
	if err != nil {
		return err
	}
	for _, i := range infos {
		newest[i.Seq] = true
	}
	for _, p := range promises {
		if !newest[p.seq] {
			continue // it has expired: which ones may is what TestPowerCut checks
		}
		v := s.tree.At(p.seq)
		a, err := v.Lookup(stage.RootIno, p.path)
		if err != nil {
			return fmt.Errorf("snapshot %d, %s: %w", p.seq, p.path, err)
		}
		b := make([]byte, a.Size)
		n, err := v.Read(a.Ino, b, 0)
		if mark, merr := v.Marks(a.Ino); p.sealed && err == nil && merr == nil && mark != "" {
			continue
		}
		if err != nil || string(b[:n]) != p.data {
			return fmt.Errorf("snapshot %d, %s: %s and not %s, %v", p.seq, p.path, brief(string(b[:n])), brief(p.data), errors.Join(err))
		}
	}
	found, err := s.findings(true)
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.Kind == check.Damage {
			return fmt.Errorf("the check finds %+v", found)
		}
	}
	return goesOn(s)
}

// TestInjectedErrors fails the k-th operation of the disk, for every k of a
// run, reads too: who is owed the error is told it or what was asked is done,
// nothing hangs or is left running, and all that was acknowledged is there
// afterwards, after a power cut too. A sync that failed does not write what it
// failed to write the next time, as in the kernel. STEPFS_SIM_FAULTS says how
// many faults.
func TestInjectedErrors(t *testing.T) {
	want := envInt("STEPFS_SIM_FAULTS", 2000)
	if testing.Short() {
		want = min(want, 200)
	}
	stride := 1
	if want < 2000 {
		stride = 2000/want + 1
	}
	var told, kept atomic.Int64
	hits := map[string]int{}
	total := 0
	for seed := uint64(1); total < want; seed++ {
		for k, through := 1, false; !through && total < want; k += stride {
			var is []*injection
			for _, what := range injections {
				is = append(is, &injection{injected: what, k: k, seed: seed})
			}
			var err error
			if through, err = runAll(is, &told, &kept); err != nil {
				t.Fatal(err)
			}
			for _, i := range is {
				if i.hits > 0 {
					hits[i.name]++
					total++
				}
			}
		}
	}
	t.Logf("%d faults: %v; %d calls were told of an error, %d promises kept", total, hits, told.Load(), kept.Load())
	for _, what := range injections {
		if hits[what.name] == 0 {
			t.Errorf("no %s was met: nothing proved", what.name)
		}
	}
	if told.Load() == 0 || kept.Load() == 0 {
		t.Error("nobody was told, or nothing promised: nothing proved")
	}
}
