package integration

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// checked runs `stepfs check` and gives its findings and its summary. Its exit
// code must say whether there are any.
func checked(t *testing.T, store string, flags ...string) (findings []string, summary map[string]any) {
	t.Helper()
	res, err := root.Stepfs(append([]string{"check", store, "--json"}, flags...)...)
	must(t, err)
	for line := range strings.Lines(res.Stdout) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if one["kind"] == nil {
			summary = one
		} else {
			findings = append(findings, fmt.Sprintf("%s %s: %s: %s", one["kind"], one["what"], one["object"], one["detail"]))
		}
	}
	if summary == nil {
		t.Fatalf("no summary; exit code %d: %s", res.Code, res.Both())
	}
	if want := min(len(findings), 1); res.Code != want {
		t.Fatalf("exit code %d with %d findings: %s", res.Code, len(findings), res.Both())
	}
	return findings, summary
}

// wantClean fails if a check finds anything.
func wantClean(t *testing.T, when, store string, flags ...string) map[string]any {
	t.Helper()
	findings, summary := checked(t, store, flags...)
	if len(findings) > 0 {
		t.Fatalf("%s the check finds %d things:\n%s", when, len(findings), strings.Join(findings[:min(len(findings), 20)], "\n"))
	}
	return summary
}

// TestCheckUnderLoad: a check of a mounted store that four workers write to
// finds nothing, and neither does one of the store as a kill has left it.
func TestCheckUnderLoad(t *testing.T) {
	d := mount(t, "--seal-quiet", "100ms")
	c := newCrew(t, d, 4)
	var sum map[string]any
	must(t, c.work(func() error {
		for range 8 {
			sum = wantClean(t, "under load", d.Mnt, "--read-data")
		}
		c.killed.Store(true)
		return d.Kill()
	}))
	t.Logf("under load: %v", sum)
	t.Logf("after the kill: %v", wantClean(t, "after the kill", d.Store, "--read-data=50%"))
}

// TestCheckFindsDamage: what is done to a store behind its back is found, said
// as what it is, and in the exit code.
func TestCheckFindsDamage(t *testing.T) {
	d := mount(t, "--hot-limit", "1")
	fill(t, d.Mnt, 40, 1)
	snapshotNow(t, d, "one")
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	must(t, os.WriteFile(d.Mnt+"/staged", make([]byte, 1<<20), 0o644))
	must(t, d.Stop())
	wantClean(t, "before", d.Store, "--read-data")
	packs, err := filepath.Glob(d.Store + "/packs/*.pack")
	must(t, err)
	staged, err := filepath.Glob(d.Store + "/staging/*/*")
	must(t, err)
	if len(packs) == 0 || len(staged) == 0 {
		t.Fatalf("%d packs and %d staging files: this proves nothing", len(packs), len(staged))
	}
	b, err := os.ReadFile(packs[0])
	must(t, err)
	b[32+64] ^= 1 // behind the headers of the pack and of its first part
	must(t, os.WriteFile(packs[0], b, 0o600))
	wantClean(t, "of the structure alone", d.Store)
	finds(t, d.Store, "damage chunk-data", "--read-data")
	must(t, d.Start())
	finds(t, d.Mnt, "damage chunk-data", "--read-data") // online, too
	must(t, d.Stop())
	must(t, os.Remove(packs[0]))
	finds(t, d.Store, "damage pack-missing")
	must(t, os.Remove(staged[len(staged)-1]))
	finds(t, d.Store, "damage staging-missing")
}

func finds(t *testing.T, store, what string, flags ...string) {
	t.Helper()
	findings, _ := checked(t, store, flags...)
	for _, f := range findings {
		if strings.HasPrefix(f, what) {
			return
		}
	}
	t.Errorf("no %q among %q", what, findings)
}

// TestCheckAfterKills: `kill -9` at any point of writing, storing, forgetting
// and pruning, again and again. Nothing live is gone and nothing dead is leaked:
// the check proves it each time, and once more when a prune has settled.
func TestCheckAfterKills(t *testing.T) {
	d := mount(t, "--seal-quiet", "50ms", "--hot-limit", "1")
	rnd := rand.New(rand.NewSource(seed(t)))
	n := max(5, rounds(t, 50)/3)
	var steps, forgotten, pruned atomic.Int64
	must(t, os.Mkdir(d.Mnt+"/run", 0o755)) // not there below the mount
	for round := range n {
		killed := make(chan struct{})
		var wg sync.WaitGroup
		loop := func(fn func(k int) error) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for k := 0; ; k++ {
					select {
					case <-killed:
						return
					default:
					}
					if fn(k) != nil {
						time.Sleep(time.Millisecond) // it is being killed, or there is nothing to forget yet
					}
				}
			}()
		}
		size := 1 + rnd.Intn(3<<20)
		var last atomic.Int64
		loop(func(k int) error {
			err := saveStep(d, round*1000+k, size)
			if err == nil {
				steps.Add(1)
				last.Store(int64(round*1000 + k))
			}
			return err
		})
		loop(func(int) error { return stepfsIn(d, "drain", d.Mnt) })
		loop(func(int) error {
			err := stepfsIn(d, "forget", d.Mnt, fmt.Sprintf("s%d", last.Load()))
			if err == nil {
				forgotten.Add(1)
			}
			return err
		})
		loop(func(int) error {
			err := stepfsIn(d, "prune", "--wait", d.Mnt)
			if err == nil {
				pruned.Add(1)
			}
			return err
		})
		time.Sleep(time.Duration(300+rnd.Intn(1200)) * time.Millisecond)
		err := d.Kill()
		close(killed)
		wg.Wait()
		must(t, err)
		wantClean(t, fmt.Sprintf("round %d: of the store as it was killed,", round), d.Store)
		must(t, d.Start())
		wantClean(t, fmt.Sprintf("round %d: of the mounted store", round), d.Mnt)
	}
	_, err := root.Must("forget", d.Mnt, "--policy")
	must(t, err)
	_, err = root.Must("prune", "--wait", d.Mnt)
	must(t, err)
	sum := wantClean(t, "after a settled prune", d.Mnt, "--read-data")
	must(t, d.Stop())
	wantClean(t, "at rest", d.Store, "--read-data")
	t.Logf("%d rounds, %d steps, %d forgets, %d prunes; %v", n, steps.Load(), forgotten.Load(), pruned.Load(), sum)
	if steps.Load() == 0 || forgotten.Load() == 0 || pruned.Load() == 0 || sum["chunks"] == 0.0 {
		t.Error("this proved nothing")
	}
}

// saveStep writes a checkpoint of which half is new, and deletes the one before.
func saveStep(d *harness.Daemon, step, size int) error {
	dir := fmt.Sprintf("%s/run/checkpoint-%d", d.Mnt, step)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	data := make([]byte, size)
	rand.New(rand.NewSource(1)).Read(data[:size/2])
	rand.New(rand.NewSource(int64(step))).Read(data[size/2:])
	if err := os.WriteFile(dir+"/model.pt", data, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/small", data[size-min(size, 3000):], 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(fmt.Sprintf("%s/snapshots/s%d", d.Mnt, step), 0o755); err != nil {
		return err
	}
	return os.RemoveAll(fmt.Sprintf("%s/run/checkpoint-%d", d.Mnt, step-2))
}

func stepfsIn(d *harness.Daemon, args ...string) error {
	if !d.Running() {
		return os.ErrClosed // else the command would open the store itself
	}
	_, err := root.Must(args...)
	return err
}
