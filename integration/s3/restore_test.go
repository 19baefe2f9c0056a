package s3

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/integration/harness"
	"stepfs/snapshot/published/publishtest"
)

// The server alone is enough: a step comes back byte for byte when the store is
// gone.
func TestRestore(t *testing.T) {
	d := root.Prepare(t)
	must(t, d.Start())
	for k := range 40 {
		dir := filepath.Join(d.Mnt, "step-7", fmt.Sprint(k%3))
		must(t, os.MkdirAll(dir, 0o755))
		b := make([]byte, 10<<(k%13))
		_, _ = rand.Read(b) // never fails
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("shard-%d.bin", k)), b, 0o640))
	}
	big := make([]byte, 20<<20)
	_, _ = rand.Read(big[:15<<20])
	must(t, os.WriteFile(filepath.Join(d.Mnt, "step-7", "model.bin"), big, 0o644))
	want, err := harness.ReadTree(d.Mnt)
	must(t, err)
	for _, args := range [][]string{{"snapshot", d.Mnt, "seven"}, {"drain", d.Mnt}, {"umount", d.Mnt}} {
		if out, err := root.Must(args...); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	srv := versitygw(t)
	name := srv.bucket(t)
	o := srv.options(name)
	o.Prefix = "run"
	b := open(t, o)
	refs, err := publishtest.Publish(t.Context(), d.Store, b, bucket.NewWriter())
	must(t, err)
	must(t, os.RemoveAll(d.Store))

	from, to := "s3://"+name+"/run", t.TempDir()
	if said, code := stepfs(t, srv, secretKey, "restore", from, "seven", to); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	got, err := harness.ReadTree(to)
	must(t, err)
	if diff := want.Diff(got); diff != "" {
		t.Error(diff)
	}
	if said, code := stepfs(t, srv, secretKey, "remote", "check", "--read-data", from); code != 0 || !strings.Contains(said, "nothing is wrong") {
		t.Errorf("exit code %d: %s", code, said)
	}
	lost := refs[0].Packs[len(refs[0].Packs)-1].Key()
	must(t, b.Delete(t.Context(), lost))
	for _, args := range [][]string{{"restore", from, "seven", t.TempDir()}, {"remote", "check", "--probe=false", from}} {
		if said, code := stepfs(t, srv, secretKey, args...); code == 0 || !strings.Contains(said, lost) {
			t.Errorf("%v: exit code %d: %s", args, code, said)
		}
	}
}

// TestRestoreSpeed prints what a restore out of a server reaches, next to ranged
// GETs of the same packs by the plain SDK in the same run, and how much of what
// it fetched was wanted; then the same with 50 ms added to each answer.
// STEPFS_RESTORE_MB is how much is restored.
func TestRestoreSpeed(t *testing.T) {
	size := number(t, "STEPFS_RESTORE_MB", 16) << 20
	d := root.Prepare(t)
	must(t, d.Start())
	for k := range 4 {
		b := make([]byte, size/4)
		_, _ = rand.Read(b) // never fails
		must(t, os.WriteFile(filepath.Join(d.Mnt, fmt.Sprintf("shard-%d.bin", k)), b, 0o644))
	}
	for _, args := range [][]string{{"snapshot", d.Mnt, "one"}, {"drain", d.Mnt}, {"umount", d.Mnt}} {
		if out, err := root.Must(args...); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	srv := versitygw(t)
	name := srv.bucket(t)
	refs, err := publishtest.Publish(t.Context(), d.Store, open(t, srv.options(name)), bucket.NewWriter())
	must(t, err)
	must(t, os.RemoveAll(d.Store))
	for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
		far, link := behind(t, srv, harness.LinkOptions{Wait: wait})
		best := 0.0
		for range 2 {
			best = max(best, plainRanges(t, far.plain(), name, refs[0].Packs))
		}
		rate := 0.0
		for range 2 {
			link.Sent.Store(0)
			begun := time.Now()
			if said, code := stepfs(t, far, secretKey, "restore", "s3://"+name, "one", t.TempDir()); code != 0 {
				t.Fatalf("exit code %d: %s", code, said)
			}
			rate = max(rate, float64(size)/time.Since(begun).Seconds()/(1<<20))
		}
		ratio := float64(link.Sent.Load()) / float64(size)
		t.Logf("answers after %v: restore %.0f MiB/s of the plain SDK's %.0f: %.2f; %.3f bytes fetched for each restored", wait, rate, best, rate/best, ratio)
		if ratio > 1.1 && size >= 64<<20 {
			t.Errorf("%.3f bytes were fetched for each that was restored", ratio)
		}
	}
}

// behind is a server at the other end of a link.
func behind(t *testing.T, s *server, o harness.LinkOptions) (*server, *harness.Link) {
	t.Helper()
	link, err := harness.NewLink(s.url, o)
	must(t, err)
	t.Cleanup(link.Close)
	far := *s
	far.url = link.URL
	return &far, link
}

// plainRanges gets packs in ranges of 4 MiB, 16 at a time, and gives the rate.
func plainRanges(t *testing.T, plain *awss3.Client, name string, packs []bucket.Pack) float64 {
	t.Helper()
	const span = 4 << 20
	begun, total := time.Now(), int64(0)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for _, p := range packs {
		total += p.Size
		for off := int64(0); off < p.Size; off += span {
			group.Go(func() error {
				k, r := p.Key(), fmt.Sprintf("bytes=%d-%d", off, min(off+span, p.Size)-1)
				out, err := plain.GetObject(ctx, &awss3.GetObjectInput{Bucket: &name, Key: &k, Range: &r})
				if err != nil {
					return err
				}
				defer out.Body.Close()
				_, err = io.Copy(io.Discard, out.Body)
				return err
			})
		}
	}
	must(t, group.Wait())
	return float64(total) / time.Since(begun).Seconds() / (1 << 20)
}
