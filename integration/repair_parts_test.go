package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// glob gives the files of a pattern below a store, in order; there must be some.
func glob(t *testing.T, store, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(store, pattern))
	must(t, err)
	if len(names) == 0 {
		t.Fatalf("no %s in %s: this proves nothing", pattern, store)
	}
	slices.Sort(names)
	return names
}

// flipByte changes one byte of a file.
func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if at < 0 {
		at += int64(len(b))
	}
	b[at] ^= 0x20
	must(t, os.WriteFile(path, b, 0o600))
}

// largest is the largest file of a pattern.
func largest(t *testing.T, store, pattern string) (path string) {
	t.Helper()
	size := int64(-1)
	for _, f := range glob(t, store, pattern) {
		st, err := os.Stat(f)
		must(t, err)
		if st.Size() > size {
			path, size = f, st.Size()
		}
	}
	return path
}

// again mounts the store and leaves it once more: it has two journal segments then.
func (s *stepped) again(t *testing.T) {
	t.Helper()
	must(t, s.Start())
	must(t, os.WriteFile(s.Mnt+"/touched", []byte("x"), 0o644))
	must(t, s.Stop())
}

// clone gives a copy of the store at rest.
func (s *stepped) clone(t *testing.T) *stepped {
	t.Helper()
	d := prepare(t, s.Args...)
	shell(t, "cp", "-a", s.Store, d.Store)
	c := *s
	c.Daemon = d
	return &c
}

// TestRepairParts: each part of a store damaged or gone, one at a time. What a
// mount can't do by itself it refuses, with the way out; after the repair every
// step is whole, and a check finds nothing.
func TestRepairParts(t *testing.T) {
	pristine := history(t)
	pristine.again(t)
	for _, c := range []struct {
		name string
		harm func(t *testing.T, s *stepped)
		code int    // of the repair
		says string // the refusal; empty: a mount works
		did  string // what the repair does
	}{
		{"index gone, journal whole", func(t *testing.T, s *stepped) { must(t, os.RemoveAll(s.Store+"/index")) }, 0, "", "index-replayed"},
		{"index gone, journal trimmed", func(t *testing.T, s *stepped) {
			must(t, os.RemoveAll(s.Store+"/index"))
			must(t, os.Remove(glob(t, s.Store, "journal/*.seg")[0]))
		}, 0, "check --repair", "namespace-rebuilt"},
		{"a table damaged, journal whole", func(t *testing.T, s *stepped) { flipByte(t, largest(t, s.Store, "index/*.sst"), 500) }, 0, "-", "index-replayed"},
		{"a table damaged, journal trimmed", func(t *testing.T, s *stepped) {
			flipByte(t, largest(t, s.Store, "index/*.sst"), 500)
			must(t, os.Remove(glob(t, s.Store, "journal/*.seg")[0]))
		}, 0, "-", "namespace-rebuilt"},
		{"a table gone", func(t *testing.T, s *stepped) { must(t, os.Remove(largest(t, s.Store, "index/*.sst"))) }, 0, "check --repair", "index-replayed"},
		{"MANIFEST damaged", func(t *testing.T, s *stepped) {
			for _, m := range glob(t, s.Store, "index/MANIFEST-*") {
				must(t, os.WriteFile(m, []byte("no manifest at all"), 0o600))
			}
		}, 0, "check --repair", "index-replayed"},
		{"journal gone", func(t *testing.T, s *stepped) { must(t, os.RemoveAll(s.Store+"/journal")) }, exitPartly, "check --repair", "journal-renewed"},
		{"journal empty", func(t *testing.T, s *stepped) {
			for _, f := range glob(t, s.Store, "journal/*") {
				must(t, os.Remove(f))
			}
		}, exitPartly, "check --repair", "journal-renewed"},
		{"a record damaged that the index has", func(t *testing.T, s *stepped) {
			flipByte(t, glob(t, s.Store, "journal/*.seg")[0], 128+24+40)
		}, 0, "check --repair", "journal-renewed"},
		{"a segment's header damaged", func(t *testing.T, s *stepped) {
			flipByte(t, glob(t, s.Store, "journal/*.seg")[0], 20)
		}, 0, "", "nothing to repair"}, // it is that of a segment which might have been trimmed
		{"config damaged", func(t *testing.T, s *stepped) { flipByte(t, s.Store+"/config", 60) }, 0, "second copy", "config-restored"},
		{"config gone", func(t *testing.T, s *stepped) { must(t, os.Remove(s.Store+"/config")) }, 0, "second copy", "config-restored"},
		{"a footer damaged", func(t *testing.T, s *stepped) { flipByte(t, largest(t, s.Store, "packs/*.pack"), -60) }, 0, "", "pack-salvaged"},
		{"a trailer damaged, and no namespace", func(t *testing.T, s *stepped) {
			for _, p := range glob(t, s.Store, "packs/*.pack") {
				flipByte(t, p, -10)
			}
			must(t, os.RemoveAll(s.Store+"/index"))
			must(t, os.RemoveAll(s.Store+"/journal"))
		}, 0, "check --repair", "pack-salvaged"},
		{"foreign files", func(t *testing.T, s *stepped) {
			for _, dir := range []string{"", "index", "journal", "packs", "staging"} {
				must(t, os.WriteFile(filepath.Join(s.Store, dir, "thesis.tmp"), []byte("mine"), 0o644))
			}
			must(t, os.RemoveAll(s.Store+"/journal/0000000000000001.seg.bak"))
		}, 0, "", "nothing to repair"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := pristine.clone(t)
			c.harm(t, s)
			switch c.says {
			case "-": // what is damaged may not be met at once
			case "":
				wantMounts(t, s.clone(t))
			default:
				refusedMount(t, s, c.says)
			}
			dry := repaired(t, s.Store, min(1, strings.Index(c.did, " ")+1)^1, "--dry-run")
			said := repaired(t, s.Store, c.code)
			for _, words := range []string{dry, said} {
				if !strings.Contains(words, c.did) {
					t.Errorf("no %q in what it says:\n%s", c.did, words)
				}
			}
			wantClean(t, "after the repair", s.Store, "--read-data")
			s.isWhole(t)
			if c.name == "foreign files" {
				for _, dir := range []string{"", "index", "journal", "packs", "staging"} {
					if _, err := os.Stat(filepath.Join(s.Store, dir, "thesis.tmp")); err != nil {
						t.Error(err)
					}
				}
			}
			must(t, s.Stop())
			if said := repaired(t, s.Store, 0); !strings.Contains(said, "nothing to repair") {
				t.Errorf("a second repair says:\n%s", said)
			}
		})
	}
}

