package faults

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// An injection lets the k-th call of each thread of the daemon fail. The daemon
// serves /dev/fuse by read and writev, and Go's runtime needs write for its own
// descriptors: so reads are not injected, and write only for packs.
type injection struct {
	call, error string
	k           int
}

func (i injection) String() string { return fmt.Sprintf("%s of %s number %d", i.error, i.call, i.k) }

// injected are the calls, and up to which k a workload has any.
var injected = []struct {
	call string
	most int
}{
	{"fsync", 8}, {"fdatasync", 12}, {"pwrite64", 40}, {"write", 8}, {"renameat", 4}, {"unlinkat", 6}, {"openat", 14}, {"sync_file_range", 4}, {"pread64", 8},
}

// injections are the runs: each call with every stride-th k.
func injections(rnd *rand.Rand, stride int) (all []injection) {
	for _, c := range injected {
		for _, e := range []string{"EIO", "ENOSPC"} {
			for k := 1 + rnd.Intn(min(stride, c.most)); k <= c.most; k += stride {
				all = append(all, injection{c.call, e, k})
			}
		}
	}
	return all
}

// TestInjectedErrors: each of the daemon's system calls fails once. Whoever is
// owed the error gets it, a failed sync is never retried into a success, what
// was acknowledged is there after a restart, and the daemon neither hangs nor
// panics.
func TestInjectedErrors(t *testing.T) {
	rnd := seeded(t)
	disk := onTmpfs(t)
	all := injections(rnd, number(t, "STEPFS_STRIDE", 5))
	var counts injectCounts
	for _, in := range all {
		j := &victim{t: t, in: in, rnd: rand.New(rand.NewSource(rnd.Int63())), files: map[string]*victimFile{}, seals: map[string]map[string]sum{}}
		j.run(disk)
		t.Logf("%v: %+v", in, j.injectCounts)
		counts.add(j.injectCounts)
	}
	t.Logf("%d runs, %d faults fired; %d calls failed, in %d runs status alone told of it, in %d the log alone, in %d nobody; %d failed syncs tried again; %d files and %d snapshots acknowledged and compared",
		len(all), counts.fired, counts.failed, counts.inStatus, counts.logged, counts.silent, counts.stuck, counts.compared, counts.snapshots)
	if counts.fired == 0 || counts.failed == 0 || counts.stuck == 0 || counts.compared == 0 || counts.snapshots == 0 {
		t.Error("this proved nothing")
	}
}

type injectCounts struct{ fired, failed, inStatus, logged, silent, stuck, compared, snapshots int }

func (c *injectCounts) add(o injectCounts) {
	c.fired, c.failed, c.inStatus, c.logged, c.silent = c.fired+o.fired, c.failed+o.failed, c.inStatus+o.inStatus, c.logged+o.logged, c.silent+o.silent
	c.stuck, c.compared, c.snapshots = c.stuck+o.stuck, c.compared+o.compared, c.snapshots+o.snapshots
}

// victim is one run: a job on a daemon whose calls fail.
type victim struct {
	t   *testing.T
	in  injection
	rnd *rand.Rand
	d   *harness.Daemon

	files map[string]*victimFile
	seals map[string]map[string]sum // by name, of what was acknowledged
	injectCounts
}

// victimFile is what a file may hold: the last content that was acknowledged,
// or, if a call failed after that, in each byte another.
type victimFile struct {
	may    [][]byte // nil: it need not be there
	failed bool     // its sync has
}

func (v *victim) run(disk string) {
	t := v.t
	t.Helper()
	d, err := root.NewDaemon("--seal-quiet", "100ms", "--hot-limit", "1")
	must(t, err)
	v.d, d.Store = d, disk+"/store"
	defer func() {
		must(t, d.Close())
		must(t, os.RemoveAll(d.Store))
		must(t, os.RemoveAll(filepath.Dir(d.Mnt)))
	}()
	must(t, d.Start())
	tracer, trace := v.attach(disk)
	done := make(chan struct{})
	go func() { defer close(done); v.work() }()
	select {
	case <-done:
	case <-time.After(90 * time.Second):
		d.Signal(syscall.SIGQUIT)
		time.Sleep(time.Second)
		tracer.Process.Kill()
		t.Fatalf("%v: the job waits for the daemon for ever\n%s", v.in, d.Output())
	}
	v.notice(trace)
	tracer.Process.Signal(os.Interrupt)
	tracer.Wait()
	if !d.Running() {
		t.Errorf("%v: the daemon is gone\n%s", v.in, d.Output())
	}
	v.noPanic()
	if v.rnd.Intn(2) == 0 {
		d.Signal(syscall.SIGTERM)
		if _, err := d.Wait(40 * time.Second); err != nil {
			t.Errorf("%v: SIGTERM: %v", v.in, err)
		}
	}
	must(t, d.Kill())
	if err := d.Start(); err != nil {
		t.Errorf("%v: %v", v.in, err)
		return
	}
	v.verify()
	if err := clean(d.Mnt); err != nil {
		t.Errorf("%v: %v", v.in, err)
	}
	v.noPanic()
}

