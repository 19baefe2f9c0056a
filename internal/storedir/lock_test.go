package storedir

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary, started with this variable set, is the second process:
// "open PATH" opens a store, says "open", and holds it until its stdin ends.
const helperEnv = "STOREDIR_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(m.Run())
	}
	d, err := Open(os.Args[2], Options{Create: true, Command: "helper", Mountpoint: "/mnt/x"})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
	if err := d.Close(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func helper(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	return cmd
}

// hold opens the store in a second process and returns what ends it, kindly or not.
func hold(t *testing.T, path string) (cmd *exec.Cmd, release func()) {
	t.Helper()
	cmd = helper("/proc/self/exe", "open", path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the second process says %q", line)
	}
	return cmd, func() { must(t, in.Close()); must(t, cmd.Wait()) }
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	cmd, release := hold(t, path)
	_, err := Open(path, Options{Create: true})
	var inUse *InUseError
	if !errors.Is(err, ErrInUse) || !errors.As(err, &inUse) {
		t.Fatalf("got %v", err)
	}
	if inUse.Holder.PID != cmd.Process.Pid || inUse.Holder.Since.IsZero() {
		t.Errorf("holder %+v, its pid is %d", inUse.Holder, cmd.Process.Pid)
	}
	host, _ := os.Hostname()
	for _, want := range []string{fmt.Sprint(cmd.Process.Pid), host, "stepfs helper", "/mnt/x", "since 20"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	release()
	d := open(t, path, Options{})
	defer closeDir(t, d)
	if d.TookOver() != nil {
		t.Errorf("took over %+v after a clean close", d.TookOver())
	}
}

func TestKilledHolderIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	cmd, _ := hold(t, path)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // says that it was killed
	d := open(t, path, Options{})
	defer closeDir(t, d)
	if d.TookOver() == nil || d.TookOver().PID != cmd.Process.Pid {
		t.Errorf("took over %+v, want pid %d", d.TookOver(), cmd.Process.Pid)
	}
	if left, _ := filepath.Glob(path + "/lease?*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Creation, too, happens once.
func TestCreatedByOneOfMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		won []*Dir
	)
	for range 8 {
		wg.Go(func() {
			d, err := Open(path, Options{Create: true})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, d)
			} else if !errors.Is(err, ErrInUse) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || !won[0].Created() {
		t.Fatalf("%d opened the store", len(won))
	}
	closeDir(t, won[0])
}

// other plays a process on another machine (or another boot), where the
// machines' flocks do not see each other.
func other(boot string, shared bool, flock func(int) error) *environment {
	env := hostEnvironment()
	env.host, env.bootID = "host-"+boot, boot
	env.kind = func(string) (Kind, error) { return Kind{Name: "test", Shared: shared}, nil }
	env.flock = flock
	return env
}

func flockLocal(int) error       { return nil }
func flockUnsupported(int) error { return unix.ENOSYS }

func TestLeaseRules(t *testing.T) {
	me := BootID()
	for _, tc := range []struct {
		name   string
		lease  string // as left behind; %d is a live pid's start time
		age    time.Duration
		env    *environment
		refuse bool
	}{
		{name: "same boot, flock won", lease: lease(1, 1, me), env: other(me, true, flockLocal)},
		{name: "local disk, earlier boot, just renewed", lease: lease(1, 1, "old"), env: other(me, false, flockLocal)},
		{name: "shared disk, other boot, just renewed", lease: lease(1, 1, "old"), env: other(me, true, flockLocal), refuse: true},
		{name: "shared disk, other boot, not renewed", lease: lease(1, 1, "old"), age: time.Hour, env: other(me, true, flockLocal)},
		{name: "shared disk, unreadable, new", lease: "{", env: other(me, true, flockLocal), refuse: true},
		{name: "shared disk, unreadable, old", lease: "", age: time.Hour, env: other(me, true, flockLocal)},
		{name: "no flock, this process", lease: lease(os.Getpid(), processStart(os.Getpid()), me), age: time.Hour, env: other(me, true, flockUnsupported), refuse: true},
		{name: "no flock, pid used again", lease: lease(os.Getpid(), 1, me), age: time.Hour, env: other(me, true, flockUnsupported)},
		{name: "no flock, pid used again, just renewed", lease: lease(os.Getpid(), 1, me), env: other(me, true, flockUnsupported), refuse: true},
		{name: "no flock, local disk, earlier boot", lease: lease(1, 1, "old"), env: other(me, false, flockUnsupported)},
		{name: "clock of the other machine ahead", lease: lease(1, 1, "old"), age: -time.Hour, env: other(me, true, flockLocal), refuse: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			makeStore(t, path)
			at := filepath.Join(path, leaseName)
			write(t, at, tc.lease)
			then := time.Now().Add(-tc.age)
			must(t, os.Chtimes(at, then, then))
			d, err := Open(path, Options{env: tc.env})
			if tc.refuse {
				if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "try again") {
					t.Fatalf("got %v", err)
				}
				if after, _ := os.ReadFile(at); string(after) != tc.lease {
					t.Errorf("a refused lease was changed to %q", after)
				}
				return
			}
			must(t, err)
			defer closeDir(t, d)
			if now, err := ReadLease(path); err != nil || now.Nonce != d.Lease().Nonce {
				t.Errorf("lease %+v, %v", now, err)
			}
		})
	}
}

