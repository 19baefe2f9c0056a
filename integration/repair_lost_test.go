package integration

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// lostPaths gives what a repair has said is lost: "step: path".
func lostPaths(t *testing.T, said string) (lost map[string]bool) {
	t.Helper()
	lost = map[string]bool{}
	for line := range strings.Lines(said) {
		var m struct {
			Lost *struct{ Scope, ID, Path, Why string }
		}
		must(t, json.Unmarshal([]byte(line), &m))
		if m.Lost != nil {
			name, _, _ := strings.Cut(m.Lost.ID, "@")
			lost[filepath.Join(m.Lost.Scope, name)+": "+m.Lost.Path] = true
		}
	}
	return lost
}

// TestRepairWithoutPacks: one pack after the other is gone, with the namespace and
// without. What is lost is named by snapshot and path, marked, and can't be read;
// everything else is whole, and nothing is wrong data.
func TestRepairWithoutPacks(t *testing.T) {
	pristine := history(t)
	all, refusedReads, back := 0, 0, 0
	packs := glob(t, pristine.Store, "packs/*.pack")
	for n, k := range rand.New(rand.NewSource(seed(t))).Perm(len(packs)) {
		// Some will do once they have proved something; STEPFS_PACKS=all: all.
		if n >= 4 && all > 0 && refusedReads > 0 && back > 0 && os.Getenv("STEPFS_PACKS") != "all" {
			break
		}
		for _, namespace := range []bool{true, false} {
			s := pristine.clone(t)
			pack := glob(t, s.Store, "packs/*.pack")[k]
			b, err := os.ReadFile(pack)
			must(t, err)
			must(t, os.Remove(pack))
			if !namespace {
				must(t, os.RemoveAll(s.Store+"/index"))
				must(t, os.RemoveAll(s.Store+"/journal"))
			}
			res, err := root.Stepfs("check", "--repair", "--json", s.Store)
			must(t, err)
			noPanic(t, res.Both())
			said := lostPaths(t, res.Stdout)
			if want := exitPartly * min(1, len(said)); res.Code != want {
				t.Fatalf("pack %d, namespace %v: %s", k, namespace, res.Both())
			}
			all += len(said)
			must(t, s.Start())
			for _, name := range s.names {
				dir := filepath.Join(s.Mnt, "snapshots", name)
				if _, err := os.Stat(dir); err != nil {
					if namespace {
						t.Errorf("step %s is gone", name)
					}
					continue // its root was in the pack
				}
				back++
				refusedReads += s.mostly(t, dir, name, said)
			}
			must(t, s.Stop())
			// The pack comes back: everything is there again.
			must(t, os.WriteFile(pack, b, 0o600))
			if namespace {
				must(t, s.Start())
				for _, name := range s.names {
					got, err := harness.ReadTree(filepath.Join(s.Mnt, "snapshots", name))
					must(t, err)
					if diff := s.want[name].Diff(got); diff != "" {
						t.Errorf("step %s, with its pack back:\n%s", name, diff)
					}
				}
				must(t, s.Stop())
			} else {
				repaired(t, s.Store, 0, "--rebuild")
				wantClean(t, "rebuilt with all packs", s.Store, "--read-data")
				s.isWhole(t)
				must(t, s.Stop())
			}
			must(t, os.RemoveAll(filepath.Dir(s.Mnt)))
		}
	}
	t.Logf("%d paths lost, %d reads refused, %d steps there", all, refusedReads, back)
	if all == 0 || refusedReads == 0 || back == 0 {
		t.Error("this proved nothing")
	}
}

