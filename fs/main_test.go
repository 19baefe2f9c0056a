package fs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestMain refuses to run where nothing can be mounted, runs as another
// process of a test when asked to, and fails when a test has left a
// mount behind.
func TestMain(m *testing.M) {
	if os.Getenv(successorEnv) != "" {
		os.Exit(successor())
	}
	if how := os.Getenv(leaveEnv); how != "" {
		os.Exit(leave(how, os.Getenv(mountpointEnv)))
	}
	if how := os.Getenv(mapEnv); how != "" {
		os.Exit(mapper(how, os.Getenv(mountpointEnv)))
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil || os.Geteuid() != 0 {
		fmt.Fprintf(os.Stderr, "these tests mount: they need root (uid is %d) and /dev/fuse (%v)\n", os.Geteuid(), err)
		os.Exit(1)
	}
	code := m.Run()
	if left := ourMounts(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "tests left mounts behind: %q\n", left)
		for _, dir := range left {
			_ = Unmount(dir, true)
		}
		code = 1
	}
	os.Exit(code)
}

// ourMounts lists the stepfs mounts below the directory for temporary files.
func ourMounts() []string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return []string{err.Error()}
	}
	var dirs []string
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) > 2 && w[2] == "fuse."+fsType && strings.HasPrefix(w[1], os.TempDir()+"/"+testDirPrefix) {
			dirs = append(dirs, unescapeMount(w[1]))
		}
	}
	return dirs
}

const testDirPrefix = "stepfs-fs-"

// mountDir makes a directory that ourMounts recognises.
func mountDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", testDirPrefix)
	if err == nil {
		err = os.Chmod(dir, 0o755) // ordinary users pass
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

// serveDir mounts raw on dir and serves it until the test ends.
func serveDir(t testing.TB, dir string, raw fuse.RawFileSystem) *Server {
	t.Helper()
	conn, err := Mount(dir, MountOptions{AllowOther: true})
	if err != nil {
		t.Fatal(err)
	}
	o := ServerOptions{
		Panic:    func(v any, stack []byte) { t.Errorf("panic: %v\n%s", v, stack) },
		Protocol: func(line string) { t.Log(line) },
	}
	var s *Server
	if f, ok := raw.(*FileSystem); ok {
		s, err = f.NewServer(conn, o)
	} else {
		s, err = NewServer(conn, raw, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := Unmount(dir, false); err != nil {
			t.Error(err)
			_ = Unmount(dir, true)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	waitReady(t, s)
	return s
}
