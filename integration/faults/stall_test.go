package faults

import (
	"bufio"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// scribe saves one file after the other, some of them synced.
type scribe struct {
	dir   string
	rnd   *rand.Rand
	saved atomic.Int64   // how many were acknowledged
	sums  map[string]sum // those
}

// startScribes starts four on a mount; the function that is returned waits for their end,
// after stop was set or a call failed.
func startScribes(t *testing.T, d *harness.Daemon, rnd *rand.Rand, stop *atomic.Bool) ([]*scribe, func() []error) {
	t.Helper()
	var all []*scribe
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range 4 {
		s := &scribe{dir: fmt.Sprintf("%s/w%d", d.Mnt, i), rnd: rand.New(rand.NewSource(rnd.Int63())), sums: map[string]sum{}}
		must(t, os.Mkdir(s.dir, 0o755))
		all = append(all, s)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; !stop.Load() && errs[i] == nil; n++ {
				errs[i] = s.save(n)
			}
		}()
	}
	return all, func() []error { wg.Wait(); return errs }
}

func (s *scribe) save(n int) error {
	name := fmt.Sprintf("f%d", n%20)
	data := random(s.rnd, []int{500, 20_000, 200_000}[s.rnd.Intn(3)])
	f, err := os.Create(s.dir + "/tmp")
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil && n%2 == 0 {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return err
	}
	delete(s.sums, name) // whether a rename in flight happens is not known
	if err := os.Rename(s.dir+"/tmp", s.dir+"/"+name); err != nil {
		return err
	}
	s.sums[name] = sumOf(data)
	s.saved.Add(1)
	return nil
}

// verifyScribes compares all that was acknowledged.
func verifyScribes(all []*scribe) (files int, err error) {
	for _, s := range all {
		for name, want := range s.sums {
			if got, err := sumAt(s.dir + "/" + name); err != nil || got != want {
				return files, fmt.Errorf("%s/%s is as acknowledged: %v (%v)", s.dir, name, got == want, err)
			}
			files++
		}
	}
	return files, nil
}

func savedBy(all []*scribe) (n int64) {
	for _, s := range all {
		n += s.saved.Load()
	}
	return n
}

// TestStall: the daemon is stopped for a while under four writers. Then all
// goes on, and nothing is lost.
func TestStall(t *testing.T) {
	rnd := seeded(t)
	d := prepare(t, "--seal-quiet", "100ms")
	must(t, d.Start())
	var stop atomic.Bool
	all, wait := startScribes(t, d, rnd, &stop)
	time.Sleep(500 * time.Millisecond)
	must(t, d.Signal(syscall.SIGSTOP))
	time.Sleep(500 * time.Millisecond) // for calls that were answered already
	before := savedBy(all)
	time.Sleep(time.Duration(number(t, "STEPFS_STALL", 5)) * time.Second)
	during := savedBy(all)
	must(t, d.Signal(syscall.SIGCONT))
	for deadline := time.Now().Add(time.Minute); savedBy(all) < during+40 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	after := savedBy(all)
	stop.Store(true)
	for _, err := range wait() {
		must(t, err)
	}
	files, err := verifyScribes(all)
	must(t, err)
	must(t, clean(d.Mnt))
	must(t, d.Kill())
	must(t, d.Start())
	_, err = verifyScribes(all)
	must(t, err)
	t.Logf("%d saves before, %d while it was stopped, %d after; %d files compared", before, during-before, after-during, files)
	if before == 0 || during != before || after < during+40 || files == 0 {
		t.Error("this proved nothing, or the writers did not go on")
	}
}

// TestOutOfMemory: the kernel kills the daemon in a cgroup whose memory is used
// up. It starts again, and everything acknowledged is there.
func TestOutOfMemory(t *testing.T) {
	rnd := seeded(t)
	cgroup, err := harness.NewCgroup("stepfs-faults", 192<<20)
	must(t, err)
	d := prepare(t, "--seal-quiet", "100ms")
	d.Cgroup = cgroup
	t.Cleanup(func() { // before that of prepare
		must(t, d.Kill())
		must(t, cgroup.Close())
	})
	must(t, d.Start())
	var stop atomic.Bool
	all, wait := startScribes(t, d, rnd, &stop)
	time.Sleep(500 * time.Millisecond)
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", d.Pid()), []byte("1000"), 0o644))
	hog := cgroup.Command(os.Args[0])
	hog.Env = append(os.Environ(), writerEnv+"=hog")
	must(t, hog.Start())
	code, err := d.Wait(time.Minute)
	hog.Process.Kill()
	hog.Wait()
	must(t, err)
	stop.Store(true)
	wait()
	must(t, d.Kill()) // takes the dead mount away
	must(t, d.Start())
	files, err := verifyScribes(all)
	must(t, err)
	must(t, clean(d.Mnt))
	t.Logf("%d saves acknowledged, %d files compared; exit code %d", savedBy(all), files, code)
	if files == 0 || code != -1 { // -1: by a signal
		t.Error("this proved nothing")
	}
}

