package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote/dir"
	"stepfs/snapshot/published"
	"stepfs/snapshot/published/publishtest"
)

// publish puts the drained steps of a store into a directory, and gives its URL.
func publish(t *testing.T, store, to string, w bucket.Writer) (refs []*bucket.Ref) {
	t.Helper()
	b, err := dir.Open(vfs.Default, to)
	must(t, err)
	refs, err = publishtest.Publish(t.Context(), store, b, w)
	must(t, err)
	return refs
}

// The bucket alone is enough: the store is gone.
func TestRestorePublished(t *testing.T) {
	store, point, _ := mountInBackground(t)
	fill(t, point)
	want := describe(t, point)
	for _, args := range [][]string{{"snapshot", point, "one"}, {"drain", point}, {"umount", point}} {
		if got := stepfs(t, args...); got.code != 0 {
			t.Fatalf("%v: %+v", args, got)
		}
	}
	to := t.TempDir()
	publish(t, store, to, bucket.Writer{1})
	two := t.TempDir() // another machine has the same step there
	publish(t, store, two, bucket.Writer{1})
	refs := publish(t, store, two, bucket.Writer{2})
	must(t, os.RemoveAll(store))
	restoreAll(t, "dir:"+to, want)

	for args, says := range map[string]string{
		"dir:" + to + " two X":              "no snapshot two is published",
		"dir:" + to + " one@x X":            "no number",
		"dir:" + to + " one:no/such X":      "no no/such in one@",
		"dir:" + to + " one " + to + "/in":  "inside the store",
		"--writer=02 dir:" + to + " one X":  "no snapshot one of writer 02",
		"--writer=0 " + store + " one X":    "for buckets",
		"dir:" + two + " one X":             "0100000000000000 (one@",
		"--scope=a dir:" + to + " latest X": "there is latest (of the mount's root)",
	} {
		got := stepfs(t, append([]string{"restore"}, strings.Fields(strings.ReplaceAll(args, " X", " "+to+"-never"))...)...)
		if got.code != exitError || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v", args, got)
		}
	}
	out := t.TempDir()
	restoreJSON(t, exitDone, "dir:"+to, "latest:checkpoint-7/model.bin", out)
	if st, err := os.Stat(filepath.Join(out, "model.bin")); err != nil || st.Size() != 18<<20 {
		t.Error(st, err)
	}
	t.Run("several writers", func(t *testing.T) { severalWriters(t, two, refs[0]) })
}

// severalWriters: commands on a bucket in which writers 1 and 2 have the same.
func severalWriters(t *testing.T, at string, ref *bucket.Ref) {
	restoreJSON(t, exitDone, "--writer=02", "dir:"+at, "one:checkpoint-7/zero", t.TempDir())
	restoreJSON(t, exitDone, "dir:"+at, "latest:checkpoint-7/zero", t.TempDir())
	got := stepfs(t, "remote", "ls", "--json", "dir:"+at)
	var step RemoteStep
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &step))
	if len(lines) != 2 || step.Writer != "0200000000000000" || step.Step != "one" || step.Logical < 18<<20 || step.Time.IsZero() || step.Packs == 0 {
		t.Errorf("ls: %+v of %s", step, got.stdout)
	}
	got = stepfs(t, "remote", "stats", "--json", "dir:"+at)
	var stats published.Stats
	must(t, json.Unmarshal([]byte(got.stdout), &stats))
	if stats.Snapshots != 2 || stats.Writers != 2 || stats.Packs != 2*step.Packs || stats.NeededBytes != 2*step.PackBytes || stats.PackBytes != stats.NeededBytes {
		t.Errorf("stats: %+v", stats)
	}

	last := filepath.Join(at, ref.Packs[len(ref.Packs)-1].Key())
	whole, err := os.ReadFile(last)
	must(t, err)
	change := func(b []byte) { must(t, os.Remove(last)); must(t, os.WriteFile(last, b, 0o644)) }
	flipped := func(at int) []byte { b := bytes.Clone(whole); b[at] ^= 1; return b }
	for _, c := range []struct {
		name     string
		change   func()
		readData bool
		damage   string // a class of finding; empty: none
	}{
		{"whole", func() {}, false, ""},
		{"whole, read", func() {}, true, ""},
		{"a bit of a chunk", func() { change(flipped(200)) }, false, ""},
		{"a bit of a chunk, read", func() {}, true, "chunk"},
		{"a bit of the footer", func() { change(flipped(len(whole) - 40)) }, false, "pack-footer"},
		{"another size", func() { change(append(bytes.Clone(whole), 0)) }, false, "pack-size"},
		{"missing", func() { must(t, os.Remove(last)) }, false, "pack-missing"},
	} {
		c.change()
		args := []string{"remote", "check", "--probe=false", "--json", "dir:" + at}
		if c.readData {
			args = append(args, "--read-data")
		}
		got := stepfs(t, args...)
		lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
		var sum RemoteSummary
		must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &sum))
		var f published.Finding
		must(t, json.Unmarshal([]byte(lines[0]), &f))
		if sum.Published == nil || sum.Published.Snapshots != 2 || (sum.Published.Chunks > 0) != c.readData || (sum.Published.Damage > 0) != (c.damage != "") {
			t.Errorf("%s: %+v, %+v", c.name, got, sum.Published)
		}
		if c.damage != "" && (f.What != c.damage || got.code != exitError || !strings.HasSuffix(last, f.Object) || f.Snapshots[0] != step.Writer+"/"+step.ID) {
			t.Errorf("%s: exit code %d, %+v", c.name, got.code, f)
		}
	}
	got = stepfs(t, "restore", "--writer=02", "dir:"+at, "one", t.TempDir())
	if !strings.Contains(got.stderr, ref.Packs[len(ref.Packs)-1].Key()) || got.code == 0 {
		t.Errorf("a pack is missing: %+v", got)
	}
	key := filepath.Join(at, ref.Key())
	must(t, os.Remove(key))
	must(t, os.WriteFile(key, []byte("no ref"), 0o644))
	if got := stepfs(t, "remote", "ls", "dir:"+at); got.code != exitPartly || !strings.Contains(got.stderr, ref.Key()) || !strings.Contains(got.stdout, "one@") {
		t.Errorf("a ref is damaged: %+v", got)
	}
	if got := stepfs(t, "restore", "dir:"+at, "two", t.TempDir()); got.code != exitError || !strings.Contains(got.stderr, "1 refs can't be read") {
		t.Errorf("a ref is damaged: %+v", got)
	}
	must(t, os.Remove(filepath.Join(at, "config")))
	if got := stepfs(t, "remote", "check", "--probe=false", "dir:"+at); got.code != exitError || !strings.Contains(got.stderr, "no config") {
		t.Errorf("the config is missing: %+v", got)
	}
}
