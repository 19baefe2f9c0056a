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
	// A version is cut where the one before was; who adopts it cuts it so, too.
	must(t, os.WriteFile(filepath.Join(stores[0].Mnt, "model"), seeded("model 2", 12<<20), 0o644))
	must(t, os.Mkdir(filepath.Join(stores[0].Mnt, "snapshots", "three"), 0o755))
	run("drain", "--remote", stores[0].Mnt)
	before := p.packBytes(t)
	third := root.Prepare(t, "--remote", p.url, "--adopt", "three")
	third.Env = p.env
	must(t, third.Start())
	must(t, os.Mkdir(filepath.Join(third.Mnt, "snapshots", "four"), 0o755))
	run("drain", "--remote", third.Mnt)
	stores = append(stores, third)
	if n := p.packBytes(t) - before; n > 64<<10 {
		t.Errorf("%d bytes of packs were sent of a step that was adopted", n)
	}
	run("remote", "forget", p.url, "three")
	run("remote", "forget", p.url, "one")
	for range 3 {
		run("remote", "prune", "--grace", "0s", p.url)
	}
	if said := run("remote", "check", "--read-data", p.url); !strings.Contains(said, "nothing is wrong") {
		t.Error(said)
	}
	for step, d := range map[string]*harness.Daemon{"two": stores[1], "four": third} {
		to := t.TempDir()
		run("restore", p.url, step, to)
		want, err := harness.ReadTree(d.Mnt)
		must(t, err)
		got, err := harness.ReadTree(to)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
	}
	for _, d := range stores {
		must(t, d.Stop())
	}
}
