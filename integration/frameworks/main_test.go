package frameworks

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"stepfs/integration/harness"
)

// root is the directory of this run, with the binary in it.
var root *harness.Root

// The test binary, started with this variable set, replays a row: its number,
// the step, how many operations, the directory of the contents.
const replayEnv = "_STEPFS_REPLAY"

func TestMain(m *testing.M) {
	if os.Getenv(replayEnv) != "" {
		var row, n int
		var step, contents string
		if _, err := fmt.Sscan(os.Getenv(replayEnv), &row, &step, &n, &contents); err != nil {
			panic(err)
		}
		all, err := readContents(contents)
		if err == nil {
			err = replay(table[row].script, step, n, all)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(harness.Main(m, &root, nil))
}

// mount gives a running daemon on a new store; it is gone when the test ends.
func mount(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	d := root.Prepare(t, args...)
	must(t, d.Start())
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// python has PyTorch; the tests do not look for another one.
const python = "/usr/bin/python3"

func torchJob(t *testing.T, args ...string) {
	t.Helper()
	res, err := harness.Run(python, append([]string{"testdata/torchjob.py"}, args...)...)
	must(t, err)
	if res.Code != 0 {
		t.Fatalf("torchjob.py %q: exit code %d\n%s", args, res.Code, res.Both())
	}
}

// makeContents has PyTorch write the files that the scripts write.
func makeContents(t *testing.T) string {
	t.Helper()
	dir, scratch := t.TempDir(), t.TempDir()
	torchJob(t, "save", dir+"/zip")
	torchJob(t, "dcp", scratch+"/dcp")
	for name, from := range map[string]string{"rank0": "__0_0.distcp", "rank1": "__1_0.distcp", "meta": ".metadata"} {
		must(t, os.Rename(scratch+"/dcp/"+from, dir+"/"+name))
	}
	const header = `{"weight":{"dtype":"F32","shape":[1024],"data_offsets":[0,4096]}}`
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	must(t, os.WriteFile(dir+"/safetensors", append(b, make([]byte, 4096)...), 0o644))
	return dir
}

// play runs n operations of a row in a process of its own; fewer than all, and
// it is killed.
func play(mnt, scope string, row int, step string, n int, contents string) error {
	dir := filepath.Join(mnt, scope)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := []string{replayEnv + "=" + fmt.Sprint(row, " ", step, " ", n, " ", contents)}
	res, err := harness.RunEnv(env, "env", "-C", dir, self)
	if err != nil {
		return err
	}
	if want := n == len(operations(table[row].script)); (res.Code == 0) != want {
		return fmt.Errorf("%s, %d operations: exit code %d\n%s", table[row].name, n, res.Code, res.Both())
	}
	return nil
}