func (v *victim) noPanic() {
	if panicked(v.d.Output()) {
		v.t.Errorf("%v: panic\n%s", v.in, v.d.Output())
	}
}

// attach lets strace into the daemon.
func (v *victim) attach(disk string) (*exec.Cmd, string) {
	v.t.Helper()
	trace := disk + "/trace"
	args := []string{"-f", "-y", "-p", fmt.Sprint(v.d.Pid()), "-o", trace, "-e", "trace=" + v.in.call,
		"-e", fmt.Sprintf("inject=%s:error=%s:when=%d", v.in.call, v.in.error, v.in.k)}
	if v.in.call == "write" {
		for i := range 16 {
			args = append(args, "-P", fmt.Sprintf("%s/packs/%016x.tmp", v.d.Store, i))
		}
	}
	cmd := exec.Command("strace", args...)
	var said bytes.Buffer
	out, err := cmd.StderrPipe()
	must(v.t, err)
	must(v.t, cmd.Start())
	b := make([]byte, 4096)
	for !strings.Contains(said.String(), "attached") {
		n, err := out.Read(b)
		said.Write(b[:n])
		if err != nil {
			v.t.Fatalf("strace: %v: %s", err, said.String())
		}
	}
	go func() { // or strace waits for somebody to read
		for err := error(nil); err == nil; _, err = out.Read(b) {
		}
	}()
	return cmd, trace
}

// notice counts who noticed what was injected.
func (v *victim) notice(trace string) {
	b, err := os.ReadFile(trace)
	must(v.t, err)
	v.fired = bytes.Count(b, []byte("(INJECTED)"))
	status, err := root.JSONLines("status", "--json", v.d.Mnt)
	must(v.t, err)
	said := v.d.Output()
	switch {
	case v.fired == 0 || v.failed > 0:
	case status[0]["recent_faults"] != nil:
		v.inStatus++
	case strings.Contains(said, "level=ERROR"):
		v.logged++
	default:
		v.silent++
		// Preparing the next segment is tried again, what /proc says of a process
		// is only asked for, and a chunk whose base can't be read does without:
		// nobody is owed these.
		for hit := range strings.Lines(string(b)) {
			ours := strings.Contains(hit, "/staging/") || strings.Contains(hit, ".pack") || strings.Contains(hit, ".seg>")
			reads := v.in.call == "pread64" || strings.Contains(hit, "O_RDONLY")
			if strings.Contains(hit, "(INJECTED)") && ours && !reads {
				v.t.Errorf("%v: nobody was told of:\n%s", v.in, hit)
			}
		}
	}
}

// work saves, overwrites, renames, removes, seals, stores and reads.
func (v *victim) work() {
	sizes := []int{800, 200_000}
	for i := range 4 {
		name := fmt.Sprintf("f%d", i)
		v.put(name, random(v.rnd, sizes[i%2]), true)
		v.put(name, random(v.rnd, sizes[i/2]), i%2 == 0)
	}
	v.rename("f0", "f1")
	v.put("log", random(v.rnd, 100), false)
	v.seal("first")
	v.try(func() error { _, err := root.Must("drain", v.d.Mnt); return err })
	v.remove("f2")
	v.put("f3", random(v.rnd, 150_000), true)
	v.try(func() error { return syncDir(v.d.Mnt) })
	v.seal("second")
	v.try(func() error { _, err := root.Must("drain", v.d.Mnt); return err })
	for name, want := range v.seals {
		v.read("snapshots/"+name, want)
	}
}

// try counts a call that may fail.
func (v *victim) try(call func() error) bool {
	err := call()
	if err != nil {
		v.failed++
	}
	return err == nil
}

