package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
)

// mountInBackground mounts a new store and takes everything away at the end.
func mountInBackground(t *testing.T, flags ...string) (store, point string, r readyLine) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	store, point = dir+"/store", dir+"/mnt"
	must(t, os.Mkdir(point, 0o755))
	return store, point, mountAgain(t, store, point, flags...)
}

func mountAgain(t *testing.T, store, point string, flags ...string) (r readyLine) {
	t.Helper()
	got := stepfs(t, append([]string{"mount", "-d", "--json", store, point}, flags...)...)
	if got.code != 0 {
		t.Fatalf("mount: %+v", got)
	}
	must(t, json.Unmarshal([]byte(got.stdout), &r))
	t.Cleanup(func() {
		if unix.Kill(r.PID, 0) == nil {
			_ = unix.Kill(r.PID, unix.SIGKILL) // it may just have ended
		}
		for stepfsfs.Unmount(point, true) == nil {
		}
	})
	return r
}

func TestMountInBackground(t *testing.T) {
	store, point, r := mountInBackground(t)
	if r.Event != "ready" || r.Store != store || r.Mountpoint != point || r.PID == 0 {
		t.Errorf("ready line %+v", r)
	}
	must(t, os.WriteFile(point+"/a", []byte("kept"), 0o644))

	var s Status
	for _, at := range []string{store, point, point + "/a"} {
		got := stepfs(t, "status", "--json", at)
		must(t, json.Unmarshal([]byte(got.stdout), &s))
		if !s.Running || s.PID != r.PID || s.Mountpoint != point || s.Store != store {
			t.Errorf("status of %s: %+v", at, s)
		}
	}
	second := filepath.Dir(point) + "/second"
	must(t, os.Mkdir(second, 0o755))
	if got := stepfs(t, "mount", store, second); got.code != exitInUse || !strings.Contains(got.stderr, "pid "+strconv.Itoa(r.PID)) {
		t.Errorf("second mount: %+v", got)
	}
	if got := stepfs(t, "mount", filepath.Dir(point)+"/other", point); got.code != exitError || !strings.Contains(got.stderr, "already mounted") {
		t.Errorf("mount on the same point: %+v", got)
	}
	if got := stepfs(t, "mount", point+"/inner", second); got.code != exitError || !strings.Contains(got.stderr, "goes on a disk") {
		t.Errorf("store on the mount: %+v", got)
	}
	if got := stepfs(t, "umount", store); got.code != 0 {
		t.Fatalf("umount: %+v", got)
	}
	if _, err := os.Stat(point + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after umount: %v", err)
	}
	if got := stepfs(t, "status", "--json", store); got.code != 0 || !strings.Contains(got.stdout, `"running":false`) {
		t.Errorf("status without a daemon: %+v", got)
	}
	mountAgain(t, store, point)
	if b, err := os.ReadFile(point + "/a"); err != nil || string(b) != "kept" {
		t.Errorf("mounted again: %q, %v", b, err)
	}
}

func TestBusyUmount(t *testing.T) {
	_, point, _ := mountInBackground(t)
	cmd := exec.Command("sleep", "1000")
	cmd.Dir = point
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	got := stepfs(t, "umount", point)
	if got.code != exitError || !strings.Contains(got.stderr, "busy") ||
		!strings.Contains(got.stderr, "pid "+strconv.Itoa(cmd.Process.Pid)+" (sleep): working directory") {
		t.Errorf("%+v", got)
	}
	must(t, os.WriteFile(point+"/b", nil, 0o644)) // it goes on
	if got := stepfs(t, "umount", "--force", point); got.code != 0 {
		t.Errorf("--force: %+v", got)
	}
	all, err := mounts()
	must(t, err)
	if m, ok := mountAt(all, point); ok {
		t.Errorf("still mounted: %+v", m)
	}
}

// What kill -9 leaves is cleaned by the next mount, and by umount.
func TestStaleMountpoint(t *testing.T) {
	store, point, r := mountInBackground(t)
	must(t, os.WriteFile(point+"/a", []byte("kept"), 0o644))
	killed := func(pid int) {
		t.Helper()
		must(t, unix.Kill(pid, unix.SIGKILL))
		for !isDead(point) {
			time.Sleep(time.Millisecond)
		}
	}
	killed(r.PID)
	got := stepfs(t, "mount", "-d", "--json", store, point)
	if got.code != 0 || !strings.Contains(got.stderr, "left mounted by a stepfs that died") {
		t.Fatalf("%+v", got)
	}
	must(t, json.Unmarshal([]byte(got.stdout), &r))
	if b, err := os.ReadFile(point + "/a"); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	killed(r.PID)
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Errorf("umount: %+v", got)
	}
	if _, err := os.Stat(point); err != nil {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	store, point, _ := mountInBackground(t, "--snapdir-name=old", "--grace=7s", "--save-settings")
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if r := mountAgain(t, store, point); r.Snapshots != point+"/old" {
		t.Errorf("the setting is gone: %+v", r)
	}
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if r := mountAgain(t, store, point, "--snapdir-name=new"); r.Snapshots != point+"/new" {
		t.Errorf("the flag does not win: %+v", r)
	}
}

