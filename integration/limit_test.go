package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

const limitBytes = 600 << 20

// onLimit mounts a store with a limit of 600 MiB on a disk that has far more.
func onLimit(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	d := prepare(t, append([]string{"--store-limit", "600M"}, args...)...)
	must(t, d.Start())
	return d
}

// use is what status says.
type use struct {
	Limit    int64 `json:"limit_bytes"`
	Used     int64 `json:"used_bytes"`
	Free     int64 `json:"free_bytes"`
	Reserve  int64 `json:"reserve_bytes"`
	Hot      int64 `json:"hot_bytes"`
	Unstored int64 `json:"unstored_bytes"`
}

func useOf(t *testing.T, d *harness.Daemon) (u use) {
	t.Helper()
	out, err := root.Must("status", "--json", d.Mnt)
	must(t, err)
	must(t, json.Unmarshal([]byte(out), &u))
	return u
}

// du is what the store's directory takes, and df what a job may still write.
func du(t *testing.T, d *harness.Daemon) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.Fields(shell(t, "du", "-s", "--block-size=1", d.Store))[0], 10, 64)
	must(t, err)
	return n
}

func df(t *testing.T, d *harness.Daemon) (size, avail int64) {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(d.Mnt, &st))
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// writeUnsynced writes files until a write fails, and gives what was
// acknowledged of each.
func writeUnsynced(t *testing.T, dir string, rnd *rand.Rand) map[string][]byte {
	t.Helper()
	acked := map[string][]byte{}
	for i := 0; i < 200; i++ {
		path := filepath.Join(dir, fmt.Sprintf("f%d", i))
		data := make([]byte, 8<<20-rnd.Intn(1<<20))
		rnd.Read(data)
		f, err := os.Create(path)
		if err == nil {
			var n int
			n, err = f.Write(data)
			acked[path] = data[:n]
			must(t, f.Close()) // the error is never late
		}
		if errors.Is(err, unix.ENOSPC) {
			return acked
		}
		must(t, err)
	}
	t.Fatal("the store does not get full")
	return nil
}

// TestStoreLimit fills a store up to its limit, three times over: a writer is
// told at write(2), when df says that nothing is left and du that the store is
// within its limit; all that was acknowledged can be read and stored; and what
// is deleted comes back by itself. (No barrier is taken, so that no snapshot
// keeps what is deleted.)
func TestStoreLimit(t *testing.T) {
	d := onLimit(t, "--seal-quiet", "1h")
	if size, avail := df(t, d); size != limitBytes || avail > (limitBytes-64<<20)/2 || avail < 200<<20 {
		t.Errorf("df of the empty store: %d of %d", avail, size)
	}
	rnd := rand.New(rand.NewSource(seed(t)))
	for round := range 3 {
		when := fmt.Sprintf("round %d", round)
		acked := writeUnsynced(t, d.Mnt, rnd)
		sum := int64(0)
		for _, b := range acked {
			sum += int64(len(b))
		}
		u := useOf(t, d)
		_, avail := df(t, d)
		t.Logf("%s: %d MiB in %d files; %+v; df says %d, du %d", when, sum>>20, len(acked), u, avail, du(t, d))
		if avail > 2<<20 {
			t.Errorf("%s: ENOSPC, and df says that %d bytes are free", when, avail)
		}
		if lost := u.Free - u.Reserve - u.Unstored; lost > 4<<20 {
			t.Errorf("%s: ENOSPC with %d bytes to spare: %+v", when, lost, u)
		}
		if n := du(t, d); n > limitBytes {
			t.Errorf("%s: the store takes %d bytes", when, n)
		}
		readable(t, acked, when)
		for path := range acked {
			must(t, os.Remove(path))
		}
		// The kernel tells of a last close when it likes: that long a deleted file stays.
		eventually(t, "writes go on by themselves", func() bool {
			return os.WriteFile(d.Mnt+"/again", bytes.Repeat([]byte{1}, 160<<20), 0o644) == nil
		})
		for range 5 { // and for a write right behind the delete it waits
			must(t, os.Remove(d.Mnt+"/again"))
			must(t, os.WriteFile(d.Mnt+"/again", bytes.Repeat([]byte{1}, 160<<20), 0o644))
		}
		must(t, os.Remove(d.Mnt+"/again"))
	}
	// Now with a barrier, at the end, that keeps everything: it is stored at
	// once, though an hour has not gone by, and needs half the room then.
	acked := writeUntilFull(t, d.Mnt, rnd)
	restart(t, d)
	readable(t, acked, "after kill -9")
	eventually(t, "what is full with staged content is stored", func() bool { return useOf(t, d).Unstored == 0 })
	must(t, os.WriteFile(d.Mnt+"/again", bytes.Repeat([]byte{1}, 32<<20), 0o644))
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	if n := du(t, d); n > limitBytes {
		t.Errorf("after drain the store takes %d bytes", n)
	}
	readable(t, acked, "after drain")
	noPanic(t, d.Output())
}