func (v *victim) path(name string) string { return filepath.Join(v.d.Mnt, name) }

// put writes a file anew, and syncs it when asked to.
func (v *victim) put(name string, data []byte, sync bool) {
	file := v.files[name]
	if file == nil {
		file = &victimFile{may: [][]byte{nil}}
		v.files[name] = file
	}
	before := file.may
	file.may = append(slices.Clone(before), []byte{}, data)
	var f *os.File
	if !v.try(func() (err error) { f, err = os.Create(v.path(name)); return err }) {
		return
	}
	defer func() { // which commits what no sync has, and may be refused
		if !v.try(f.Close) && !(sync && !file.failed) {
			file.may = append(before, []byte{}, data)
		}
	}()
	if !v.try(func() error { _, err := f.Write(data); return err }) {
		return
	}
	file.may, file.failed = [][]byte{data}, false
	if !sync || v.try(f.Sync) {
		return
	}
	file.failed = true
	if strings.HasSuffix(v.in.call, "sync") {
		if err := f.Sync(); err == nil {
			v.t.Errorf("%v: %s: fsync failed, and the next one did not", v.in, name)
		}
		v.stuck++
	}
}

func (v *victim) rename(from, to string) {
	a, b := v.files[from], v.files[to]
	if a == nil || b == nil {
		return
	}
	if v.try(func() error { return os.Rename(v.path(from), v.path(to)) }) {
		delete(v.files, from)
		v.files[to] = a
	} else if _, err := os.Lstat(v.path(from)); err != nil {
		b.may, a.may = append(b.may, a.may...), append(a.may, nil)
	}
}

func (v *victim) remove(name string) {
	if v.try(func() error { return os.Remove(v.path(name)) }) {
		delete(v.files, name)
	} else {
		v.files[name].may = append(v.files[name].may, nil)
	}
}

// seal takes a snapshot. A file whose sync failed may be as it was before.
func (v *victim) seal(name string) {
	if !v.try(func() error { return os.Mkdir(v.path("snapshots/"+name), 0o755) }) {
		return
	}
	want := map[string]sum{}
	for path, f := range v.files {
		if len(f.may) == 1 && f.may[0] != nil && !f.failed {
			want[path] = sumOf(f.may[0])
		}
	}
	v.seals[name] = want
}

// read reads a snapshot: right, or an error.
func (v *victim) read(dir string, want map[string]sum) {
	for name, w := range want {
		var got sum
		if v.try(func() (err error) { got, err = sumAt(v.path(dir + "/" + name)); return err }) && got != w {
			v.t.Errorf("%v: %s/%s: wrong data", v.in, dir, name)
		}
	}
}

// verify compares what was acknowledged with what there is after a restart.
func (v *victim) verify() {
	for name, f := range v.files {
		b, err := os.ReadFile(v.path(name))
		if os.IsNotExist(err) && slices.ContainsFunc(f.may, func(m []byte) bool { return m == nil }) {
			continue
		}
		if err != nil || !f.allows(b) {
			v.t.Errorf("%v: after a restart %s has %d bytes (%v), last acknowledged %d, its sync failed: %v",
				v.in, name, len(b), err, len(f.may[len(f.may)-1]), f.failed)
		}
		v.compared++
	}
	for name, want := range v.seals {
		for path, w := range want {
			if got, err := sumAt(v.path("snapshots/" + name + "/" + path)); err != nil || got != w {
				v.t.Errorf("%v: after a restart snapshots/%s/%s is as it was: %v (%v)", v.in, name, path, got == w, err)
			}
		}
		v.snapshots++
	}
	if err := os.WriteFile(v.path("again"), []byte("again"), 0o644); err != nil {
		v.t.Errorf("%v: after a restart: %v", v.in, err)
	}
	f, err := os.OpenFile(v.path("again"), os.O_RDWR, 0)
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
		f.Close()
	}
	if err != nil {
		v.t.Errorf("%v: after a restart: fdatasync: %v", v.in, err)
	}
}

// allows says whether each byte is one that the file may have there.
func (f *victimFile) allows(b []byte) bool {
	if len(f.may) == 1 {
		return bytes.Equal(b, f.may[0])
	}
	for at, c := range b {
		if !slices.ContainsFunc(f.may, func(m []byte) bool { return at < len(m) && m[at] == c || at >= len(m) && c == 0 }) {
			return false
		}
	}
	return true
}
