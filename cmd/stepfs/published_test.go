package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote/dir"
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
	must(t, os.RemoveAll(store))
	restoreAll(t, "dir:"+to, want)

	for args, says := range map[string]string{
		"dir:" + to + " two X":              "no snapshot two is published",
		"dir:" + to + " one@x X":            "no number",
		"dir:" + to + " one:no/such X":      "no no/such in one@",
		"dir:" + to + " one " + to + "/in":  "inside the store",
		"--writer=02 dir:" + to + " one X":  "no snapshot one of writer 02",
		"--writer=0 " + store + " one X":    "for buckets",
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
}