// mostly reads a step of which the named paths are lost.
func (s *stepped) mostly(t *testing.T, dir, name string, lost map[string]bool) (refused int) {
	t.Helper()
	isLost := func(path string) bool {
		for p := path; ; p = filepath.Dir(p) {
			if lost[name+": "+p] {
				return true
			}
			if p == "." {
				return false
			}
		}
	}
	for path, want := range s.want[name] {
		full := filepath.Join(dir, path)
		info, err := os.Lstat(full)
		got := ""
		if err == nil {
			switch {
			case info.IsDir():
				got = "dir"
			case info.Mode()&os.ModeSymlink != 0:
				target, _ := os.Readlink(full)
				got = "link " + target
			default:
				var sum string
				if sum, err = harness.SHA256(full); err == nil {
					got = fmt.Sprintf("file %v %s", info.Mode().Perm(), sum)
				}
			}
		}
		switch {
		case err != nil && !isLost(path):
			t.Errorf("step %s: %s can't be read (%v), and the repair said nothing of it", name, path, err)
		case err != nil:
			refused++
		case got != want:
			t.Errorf("step %s: %s is wrong: %s, want %s", name, path, got, want)
		}
	}
	return refused
}

// TestCopiedWhileMounted: a copy of a store that is in use opens, or says what is
// wrong with it, and the repair makes a store of it. What is read is right.
func TestCopiedWhileMounted(t *testing.T) {
	d := mount(t, "--seal-quiet", "100ms", "--hot-limit", "1")
	fill(t, d.Mnt, 40, 3)
	want, err := harness.ReadTree(snapshotNow(t, d, "before"))
	must(t, err)
	_, err = root.Must("drain", d.Mnt)
	must(t, err)
	c := newCrew(t, d, 2)
	opened, repairs := 0, 0
	must(t, c.work(func() error {
		for range 6 {
			copied := prepare(t, d.Args...)
			if res, err := harness.Run("cp", "-a", d.Store, copied.Store); err != nil {
				return fmt.Errorf("%v: %s", err, res.Both())
			}
			must(t, os.RemoveAll(copied.Store+"/stepfs.sock"))
			if err := copied.Start(); err != nil {
				if !strings.Contains(copied.Output(), "check --repair") {
					t.Errorf("refused without the way out: %s", copied.Output())
				}
				res, err := root.Stepfs("check", "--repair", copied.Store)
				must(t, err)
				noPanic(t, res.Both())
				if res.Code != 0 && res.Code != exitPartly {
					t.Errorf("the copy can't be repaired: %s", res.Both())
				}
				must(t, copied.Start())
				repairs++
			} else {
				opened++
			}
			got, err := harness.ReadTree(copied.Mnt + "/snapshots/before")
			must(t, err)
			if diff := want.Diff(got); diff != "" {
				t.Errorf("the copy's step differs:\n%s", diff)
			}
			must(t, copied.Stop())
			time.Sleep(50 * time.Millisecond)
		}
		c.killed.Store(true)
		return d.Kill()
	}))
	t.Logf("%d copies opened, %d were repaired", opened, repairs)
}