func TestLogFile(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(log, nil, 0o600))
	must(t, os.Truncate(log, maxLog+1))
	store, point, _ := mountInBackground(t, "--log-file", log)
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "unmounted") {
		t.Errorf("log %q, %v", b, err)
	}
	if _, err := os.Stat(log + ".1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(store + "/" + logName); err == nil {
		t.Error("there is a log in the store, too")
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]byteSize{
		"0": 0, "512": 512, "1K": 1024, "1k": 1024, "10MiB": 10 << 20, "1.5G": 3 << 29, "2TB": 2 << 40, " 7 ": 7,
	} {
		var b byteSize
		if err := b.Set(in); err != nil || b != want {
			t.Errorf("%q: %d, %v", in, b, err)
		}
		var again byteSize
		if err := again.Set(b.String()); b != 0 && (err != nil || again != b) {
			t.Errorf("%q does not survive its own String: %d, %v", in, again, err)
		}
	}
	for _, in := range []string{"", "K", "-1", "NaN", "Inf", "1X", "1e30", "9999999999E"} {
		var b byteSize
		if err := b.Set(in); err == nil {
			t.Errorf("%q: %d", in, b)
		}
	}
}

func TestMountinfo(t *testing.T) {
	const text = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:50 / /mnt/with\040blank rw shared:7 - fuse.stepfs /store\134x rw,user_id=0
41 22 0:51 / /mnt/a rw - tmpfs tmpfs rw
42 41 0:52 / /mnt/a rw master:1 propagate_from:2 - fuse.stepfs /s rw
broken line
`
	all, err := parseMountinfo(strings.NewReader(text))
	must(t, err)
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	if m, ok := mountAt(all, "/mnt/with blank"); !ok || m.Source != `/store\x` {
		t.Errorf("%+v", m)
	}
	if m, ok := mountAt(all, "/mnt/a"); !ok || m.Type != fsType {
		t.Errorf("the one on top: %+v", m)
	}
	if m, ok := mountOver(all, "/mnt/a/b/c"); !ok || m.Source != "/s" {
		t.Errorf("%+v", m)
	}
	if m, _ := mountOver(all, "/mnt/ab"); m.Point != "/" {
		t.Errorf("a longer name is not inside: %+v", m)
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c.d": "/a/b-c.d", "/a b": "'/a b'", "it's": `'it'\''s'`, "": "''", "$x": "'$x'"} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 3 << 29: "1.5 GiB", -2048: "-2.0 KiB", 1<<63 - 1: "8.0 EiB"} {
		if got := humanBytes(in); got != want {
			t.Errorf("%d: %s, want %s", in, got, want)
		}
	}
}

func TestStoreLimitFlag(t *testing.T) {
	const disk = 1000 << 30
	for in, want := range map[string]uint64{"800G": 800 << 30, "75%": 750 << 30, "12.5 %": 125 << 30, "0": 900 << 30, "": 900 << 30} {
		var l storeLimit
		if in != "" {
			must(t, l.Set(in))
		}
		if got := l.of(disk); got < want-100 || got > want+100 {
			t.Errorf("%q is %d, want %d", in, got, want)
		}
		var again storeLimit
		if in != "" && in != "0" {
			must(t, again.Set(l.String()))
			if again != l {
				t.Errorf("%q does not survive its own String %q", in, l.String())
			}
		}
	}
	for _, in := range []string{"-1", "0%", "101%", "%", "NaN%", "x"} {
		var l storeLimit
		if err := l.Set(in); err == nil {
			t.Errorf("%q: %+v", in, l)
		}
	}
	for in, ok := range map[string]bool{"100M": false, "0.001%": false, "128M": true, "50%": true} {
		var l storeLimit
		must(t, l.Set(in))
		if err := l.check(disk); (err == nil) != ok {
			t.Errorf("check of %q: %v", in, err)
		}
	}
	if err := (&storeLimit{}).check(1 << 20); err != nil {
		t.Error("a small disk without a limit:", err)
	}
}

func TestHumanSpan(t *testing.T) {
	for in, want := range map[time.Duration]string{30 * time.Second: "1 min", 100 * time.Minute: "100 min", 30 * time.Hour: "30 h", 240 * time.Hour: "10 days"} {
		if got := humanSpan(in); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
}

// TestLeaving: a daemon that has given back its lease, and not yet its lock, is
// waited for: after umount(8) one may be mounting again at once.
func TestLeaving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	d := &daemon{opts: &mountOptions{create: true}}
	must(t, d.openStore(t.Context(), path))
	must(t, d.dir.Close())
	lock, err := os.Open(filepath.Join(path, "lock"))
	must(t, err)
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	go func() {
		time.Sleep(200 * time.Millisecond)
		_ = lock.Close()
	}()
	must(t, d.openStore(t.Context(), path))
	must(t, d.dir.Close())
}
