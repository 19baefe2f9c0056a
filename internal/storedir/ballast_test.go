package storedir

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBallast: it is there while there is room, gives one half to a full disk
// that has a daemon, and the other to the next start.
func TestBallast(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	const size = 2 << 20
	path := filepath.Join(disk, "store")
	d := open(t, path, Options{Create: true})
	held := func(want int64, when string) {
		t.Helper()
		if got := ballastHeld(d.path); got != want {
			t.Fatalf("%s: the ballast takes %d bytes, want %d", when, got, want)
		}
	}
	fillDisk := func() {
		t.Helper()
		sp, err := d.Space()
		must(t, err)
		if n := sp.Avail; n > 0 {
			must(t, setAside(filepath.Join(disk, "other"), n))
		}
	}
	d.trim(size)
	held(size, "on an empty disk")
	fillDisk()
	d.trim(size)
	d.trim(size)
	held(size/2, "on a full disk")
	closeDir(t, d)

	d = open(t, path, Options{})
	held(size/2, "opened with some room")
	fillDisk()
	closeDir(t, d)
	d = open(t, path, Options{})
	defer closeDir(t, d)
	held(0, "opened on a full disk")
	d.trim(size)
	held(0, "with little room")
	must(t, unix.Unlink(disk+"/other"))
	d.trim(size)
	held(size, "with room again")
}

// setAside makes a file larger by n bytes that are the disk's.
func setAside(path string, n int64) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return unix.Fallocate(fd, 0, st.Size, n)
}
