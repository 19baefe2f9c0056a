package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// Of what is forgotten here the bucket keeps what it has, and forget says how to
// have that go; with --remote it goes, on a mount and without one.
func TestForgetRemote(t *testing.T) {
	url := "dir:" + t.TempDir()
	store, point, _ := mountInBackground(t, "--remote", url)
	done := func(args ...string) string {
		t.Helper()
		got := stepfs(t, args...)
		if got.code != 0 {
			t.Fatalf("%v: %+v", args, got)
		}
		return got.stdout
	}
	published := func(want string) {
		t.Helper()
		var names string
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			names = ""
			for line := range strings.Lines(done("remote", "ls", "--json", url)) {
				var s RemoteStep
				must(t, json.Unmarshal([]byte(line), &s))
				names += s.Step + " "
			}
			if names == want || time.Now().After(end) {
				break
			}
		}
		if names != want {
			t.Errorf("%sare published, want %s", names, want)
		}
	}
	for _, step := range []string{"one", "two", "three", "four"} {
		must(t, os.WriteFile(point+"/a", []byte(step), 0o644))
		done("snapshot", point, step)
	}
	done("drain", "--remote", point)
	if out := done("forget", "-n", point, "one", "--remote"); !strings.Contains(out, "the bucket forgets 1 of them") {
		t.Error(out)
	}
	out := done("forget", point, "one")
	_, hint, ok := strings.Cut(strings.TrimSpace(out), "the bucket keeps 1 of them; to forget it there, too: stepfs ")
	if !ok {
		t.Fatal(out)
	}
	done("prune", "--wait", point)
	published("one two three four ")
	done(strings.Fields(hint)...)
	published("two three four ")

	done("forget", "--remote", point, "two")
	published("two three four ")
	done("prune", "--wait", point)
	published("three four ")
	var s Status
	must(t, json.Unmarshal([]byte(done("status", "--json", point)), &s))
	if s.Remote.Forget != 0 || s.Remote.ForgetErr != "" {
		t.Errorf("%+v", s.Remote)
	}

	done("umount", point)
	var d ForgetDecision
	if out := done("forget", "--json", "--remote", store, "three"); json.Unmarshal([]byte(out), &d) != nil || d.Bucket != bucketForgets {
		t.Error(out)
	}
	done("prune", "--wait", store)
	published("three four ")
	mountAgain(t, store, point)
	published("four ")
	done("umount", point)

	_, at, _ := mountInBackground(t)
	done("snapshot", at, "one")
	if got := stepfs(t, "forget", "--remote", at, "one"); got.code != exitError || !strings.Contains(got.stderr, "belongs to no bucket") {
		t.Errorf("%+v", got)
	}
	if out := done("forget", at, "one"); strings.Contains(out, "bucket") {
		t.Error(out)
	}
	done("umount", at)
}
