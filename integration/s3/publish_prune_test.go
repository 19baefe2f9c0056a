package s3

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// Two stores publish to one bucket, while another machine forgets what they have
// published and prunes with no patience at all. What nobody forgot restores whole
// out of the bucket, and of the rest nothing is left. STEPFS_PRUNE_STEPS is how many
// steps each of them publishes.
func TestPublishAndPrune(t *testing.T) {
	for name, open := range places() {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			run := func(args ...string) string {
				t.Helper()
				r, err := harness.RunEnv(p.env, root.Bin, args...)
				if err != nil || r.Code != 0 {
					t.Errorf("%v: %v, exit code %d: %s", args, err, r.Code, r.Both())
				}
				return r.Both()
			}
			var stores []*harness.Daemon
			wants := make([]map[string]harness.Tree, 2)
			for range wants {
				d := root.Prepare(t, "--remote", p.url)
				d.Env = p.env
				must(t, d.Start())
				stores = append(stores, d)
			}
			stop := make(chan struct{})
			var writers, other sync.WaitGroup
			for k, d := range stores {
				writers.Go(func() { wants[k] = rounds(t, p, d, fmt.Sprintf("s%d", k), run) })
			}
			deleted := 0
			other.Go(func() {
				for {
					var n int
					_, _ = fmt.Sscan(run("remote", "prune", "--grace", "0s", p.url), &n)
					deleted += n
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
					}
				}
			})
			writers.Wait()
			close(stop)
			other.Wait()
			for _, d := range stores {
				must(t, d.Stop())
				must(t, os.RemoveAll(d.Store))
			}
			for range 3 {
				run("remote", "prune", "--grace", "0s", p.url)
			}
			if said := run("remote", "check", "--probe=false", "--read-data", p.url); !strings.Contains(said, "nothing is wrong") {
				t.Errorf("the bucket: %s", said)
			}
			needed := map[string]bool{}
			for _, f := range p.published(t) {
				for _, k := range f.Packs {
					needed[k.Key()] = true
				}
			}
			if n := p.packs(t); n != len(needed) {
				t.Errorf("%d packs are there, %d are needed", n, len(needed))
			}
			for _, want := range wants {
				for step, tree := range want {
					to := t.TempDir()
					run("restore", p.url, step, to)
					got, err := harness.ReadTree(to)
					must(t, err)
					if diff := tree.Diff(got); diff != "" {
						t.Errorf("%s: %s", step, diff)
					}
				}
			}
			if r, err := harness.RunEnv(p.env, root.Bin, "restore", p.url, "s0-0", t.TempDir()); err != nil || r.Code == 0 || !strings.Contains(r.Both(), "no snapshot s0-0 is published there") {
				t.Errorf("a step that was forgotten: %v, exit code %d: %s", err, r.Code, r.Both())
			}
			t.Logf("%d packs were pruned meanwhile", deleted)
			if deleted == 0 {
				t.Error("nothing was pruned meanwhile")
			}
		})
	}
}

// rounds has a store publish steps that share most of their content, and forgets
// each but the last two in the bucket: one of them while the next goes there.
func rounds(t *testing.T, p place, d *harness.Daemon, name string, run func(args ...string) string) map[string]harness.Tree {
	want := map[string]harness.Tree{}
	steps := number(t, "STEPFS_PRUNE_STEPS", 6)
	for k := range steps {
		// Files come and go and come back: the store has them, the bucket may not.
		for j := range 4 {
			path := filepath.Join(d.Mnt, fmt.Sprintf("data-%s-shard%d", name, j))
			if k%3 == j%3 {
				_ = os.Remove(path)
			} else if err := os.WriteFile(path, seeded(fmt.Sprint(name, j), 1<<20), 0o644); err != nil {
				t.Error(err)
			}
		}
		step := fmt.Sprintf("%s-%d", name, k)
		save(t, d, step, 100<<10)
		tree, err := harness.ReadTree(filepath.Join(d.Mnt, "snapshots", step))
		if err != nil {
			t.Error(err)
		}
		if k > 0 && k < steps-2 {
			run("remote", "forget", p.url, fmt.Sprintf("%s-%d", name, k-1))
		}
		wait(t, step+" is published", func() bool { u := uploadsOf(t, d); return u.Queue == 0 && u.Error == "" })
		want[step] = tree
	}
	for k := range steps - 3 {
		delete(want, fmt.Sprintf("%s-%d", name, k))
	}
	return want
}
