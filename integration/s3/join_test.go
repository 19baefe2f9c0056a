package s3

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// TestJoin: two stores of the same data, of which the second was made and filled
// before it came to the bucket of the first. It takes the bucket's polynomial and key,
// stores anew what it publishes, and sends almost nothing, though it is killed in the
// middle of that. Both come back from the bucket alone, and the second has here what
// it had.
func TestJoin(t *testing.T) {
	p := places()["versitygw"](t)
	run := func(args ...string) string {
		t.Helper()
		r, err := harness.RunEnv(p.env, root.Bin, args...)
		if err != nil || r.Code != 0 {
			t.Fatalf("%v: %v, exit code %d: %s", args, err, r.Code, r.Both())
		}
		return r.Stdout
	}
	model := seeded("model", 12<<20)
	version := func(k int) []byte { // each changes a part of the one before
		copy(model[k<<20:], seeded(fmt.Sprint(k), 1<<19))
		return bytes.Clone(model)
	}
	versions := [][]byte{version(0), version(4), version(9)}
	fill := func(d *harness.Daemon, name string) {
		for k, v := range versions {
			must(t, os.WriteFile(filepath.Join(d.Mnt, "model"), v, 0o644))
			must(t, os.Mkdir(filepath.Join(d.Mnt, "snapshots", fmt.Sprint(name, k)), 0o755))
			run("drain", d.Mnt)
		}
	}
	one := root.Prepare(t, "--remote", p.url)
	one.Env = p.env
	must(t, one.Start())
	fill(one, "one")
	run("drain", "--remote", one.Mnt)
	sent := p.packBytes(t)

	two := root.Prepare(t)
	two.Env = p.env
	must(t, two.Start())
	fill(two, "two")
	must(t, two.Stop())
	was, err := os.ReadFile(filepath.Join(two.Store, "config"))
	must(t, err)
	two.Args = []string{"--remote", p.url}
	for k := range 4 {
		before, _ := packFiles(t, two)
		must(t, two.Start())
		wait(t, "something is stored anew", func() bool {
			n, _ := packFiles(t, two)
			u := uploadsOf(t, two)
			return n > before || u.Queue == 0
		})
		time.Sleep(time.Duration(k) * 10 * time.Millisecond)
		must(t, two.Kill())
	}
	must(t, two.Start())
	if u := uploadsOf(t, two); u.Older < 12<<20 {
		t.Errorf("the status does not say what was stored before: %+v", u)
	}
	run("drain", "--remote", two.Mnt)
	again := p.packBytes(t) - sent
	t.Logf("%d bytes of packs, then %d", sent, again)
	if sent < 12<<20 || again > 64<<10 {
		t.Errorf("%d bytes of packs were sent, then %d of the same data", sent, again)
	}
	if now, err := os.ReadFile(filepath.Join(two.Store, "config")); err != nil || !strings.Contains(string(now), `"older"`) || strings.Contains(string(was), `"older"`) {
		t.Errorf("the config does not keep the older key: %s, %v", now, err)
	}
	if said := run("check", "--read-data", two.Mnt); !strings.Contains(said, "nothing is wrong") {
		t.Error(said)
	}
	if said := run("remote", "check", "--read-data", p.url); !strings.Contains(said, "nothing is wrong") {
		t.Error(said)
	}
	for _, d := range []*harness.Daemon{one, two} {
		must(t, d.Stop())
	}
	for k, v := range versions {
		for _, name := range []string{"one", "two"} {
			to := t.TempDir()
			run("restore", p.url, fmt.Sprint(name, k), to)
			if got, err := os.ReadFile(filepath.Join(to, "model")); err != nil || !bytes.Equal(got, v) {
				t.Errorf("%s%d did not come back: %v", name, k, err)
			}
		}
		to := t.TempDir()
		run("restore", two.Store, fmt.Sprint("two", k), to)
		if got, err := os.ReadFile(filepath.Join(to, "model")); err != nil || !bytes.Equal(got, v) {
			t.Errorf("two%d is not here as it was: %v", k, err)
		}
	}
	// Packs of both namings are all that is left.
	loseNames(t, two)
	for k, v := range versions {
		to := t.TempDir()
		run("restore", two.Store, fmt.Sprint("two", k), to)
		if got, err := os.ReadFile(filepath.Join(to, "model")); err != nil || !bytes.Equal(got, v) {
			t.Errorf("two%d did not come back from packs: %v", k, err)
		}
	}
	must(t, two.Start())
	run("drain", "--remote", two.Mnt)
	if said := run("check", "--read-data", two.Mnt); !strings.Contains(said, "nothing is wrong") {
		t.Error(said)
	}
	must(t, two.Stop())
	if more := p.packBytes(t) - sent - again; more > 64<<10 {
		t.Errorf("%d bytes were sent again after a repair", more)
	}
}

// loseNames has a store made again from its packs.
func loseNames(t *testing.T, d *harness.Daemon) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(d.Store, "index")))
	must(t, os.RemoveAll(filepath.Join(d.Store, "journal")))
	if r, err := harness.Run(root.Bin, "check", "--repair", d.Store); err != nil || r.Code != 0 && r.Code != 3 {
		t.Fatalf("repair: %v, %s", err, r.Both())
	}
}

// TestJoinWhatIsAway: a store that was made again from its packs does not know any
// more which bucket it belongs to. Of what is only in that one nothing is at another:
// so it joins no other, and what it has comes back where it is.
func TestJoinWhatIsAway(t *testing.T) {
	mine, other := places()["dir"](t), places()["dir"](t)
	one := root.Prepare(t, "--remote", other.url)
	must(t, one.Start())
	save(t, one, "theirs", 1<<20)
	wait(t, "the bucket is theirs", func() bool { return len(other.published(t)) == 1 })
	must(t, one.Stop())

	d := root.Prepare(t, "--remote", mine.url, "--cache-size", "1", "--save-settings")
	must(t, d.Start())
	save(t, d, "step", 2<<20)
	wait(t, "all is evicted", func() bool { here, away := packFiles(t, d); return here == 0 && away > 0 })
	must(t, d.Stop())
	loseNames(t, d)
	was, err := os.ReadFile(filepath.Join(d.Store, "config"))
	must(t, err)
	for _, url := range []string{other.url, "dir:" + t.TempDir()} {
		d.Args = []string{"--remote", url}
		if err := d.Start(); err == nil {
			t.Errorf("it uploads to %s, where nothing is of what it has elsewhere", url)
			must(t, d.Stop())
		} else if !strings.Contains(err.Error(), "only in the bucket") {
			t.Error(err)
		}
	}
	if now, err := os.ReadFile(filepath.Join(d.Store, "config")); err != nil || !bytes.Equal(was, now) {
		t.Errorf("its config has changed (%v): %s", err, now)
	}
	d.Args = nil
	must(t, d.Start())
	if got, err := readStep(d, "step"); err != nil || got != stepData("step", 2<<20) {
		t.Errorf("what is only in the bucket: %d bytes, %v", len(got), err)
	}
	must(t, d.Stop())
}
