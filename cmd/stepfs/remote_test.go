package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A directory can do what is needed, and nothing is left in it; what somebody
// else has in it is left alone.
func TestRemoteDirectory(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "packs"), 0o777))
	must(t, os.WriteFile(filepath.Join(root, "packs", "0123.pack"), []byte("12345"), 0o666))
	must(t, os.WriteFile(filepath.Join(root, "README"), nil, 0o666))
	got := stepfs(t, "remote", "check", "dir:"+root)
	if got.code != exitDone || !strings.Contains(got.stdout, "put if absent") || strings.Contains(got.stdout, "NEEDED") {
		t.Errorf("exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	got = stepfs(t, "remote", "check", "--json", "dir:"+root)
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	var sum RemoteSummary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil || !sum.Usable || sum.Address != "dir:"+root || len(lines) < 5 {
		t.Errorf("%+v, %v of %s", sum, err, got.stdout)
	}
	got = stepfs(t, "remote", "ls", "--objects", "--json", "dir:"+root)
	var o RemoteObject
	if err := json.Unmarshal([]byte(got.stdout), &o); err != nil || o.Key != "packs/0123.pack" || o.Size != 5 || o.Modified.IsZero() {
		t.Errorf("%+v, %v of %s", o, err, got.stdout)
	}
	if got = stepfs(t, "remote", "ls", "--objects", "dir:"+root, "packs/"); got.code != 0 || !strings.Contains(got.stdout, "packs/0123.pack") {
		t.Errorf("%+v", got)
	}
	if got = stepfs(t, "remote", "ls", "--objects", "dir:"+root, "refs/"); got.code != 0 || got.stdout != "" {
		t.Errorf("%+v", got)
	}
}
