package suites

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// snap takes a snapshot and gives its path.
func snap(t *testing.T, d *harness.Daemon, name string) string {
	t.Helper()
	return mkdir(t, filepath.Join(d.Mnt, "snapshots", name))
}

// copier is a way to copy a directory's content into an empty directory.
type copier struct {
	name string
	copy func(t *testing.T, from, to string)
}

var (
	byCp = copier{"cp", func(t *testing.T, from, to string) {
		shell(t, "cp", "-a", from+"/.", to)
	}}
	byTar = copier{"tar", func(t *testing.T, from, to string) {
		archive := to + ".tar"
		shell(t, "tar", "-C", from, "-c", "-S", "--format=posix", "--xattrs", "--xattrs-include=*", "-f", archive, ".")
		shell(t, "tar", "-C", to, "-x", "-p", "--same-owner", "--xattrs", "--xattrs-include=*", "-f", archive)
		must(t, os.Remove(archive))
	}}
	byRsync = copier{"rsync", func(t *testing.T, from, to string) {
		shell(t, "rsync", "-aHAXS", "--delete", from+"/", to+"/")
		if more := shell(t, "rsync", "-aHAXSi", "--delete", from+"/", to+"/"); more != "" {
			t.Errorf("a second rsync from %s transfers:\n%s", from, more)
		}
	}}
)

// again takes a snapshot and looks that a directory of the live tree is in it
// as it is, to the last attribute, and that what is copied out of it is the
// same.
func again(t *testing.T, d *harness.Daemon, dir string, by ...copier) {
	t.Helper()
	then := filepath.Join(snap(t, d, "again"), dir)
	live := filepath.Join(d.Mnt, dir)
	equal(t, live, then, exact)
	for _, c := range by {
		to := mkdir(t, filepath.Join(native(t), c.name))
		c.copy(t, then, to)
		equal(t, live, to, copied)
		stillSparse(t, live, to)
	}
}

// TestEverythingAgain copies one of everything in and, through a snapshot, out
// again, with each of the tools; and once more out of packs alone.
func TestEverythingAgain(t *testing.T) {
	source := native(t)
	makeTree(t, source)
	for _, c := range []copier{byCp, byTar, byRsync} {
		t.Run(c.name, func(t *testing.T) {
			d := mount(t)
			c.copy(t, source, mkdir(t, d.Mnt+"/w"))
			equal(t, source, d.Mnt+"/w", copied)
			stillSparse(t, source, d.Mnt+"/w")
			again(t, d, "w", byCp, byTar, byRsync)

			_, err := root.Must("drain", d.Mnt)
			must(t, err)
			noHotCopies(t, d)
			to := native(t)
			c.copy(t, d.Mnt+"/snapshots/again/w", to)
			equal(t, source, to, copied)
		})
	}
}

// noHotCopies has the store give up the whole copies of what is in packs.
func noHotCopies(t *testing.T, d *harness.Daemon) {
	t.Helper()
	must(t, d.Stop())
	d.Args = append(d.Args, "--hot-limit", "1")
	must(t, d.Start())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		status, err := root.JSONLines("status", d.Mnt, "--json")
		must(t, err)
		if status[0]["hot_bytes"] == 0.0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("hot copies stay: %v", status[0])
		}
	}
}
