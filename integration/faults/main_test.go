package faults

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// root is the directory of this run, with the binary in it.
var root *harness.Root

func TestMain(m *testing.M) {
	if os.Getenv(writerEnv) != "" {
		writeForever(os.Getenv(writerEnv))
	}
	flag.Parse()
	os.Exit(harness.Main(m, &root, func() error {
		return root.Share() // for daemons with a boot id of their own
	}))
}

// prepare gives a daemon that has not been started; it is gone when the test
// ends.
func prepare(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	return root.Prepare(t, args...)
}

// number is how much of something is done: the standard, or what the
// environment says.
func number(t *testing.T, env string, standard int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return standard
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// seeded gives the random numbers of this run.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	n := number(t, "STEPFS_SEED", int(time.Now().UnixNano()))
	t.Logf("seed: STEPFS_SEED=%d", n)
	return rand.New(rand.NewSource(int64(n)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	rnd.Read(b)
	return b
}

// sum is the content of a file, as records keep it.
type sum [sha256.Size]byte

func sumOf(b []byte) sum { return sha256.Sum256(b) }

// sumAt is the content of a file on the mount.
func sumAt(path string) (sum, error) {
	b, err := os.ReadFile(path)
	return sumOf(b), err
}

// checked runs `stepfs check --read-data` and gives its findings. ok is false
// if it could not be done; what it said is then the only finding.
func checked(store string) (findings []string, ok bool, err error) {
	res, err := root.Stepfs("check", store, "--json", "--read-data")
	if err != nil {
		return nil, false, err
	}
	for line := range strings.Lines(res.Stdout) {
		var one map[string]any
		if json.Unmarshal([]byte(line), &one) != nil {
			break
		}
		if one["kind"] == nil {
			ok = true
			continue
		}
		text := fmt.Sprintf("%v %v: %v: %v", one["kind"], one["what"], one["object"], one["detail"])
		for _, need := range list(one["needed_by"]) {
			n, _ := need.(map[string]any)
			text += fmt.Sprintf("; needed by %v in %v", n["path"], n["snapshots"])
		}
		findings = append(findings, text)
	}
	if panicked(res.Both()) {
		return nil, false, fmt.Errorf("check panicked: %s", res.Both())
	}
	if !ok {
		findings = []string{res.Both()}
	}
	if wrong := res.Code != min(len(findings), 1); wrong {
		return nil, false, fmt.Errorf("check: exit code %d with %d findings: %s", res.Code, len(findings), res.Both())
	}
	return findings, ok, nil
}

func list(v any) []any {
	all, _ := v.([]any)
	return all
}

// clean says what is wrong if a check finds anything.
func clean(store string) error {
	findings, _, err := checked(store)
	if err == nil && len(findings) > 0 {
		err = fmt.Errorf("the check finds %d things:\n%s", len(findings), strings.Join(findings[:min(len(findings), 20)], "\n"))
	}
	return err
}

func panicked(said string) bool {
	return strings.Contains(said, "panic:") || strings.Contains(said, "goroutine ") || strings.Contains(said, "fatal error:")
}

// newestBarrier is the barrier with the highest number.
func newestBarrier(mnt string) (string, error) {
	d, err := os.Open(mnt + "/snapshots/.barriers")
	if err != nil {
		return "", err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	newest := ""
	for _, n := range names {
		if len(n) > len(newest) || len(n) == len(newest) && n > newest {
			newest = n
		}
	}
	if err == nil && newest == "" {
		err = fmt.Errorf("no barrier is listed in %s", mnt)
	}
	return newest, err
}

// syncDir is fsync of a directory.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