// wantMounts mounts a store, and leaves it.
func wantMounts(t *testing.T, s *stepped) {
	t.Helper()
	must(t, s.Start())
	must(t, s.Stop())
}

// refusedMount: a mount is refused with a reason.
func refusedMount(t *testing.T, s *stepped, says string) {
	t.Helper()
	res, err := root.Stepfs("mount", "-d", s.Store, s.Mnt)
	must(t, err)
	refused(t, res, exitError, says)
}

// TestRepairKilled: a repair that is killed at any moment leaves a store that can
// be repaired.
func TestRepairKilled(t *testing.T) {
	pristine := history(t)
	hurt := func() *stepped {
		s := pristine.clone(t)
		must(t, os.RemoveAll(s.Store+"/index"))
		must(t, os.RemoveAll(s.Store+"/journal"))
		flipByte(t, largest(t, s.Store, "packs/*.pack"), -60)
		return s
	}
	long := time.Hour
	for range 2 { // the first one may wait for the disk
		s := hurt()
		begin := time.Now()
		repaired(t, s.Store, 0)
		long = min(long, 3*time.Since(begin)/2) // in which some end
	}
	kills, ended := 0, 0
	all := max(5, rounds(t, 50)/4)
	for round := range all {
		s := hurt()
		for again := range 3 {
			cmd := exec.Command(root.Bin, "check", "--repair", s.Store)
			must(t, cmd.Start())
			time.Sleep(long * time.Duration(3*round+again) / time.Duration(3*all))
			_ = cmd.Process.Kill()
			if cmd.Wait() != nil {
				kills++
			} else {
				ended++
			}
		}
		repaired(t, s.Store, 0)
		wantClean(t, "after the repair", s.Store)
		s.isWhole(t)
		must(t, s.Stop())
		must(t, os.RemoveAll(filepath.Dir(s.Mnt)))
	}
	t.Logf("%d kills, %d ended before", kills, ended)
	if kills < 10 || ended == 0 {
		t.Error("this proved nothing")
	}
}

// TestRepairKeepsStaged: what was not stored can't be named without records; its
// bytes are moved aside, not removed.
func TestRepairKeepsStaged(t *testing.T) {
	for _, stored := range []bool{true, false} { // or there is nothing but what is staged
		t.Run(fmt.Sprint("with packs ", stored), func(t *testing.T) { repairKeepsStaged(t, stored) })
	}
}

func repairKeepsStaged(t *testing.T, stored bool) {
	d := mount(t, "--no-seal")
	if stored {
		must(t, os.WriteFile(d.Mnt+"/stored", make([]byte, 1<<20), 0o644))
		snapshotNow(t, d, "one")
		_, err := root.Must("drain", d.Mnt)
		must(t, err)
	}
	must(t, os.WriteFile(d.Mnt+"/staged", []byte(strings.Repeat("only here ", 20000)), 0o644))
	must(t, d.Kill())
	must(t, os.RemoveAll(d.Store+"/index"))
	must(t, os.RemoveAll(d.Store+"/journal"))
	res, err := root.Stepfs("mount", "-d", d.Store, d.Mnt)
	must(t, err)
	refused(t, res, exitError, "gone.*check --repair")
	if said := repaired(t, d.Store, exitPartly); !strings.Contains(said, "staging-moved") {
		t.Errorf("it says nothing of staging files:\n%s", said)
	}
	found := false
	for _, f := range glob(t, d.Store, "damaged-*/staging/*/*") {
		b, err := os.ReadFile(f)
		must(t, err)
		found = found || strings.HasPrefix(string(b), "only here only here")
	}
	if !found {
		t.Error("what was staged is not there any more")
	}
	must(t, d.Start())
	must(t, d.Stop())
	wantClean(t, "after the repair", d.Store, "--read-data")
}
