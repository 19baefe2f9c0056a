package s3

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

	url, to := "s3://"+name+"/run", t.TempDir()
	if said, code := stepfs(t, srv, secretKey, "restore", url, "seven", to); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	got, err := harness.ReadTree(to)
	must(t, err)
	if diff := want.Diff(got); diff != "" {
		t.Error(diff)
	}
	if said, code := stepfs(t, srv, secretKey, "remote", "check", "--read-data", url); code != 0 || !strings.Contains(said, "nothing is wrong") {
		t.Errorf("exit code %d: %s", code, said)
	}
	lost := refs[0].Packs[len(refs[0].Packs)-1].Key()
	must(t, b.Delete(t.Context(), lost))
	for _, args := range [][]string{{"restore", url, "seven", t.TempDir()}, {"remote", "check", "--probe=false", url}} {
		if said, code := stepfs(t, srv, secretKey, args...); code == 0 || !strings.Contains(said, lost) {
			t.Errorf("%v: exit code %d: %s", args, code, said)
		}
	}
}
