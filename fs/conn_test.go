package fs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountIsCalledStepfs: what other tools tell the mount by.
func TestMountIsCalledStepfs(t *testing.T) {
	m := newMount(t)
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if w[1] != m.dir {
			continue
		}
		if w[0] != "stepfs" || w[2] != "fuse.stepfs" {
			t.Errorf("mounted as %q of type %q", w[0], w[2])
		}
		for _, o := range []string{"nosuid", "nodev", "default_permissions", "allow_other", "max_read=1048576"} {
			if !strings.Contains(","+w[3]+",", ","+o+",") {
				t.Errorf("option %s is missing in %s", o, w[3])
			}
		}
		return
	}
	t.Error("the mount is not listed")
}

func TestMountRefused(t *testing.T) {
	if _, err := Mount(filepath.Join(t.TempDir(), "missing"), MountOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing mountpoint: %v", err)
	}
	m := newMount(t)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(m.dir, false); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmount while a file is open: %v", err)
	}
	f.Close()
}

// TestOrdinaryUserMounts: by the setuid helper, without root. The test binary
// runs again as nobody.
func TestOrdinaryUserMounts(t *testing.T) {
	mnt := mountDir(t)
	dir, err := os.MkdirTemp("", testDirPrefix)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin, backing := filepath.Join(dir, "fs.test"), filepath.Join(dir, "backing")
	for _, err := range []error{
		exec.Command("cp", os.Args[0], bin).Run(),
		os.WriteFile(backing, []byte("content"), 0o666),
		os.Chmod(dir, 0o777), os.Chmod(backing, 0o666), os.Chmod(mnt, 0o777),
		os.Chown(mnt, 65534, 65534),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat("/dev/fuse"); err == nil && st.Mode().Perm()&0o002 == 0 {
		// The helper opens it as the user, as every distribution allows.
		if err := os.Chmod("/dev/fuse", 0o666); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod("/dev/fuse", st.Mode().Perm())
	}
	asNobody(t, successorEnv+"=alone "+backingEnv+"="+backing+" "+mountpointEnv+"="+mnt+" "+bin+" '-test.run=^$'")
	if got, err := os.ReadFile(backing); err != nil || string(got) != "CONTENT" {
		t.Errorf("the backing file holds %q, %v", got, err)
	}
}

// serveAlone mounts, uses and unmounts in one process.
func serveAlone(one *oneFile) error {
	mnt := os.Getenv(mountpointEnv)
	conn, err := Mount(mnt, MountOptions{Source: "a,b"})
	if err != nil {
		return err
	}
	s, err := NewServer(conn, one, ServerOptions{})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	if err = tellEpoll(mnt); err == nil {
		err = upper(filepath.Join(mnt, "f"))
	}
	return errors.Join(err, Unmount(mnt, false), <-done)
}

func upper(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.ToUpper(string(b))), 0o644)
}
