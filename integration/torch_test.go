package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"stepfs/integration/harness"
)

// python has PyTorch; the tests do not look for another one.
const python = "/usr/bin/python3"

const torchSteps = 4

// TestTorchOneProcess and TestTorchFourProcesses write checkpoints with
// torch.save, without one fsync, and get every step back.
func TestTorchOneProcess(t *testing.T)    { torchSaves(t, 1) }
func TestTorchFourProcesses(t *testing.T) { torchSaves(t, 4) }

func torchSaves(t *testing.T, world int) {
	d := mount(t, "--seal-quiet", "700ms")
	written := train(t, d.Mnt, world)
	if want := torchSteps * (2*world + 1); len(written) != want {
		t.Fatalf("%d files recorded, want %d: this proves nothing", len(written), want)
	}

	eventually(t, "every step is sealed whole", func() bool {
		for step := 1; step <= torchSteps; step++ {
			if lacking(d.Mnt+fmt.Sprintf("/snapshots/%d", step), written, step) != "" {
				return false
			}
		}
		return true
	})
	verifySteps(t, d, written, "sealed")

	restart(t, d)
	verifySteps(t, d, written, "after kill -9")

	must(t, os.RemoveAll(filepath.Join(d.Mnt, "checkpoint-1")))
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	verifySteps(t, d, written, "stored, and the first checkpoint deleted")

	restoreEveryWay(t, d, written)
	loads(t, filepath.Join(d.Mnt, "snapshots", "1", "checkpoint-1"))
	must(t, d.Stop())
}

// train runs one writer per rank, all at once, and gives the hash of each file
// that they wrote, by its path.
func train(t *testing.T, dir string, world int) map[string]string {
	t.Helper()
	scratch := tempDir(t)
	var wg sync.WaitGroup
	results := make([]harness.Result, world)
	errs := make([]error, world)
	for rank := range world {
		wg.Add(1)
		go func() {
			defer wg.Done()
			results[rank], errs[rank] = harness.Run(python, "testdata/save.py", dir, scratch,
				fmt.Sprintf("%s/record-%d", scratch, rank), fmt.Sprint(rank), fmt.Sprint(world), fmt.Sprint(torchSteps))
		}()
	}
	wg.Wait()
	written := map[string]string{}
	for rank, r := range results {
		must(t, errs[rank])
		if r.Code != 0 {
			t.Fatalf("rank %d: exit code %d\n%s", rank, r.Code, r.Both())
		}
		record, err := os.ReadFile(fmt.Sprintf("%s/record-%d", scratch, rank))
		must(t, err)
		for line := range strings.Lines(string(record)) {
			sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
			written[name] = sum
		}
	}
	return written
}

// lacking says what of a step is not below dir as it was written.
func lacking(dir string, written map[string]string, step int) string {
	for name, want := range written {
		if !strings.HasPrefix(name, fmt.Sprintf("checkpoint-%d/", step)) {
			continue
		}
		got, err := harness.SHA256(filepath.Join(dir, name))
		if err != nil {
			return err.Error()
		}
		if got != want {
			return fmt.Sprintf("%s: sha256 %s, written %s", filepath.Join(dir, name), got, want)
		}
	}
	return ""
}

func verifySteps(t *testing.T, d *harness.Daemon, written map[string]string, when string) {
	t.Helper()
	for step := 1; step <= torchSteps; step++ {
		if l := lacking(fmt.Sprintf("%s/snapshots/%d", d.Mnt, step), written, step); l != "" {
			t.Fatalf("%s: %s", when, l)
		}
	}
}

// restoreEveryWay gets a step back by cp -a, by stepfs restore from the mount,
// and of one directory alone.
func restoreEveryWay(t *testing.T, d *harness.Daemon, written map[string]string) {
	t.Helper()
	const step = 2
	out := tempDir(t)
	must(t, os.Mkdir(out+"/cp", 0o755))
	shell(t, "cp", "-a", fmt.Sprintf("%s/snapshots/%d/.", d.Mnt, step), out+"/cp")
	_, err := root.Must("restore", d.Store, fmt.Sprint(step), out+"/restored")
	must(t, err)
	_, err = root.Must("restore", d.Store, fmt.Sprintf("%d:checkpoint-%d", step, step), out+"/part")
	must(t, err)
	for _, dir := range []string{out + "/cp", out + "/restored"} {
		if l := lacking(dir, written, step); l != "" {
			t.Error(l)
		}
	}
	same(t, out+"/restored/checkpoint-2", out+"/part")
}

// loads has PyTorch read every file of a checkpoint.
func loads(t *testing.T, dir string) {
	t.Helper()
	out := shell(t, python, "-c", `
import glob, sys, torch
files = glob.glob(sys.argv[1] + "/*.pt")
for f in files:
    torch.load(f)
print(len(files))`, dir)
	if strings.TrimSpace(out) == "0" {
		t.Errorf("no checkpoint file in %s", dir)
	}
}

// TestTorchKilled kills the daemon while torch.save writes: the steps that were
// sealed before are whole, and the next run goes on in the same store.
func TestTorchKilled(t *testing.T) {
	d := mount(t, "--seal-quiet", "300ms")
	written := train(t, d.Mnt, 1)
	eventually(t, "the last step is sealed", func() bool {
		return lacking(fmt.Sprintf("%s/snapshots/%d", d.Mnt, torchSteps), written, torchSteps) == ""
	})
	scratch := tempDir(t)
	started := make(chan struct{})
	result := make(chan harness.Result, 1)
	go func() {
		close(started)
		r, _ := harness.Run(python, "testdata/save.py", d.Mnt+"/again", scratch, scratch+"/record", "0", "1", "1000")
		result <- r
	}()
	<-started
	eventually(t, "the second run writes", func() bool {
		_, err := os.Stat(d.Mnt + "/again/checkpoint-2/model-0-of-1.pt")
		return err == nil
	})
	must(t, d.Kill())
	if r := <-result; r.Code == 0 {
		t.Error("the job did not notice that its file system died")
	}
	must(t, d.Start())
	verifySteps(t, d, written, "after kill -9 during torch.save")
	must(t, os.Mkdir(d.Mnt+"/third", 0o755))
	train(t, d.Mnt+"/third", 1)
}