// TestOldBackup: index and journal come from an old backup, packs are newer. The
// store is refused: what came after would be dead. The repair makes it what the
// backup knew, or, with --rebuild, what packs know.
func TestOldBackup(t *testing.T) {
	d := mount(t, "--seal-quiet", "100ms", "--hot-limit", "1")
	fill(t, d.Mnt, 20, 3)
	old, err := harness.ReadTree(snapshotNow(t, d, "old"))
	must(t, err)
	_, err = root.Must("drain", d.Mnt)
	must(t, err)
	must(t, d.Stop())
	backup, known := tempDir(t), glob(t, d.Store, "packs/*.pack")
	shell(t, "cp", "-a", d.Store+"/index", d.Store+"/journal", backup)
	must(t, d.Start())
	must(t, os.WriteFile(d.Mnt+"/after", make([]byte, 3<<20), 0o644))
	later, err := harness.ReadTree(snapshotNow(t, d, "later"))
	must(t, err)
	_, err = root.Must("drain", d.Mnt)
	must(t, err)
	must(t, d.Stop())
	must(t, os.RemoveAll(d.Store+"/index"))
	must(t, os.RemoveAll(d.Store+"/journal"))
	shell(t, "cp", "-a", backup+"/index", backup+"/journal", d.Store)
	reads := func(name string, want harness.Tree) {
		t.Helper()
		got, err := harness.ReadTree(d.Mnt + "/snapshots/" + name)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Errorf("step %s:\n%s", name, diff)
		}
	}
	res, err := root.Stepfs("mount", "-d", d.Store, d.Mnt)
	must(t, err)
	refused(t, res, exitError, "older than the packs.*later@.*check --repair")
	refusedCopy := prepare(t)
	shell(t, "cp", "-a", d.Store, refusedCopy.Store)
	repaired(t, refusedCopy.Store, exitPartly) // as the backup has it
	wantClean(t, "with old records", refusedCopy.Store, "--read-data")
	must(t, refusedCopy.Start())
	got, err := harness.ReadTree(refusedCopy.Mnt + "/snapshots/old")
	must(t, err)
	if diff := old.Diff(got); diff != "" {
		t.Errorf("step old:\n%s", diff)
	}
	must(t, refusedCopy.Stop())
	// The packs that the backup knows have lost their footers, too: what is saved of
	// them is in packs that it does not know, and stays.
	hurt := prepare(t)
	shell(t, "cp", "-a", d.Store, hurt.Store)
	for _, name := range known {
		pack := hurt.Store + "/packs/" + filepath.Base(name)
		info, err := os.Stat(pack)
		must(t, err)
		must(t, os.Truncate(pack, info.Size()-1))
	}
	repaired(t, hurt.Store, exitPartly)
	wantClean(t, "with old records and no footers", hurt.Store, "--read-data")
	must(t, hurt.Start())
	got, err = harness.ReadTree(hurt.Mnt + "/snapshots/old")
	must(t, err)
	if diff := old.Diff(got); diff != "" {
		t.Errorf("step old, of packs without footers:\n%s", diff)
	}
	must(t, hurt.Stop())
	repaired(t, d.Store, 0, "--rebuild")
	wantClean(t, "rebuilt", d.Store, "--read-data")
	must(t, d.Start())
	reads("old", old)
	reads("later", later)
	must(t, d.Stop())
}

// TestRepairInUse: a store that a daemon has is not repaired.
func TestRepairInUse(t *testing.T) {
	d := mount(t)
	for _, path := range []string{d.Store, d.Mnt} {
		res, err := root.Stepfs("check", "--repair", path)
		must(t, err)
		refused(t, res, exitInUse, "has the store.*umount")
	}
	for _, flag := range []string{"--dry-run", "--rebuild"} {
		res, err := root.Stepfs("check", flag, d.Store)
		must(t, err)
		refused(t, res, exitError, "with --repair")
	}
}

// TestOthersStore: a store whose parts belong to another user, or are not to be
// read, is refused with the path that matters.
func TestOthersStore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this needs root, to become somebody else")
	}
	pristine := history(t)
	for _, c := range []struct{ path, says string }{
		{".", "not writable by uid 65534"},
		{"index", "index.*permission denied"},
		{"journal", "journal.*permission denied"},
		{"packs", "packs.*permission denied"},
		{"staging", "staging.*permission denied"},
		{"config", "config.*permission denied"},
	} {
		t.Run(c.path, func(t *testing.T) {
			s := pristine.clone(t)
			for dir := filepath.Dir(s.Mnt); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
				must(t, os.Chmod(dir, 0o755))
			}
			shell(t, "chown", "-R", "65534", s.Store)
			must(t, os.Chown(filepath.Join(s.Store, c.path), 0, 0))
			must(t, os.Chmod(filepath.Join(s.Store, c.path), 0o700))
			for _, command := range [][]string{{"snapshots"}, {"check"}, {"check", "--repair"}} {
				res, err := harness.Run("setpriv", append([]string{"--reuid=65534", "--clear-groups", root.Bin}, append(command, s.Store)...)...)
				must(t, err)
				refused(t, res, exitError, c.says)
				if !strings.Contains(res.Both(), s.Store) {
					t.Errorf("%v names no path: %s", command, res.Both())
				}
			}
			must(t, os.Chown(filepath.Join(s.Store, c.path), 65534, 0))
			s.isWhole(t)
			must(t, s.Stop())
		})
	}
}
