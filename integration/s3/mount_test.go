package s3

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/integration/harness"
	"stepfs/snapshot/published/publishtest"
)

// mountURL is the mount of a bucket of a server, in a daemon of its own.
func mountURL(t *testing.T, s *server, url string, flags ...string) *harness.Daemon {
	t.Helper()
	d := root.Prepare(t, flags...)
	d.Store = url
	d.Env = append(d.Env, "AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secretKey, "AWS_REGION="+region, "AWS_ENDPOINT_URL_S3="+s.url)
	must(t, d.Start())
	return d
}

// publishedRun is a run of one step in a bucket of a server; its store is gone.
func publishedRun(t *testing.T, srv *server, fill func(dir string)) (name string, want harness.Tree, refs []*bucket.Ref) {
	t.Helper()
	d := root.Prepare(t)
	must(t, d.Start())
	fill(d.Mnt)
	want, err := harness.ReadTree(d.Mnt)
	must(t, err)
	for _, args := range [][]string{{"snapshot", d.Mnt, "seven"}, {"drain", d.Mnt}, {"umount", d.Mnt}} {
		if out, err := root.Must(args...); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	name = srv.bucket(t)
	refs, err = publishtest.Publish(t.Context(), d.Store, open(t, srv.options(name)), bucket.NewWriter())
	must(t, err)
	must(t, os.RemoveAll(d.Store))
	return name, want, refs
}

// On a new machine: cp -a from the mount of a bucket gives back what was there. It
// prints what that reaches next to ranged GETs by the plain SDK (STEPFS_RESTORE_MB
// is how much is copied), and the daemon's memory.
func TestMountURL(t *testing.T) {
	size := number(t, "STEPFS_RESTORE_MB", 16) << 20
	srv := versitygw(t)
	name, want, refs := publishedRun(t, srv, func(dir string) {
		for k := range 4 {
			b := make([]byte, size/4)
			_, _ = rand.Read(b) // never fails
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("shard-%d.bin", k)), b, 0o640))
		}
		must(t, os.Symlink("shard-0.bin", filepath.Join(dir, "first")))
	})
	for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
		far, link := behind(t, srv, harness.LinkOptions{Wait: wait})
		plain := max(plainRanges(t, far.plain(), name, refs[0].Packs), plainRanges(t, far.plain(), name, refs[0].Packs))
		d := mountURL(t, far, "s3://"+name)
		link.Sent.Store(0)
		begun, to := time.Now(), t.TempDir()
		if out, err := exec.Command("cp", "-a", d.Mnt+"/snapshots/seven/.", to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v %s", err, out)
		}
		rate := float64(size) / time.Since(begun).Seconds() / (1 << 20)
		t.Logf("answers after %v: cp -a %.0f MiB/s of the plain SDK's %.0f: %.2f; %.3f bytes fetched for each copied; the daemon's peak is %d MiB",
			wait, rate, plain, rate/plain, float64(link.Sent.Load())/float64(size), peak(t, d)>>20)
		got, err := harness.ReadTree(to)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Error(diff)
		}
		must(t, d.Stop())
	}
}

