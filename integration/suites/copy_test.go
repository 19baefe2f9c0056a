package suites

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shared is what every Debian has thousands of files in; all of /usr/share in
// the soak.
func shared(t *testing.T) []string {
	if long {
		return []string{"/usr/share"}
	}
	dirs := []string{"/usr/share/perl", "/usr/share/zoneinfo", "/usr/share/mime", "/usr/share/vim"}
	var there []string
	for _, d := range dirs {
		if _, err := os.Stat(d); err == nil {
			there = append(there, d)
		}
	}
	if len(there) < 2 {
		t.Fatalf("of %q only %q is there", dirs, there)
	}
	return there
}

// TestCopyShare: cp -a in, diff -r, and out again through a snapshot; tar of
// it compares equal with the mount, and rm -rf removes all.
func TestCopyShare(t *testing.T) {
	d := mount(t)
	dirs := shared(t)
	w := mkdir(t, d.Mnt+"/w")
	shell(t, "cp", append(append([]string{"-a"}, dirs...), w)...)
	for _, dir := range dirs {
		shell(t, "diff", "-r", "--no-dereference", dir, filepath.Join(w, filepath.Base(dir)))
	}
	again(t, d, "w", byCp)
	archive := native(t) + "/share.tar"
	shell(t, "tar", "-C", w, "-cf", archive, ".")
	shell(t, "tar", "-C", w, "-df", archive)
	shell(t, "tar", "-C", d.Mnt+"/snapshots/again/w", "-df", archive)
	shell(t, "rm", "-rf", w)
	shell(t, "tar", "-C", d.Mnt+"/snapshots/again/w", "-df", archive)
}

// TestRsyncChanges: what changed is transferred, what is gone is deleted, both
// ways, and nothing else is touched.
func TestRsyncChanges(t *testing.T) {
	d := mount(t)
	source, there := native(t), mkdir(t, d.Mnt+"/w")
	makeTree(t, source)
	byRsync.copy(t, source, there)
	for round := range 3 {
		must(t, os.WriteFile(fmt.Sprintf("%s/d/new%d", source, round), []byte("new"), 0o640),
			os.WriteFile(source+"/d/e/f010", []byte(strings.Repeat("r", round)), 0o644),
			os.Rename(fmt.Sprintf("%s/d/e/f%03d", source, 20+round), fmt.Sprintf("%s/d/moved%d", source, round)),
			os.Remove(fmt.Sprintf("%s/d/e/f%03d", source, 30+round)),
			os.Chmod(fmt.Sprintf("%s/d/e/f%03d", source, 40+round), 0o7),
			os.Lchown(fmt.Sprintf("%s/d/e/f%03d", source, 50+round), 7, round))
		backdate(t, source)
		shell(t, "rsync", "-aHAXS", "--delete", "--inplace", "--no-whole-file", source+"/", there+"/")
		byRsync.copy(t, source, there) // a second run transfers nothing
		equal(t, source, there, copied)
		source, there = there, source // and the other way round
	}
	again(t, d, "w", byRsync)
}