// TestRotationWithinLimit: a job that saves the same checkpoint over and over
// and keeps two runs on in a store that fits a few. Its bytes deduplicate, so
// that it is hot copies alone that have to go, in time: nothing is refused, and
// no write waits for long.
func TestRotationWithinLimit(t *testing.T) {
	d := onLimit(t, "--seal-quiet", "50ms")
	data := make([]byte, 64<<20)
	rand.New(rand.NewSource(seed(t))).Read(data)
	var slowest time.Duration
	evicted, last := false, int64(0)
	for k := range 20 {
		dir := fmt.Sprintf("%s/checkpoint-%d", d.Mnt, k)
		must(t, os.Mkdir(dir, 0o755))
		f, err := os.Create(dir + "/model.pt")
		must(t, err)
		for off := 0; off < len(data); off += 1 << 20 {
			start := time.Now()
			if _, err := f.Write(data[off : off+1<<20]); err != nil {
				t.Fatalf("step %d at %d MiB: %v; %+v", k, off>>20, err, useOf(t, d))
			}
			slowest = max(slowest, time.Since(start))
		}
		must(t, f.Close())
		eventually(t, "the step is stored", func() bool {
			_, err := os.Stat(fmt.Sprintf("%s/snapshots/%d", d.Mnt, k))
			return err == nil && useOf(t, d).Unstored == 0
		})
		hot := useOf(t, d).Hot
		evicted, last = evicted || hot < last, hot
		if k >= 2 {
			must(t, os.RemoveAll(fmt.Sprintf("%s/checkpoint-%d", d.Mnt, k-2)))
		}
	}
	if !evicted {
		t.Error("no hot copy had to go: this proves nothing")
	}
	if slowest > 2*time.Second { // the promise is one, on a machine of its own
		t.Errorf("a write took %v", slowest)
	}
	t.Logf("slowest write %v, %d MiB hot at the end", slowest, last>>20)
	for _, k := range []int{0, 10, 19} {
		holds(t, fmt.Sprintf("%s/snapshots/%d/checkpoint-%d/model.pt", d.Mnt, k, k), data, "at the end")
	}
}

// TestStatsAddUp: the classes come to what du says of the store, mounted or not.
func TestStatsAddUp(t *testing.T) {
	d := onLimit(t, "--seal-quiet", "50ms", "--hot-limit", "30M")
	rnd := rand.New(rand.NewSource(seed(t)))
	for k := range 200 {
		data := make([]byte, rnd.Intn(1<<20))
		rnd.Read(data)
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", d.Mnt, k), data, 0o644))
	}
	sparse, err := os.Create(d.Mnt + "/sparse")
	must(t, err)
	_, err = sparse.WriteAt(bytes.Repeat([]byte{1}, 1<<20), 1<<30)
	must(t, errors.Join(err, sparse.Close()))
	for k := range 50 {
		must(t, os.Remove(fmt.Sprintf("%s/f%d", d.Mnt, k)))
	}
	_, err = root.Must("drain", d.Mnt)
	must(t, err)
	eventually(t, "hot copies are within their limit", func() bool { return useOf(t, d).Hot <= 30<<20 })
	for k := 60; k < 90; k++ { // dead in packs, and too little of them to write those again
		must(t, os.Remove(fmt.Sprintf("%s/f%d", d.Mnt, k)))
	}
	waits, err := os.Create(d.Mnt + "/waits") // staged, and stored in an hour
	must(t, err)
	_, err = waits.Write(bytes.Repeat([]byte{2}, 20<<20))
	must(t, errors.Join(err, waits.Sync(), waits.Close())) // a barrier, so that an older one may go
	_, err = root.Must("policy", d.Mnt, "set", "keep-barriers=1s", "keep-barriers-last=1")
	must(t, err)
	eventually(t, "chunks are dead", func() bool {
		_, err := root.Must("prune", "--wait", d.Mnt)
		must(t, err)
		return statsOf(t, d).Dead > 5<<20
	})
	if s := statsOf(t, d); s.Staging < 20<<20 {
		t.Errorf("20 MiB are written: %+v", s)
	}
	addsUp(t, d, "mounted")
	if u := useOf(t, d); u.Limit != limitBytes || u.Hot == 0 {
		t.Errorf("status: %+v", u)
	}
	must(t, d.Stop())
	addsUp(t, d, "not mounted")
	must(t, d.Start())
	addsUp(t, d, "mounted again")
}