// peak is the most memory that a daemon has had.
func peak(t *testing.T, d *harness.Daemon) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	must(t, err)
	var kb int64
	for _, line := range strings.Split(string(text), "\n") {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// What is missing is EIO, and read once it is back; a daemon that is killed leaves
// nothing that stepfs umount does not take away.
func TestMountURLMissing(t *testing.T) {
	srv := versitygw(t)
	name, _, refs := publishedRun(t, srv, func(dir string) {
		b := make([]byte, 4<<20)
		_, _ = rand.Read(b) // never fails
		must(t, os.WriteFile(filepath.Join(dir, "model.bin"), b, 0o640))
	})
	b := open(t, srv.options(name))
	packs := map[string][]byte{}
	for _, p := range refs[0].Packs {
		whole, _, err := remote.ReadAll(t.Context(), b, p.Key(), 1<<30)
		must(t, err)
		packs[p.Key()] = whole
	}
	d := mountURL(t, srv, "s3://"+name, "--refresh=1s")
	if _, err := os.ReadDir(d.Mnt + "/snapshots/seven"); err != nil {
		t.Fatal(err)
	}
	for key := range packs {
		must(t, b.Delete(t.Context(), key))
	}
	if _, err := os.ReadFile(d.Mnt + "/snapshots/seven/model.bin"); !errors.Is(err, syscall.EIO) {
		t.Errorf("packs are missing: %v", err)
	}
	for key, whole := range packs {
		must(t, b.Put(t.Context(), key, remote.Bytes(whole)))
	}
	if got, err := os.ReadFile(d.Mnt + "/snapshots/seven/model.bin"); len(got) != 4<<20 {
		t.Errorf("they are there again: %d bytes, %v", len(got), err)
	}
	must(t, d.Die())
	if out, err := root.Must("umount", d.Mnt); err != nil {
		t.Error(err, out)
	}
	if left, err := harness.MountsBelow(d.Mnt); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

// TestMountURLMany attaches to a bucket of many snapshots (STEPFS_REFS, 120): they
// are told by catalogs, and one that lies makes no step another. It prints how long
// it takes until the list is shown and until the first byte of a file is.
func TestMountURLMany(t *testing.T) {
	count := number(t, "STEPFS_REFS", 120)
	srv := versitygw(t)
	name, _, refs := publishedRun(t, srv, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "model.bin"), make([]byte, 1<<20), 0o640))
	})
	b, url := open(t, srv.options(name)), "s3://"+name
	many, err := publishtest.Many{Snapshots: count, PerCatalog: 50}.Make(t.Context(), b, refs[0])
	must(t, err)
	must(t, b.Delete(t.Context(), bucket.CatalogKey(many[0].Writer, many[0].Seq, many[49].Seq)))
	lies := [2]bucket.Ref{*many[0], *many[1]}
	lies[0].Record, lies[1].Record = many[1].Record, many[0].Record
	must(t, publishtest.PutCatalog(t.Context(), b, append([]*bucket.Ref{&lies[0], &lies[1]}, many[2:50]...)))

	var asked atomic.Int64
	p := newProxy(t, srv, func(r *http.Request) fault {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/"+bucket.RefsPrefix) {
			asked.Add(1)
		}
		return none
	})
	behind := *srv
	behind.url = p.url
	begun := time.Now()
	d := mountURL(t, &behind, url, "--refresh=1s")
	all, err := os.ReadDir(d.Mnt + "/snapshots")
	must(t, err)
	listed := time.Since(begun)
	// The mount asks for those that are left of fifties, and for the first.
	if want := int64(count%50 + 1); asked.Load() != want || len(all) != count+2 { // and latest
		t.Errorf("%d names for %d snapshots; %d refs were asked for, want %d", len(all), count+1, asked.Load(), want)
	}
	first := d.Mnt + "/snapshots/many-00007/model.bin"
	f, err := os.Open(first)
	must(t, err)
	defer f.Close()
	if n, err := f.Read(make([]byte, 1)); n != 1 {
		t.Error(err)
	}
	t.Logf("%d snapshots: ls after %v; the first byte after %v", count, listed, time.Since(begun))

	if _, err := os.ReadFile(d.Mnt + "/snapshots/many-00000/model.bin"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a step that is not what a catalog says: %v", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = os.ReadFile(d.Mnt + "/snapshots/many-00001/model.bin"); err == nil || time.Now().After(end) {
			break
		}
	}
	if _, again := os.ReadFile(d.Mnt + "/snapshots/many-00000/model.bin"); err != nil || again != nil {
		t.Error("the mount goes on believing it: ", err, again)
	}
	if said, code := stepfs(t, srv, secretKey, "restore", url, "many-00001:model.bin", t.TempDir()+"/got"); code != 0 {
		t.Errorf("restore: %s", said)
	}
	if said, code := stepfs(t, srv, secretKey, "remote", "check", "--probe=false", url); code != 1 || !strings.Contains(said, "(catalog)") {
		t.Error(code, said)
	}
}
