package integration

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// TestRestoreSharesBytes: "cp --reflink=auto" out of a step into the mount costs
// no data, whatever the state of the step: staged, stored with its hot copy, or
// in packs alone. Nor is anything stored again afterwards. What comes out is
// whole, outlives the step and a kill, and the check is clean. It prints the
// time next to that of a cp on the disk below.
func TestRestoreSharesBytes(t *testing.T) {
	size := int64(64 << 20)
	if s := os.Getenv("STEPFS_COPY_MIB"); s != "" {
		_, err := fmt.Sscan(s, &size)
		must(t, err)
		size <<= 20
	}
	d := mount(t)
	must(t, os.MkdirAll(d.Mnt+"/run/deep/er", 0o755))
	writeNoise(t, d.Mnt+"/run/model", size)
	for k := range 30 {
		must(t, os.WriteFile(fmt.Sprintf("%s/run/deep/er/small%d", d.Mnt, k), []byte(strings.Repeat(fmt.Sprint(k), 1+100*k)), 0o640))
	}
	must(t, os.Truncate(d.Mnt+"/run/deep/er/small7", 1<<20)) // a hole
	want := tree(t, d.Mnt+"/run")
	snapshotNow(t, d, "one")
	packs := func() int64 { return allocated(t, d.Store+"/packs") }
	staged := func() int64 { return allocated(t, d.Store+"/staging") }
	restore := func(state, to string) {
		t.Helper()
		before, was := staged(), packs()
		start := time.Now()
		out, err := exec.Command("cp", "-a", "--reflink=auto", d.Mnt+"/snapshots/one/run/.", d.Mnt+"/"+to).CombinedOutput()
		took := time.Since(start)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if diff := want.Diff(tree(t, d.Mnt+"/"+to)); diff != "" {
			t.Errorf("%s: %s", state, diff)
		}
		_, err = root.Must("drain", d.Mnt)
		must(t, err)
		// Of the sparse file cp itself copies the data.
		if state != "staged" && (staged() > before+64<<10 || packs() > was+64<<10) {
			t.Errorf("%s: staging %d -> %d bytes, packs %d -> %d", state, before, staged(), was, packs())
		}
		t.Logf("%s: %v for %d MiB; %d bytes staged", state, took.Round(time.Millisecond), size>>20, max(0, staged()-before))
	}
	restore("staged", "a")
	restore("stored", "b")
	must(t, os.Remove(d.Mnt+"/run/model"))
	must(t, d.Stop())
	d.Args = append(d.Args, "--hot-limit", "1")
	must(t, d.Start())
	eventually(t, "the hot copies are gone", func() bool { return staged() < 1<<20 })
	restore("in packs alone", "c")
	restore("over what is there", "c")
	wantClean(t, "after the copies", d.Mnt, "--read-data")
	must(t, exec.Command("sh", "-c", "echo more >>"+d.Mnt+"/a/model; echo over | dd of="+d.Mnt+"/b/model conv=notrunc status=none").Run())
	_, err := root.Must("forget", d.Mnt, "one")
	must(t, err)
	_, err = root.Must("prune", "--wait", d.Mnt)
	must(t, err)
	restart(t, d)
	if diff := want.Diff(tree(t, d.Mnt+"/c")); diff != "" {
		t.Errorf("at the end: %s", diff)
	}
	wantClean(t, "at the end", d.Mnt, "--read-data")

	dir := tempDir(t)
	writeNoise(t, dir+"/model", size)
	start := time.Now()
	must(t, exec.Command("cp", dir+"/model", dir+"/copy").Run())
	t.Logf("cp on the disk below: %v", time.Since(start).Round(time.Millisecond))
}

func tree(t *testing.T, dir string) harness.Tree {
	t.Helper()
	all, err := harness.ReadTree(dir)
	must(t, err)
	return all
}

func writeNoise(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	r, buf := rand.New(rand.NewSource(1)), make([]byte, 1<<20)
	for ; size > 0; size -= int64(len(buf)) {
		r.Read(buf)
		_, err = f.Write(buf)
		must(t, err)
	}
	must(t, f.Close())
}

// allocated is what the files below a directory take on the disk.
func allocated(t *testing.T, dir string) (sum int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && !e.IsDir() {
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil {
				sum += st.Blocks * 512
			}
		}
		return err
	}))
	return sum
}
