package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stepfs/internal/storedir"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The test binary, started with this variable set, is stepfs.
const mainEnv = "_STEPFS_TEST_IS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	for _, v := range os.Environ() { // what the developer has set is not what is tested
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, envPrefix) {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

type result struct {
	code           int
	stdout, stderr string
}

// stepfs runs the command in a process of its own.
func stepfs(t *testing.T, args ...string) result { t.Helper(); return stepfsEnv(t, nil, args...) }

func stepfsEnv(t *testing.T, env []string, args ...string) result {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(append(os.Environ(), mainEnv+"=1"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestArguments(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	must(t, os.MkdirAll(dir+"/foreign/x", 0o755))
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	must(t, os.MkdirAll(dir+"/mnt", 0o755))
	must(t, os.MkdirAll(dir+"/full/x", 0o755))
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"frobnicate", exitError, `no command "frobnicate"`},
		{"snapshot --fly x", exitError, "--fly"},
		{"snapshts", exitError, "did you mean snapshots"},
		{"mount", exitError, "usage: stepfs mount"},
		{"mount a", exitError, "usage: stepfs mount"},
		{"mount a b c", exitError, "usage: stepfs mount"},
		{"mount --snapdir=maybe STORE MNT", exitError, "hidden or visible"},
		{"mount --snapdir-name=a/b STORE MNT", exitError, "no name for a directory"},
		{"mount --snapdir-name=.. STORE MNT", exitError, "no name for a directory"},
		{"mount --ingest-workers=-1 STORE MNT", exitError, "--ingest-workers"},
		{"mount --grace=-1s STORE MNT", exitError, "--grace"},
		{"mount --seal-quiet=soon STORE MNT", exitError, "seal-quiet"},
		{"mount --hot-limit=much STORE MNT", exitError, "not a size"},
		{"mount STORE DIR/missing", exitError, "mkdir -p"},
		{"mount STORE DIR/file", exitError, "not a directory"},
		{"mount STORE DIR/full", exitError, "is not empty"},
		{"mount STORE STORE", exitError, ""},
		{"mount DIR/mnt DIR/mnt", exitError, "same directory"},
		{"mount STORE /proc", exitError, "already mounted"},
		{"mount DIR/foreign MNT", exitError, "not a stepfs store"},
		{"mount DIR/file MNT", exitError, "is a file"},
		{"mount DIR/mnt/store DIR/mnt", exitError, "hidden by it"},
		{"mount DIR/no/store MNT", exitError, "parent directory does not exist"},
		{"umount", exitError, "usage: stepfs umount"},
		{"umount STORE", exitError, "not mounted"},
		{"snapshots STORE", exitNoStore, "no store there"},
		{"snapshots DIR/foreign", exitNoStore, "not a stepfs store"},
		{"snapshots DIR/file", exitNoStore, "is a file"},
		{"snapshots DIR/mnt", exitNoStore, "no store there"},
		{"snapshots", exitError, "usage"},
		{"status STORE", exitNoStore, ""},
		{"stats STORE", exitNoStore, ""},
		{"drain STORE", exitNoStore, ""},
		{"check", exitError, "usage"},
		{"check STORE", exitNoStore, ""},
		{"check --read-data=0% STORE", exitError, "not a share"},
		{"check --read-data=10 STORE", exitError, "not a share"},
		{"check --read-data=101% STORE", exitError, "not a share"},
		{"rollback STORE", exitError, "usage"},
		{"rollback STORE 7", exitNoStore, ""},
		{"forget STORE", exitError, "usage"},
		{"forget STORE 7", exitNoStore, ""},
		{"forget --policy STORE 7", exitError, "usage"},
		{"forget --policy --reason=x STORE", exitError, "own reasons"},
		{"unforget STORE 7", exitNoStore, ""},
		{"hold STORE 7", exitError, "--reason"},
		{"hold STORE --reason=x", exitError, "usage"},
		{"hold STORE 7 --reason=x", exitNoStore, ""},
		{"release STORE 7", exitNoStore, ""},
		{"prune STORE", exitNoStore, ""},
		{"verify STORE", exitError, "usage"},
		{"verify STORE 7 8 9", exitNoStore, ""},
		{"policy", exitError, "usage"},
		{"policy STORE", exitNoStore, ""},
		{"policy STORE set", exitError, "usage"},
		{"policy STORE put keep-last=3", exitError, "usage"},
		{"restore STORE 7", exitError, "usage"},
		{"restore STORE 7 DIR/out", exitNoStore, ""},
		{"restore --workers=1000 STORE 7 DIR/out", exitError, "--workers"},
		{"snapshot STORE a b", exitError, "usage"},
		{"version x", exitError, ""},
		{"rules forget", exitError, "there is no command"},
		{"rules list STORE x", exitError, "accepts at most 1"},
		{"remote nothing", exitError, "no command"},
		{"remote check", exitError, "accepts 1"},
		{"remote check /mnt/x", exitError, "no scheme"},
		{"remote check s3://bucket?endpont=x", exitError, `"endpont" is not known`},
		{"remote check s3://k:s@bucket", exitError, "credentials do not belong here"},
		{"remote check dir:DIR/no", exitError, "does not lead to a bucket"},
		{"remote ls", exitError, "accepts between 1 and 2"},
		{"remote ls --objects dir:DIR UPPER", exitError, "is not for keys"},
		{"rules check", exitError, "usage"},
		{"rules check STORE", exitError, "no such file"},
		{"rules explain", exitError, "accepts 1"},
		{"rules explain DIR", exitError, "is not on a stepfs mount"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			args := strings.Fields(strings.NewReplacer("STORE", store, "DIR", dir, "MNT", dir+"/mnt").Replace(tc.args))
			got := stepfs(t, args...)
			if got.code != tc.code || !strings.Contains(got.stderr, tc.says) || got.stdout != "" {
				t.Errorf("exit code %d, want %d and %q; stdout %q, stderr:\n%s", got.code, tc.code, tc.says, got.stdout, got.stderr)
			}
			if !strings.HasPrefix(got.stderr, "stepfs: ") || strings.Contains(got.stderr, "goroutine") {
				t.Errorf("stderr:\n%s", got.stderr)
			}
			if _, err := os.Lstat(store); err == nil {
				t.Error("a store was made")
			}
		})
	}
}

// A usage that is not golden is one that changed without anybody looking.
func TestHelp(t *testing.T) {
	for _, args := range []string{"", "mount", "umount", "snapshots", "snapshot", "restore", "rollback", "diff", "log", "assess", "import", "hold", "release", "pin", "unpin", "warm", "forget", "unforget", "prune", "policy", "verify", "rules", "rules list", "rules check", "rules explain", "status", "stats", "drain", "check", "remote", "remote check", "remote ls", "remote stats", "remote forget", "remote prune", "version"} {
		t.Run("stepfs "+args, func(t *testing.T) {
			got := stepfs(t, append(strings.Fields(args), "--help")...)
			if got.code != exitDone || got.stderr != "" {
				t.Fatalf("exit code %d, stderr %q", got.code, got.stderr)
			}
			golden := filepath.Join("testdata", "help"+strings.ReplaceAll("-"+args, " ", "-")+".txt")
			if *update {
				must(t, os.WriteFile(golden, []byte(got.stdout), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if got.stdout != string(want) {
				t.Errorf("differs from %s (go test -update rewrites it):\n%s", golden, got.stdout)
			}
		})
	}
}

func TestCompletionAndVersion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := stepfs(t, "completion", shell); got.code != 0 || !strings.Contains(got.stdout, "stepfs") {
			t.Errorf("completion %s: %+v", shell, got)
		}
	}
	if got := stepfs(t, "version"); got.code != 0 || !strings.HasPrefix(got.stdout, "stepfs ") {
		t.Errorf("version: %+v", got)
	}
	if got := stepfs(t, "version", "--json"); !strings.Contains(got.stdout, `"store_format":8`) {
		t.Errorf("version --json: %+v", got)
	}
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		exitDone:        nil,
		exitError:       errors.New("x"),
		exitPartly:      fmt.Errorf("w: %w", &codedError{exitPartly, errors.New("x")}),
		exitNoStore:     fmt.Errorf("w: %w", storedir.ErrForeign),
		exitInUse:       &storedir.InUseError{},
		exitInterrupted: fmt.Errorf("w: %w", context.Canceled),
		exitWrongKey:    (&apiError{Exit: exitWrongKey}).coded(),
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	// The variable of a flag counts, and the flag wins.
	got := stepfsEnv(t, []string{"STEPFS_SNAPDIR=maybe"}, "mount", "/nonexistent/s", "/nonexistent/m")
	if !strings.Contains(got.stderr, `not "maybe"`) {
		t.Errorf("stderr %q", got.stderr)
	}
	got = stepfsEnv(t, []string{"STEPFS_SNAPDIR=maybe"}, "mount", "--snapdir=visible", "/nonexistent/s", "/nonexistent/m")
	if strings.Contains(got.stderr, "maybe") {
		t.Errorf("stderr %q", got.stderr)
	}
	got = stepfsEnv(t, []string{"STEPFS_GRACE=soon"}, "mount", "a", "b")
	if got.code != exitError || !strings.Contains(got.stderr, "STEPFS_GRACE") {
		t.Errorf("%+v", got)
	}
	got = stepfsEnv(t, []string{"STEPFS_STORE=/nonexistent/s"}, "snapshots")
	if got.code != exitNoStore || !strings.Contains(got.stderr, "/nonexistent/s") {
		t.Errorf("%+v", got)
	}
}

func TestStoreArgument(t *testing.T) {
	for _, tc := range []struct {
		global      string
		args        []string
		least, most int
		store       string
		rest        int
		fails       bool
	}{
		{"", []string{"s"}, 0, 1, "s", 0, false},
		{"", []string{"s", "n"}, 0, 1, "s", 1, false},
		{"", nil, 0, 1, "", 0, true},
		{"", []string{"s", "n", "x"}, 0, 1, "", 0, true},
		{"", []string{""}, 0, 0, "", 0, true},
		{"env", nil, 0, 1, "env", 0, false},
		{"env", []string{"n"}, 0, 1, "env", 1, false},
		{"env", []string{"s", "n"}, 0, 1, "s", 1, false},
		{"env", []string{"s", "7", "t"}, 2, 2, "s", 2, false},
		{"env", []string{"7", "t"}, 2, 2, "env", 2, false},
	} {
		g := &global{store: tc.global}
		store, rest, err := g.storeAnd(tc.args, "x", tc.least, tc.most)
		if (err != nil) != tc.fails || store != tc.store || len(rest) != tc.rest {
			t.Errorf("%q %q: %q %q %v", tc.global, tc.args, store, rest, err)
		}
	}
}
