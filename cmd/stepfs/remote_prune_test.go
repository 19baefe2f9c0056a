package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/restic/chunker"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/dir"
	"stepfs/internal/schema"
)

// A step that two stores have published is forgotten of one, and its packs go in
// the second run, but for those that others need.
func TestRemoteForgetAndPrune(t *testing.T) {
	root := t.TempDir()
	url := "dir:" + root
	if got := stepfs(t, "remote", "prune", url); got.code != exitError || !strings.Contains(got.stderr, "no such object") {
		t.Errorf("an empty place: exit code %d, %s", got.code, got.stderr)
	}
	b, err := dir.Open(vfs.Default, root)
	must(t, err)
	_, err = bucket.Join(t.Context(), b, &bucket.Config{ID: strings.Repeat("0a", 16), Polynomial: chunker.Pol(0x3DA3358B4DC173)})
	must(t, err)
	put := func(w bucket.Writer, seq uint64) bucket.Pack {
		p := bucket.Pack{Name: pack.Name{byte(seq)}, Writer: w, Seq: seq}
		must(t, b.Put(t.Context(), p.Key(), remote.Bytes([]byte("12345"))))
		return p
	}
	one, two := bucket.Writer{1}, bucket.Writer{2}
	shared := put(one, 1)
	for _, w := range []bucket.Writer{one, two} {
		l, err := prune.Take(t.Context(), b, w)
		must(t, err)
		rec := schema.Snapshot{Name: "100", Scope: "run"}
		must(t, l.Publish(t.Context(), &bucket.Ref{Snapshot: 7, Record: rec.Encode(), Packs: []bucket.Pack{shared, put(w, 2)}}))
		must(t, l.Release(t.Context()))
	}
	for _, c := range []struct {
		args string
		says string
	}{
		{"100", "several stores"},
		{"--writer 0 100", "several stores"},
		{"--writer 03 100", "no published step 100"},
		{"200", "no published step 200"},
		{"100@8", "no published step 100@8"},
		{"--scope other 100", "no published step 100"},
	} {
		got := stepfs(t, append([]string{"remote", "forget", url}, strings.Fields(c.args)...)...)
		if got.code != exitError || !strings.Contains(got.stderr, c.says) {
			t.Errorf("forget %s: exit code %d, %s", c.args, got.code, got.stderr)
		}
	}
	got := stepfs(t, "remote", "forget", url, "--writer", one.String()[:2], "--scope", "run", "100@7")
	if got.code != exitDone || !strings.Contains(got.stdout, "forgot 100@7 of writer 01") {
		t.Errorf("exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	if got = stepfs(t, "remote", "prune", url); got.stdout != "0 packs (0 B) deleted, 3 stay\n" {
		t.Errorf("young packs: %s%s", got.stdout, got.stderr)
	}
	for _, want := range []RemotePruned{
		{Packs: 3, Condemned: 1, CondemnedBytes: 5, DryRun: true, Epoch: 1},
		{Packs: 3, Condemned: 1, CondemnedBytes: 5, Epoch: 1},
		{Packs: 2, Deleted: 1, DeletedBytes: 5, Epoch: 2},
	} {
		args := []string{"remote", "prune", "--json", "--grace", "0", url}
		if want.DryRun {
			args = append(args, "-n")
		}
		var p RemotePruned
		if got = stepfs(t, args...); json.Unmarshal([]byte(got.stdout), &p) != nil || p.Packs != want.Packs || p.Deleted != want.Deleted ||
			p.DeletedBytes != want.DeletedBytes || p.Condemned != want.Condemned || p.CondemnedBytes != want.CondemnedBytes || p.Epoch != want.Epoch || p.Refs != 1 || p.Forgotten != 1 {
			t.Errorf("%+v: %s%s", want, got.stdout, got.stderr)
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "packs", "*", "*"))
	if err != nil || len(left) != 2 {
		t.Error(left, err)
	}
	// By its key, whatever is there.
	if got = stepfs(t, "remote", "forget", url, bucket.RefKey(two, 1)); got.code != exitDone {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
}
