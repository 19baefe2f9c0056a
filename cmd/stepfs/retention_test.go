package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
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
			says(t, 0, "held: ", "snapshots", store)
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

// statusOf reads `stepfs status --json` once cond holds for it: what is costly
// to find out may be a moment old.
func statusOf(t *testing.T, store string, cond func(*Status) bool) (s Status) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		s = Status{}
		must(t, json.Unmarshal([]byte(says(t, 0, "", "status", "--json", store).stdout), &s))
		if cond(&s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("status: %+v", s)
		}
	}
}

// Status says what would go next, what keeps space and who has it, and what
// pruning did; `snapshots` says what a step alone needs, and prune that it came
// back.
func TestStatusOutlook(t *testing.T) {
	store, point, _ := mountInBackground(t)
	const size = 3 << 16
	for _, step := range []string{"101", "102", "103", "104", "105"} {
		must(t, os.MkdirAll(point+"/"+step, 0o755))
		data := make([]byte, size)
		rand.New(rand.NewSource(int64(step[2]))).Read(data)
		must(t, os.WriteFile(point+"/"+step+"/model.bin", data, 0o644))
		must(t, unix.Setxattr(point, "user.stepfs.step", []byte(step), 0))
		must(t, os.RemoveAll(point+"/"+step))
	}
	says(t, 0, "held", "hold", store, "101", "--reason", "the paper's figure 3")
	says(t, 0, "", "drain", store)
	open, err := os.Create(point + "/scratch")
	must(t, err)
	defer open.Close()
	_, err = open.Write(make([]byte, 1<<20))
	must(t, errors.Join(err, os.Remove(point+"/scratch")))

	s := statusOf(t, store, func(s *Status) bool { return len(s.Pins) == 5 && len(s.Next) == 2 })
	if n := s.Next[1]; n.What != "step" || !strings.HasPrefix(n.Snapshots[0], "102@") || n.Bytes < size || s.Next[0].What != "hot copies" {
		t.Errorf("next: %+v", s.Next)
	}
	kinds := map[string]PinInfo{}
	for _, p := range s.Pins {
		kinds[p.Kind] = p
	}
	if p := kinds["held"]; p.Bytes < size || len(p.Holds) != 1 || p.Holds[0].Reason != "the paper's figure 3" || p.Holds[0].By != whoami() {
		t.Errorf("held: %+v", p)
	}
	if p := kinds["unlinked"]; !strings.Contains(p.File, "scratch") || p.Bytes != 1<<20 {
		t.Errorf("open and deleted: %+v", p)
	}
	if p := kinds["newest"]; p.Snapshot == "" {
		t.Errorf("newest: %+v", s.Pins)
	}
	text, err := os.ReadFile(point + "/snapshots/.status")
	must(t, err)
	for _, want := range []string{"next to go", "step 102@", "held by " + whoami() + ": the paper's figure 3", "deleted and still open"} {
		if !strings.Contains(string(text), want) {
			t.Errorf(".status does not say %q:\n%s", want, text)
		}
	}

	var fresh int64
	for line := range strings.Lines(says(t, 0, "102", "snapshots", "--json", store).stdout) {
		var i SnapshotInfo
		must(t, json.Unmarshal([]byte(line), &i))
		if i.Step == "102" {
			fresh = i.New
		}
	}
	if fresh < size || fresh > size+8<<10 {
		t.Errorf("step 102 alone needs %d bytes", fresh)
	}
	says(t, 0, "102@", "forget", store, "102")
	s = statusOf(t, store, func(s *Status) bool { return s.Prune.Forgotten == 1 && s.Prune.ForgottenBytes > 0 })
	if s.Prune.ForgottenBytes != fresh || s.Next[1].What != "forgotten" {
		t.Errorf("a forgotten step of %d bytes: %+v", fresh, s)
	}
	says(t, 0, "freed", "prune", "--wait", store)
	s = statusOf(t, store, func(s *Status) bool { return s.Prune.Forgotten == 0 && s.Prune.Dead+s.Prune.AllPacks >= fresh })
	if s.Prune.Last == nil || s.Prune.Queue != 0 {
		t.Errorf("pruned: %+v", s.Prune)
	}
}
