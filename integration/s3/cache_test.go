package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"stepfs/integration/harness"
)

// dropCaches has the kernel forget what it has read.
func dropCaches(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200))
}

// packFiles counts the packs that a store has here, and those that are away.
func packFiles(t *testing.T, d *harness.Daemon) (here, away int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(d.Store, "packs"))
	must(t, err)
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".pack":
			here++
		case ".away":
			away++
		}
	}
	return here, away - here
}

// stagingFiles counts the whole copies that a store has, and what it has not stored yet.
func stagingFiles(t *testing.T, d *harness.Daemon) int {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(d.Store, "staging", "*", "*"))
	must(t, err)
	return len(all)
}

// stepData is what save writes as a step.
func stepData(name string, n int) string {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name)))).Read(data)
	return string(data)
}

// readStep reads what a step has of a file that save wrote.
func readStep(d *harness.Daemon, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(d.Mnt, "snapshots", name, "data-"+name))
	return string(b), err
}

// TestCacheSize: a store that may keep next to nothing gives up all that is
// published, reads it back from the bucket, and does without the bucket for
// everything else.
func TestCacheSize(t *testing.T) {
	for kind, open := range places() {
		t.Run(kind, func(t *testing.T) {
			p := open(t)
			d := root.Prepare(t, "--remote", p.url, "--cache-size", "1", "--save-settings")
			d.Env = p.env
			must(t, d.Start())
			d.Args = nil
			const steps, size = 3, 6 << 20
			name := func(k int) string { return fmt.Sprint("step", k) }
			for k := range steps {
				save(t, d, name(k), size)
			}
			wait(t, "all is published", func() bool { u := uploadsOf(t, d); return u.Queue == 0 && u.Published == steps })
			wait(t, "all is evicted", func() bool { here, away := packFiles(t, d); return here == 0 && away > 0 })
			for round := 0; round == 0 || round == 1 && long(); round++ {
				dropCaches(t)
				for k := range steps {
					got, err := readStep(d, name(k))
					if err != nil || got != stepData(name(k), size) {
						t.Fatalf("round %d, %s: %d bytes, %v", round, name(k), len(got), err)
					}
				}
				must(t, d.Kill())
				must(t, d.Start())
			}
			if _, err := root.Must("warm", d.Mnt, name(0)); err != nil {
				t.Fatal(err)
			}
			out, err := root.Must("check", d.Store)
			if err != nil || !strings.Contains(out, "only in the bucket, not read") {
				t.Fatalf("%v: %s", err, out)
			}

			wait(t, "what was warmed goes again", func() bool { here, _ := packFiles(t, d); return here == 0 })

			// What is pinned stays, over a kill.
			if _, err := root.Must("pin", d.Mnt, name(0)); err != nil {
				t.Fatal(err)
			}
			pinned, _ := packFiles(t, d)
			if out, err := root.Must("snapshots", d.Mnt); err != nil || pinned == 0 || strings.Count(out, "pinned to this disk") != 1 {
				t.Fatalf("%d packs are here: %s, %v", pinned, out, err)
			}
			must(t, d.Kill())
			must(t, d.Start())
			if _, err := root.Must("warm", d.Mnt, name(1)); err != nil {
				t.Fatal(err)
			}
			wait(t, "only what is pinned stays", func() bool { here, _ := packFiles(t, d); return here == pinned })
			if _, err := root.Must("unpin", d.Mnt, name(0)); err != nil {
				t.Fatal(err)
			}
			wait(t, "what is not pinned any more goes", func() bool { here, _ := packFiles(t, d); return here == 0 })

			// The bucket goes. A server that does not answer is asked for a while.
			if kind != "dir" && !long() {
				must(t, d.Stop())
				return
			}
			must(t, d.Stop())
			away := p
			if kind == "dir" {
				must(t, os.Rename(strings.TrimPrefix(p.url, "dir:"), strings.TrimPrefix(p.url, "dir:")+"-away"))
			} else {
				d.Env = append(append([]string{}, p.env...), "AWS_ENDPOINT_URL_S3=http://127.0.0.1:1")
			}
			must(t, d.Start())
			_, err = readStep(d, name(0))
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("what is only in the bucket, which is down: %v", err)
			}
			var status struct {
				Faults []string `json:"recent_faults"`
				Away   int64    `json:"away_bytes"`
			}
			b, err := os.ReadFile(filepath.Join(d.Mnt, "snapshots/.status.json"))
			must(t, err)
			must(t, json.Unmarshal(b, &status))
			if all := strings.Join(status.Faults, "\n"); !strings.Contains(all, "only in the bucket") || status.Away < steps*size {
				t.Errorf("%d bytes are away, and it says: %s", status.Away, all)
			}
			save(t, d, "later", size)
			if got, err := readStep(d, "later"); err != nil || got != stepData("later", size) {
				t.Errorf("what is here: %v", err)
			}
			must(t, filepath.WalkDir(filepath.Join(d.Mnt, "snapshots", name(1)), func(_ string, e fs.DirEntry, err error) error { return err }))
			must(t, d.Stop())

			// It is back.
			if d.Env = p.env; kind == "dir" {
				must(t, os.Rename(strings.TrimPrefix(away.url, "dir:")+"-away", strings.TrimPrefix(away.url, "dir:")))
			}
			must(t, d.Start())
			for k := range steps {
				if got, err := readStep(d, name(k)); err != nil || got != stepData(name(k), size) {
					t.Fatalf("%s: %v", name(k), err)
				}
			}
			wait(t, "the last one is published, and gone", func() bool {
				here, _ := packFiles(t, d)
				return here+stagingFiles(t, d) == 0 && uploadsOf(t, d).Published == steps+1
			})
			if got, err := readStep(d, "later"); err != nil || got != stepData("later", size) {
				t.Fatal(err)
			}
			must(t, d.Stop())
			if kind == "dir" {
				repairAway(t, d, strings.TrimPrefix(p.url, "dir:"), []string{name(0), name(1), name(2), "later"}, size)
			}
		})
	}
}

// repairAway loses the namespace of a store that has nothing here but stubs. It is
// no new store; without the bucket a repair changes nothing, and with it all steps
// are back.
func repairAway(t *testing.T, d *harness.Daemon, place string, steps []string, size int) {
	t.Helper()
	for _, part := range []string{"index", "journal"} {
		must(t, os.RemoveAll(filepath.Join(d.Store, part)))
	}
	if err := d.Start(); err == nil || !strings.Contains(d.Output(), "check --repair") {
		t.Fatalf("a mount: %v: %s", err, d.Output())
	}
	must(t, os.Rename(place, place+"-away"))
	if out, err := root.Must("check", "--repair", d.Store); err == nil || !strings.Contains(fmt.Sprint(out, err), "only in the bucket") {
		t.Fatalf("a repair without the bucket: %s, %v", out, err)
	}
	must(t, os.Rename(place+"-away", place))
	if out, err := root.Must("check", "--repair", d.Store); err != nil {
		t.Fatalf("a repair: %s, %v", out, err)
	}
	must(t, d.Start())
	for _, name := range steps {
		if got, err := readStep(d, name); err != nil || got != stepData(name, size) {
			t.Errorf("%s after the repair: %d bytes, %v", name, len(got), err)
		}
	}
	must(t, d.Stop())
}
