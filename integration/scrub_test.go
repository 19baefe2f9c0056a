package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stepfs/integration/harness"
)

type scrubPass struct {
	Began                   time.Time
	Done                    float64
	Bytes, Findings, Healed uint64
}

type scrubState struct {
	Now, Last *scrubPass
	Faults    []string
}

func scrubOf(t *testing.T, d *harness.Daemon) scrubState {
	t.Helper()
	out, err := root.Must("status", "--json", d.Mnt)
	must(t, err)
	var st struct {
		Scrub  struct{ Now, Last *scrubPass }
		Faults []string `json:"recent_faults"`
	}
	must(t, json.Unmarshal([]byte(out), &st))
	return scrubState{st.Scrub.Now, st.Scrub.Last, st.Faults}
}

// scrubbed waits until a pass has ended that began after now.
func scrubbed(t *testing.T, d *harness.Daemon) scrubState {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < 30*time.Second {
		if s := scrubOf(t, d); s.Last != nil && s.Last.Began.After(begin) {
			return s
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("no pass of the scrub ended")
	return scrubState{}
}

// sound waits for a pass that finds nothing: the one that found the damage may
// have ended before anybody looked, and the next may have been under way.
func sound(t *testing.T, d *harness.Daemon) {
	t.Helper()
	for range 3 {
		if s := scrubbed(t, d); s.Last.Findings == 0 {
			return
		}
	}
	t.Fatalf("found and not healed: %q", scrubOf(t, d).Faults)
}

// harm flips a bit of the files where they hold what, and says in how many it did.
func harm(t *testing.T, pattern string, what []byte) (n int) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		at := bytes.Index(b, what)
		if at < 0 {
			continue
		}
		w, err := os.OpenFile(f, os.O_RDWR, 0)
		must(t, err)
		_, err = w.WriteAt([]byte{b[at] ^ 4}, int64(at))
		must(t, err)
		must(t, w.Close())
		n++
	}
	if n == 0 {
		t.Fatalf("nothing was harmed in %s", pattern)
	}
	return n
}

// TestScrubHeals: a chunk that is damaged in its pack is stored again from the
// hot copy; a damaged hot copy gives way to its chunks; where both are damaged
// it is said, and nobody gets wrong bytes of the chunk.
func TestScrubHeals(t *testing.T) {
	d := mount(t, "--no-seal", "--scrub=off")
	data := noise(rand.New(rand.NewSource(seed(t))), 3<<20)
	must(t, os.WriteFile(d.Mnt+"/file", data, 0o644))
	snapshotNow(t, d, "one")
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	must(t, d.Stop())
	d.Args = []string{"--no-seal", "--scrub=1G"}

	harm(t, d.Store+"/packs/*.pack", data[1000:1100])
	finds(t, d.Store, "damage chunk-data", "--read-data")
	must(t, d.Start())
	sound(t, d)
	wantClean(t, "healed from the hot copy", d.Mnt, "--read-data")
	must(t, d.Stop())

	harm(t, d.Store+"/staging/*/*", data[1000:1100])
	finds(t, d.Store, "damage hot-copy", "--read-data")
	must(t, d.Start())
	sound(t, d)
	for _, name := range []string{"/file", "/snapshots/one/file"} {
		got, err := os.ReadFile(d.Mnt + name)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s after the hot copy was dropped: %v", name, err)
		}
	}
	wantClean(t, "rid of the hot copy", d.Mnt, "--read-data")
	must(t, d.Stop())

	harm(t, d.Store+"/packs/*.pack", data[1000:1100]) // no second copy
	must(t, d.Start())
	if s := scrubbed(t, d); s.Last.Findings == 0 || s.Last.Healed > 0 {
		t.Errorf("with one copy, damaged: %+v", s.Last)
	}
	if got, err := os.ReadFile(d.Mnt + "/snapshots/one/file"); err == nil {
		t.Errorf("read %d bytes, right %v", len(got), bytes.Equal(got, data))
	}
	finds(t, d.Mnt, "damage chunk-data", "--read-data")
}

// TestReaderHeals: a reader that meets a damaged chunk gets an error, and soon
// the right bytes, if another file still has them in its hot copy.
func TestReaderHeals(t *testing.T) {
	d := mount(t, "--no-seal", "--scrub=off", "--hot-limit=4M")
	data := noise(rand.New(rand.NewSource(seed(t))), 3<<20)
	for _, name := range []string{"a", "b"} { // the older one's copy goes
		must(t, os.WriteFile(d.Mnt+"/"+name, data, 0o644))
		snapshotNow(t, d, "of-"+name)
		_, err := root.Must("drain", d.Mnt)
		must(t, err)
	}
	until(t, "a hot copy is evicted", func() bool {
		files, _ := filepath.Glob(d.Store + "/staging/*/*")
		return len(files) == 1
	})
	must(t, d.Stop())
	harm(t, d.Store+"/packs/*.pack", data[2000:2100])
	must(t, d.Start())
	if got, err := os.ReadFile(d.Mnt + "/snapshots/of-a/a"); err == nil && !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	} else if err == nil && !strings.Contains(d.Output(), "its bytes do not have its name") {
		t.Fatal("no damage was met: this proves nothing") // the kernel asks twice, and the second time it may be healed
	}
	until(t, "it is healed", func() bool {
		got, err := os.ReadFile(d.Mnt + "/snapshots/of-a/a")
		if err == nil && !bytes.Equal(got, data) {
			t.Fatal("wrong bytes")
		}
		return err == nil
	})
	wantClean(t, "healed after a read", d.Mnt, "--read-data")
}

// TestScrubGoesOn: a pass goes on where a killed daemon left it.
func TestScrubGoesOn(t *testing.T) {
	d := mount(t, "--no-seal", "--scrub=off")
	const packs, size = 6, 1 << 20
	for k := range packs {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", d.Mnt, k), noise(rand.New(rand.NewSource(int64(k))), size), 0o644))
		snapshotNow(t, d, fmt.Sprint("s", k))
		_, err := root.Must("drain", d.Mnt)
		must(t, err)
	}
	must(t, d.Stop())
	d.Args = []string{"--no-seal", "--scrub=1M"}
	must(t, d.Start())
	var first scrubState
	until(t, "some of it is scrubbed", func() bool {
		first = scrubOf(t, d)
		return first.Now != nil && first.Now.Done > 0.2 && first.Now.Done < 1
	})
	must(t, d.Kill())
	must(t, d.Start())
	next := scrubOf(t, d)
	if next.Now == nil || !next.Now.Began.Equal(first.Now.Began) || next.Now.Done < first.Now.Done {
		t.Fatalf("before the kill %+v, after it %+v", first.Now, next.Now)
	}
	must(t, d.Kill())
	d.Args = []string{"--no-seal", "--scrub=1G"}
	must(t, d.Start())
	until(t, "the pass ends", func() bool {
		next = scrubOf(t, d)
		return next.Last != nil
	})
	if !next.Last.Began.Equal(first.Now.Began) || next.Last.Bytes < packs*size || next.Last.Findings > 0 {
		t.Errorf("the pass: %+v", next.Last)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