func lease(pid int, start uint64, boot string) string {
	return fmt.Sprintf(`{"pid":%d,"process_start":%d,"host":"there","boot_id":%q,"nonce":"n","command":"mount"}`, pid, start, boot)
}

// Two machines that find the same dead lease: one goes on.
func TestTakeoverRace(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "store")
		makeStore(t, path)
		at := filepath.Join(path, leaseName)
		write(t, at, lease(1, 1, "old"))
		then := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(at, then, then))
		var (
			wg  sync.WaitGroup
			mu  sync.Mutex
			won []*Dir
		)
		for i := range 4 {
			wg.Go(func() {
				d, err := Open(path, Options{env: other(fmt.Sprint("boot", i), true, flockLocal)})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, d)
				} else if !errors.Is(err, ErrInUse) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d took the lease over", len(won))
		}
		closeDir(t, won[0])
	}
}

// On a local filesystem flock alone decides: what a taker left that was killed
// between its guard and its rename holds nobody up.
func TestTakerKilledOnLocalDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	makeStore(t, path)
	at := filepath.Join(path, leaseName)
	write(t, at, lease(1, 1, "old"))
	write(t, at+guardMark+"n-1", "")
	closeDir(t, open(t, path, Options{}))
}

// A taker that died holding the guard is waited for, then passed by.
func TestTakerDied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sto[re")
	makeStore(t, path)
	at := filepath.Join(path, leaseName)
	write(t, at, lease(1, 1, "old"))
	write(t, at+guardMark+"n-1", "")
	write(t, at+freshMark+"left", "")
	then := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(at, then, then))
	if _, err := Open(path, Options{env: other("me", true, flockLocal)}); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v", err)
	}
	must(t, os.Chtimes(at+guardMark+"n-1", then, then))
	d := open(t, path, Options{env: other("me", true, flockLocal)})
	defer closeDir(t, d)
	entries, err := os.ReadDir(path)
	must(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), leaseName+".") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// A holder that was stopped and replaced finds out, and its Close leaves the
// new holder's lease alone.
func TestLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	env := other("a", true, flockLocal)
	env.heartbeat = time.Millisecond
	d := open(t, path, Options{Create: true, env: env})
	at := filepath.Join(path, leaseName)
	must(t, os.Rename(at, at+".gone"))
	write(t, at, lease(1, 1, "b"))
	<-d.Lost()
	closeDir(t, d)
	if l, err := ReadLease(path); err != nil || l.BootID != "b" {
		t.Errorf("lease %+v, %v", l, err)
	}
}

func TestRenewal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	env := hostEnvironment()
	env.heartbeat = time.Millisecond
	d := open(t, path, Options{Create: true, env: env})
	defer closeDir(t, d)
	at := filepath.Join(path, leaseName)
	past := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(at, past, past))
	for {
		st, err := os.Stat(at)
		must(t, err)
		if time.Since(st.ModTime()) < time.Minute {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProcessStart(t *testing.T) {
	if processStart(os.Getpid()) == 0 {
		t.Error("this process has no start time")
	}
	if processStart(0) != 0 {
		t.Error("pid 0 has a start time")
	}
}

// TestGivenBack: a holder that ends gives back its lease, and then its lock. Who
// saw the first, as stepfs umount does, finds the store free.
func TestGivenBack(t *testing.T) {
	env, tries := hostEnvironment(), 0
	env.flock = func(fd int) error {
		if tries++; tries < 3 {
			return unix.EWOULDBLOCK
		}
		return flockExclusive(fd)
	}
	l, err := acquire(t.TempDir(), Options{Command: "test"}, env, Kind{})
	must(t, err)
	must(t, l.release())
}
