package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExclude: what --exclude names is in the live tree, durable across a
// kill -9, and in no snapshot and no pack; a directory that a framework renames
// into place is a complete step though its temporary name was excluded.
func TestExclude(t *testing.T) {
	d := prepare(t, "--exclude", "cache/", "--exclude", "tmp-*", "--exclude", "*.log", "--seal-quiet", "1s")
	must(t, d.Start())
	in := func(p string) string { return filepath.Join(d.Mnt, p) }
	junk := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB, which would be seen in the packs
	for k := range len(junk) / 16 {
		junk[16*k], junk[16*k+1], junk[16*k+2] = byte(k), byte(k>>8), byte(k>>16)
	}
	must(t, os.MkdirAll(in("run/cache"), 0o755))
	put(t, in("run/cache/pre"), junk)
	put(t, in("train.log"), []byte("line\n"))
	put(t, in("kept"), []byte("kept"))

	// As the Trainer does: a temporary directory, then one rename.
	must(t, os.Mkdir(in("tmp-checkpoint-10"), 0o755))
	put(t, in("tmp-checkpoint-10/config.json"), []byte("{}"))
	shell(t, "python3", "-c", safetensors, in("tmp-checkpoint-10/model.safetensors"))
	put(t, in("tmp-checkpoint-10/trainer_state.json"), []byte(`{"global_step": 10}`))
	must(t, os.Rename(in("tmp-checkpoint-10"), in("checkpoint-10")))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Lstat(in("snapshots/10")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no step 10")
		}
	}
	if got := strings.TrimSpace(shell(t, "getfattr", "--only-values", "-n", "user.stepfs.verdict", in("snapshots/10"))); got != "complete" {
		out, err := root.Must("rules", "explain", in("checkpoint-10"))
		t.Errorf("step 10 is %q\n%s%v", got, out, err)
	}

	must(t, os.Mkdir(in("snapshots/now"), 0o755))
	for _, snap := range []string{"snapshots/10", "snapshots/now"} {
		if out := shell(t, "find", in(snap)); strings.Contains(out, "cache") || strings.Contains(out, ".log") || !strings.Contains(out, "kept") {
			t.Errorf("%s holds\n%s", snap, out)
		}
	}
	if got := strings.TrimSpace(shell(t, "getfattr", "--only-values", "-n", "user.stepfs.state", in("run/cache/pre"))); got != "excluded" {
		t.Errorf("its state is %q", got)
	}
	if _, err := root.Must("drain", d.Mnt); err != nil {
		t.Error(err)
	}
	if used := diskUse(t, filepath.Join(d.Store, "packs")); used > 1<<20 {
		t.Errorf("the packs take %d bytes", used)
	}
	must(t, d.Kill())
	// A step that is made without a mount: the patterns are those of the last one.
	old := t.TempDir()
	must(t, os.Mkdir(filepath.Join(old, "checkpoint-5"), 0o755))
	put(t, filepath.Join(old, "checkpoint-5/config.json"), []byte("{}"))
	if _, err := root.Must("import", d.Store, old); err != nil {
		t.Error(err)
	}
	must(t, d.Start())
	if out := shell(t, "find", in("snapshots/5")); strings.Contains(out, "cache") || !strings.Contains(out, "kept") {
		t.Errorf("an imported step holds\n%s", out)
	}
	if got, err := os.ReadFile(in("run/cache/pre")); err != nil || !bytes.Equal(got, junk) {
		t.Errorf("after kill -9: %d bytes, %v", len(got), err)
	}

	// Given later, it is for what is there too.
	must(t, d.Stop())
	d.Args = append(d.Args, "--exclude", "kept*")
	must(t, d.Start())
	must(t, os.Mkdir(in("snapshots/later"), 0o755))
	if _, err := os.Lstat(in("snapshots/later/kept")); err == nil {
		t.Error("what was there before is not excluded")
	}

	// Without the flag, what was excluded is in the next snapshot.
	must(t, d.Stop())
	d.Args = nil
	must(t, d.Start())
	must(t, os.Mkdir(in("snapshots/all"), 0o755))
	if got, err := os.ReadFile(in("snapshots/all/run/cache/pre")); err != nil || !bytes.Equal(got, junk) {
		t.Errorf("once it is included: %d bytes, %v", len(got), err)
	}
	if _, err := os.Lstat(in("snapshots/now/run/cache")); err == nil {
		t.Error("an older snapshot shows it now")
	}
	must(t, d.Stop())
	if _, err := root.Must("check", "--read-data", d.Store); err != nil {
		t.Error(err)
	}

	res, err := root.Stepfs("mount", "--exclude", "[a", d.Store, d.Mnt)
	must(t, err)
	if res.Code != 1 || !strings.Contains(res.Both(), `"[a"`) {
		t.Errorf("a bad pattern: exit code %d, %s", res.Code, res.Both())
	}
}

// put writes a file and closes it.
func put(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o644))
}

// safetensors writes a file with one small tensor.
const safetensors = `
import json, struct, sys
head = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
open(sys.argv[1], "wb").write(struct.pack("<Q", len(head)) + head + bytes(8))
`