// stats is what the command of that name says.
type stats struct {
	Data    int64 `json:"data_bytes"`
	Dead    int64 `json:"dead_bytes"`
	Staging int64 `json:"staging_bytes"`
	Index   int64 `json:"index_bytes"`
	Journal int64 `json:"journal_bytes"`
	Other   int64 `json:"other_bytes"`
	Total   int64 `json:"total_bytes"`
}

func statsOf(t *testing.T, d *harness.Daemon) (s stats) {
	t.Helper()
	out, err := root.Must("stats", "--json", d.Store)
	must(t, err)
	must(t, json.Unmarshal([]byte(out), &s))
	return s
}

func addsUp(t *testing.T, d *harness.Daemon, when string) {
	t.Helper()
	var s stats
	var want int64
	// Pebble deletes what it has replaced a moment later, and du is no snapshot.
	eventually(t, when+": stats add up", func() bool {
		s, want = statsOf(t, d), du(t, d)
		return s.Total > want-want/100 && s.Total < want+want/100
	})
	if s.Data+s.Dead+s.Staging+s.Index+s.Journal+s.Other != s.Total || s.Data == 0 || s.Dead == 0 || s.Staging == 0 || s.Journal == 0 {
		t.Errorf("%s: %+v", when, s)
	}
	t.Logf("%s: %+v, du says %d", when, s, want)
}

// TestLimitBelowUse: a limit below what is there is said at once, takes
// nothing away, and holds until it is raised.
func TestLimitBelowUse(t *testing.T) {
	d := onLimit(t, "--seal-quiet", "1h")
	data := make([]byte, 150<<20)
	rand.New(rand.NewSource(seed(t))).Read(data)
	must(t, os.WriteFile(d.Mnt+"/f", data, 0o644))
	snap := snapshotNow(t, d, "kept")
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	must(t, d.Stop())

	d.Args = []string{"--store-limit", "100M"}
	if err := d.Start(); err == nil || !strings.Contains(err.Error(), "needs at least 128.0 MiB") {
		t.Fatalf("a limit of 100 MiB: %v", err)
	}
	must(t, d.Close())
	d.Args = []string{"--store-limit", "200M", "--save-settings"}
	must(t, d.Start())
	for _, part := range []string{"its limit of 200.0 MiB", "--store-limit of at least"} {
		if !strings.Contains(d.Output(), part) {
			t.Errorf("it does not say %q:\n%s", part, d.Output())
		}
	}
	eventually(t, "hot copies are gone", func() bool { return useOf(t, d).Hot == 0 })
	if err := os.WriteFile(d.Mnt+"/more", data[:1<<20], 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write over the limit: %v", err)
	}
	if _, avail := df(t, d); avail != 0 {
		t.Errorf("df says %d", avail)
	}
	holds(t, d.Mnt+"/f", data, "over the limit")
	holds(t, filepath.Join(snap, "f"), data, "over the limit")
	must(t, os.Remove(d.Mnt+"/f"))
	must(t, os.Mkdir(d.Mnt+"/snapshots/over", 0o755))
	must(t, d.Stop())

	d.Args = nil // saved
	must(t, d.Start())
	if u := useOf(t, d); u.Limit != 200<<20 {
		t.Errorf("the saved limit: %+v", u)
	}
	must(t, d.Stop())
	d.Args = []string{"--store-limit", "600M"}
	must(t, d.Start())
	must(t, os.WriteFile(d.Mnt+"/more", data[:1<<20], 0o644))
}
