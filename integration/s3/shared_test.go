package s3

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/integration/harness"
)

// packBytes gives how much lies in packs.
func (p place) packBytes(t *testing.T) (n int64) {
	t.Helper()
	for o, err := range p.List(t.Context(), bucket.PacksPrefix, "") {
		must(t, err)
		n += o.Size
	}
	return n
}

// TestShared: two stores of the same data have it in their bucket once. Each
// comes back from there alone, also when the other has forgotten and pruned its
// own.
func TestShared(t *testing.T) {
	p := places()["versitygw"](t)
	run := func(args ...string) string {
		t.Helper()
		r, err := harness.RunEnv(p.env, root.Bin, args...)
		if err != nil || r.Code != 0 {
			t.Fatalf("%v: %v, exit code %d: %s", args, err, r.Code, r.Both())
		}
		return r.Stdout
	}
	var stores []*harness.Daemon
	var sent []int64
	for _, step := range []string{"one", "two"} {
		d := root.Prepare(t, "--remote", p.url)
		d.Env = p.env
		must(t, d.Start())
		must(t, os.WriteFile(filepath.Join(d.Mnt, "model"), seeded("model", 12<<20), 0o644))
		before := p.packBytes(t)
		must(t, os.Mkdir(filepath.Join(d.Mnt, "snapshots", step), 0o755))
		run("drain", "--remote", d.Mnt)
		sent, stores = append(sent, p.packBytes(t)-before), append(stores, d)
	}
	t.Logf("%d bytes of packs, then %d", sent[0], sent[1])
	if sent[0] < 12<<20 || sent[1] > 64<<10 {
		t.Errorf("%d bytes of packs were sent, then %d of the same data", sent[0], sent[1])
	}
	run("remote", "forget", p.url, "one")
	for range 3 {
		run("remote", "prune", "--grace", "0s", p.url)
	}
	if said := run("remote", "check", "--read-data", p.url); !strings.Contains(said, "nothing is wrong") {
		t.Error(said)
	}
	to := t.TempDir()
	run("restore", p.url, "two", to)
	want, err := harness.ReadTree(stores[1].Mnt)
	must(t, err)
	got, err := harness.ReadTree(to)
	must(t, err)
	if diff := want.Diff(got); diff != "" {
		t.Error(diff)
	}
	for _, d := range stores {
		must(t, d.Stop())
	}
}
