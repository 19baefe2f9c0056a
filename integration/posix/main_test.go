package posix

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// root is the directory of this run, with the binary in it.
var root *harness.Root

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		if err := serveCalls(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	unix.Umask(0o022)
	var err error
	if root, err = harness.NewRoot(""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer root.Close()
	if bin := os.Getenv("STEPFS_BIN"); bin != "" {
		root.Bin, err = filepath.Abs(bin)
	} else {
		err = root.Build(os.Getenv("STEPFS_RACE") == "1")
	}
	if err = errors.Join(err, prepareRoot()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := unmountPeer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	left, err := root.Leftovers()
	for range 100 { // a loop device goes a moment after its mount
		if err != nil || len(left) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
		left, err = root.Leftovers()
	}
	if err != nil || len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind (%v): %q\n", err, left)
		return 1
	}
	return code
}

// The directory of ext4, and the test binary where everybody may run it.
var peerDir, workerBin string

// prepareRoot makes both. The peer gets the options that a mount of stepfs has
// (nosuid, nodev) and noatime, since stepfs keeps no time of reading.
func prepareRoot() error {
	if err := os.Chmod(root.Dir, 0o755); err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	workerBin = filepath.Join(root.Dir, "worker")
	if err := os.WriteFile(workerBin, self, 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root.Dir, &st); err != nil {
		return err
	}
	if st.Type == unix.EXT4_SUPER_MAGIC {
		peerDir = filepath.Join(root.Dir, "ext4")
		if err := os.Mkdir(peerDir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(peerDir, peerDir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	} else {
		disk, err := root.NewLoopFS("ext4", 4<<30)
		if err != nil {
			return err
		}
		peerDir = disk.Dir
		if err := os.Chmod(filepath.Dir(peerDir), 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("", peerDir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV, "")
}

func unmountPeer() error { return unix.Unmount(peerDir, 0) }

// session is a mount and the workers that many runs share.
type session struct {
	daemon    *harness.Daemon
	bases     [2]string // where the directories of the runs are
	workers   map[string]*worker
	runs      int
	since     int // runs when the store was made
	snapshots int
}

// runsPerStore: a store is used by so many runs, so that lists of snapshots
// stay short.
const runsPerStore = 25

func newSession(t *testing.T) *session {
	s := &session{workers: map[string]*worker{}}
	s.bases[peer] = peerDir
	for _, p := range people {
		w, err := startWorker(workerBin, p.name, p.uid, p.gid)
		if err != nil {
			t.Fatal(err)
		}
		s.workers[p.name] = w
	}
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ready makes sure that a mount is there.
func (s *session) ready() error {
	if s.daemon != nil && s.daemon.Running() && s.runs-s.since < runsPerStore {
		return nil
	}
	if err := s.drop(); err != nil {
		return err
	}
	d, err := root.NewDaemon("--allow-other")
	if err != nil {
		return err
	}
	if err := os.Chmod(filepath.Dir(d.Mnt), 0o755); err != nil {
		return err
	}
	if err := d.Start(); err != nil {
		return err
	}
	s.daemon, s.since = d, s.runs
	s.bases[mount] = d.Mnt
	return os.Chmod(d.Mnt, 0o755)
}

// drop ends the daemon, has the store checked and removes it.
func (s *session) drop() error {
	if s.daemon == nil {
		return nil
	}
	d := s.daemon
	s.daemon = nil
	if d.Running() {
		if err := d.Stop(); err != nil {
			return err
		}
		if _, err := root.Must("check", d.Store); err != nil {
			return fmt.Errorf("after %d runs: %w", s.runs-s.since, err)
		}
	}
	return errors.Join(d.Close(), os.RemoveAll(filepath.Dir(d.Mnt)))
}

func (s *session) barriers() string { return filepath.Join(s.daemon.Mnt, "snapshots", ".barriers") }

func (s *session) end() error {
	var errs []error
	for _, w := range s.workers {
		errs = append(errs, w.stop())
	}
	return errors.Join(append(errs, s.drop())...)
}
