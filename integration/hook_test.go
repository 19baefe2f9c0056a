package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// hookEvents reads the lines that a hook has appended to a file.
func hookEvents(t *testing.T, path string) (all []map[string]any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	for line := range strings.Lines(string(b)) {
		var m map[string]any
		must(t, json.Unmarshal([]byte(line), &m))
		all = append(all, m)
	}
	return all
}

// hookEvent finds the first event of a kind about a step.
func hookEvent(t *testing.T, path, kind, step string) map[string]any {
	t.Helper()
	for _, e := range hookEvents(t, path) {
		if e["event"] == kind && (step == "" || e["step"] == step) {
			return e
		}
	}
	return nil
}

// TestHook: a job saves, and a hook that copies the sealed step out of the mount
// by its event gets all of it; forgetting and pruning are told of, too.
func TestHook(t *testing.T) {
	out := tempDir(t)
	script := filepath.Join(out, "hook.sh")
	must(t, os.WriteFile(script, []byte(`#!/bin/sh
read -r event
id=$(expr "$event" : '.*"id":"\([^"]*\)"')
mnt=$(expr "$event" : '.*"mountpoint":"\([^"]*\)"')
case $event in *'"event":"sealed"'*'"step":"500"'*)
	stat "$mnt/snapshots/$id" > /dev/null && cp -a "$mnt/snapshots/$id/." '`+out+`/'"$id" && date > "$mnt/seen" ;;
esac
echo "$event" >> '`+out+`/events'
echo handled "$id"
exit 1
`), 0o755))
	d := mount(t, "--seal-quiet", "200ms", "--on-event", script)
	mkdir(t, d.Mnt+"/checkpoint-500")
	must(t, os.WriteFile(d.Mnt+"/checkpoint-500/model.raw", []byte(strings.Repeat("weights", 1000)), 0o644))
	must(t, os.WriteFile(d.Mnt+"/log", []byte("500"), 0o644))
	eventually(t, "the hook hears of step 500", func() bool { return hookEvent(t, out+"/events", "sealed", "500") != nil })
	e := hookEvent(t, out+"/events", "sealed", "500")
	line := step(t, d, "500")
	for _, field := range []string{"id", "sequence", "revision", "verdict", "logical_bytes", "tags"} {
		if fmt.Sprint(e[field]) != fmt.Sprint(line[field]) && field != "logical_bytes" {
			t.Errorf("%s: %v in the event, %v in the list", field, e[field], line[field])
		}
		if _, ok := e[field]; !ok {
			t.Errorf("the event has no %s", field)
		}
	}
	if e["store"] != d.Store || e["mountpoint"] != d.Mnt || e["reason"] != line["reason"] || e["taken"] != line["time"] {
		t.Errorf("%v", e)
	}
	want, err := harness.ReadTree(filepath.Join(d.Mnt, "snapshots", fmt.Sprint(e["id"])))
	must(t, err)
	got, err := harness.ReadTree(filepath.Join(out, fmt.Sprint(e["id"])))
	must(t, err)
	if diff := want.Diff(got); diff != "" {
		t.Errorf("what the hook copied:\n%s", diff)
	}
	// Nobody has looked into this one, so that it goes at once.
	for _, args := range [][]string{{"snapshot", d.Mnt, "other"}, {"forget", d.Mnt, "other", "--reason", "a test"}, {"prune", "--wait", d.Mnt}} {
		_, err := root.Must(args...)
		must(t, err)
	}
	for _, kind := range []string{"sealed", "forgotten", "expired"} {
		eventually(t, "it hears of other: "+kind, func() bool { return hookEvent(t, out+"/events", kind, "other") != nil })
	}
	if e := hookEvent(t, out+"/events", "expired", "other"); !strings.HasSuffix(fmt.Sprint(e["reason"]), ": a test") {
		t.Errorf("expired: %v", e)
	}
	must(t, d.Stop())
	if !strings.Contains(d.Output(), "handled 500@") || !strings.Contains(d.Output(), "--on-event failed") {
		t.Errorf("the log has neither what the hook said nor how it ended:\n%s", d.Output())
	}
}

// TestHookHangs: a hook that hangs with a file of the mount open keeps neither a
// seal nor the unmount waiting, and is gone with the mount.
func TestHookHangs(t *testing.T) {
	for _, end := range []string{"umount", "SIGTERM"} {
		t.Run(end, func(t *testing.T) {
			out := tempDir(t)
			d := prepare(t)
			d.Env = []string{`STEPFS_ON_EVENT=cd "$MNT"; exec 3< f; echo $$ >> '` + out + `/pids'; sleep 1000`, "MNT=" + d.Mnt}
			must(t, d.Start())
			must(t, os.WriteFile(d.Mnt+"/f", []byte("x"), 0o644))
			snapshotNow(t, d, "first")
			eventually(t, "the hook runs", func() bool { _, err := os.Stat(out + "/pids"); return err == nil })
			for k := range 20 {
				snapshotNow(t, d, fmt.Sprint("more-", k))
			}
			if end == "umount" {
				_, err := root.Must("umount", d.Mnt)
				must(t, err)
				code, err := d.Wait(time.Minute)
				must(t, err)
				if code != 0 {
					t.Errorf("exit code %d", code)
				}
			} else {
				must(t, d.Stop())
			}
			b, err := os.ReadFile(out + "/pids")
			must(t, err)
			var pid int
			if n, err := fmt.Sscan(string(b), &pid); n != 1 || strings.Count(string(b), "\n") != 1 {
				t.Fatalf("one hook at a time was to be begun: %q, %v", b, err)
			}
			eventually(t, "the hook is gone", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
		})
	}
}

// TestHookOfTheStore: the command can be one of the store's settings.
func TestHookOfTheStore(t *testing.T) {
	out := tempDir(t)
	d := mount(t, "--on-event", "cat >> '"+out+"/events'", "--save-settings")
	must(t, d.Stop())
	d.Args = nil
	must(t, d.Start())
	snapshotNow(t, d, "named")
	eventually(t, "the hook hears of it", func() bool { return hookEvent(t, out+"/events", "sealed", "named") != nil })
	must(t, d.Stop())
	d.Args = []string{"--on-event="}
	must(t, d.Start())
	snapshotNow(t, d, "silent")
	must(t, d.Stop())
	if hookEvent(t, out+"/events", "", "silent") != nil {
		t.Error("--on-event= does not switch it off")
	}
}
