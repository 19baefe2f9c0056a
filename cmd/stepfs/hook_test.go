package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/snapshot"
)

// testHook runs a command and gives the file that $OUT is.
func testHook(t *testing.T, command string) (h *hook, out string) {
	t.Helper()
	out = t.TempDir() + "/out"
	h = newHook(strings.ReplaceAll(command, "$OUT", out), "/store", "/mnt")
	t.Cleanup(func() { h.kill(); h.close() })
	return h, out
}

// events are the lines that commands have written.
func events(t *testing.T, out string) (all []map[string]any) {
	t.Helper()
	b, err := os.ReadFile(out)
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

// soon waits for something, far longer than it takes.
func soon(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// A full queue loses the oldest of the chatty events and says how many; the
// others arrive, in order.
func TestHookQueue(t *testing.T) {
	h, out := testHook(t, "cat >> $OUT")
	h.sealed(snapshot.Info{Name: "1", Seq: 7, Reason: "quiet"})
	for k := range hookQueue + 10 {
		h.fault("fault", errors.New(strconv.Itoa(k)))
	}
	h.sealed(snapshot.Info{Name: "2", Seq: 8, Verdict: snapshot.VerdictPartial})
	if len(h.queue) != hookQueue {
		t.Fatalf("%d events in the queue, want %d", len(h.queue), hookQueue)
	}
	h.queue = append(h.queue[:3:3], h.queue[len(h.queue)-1])
	h.start(describeSnapshot)
	soon(t, "four events", func() bool { return len(events(t, out)) == 4 })
	var got []string
	for _, e := range events(t, out) {
		got = append(got, fmt.Sprintln(e["event"], e["step"], e["id"], e["reason"], e["dropped"], e["store"], e["mountpoint"]))
	}
	want := []string{"sealed 1 1@7 quiet 12 /store /mnt\n", "fault <nil> <nil> fault: 12 <nil> /store /mnt\n",
		"fault <nil> <nil> fault: 13 <nil> /store /mnt\n", "partial 2 2@8  <nil> /store /mnt\n"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

// With nothing chatty in it, a full queue is still bounded.
func TestHookQueueOfSeals(t *testing.T) {
	h, _ := testHook(t, "true")
	for k := range 3 * hookQueue {
		h.sealed(snapshot.Info{Name: strconv.Itoa(k)})
	}
	if len(h.queue) != hookQueue || h.dropped != 2*hookQueue {
		t.Errorf("%d in the queue, %d dropped", len(h.queue), h.dropped)
	}
}

// A command that takes too long is killed with all that it started, one that
// reads nothing or fails does no harm, and the next event gets its turn.
func TestHookLimit(t *testing.T) {
	h, out := testHook(t, `if grep -q '"step":"hang"'; then sleep 1000 & echo $! > $OUT.pid; wait; fi; echo '{}' >> $OUT; exit 3`)
	h.limit = 500 * time.Millisecond
	h.start(describeSnapshot)
	h.sealed(snapshot.Info{Name: "hang"})
	h.fault("x", errors.New(strings.Repeat("long", 100<<10)))
	h.sealed(snapshot.Info{Name: "next"})
	soon(t, "two runs that end", func() bool { return len(events(t, out)) == 2 })
	b, err := os.ReadFile(out + ".pid")
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	soon(t, "the command's child is gone", func() bool { return gone(pid) })
}

// gone: a process that was killed and not waited for is none any more.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// When the mount ends, the queue gets its time and no more.
func TestHookLeaves(t *testing.T) {
	h, out := testHook(t, `cat >> $OUT; if test -e $OUT.hang; then sleep 1000; fi`)
	h.start(describeSnapshot)
	for k := range 5 {
		h.sealed(snapshot.Info{Name: strconv.Itoa(k)})
	}
	h.leave()
	if n := len(events(t, out)); n != 5 {
		t.Fatalf("%d events handed over before the end, want 5", n)
	}
	h.sealed(snapshot.Info{Name: "held"})
	time.Sleep(50 * time.Millisecond)
	if n := len(events(t, out)); n != 5 {
		t.Error("a command was begun while the mount was being taken away")
	}
	must(t, os.WriteFile(out+".hang", nil, 0o600))
	h.resume()
	soon(t, "it goes on", func() bool { return len(events(t, out)) == 6 })
	h.patience = 50 * time.Millisecond
	h.sealed(snapshot.Info{Name: "never"})
	h.close() // kills what hangs
	h.sealed(snapshot.Info{Name: "after"})
	if n := len(events(t, out)); n != 6 {
		t.Errorf("%d events, want 6", n)
	}
}

// Without a command every method does nothing.
func TestNoHook(t *testing.T) {
	h := newHook("", "", "")
	h.start(nil)
	h.sealed(snapshot.Info{})
	h.fault("x", errors.New("y"))
	h.leave()
	h.resume()
	h.kill()
	h.close()
}

// Whoever mounts a store runs the command in its config: only one that nobody
// else can have put there.
func TestConfigOwner(t *testing.T) {
	path := t.TempDir() + "/config"
	must(t, os.WriteFile(path, nil, 0o600))
	if err := checkConfigOwner(path); err != nil {
		t.Error(err)
	}
	must(t, os.Chmod(path, 0o666))
	if checkConfigOwner(path) == nil {
		t.Error("everybody can write to it")
	}
	must(t, os.Chmod(path, 0o600))
	if unix.Geteuid() == 0 {
		must(t, os.Chown(path, 4242, 4242))
		if checkConfigOwner(path) == nil {
			t.Error("it belongs to somebody else")
		}
	}
}
