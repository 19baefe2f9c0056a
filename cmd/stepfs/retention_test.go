package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sealStep seals the mount's root as a step.
func sealStep(t *testing.T, point, step string) {
	t.Helper()
	must(t, os.WriteFile(point+"/model.bin", []byte(strings.Repeat(step, 1<<16)), 0o644))
	must(t, unix.Setxattr(point, "user.stepfs.step", []byte(step), 0))
}

// listed gives the names of `stepfs snapshots`.
func listedSteps(t *testing.T, store string, flags ...string) string {
	t.Helper()
	got := stepfs(t, append([]string{"snapshots", "--json", store}, flags...)...)
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
	var names []string
	for line := range strings.Lines(got.stdout) {
		var s SnapshotInfo
		must(t, json.Unmarshal([]byte(line), &s))
		names = append(names, s.Step)
	}
	return strings.Join(names, " ")
}

// says runs a command and checks its exit code and what it prints.
func says(t *testing.T, code int, want string, args ...string) result {
	t.Helper()
	got := stepfs(t, args...)
	if got.code != code || !strings.Contains(got.stdout+got.stderr, want) {
		t.Errorf("stepfs %s: %+v, want exit code %d and %q", strings.Join(args, " "), got, code, want)
	}
	return got
}

// Hold, forget, unforget, prune: mounted, and on the store alone.
func TestRetentionCommands(t *testing.T) {
	for _, mounted := range []bool{true, false} {
		t.Run(fmt.Sprint("mounted ", mounted), func(t *testing.T) {
			store, point, _ := mountInBackground(t)
			for k := 1; k <= 5; k++ {
				sealStep(t, point, fmt.Sprint(k*100))
			}
			if !mounted {
				says(t, 0, "", "umount", point)
			}
			says(t, 0, "snapshots", "--help")
			says(t, 0, "held", "hold", store, "100", "--reason", "the paper's figure 3")
			got := says(t, exitError, "is held by "+whoami()+" since", "forget", store, "200", "100")
			if !strings.Contains(got.stderr, "the paper's figure 3") || !strings.Contains(got.stderr, "nothing is forgotten") {
				t.Errorf("%s", got.stderr)
			}
			says(t, 0, "held by", "snapshots", store)
			says(t, 0, "would be forgotten", "forget", "-n", store, "200")
			if got := listedSteps(t, store); got != "100 200 300 400 500" {
				t.Errorf("steps %s", got)
			}
			says(t, 0, "200@", "forget", store, "200", "500", "--reason", "diverged")
			if got := listedSteps(t, store); got != "100 300 400" {
				t.Errorf("steps %s", got)
			}
			if got := listedSteps(t, store, "--forgotten"); got != "200 500" {
				t.Errorf("forgotten %s", got)
			}
			says(t, 0, "diverged", "snapshots", "--forgotten", store)
			if mounted {
				if to, err := os.Readlink(point + "/snapshots/latest"); err != nil || to != "400" {
					t.Errorf("latest is %s, %v", to, err)
				}
				if _, err := os.Stat(point + "/snapshots/200"); err == nil {
					t.Error("a forgotten step is still there by its name")
				}
			}
			says(t, 0, "500@", "unforget", store, "500")
			says(t, exitError, "not forgotten", "unforget", store, "500")
			says(t, 0, "1 snapshots removed", "prune", "--wait", store)
			says(t, exitError, "nothing is brought back", "unforget", store, "200")
			says(t, exitError, "no snapshot 200", "hold", store, "200", "--reason", "x")
			if got := listedSteps(t, store, "--forgotten"); got != "" {
				t.Errorf("forgotten %s", got)
			}
			says(t, exitError, "not held", "release", store, "300")
			says(t, 0, "released", "release", store, "100")
			says(t, 0, "100@", "forget", store, "100")
		})
	}
}

// The policy can be read and changed while mounted, and acts at once.
func TestPolicyCommand(t *testing.T) {
	store, point, _ := mountInBackground(t)
	for k := 1; k <= 6; k++ {
		sealStep(t, point, fmt.Sprint(k*100))
	}
	says(t, 0, "every step is kept", "policy", store)
	says(t, 0, "keep-barriers=1h  (default)", "policy", point)
	for rule, why := range map[string]string{"keep-last=0": "at least 1", "keep-lots=1": "there is no rule", "keep-last=1 keep-last=2": "twice"} {
		got := says(t, exitError, why, append([]string{"policy", store, "set"}, strings.Fields(rule)...)...)
		if !strings.Contains(got.stderr, "stays as it was") {
			t.Errorf("%s", got.stderr)
		}
	}
	says(t, 0, "0 forgotten, 6 kept", "forget", "--policy", "-n", store)
	says(t, 0, "keep-last=2", "policy", store, "set", "keep-last=2", "keep-every=300", "scope:runA=keep-all")
	for end := time.Now().Add(time.Minute); listedSteps(t, store) != "300 500 600"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("steps %s", listedSteps(t, store))
		}
	}
	says(t, 0, "not kept by keep-last 2, keep-every 300", "snapshots", "--forgotten", store)
	says(t, 0, "umount", "umount", "--help")
	says(t, 0, "", "umount", point)
	says(t, 0, "scope:runA=keep-all", "policy", store)
	says(t, 0, "keep-every=300", "policy", store, "unset", "keep-last")
	says(t, exitError, "is not set", "policy", store, "unset", "keep-last")
	says(t, 0, "500@", "forget", "--policy", store)
	mountAgain(t, store, point)
	if got := listedSteps(t, point); got != "300 600" {
		t.Errorf("steps after a mount with the policy: %s", got)
	}
}

// A cp -a under way goes on when its step is forgotten and pruned.
func TestForgottenWhileCopied(t *testing.T) {
	store, point, _ := mountInBackground(t)
	must(t, os.MkdirAll(point+"/a/b", 0o755))
	for k := range 50 {
		must(t, os.WriteFile(fmt.Sprintf("%s/a/b/%d", point, k), []byte(strings.Repeat(fmt.Sprint(k), 1000)), 0o644))
	}
	sealStep(t, point, "100")
	must(t, os.RemoveAll(point+"/a"))
	sealStep(t, point, "200")

	snap := point + "/snapshots/100"
	open, err := os.Open(snap + "/model.bin")
	must(t, err)
	defer open.Close()
	says(t, 0, "100@", "forget", store, "100")
	says(t, 0, "1 are in use", "prune", "--wait", store)
	if names, err := os.ReadDir(point + "/snapshots"); err != nil || slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "100" }) {
		t.Errorf("still listed: %v, %v", names, err)
	}
	out := filepath.Join(t.TempDir(), "copy")
	if b, err := exec.Command("cp", "-a", snap+"/.", out).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, b)
	}
	for k := range 50 {
		b, err := os.ReadFile(fmt.Sprintf("%s/a/b/%d", out, k))
		if err != nil || string(b) != strings.Repeat(fmt.Sprint(k), 1000) {
			t.Fatalf("file %d of the copy: %d bytes, %v", k, len(b), err)
		}
	}
	if b, err := io.ReadAll(open); err != nil || len(b) != 3<<16 {
		t.Errorf("the open file: %d bytes, %v", len(b), err)
	}
}