// TestDeathOfTheJob: a job is killed while it writes. Snapshots show its files
// as they were before, and what others saved stays.
func TestDeathOfTheJob(t *testing.T) {
	rnd := seeded(t)
	d := prepare(t, "--seal-quiet", "100ms")
	must(t, d.Start())
	others := random(rnd, 100_000)
	torn := 0
	for round := range 6 {
		dir := fmt.Sprintf("%s/job%d", d.Mnt, round)
		must(t, os.Mkdir(dir, 0o755))
		before := random(rnd, 3<<20)
		must(t, os.WriteFile(dir+"/model.pt", before, 0o644))
		must(t, os.WriteFile(dir+"/others", others, 0o644))
		must(t, syncDir(dir))
		killWriter(t, dir, round%2 == 0, time.Duration(rnd.Intn(100))*time.Millisecond)
		if now, err := sumAt(dir + "/model.pt"); err == nil && now != sumOf(before) {
			torn++ // the live file is; that is the job's doing
		}
		name := fmt.Sprintf("after-%d", round)
		must(t, os.Mkdir(d.Mnt+"/snapshots/"+name, 0o755))
		look := func(when string) {
			t.Helper()
			seen := fmt.Sprintf("%s/snapshots/%s/job%d/", d.Mnt, name, round)
			if got, err := sumAt(seen + "model.pt"); err != nil || got != sumOf(before) {
				t.Errorf("round %d, %s: the snapshot shows the file as it was before: %v (%v)", round, when, got == sumOf(before), err)
			}
			if _, err := os.Lstat(seen + "fresh"); !os.IsNotExist(err) {
				t.Errorf("round %d, %s: the snapshot shows a file that was never whole: %v", round, when, err)
			}
			if got, err := sumAt(seen + "others"); err != nil || got != sumOf(others) {
				t.Errorf("round %d, %s: what others saved: %v", round, when, err)
			}
		}
		look("at once")
		must(t, d.Kill())
		must(t, d.Start())
		look("after a restart")
	}
	must(t, clean(d.Mnt))
	t.Logf("6 jobs killed, %d live files torn", torn)
	if torn == 0 {
		t.Error("this proved nothing")
	}
}

// killWriter has a process write into model.pt, anew or in place, and into a
// fresh file, and kills it meanwhile.
func killWriter(t *testing.T, dir string, anew bool, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", writerEnv, dir))
	if anew {
		cmd.Env = append(cmd.Env, writerEnv+"_ANEW=1")
	}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)
	time.Sleep(after)
	must(t, cmd.Process.Kill())
	cmd.Wait()
}

// The test binary, started with this variable set, is a job that writes until
// it is killed; or, if it says hog, that uses up memory.
const writerEnv = "_STEPFS_WRITER"

func writeForever(dir string) {
	if dir == "hog" {
		for hoard := [][]byte{}; ; time.Sleep(5 * time.Millisecond) {
			b := make([]byte, 4<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
	}
	flags := os.O_WRONLY
	if os.Getenv(writerEnv+"_ANEW") != "" {
		flags |= os.O_TRUNC
	}
	model, err := os.OpenFile(dir+"/model.pt", flags, 0)
	if err != nil {
		panic(err)
	}
	fresh, err := os.Create(dir + "/fresh")
	if err != nil {
		panic(err)
	}
	rnd := rand.New(rand.NewSource(1))
	for n := int64(0); ; n++ {
		b := random(rnd, 50_000)
		_, err1 := model.WriteAt(b, n%50*50_000)
		if _, err2 := fresh.Write(b); err1 != nil || err2 != nil {
			panic(fmt.Sprint(err1, err2))
		}
		if n == 0 {
			fmt.Println("writing")
		}
		time.Sleep(time.Millisecond)
	}
}
