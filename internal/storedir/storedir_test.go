package storedir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"stepfs/internal/hostile"
)

func TestCreateThenOpen(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"missing":         func(*testing.T, string) {},
		"empty":           func(t *testing.T, p string) { mkdir(t, p) },
		"only lost+found": func(t *testing.T, p string) { mkdir(t, p+"/lost+found") },
		"crashed before any directory": func(t *testing.T, p string) {
			mkdir(t, p)
			write(t, p+"/lock", "")
			write(t, p+"/lease", "{")
		},
		"crashed before the config": func(t *testing.T, p string) {
			mkdir(t, p+"/journal")
			mkdir(t, p+"/index")
			write(t, p+"/lock", "")
			write(t, p+"/config.tmp-123", "stepfs sto")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a", "store")
			mkdir(t, filepath.Dir(path))
			prepare(t, path)
			d := open(t, path, Options{Create: true, Command: "mount"})
			if !d.Created() {
				t.Error("Created is false")
			}
			for _, sub := range layout {
				if st, err := os.Stat(d.Join(sub)); err != nil || !st.IsDir() {
					t.Errorf("%s: %v", sub, err)
				}
			}
			first := d.Config()
			if len(first.ID) != 32 || !first.Polynomial.Irreducible() || first.Key == [32]byte{} || first.Format != FormatVersion {
				t.Errorf("config %+v", first)
			}
			closeDir(t, d)
			if left, _ := filepath.Glob(path + "/*.tmp-*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := ReadLease(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("lease after Close: %v", err)
			}

			d = open(t, path, Options{})
			defer closeDir(t, d)
			if d.Created() || d.Config().ID != first.ID || d.Config().Key != first.Key || d.Config().Polynomial != first.Polynomial {
				t.Errorf("reopened: created %v, config %+v, was %+v", d.Created(), d.Config(), first)
			}
		})
	}
}

func TestStoresDiffer(t *testing.T) {
	a := open(t, t.TempDir(), Options{Create: true})
	defer closeDir(t, a)
	b := open(t, t.TempDir(), Options{Create: true})
	defer closeDir(t, b)
	if a.Config().ID == b.Config().ID || a.Config().Key == b.Config().Key {
		t.Error("two stores share an id or a key")
	}
}

func TestBadInput(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(t *testing.T, path string) // path's parent exists
		noMake  bool
		want    error
		says    string
	}{
		{name: "a file", want: ErrNotDir, says: "is a file", prepare: func(t *testing.T, p string) { write(t, p, "x") }},
		{name: "below a file", want: ErrNotDir, says: "part of the path", prepare: func(t *testing.T, p string) {
			must(t, os.Remove(filepath.Dir(p)))
			write(t, filepath.Dir(p), "x")
		}},
		{name: "link to nowhere", want: ErrNoStore, says: "symbolic link", prepare: func(t *testing.T, p string) {
			must(t, os.Symlink("/nonexistent/x", p))
		}},
		{name: "parent missing", says: "parent directory does not exist", prepare: func(t *testing.T, p string) { must(t, os.Remove(filepath.Dir(p))) }},
		{name: "foreign", want: ErrForeign, says: "photos", prepare: func(t *testing.T, p string) { mkdir(t, p+"/photos") }},
		{name: "foreign with a config", want: ErrForeign, says: "config that is not of stepfs", prepare: func(t *testing.T, p string) {
			mkdir(t, p)
			write(t, p+"/config", "[core]\n")
		}},
		{name: "missing, not to be made", noMake: true, want: ErrNoStore, says: "stepfs mount", prepare: func(*testing.T, string) {}},
		{name: "empty, not to be made", noMake: true, want: ErrNoStore, prepare: func(t *testing.T, p string) { mkdir(t, p) }},
		{name: "newer format", want: ErrNewerFormat, says: "99, and this stepfs knows up to 8", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			edit(t, p, func(s string) string { return strings.Replace(s, "stepfs store 8", "stepfs store 99", 1) })
		}},
		{name: "one letter changed", want: ErrCorruptConfig, says: "cp -p", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			edit(t, p, func(s string) string { return strings.Replace(s, `"domain": 0`, `"domain": 1`, 1) })
		}},
		{name: "cut short", want: ErrCorruptConfig, says: "checksum is missing", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			edit(t, p, func(s string) string { return s[:len(s)/2] })
		}},
		{name: "emptied", want: ErrCorruptConfig, says: "first line", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			edit(t, p, func(string) string { return "" })
		}},
		{name: "zeros", want: ErrCorruptConfig, says: "cp -p", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			edit(t, p, func(s string) string { return strings.Repeat("\x00", len(s)) })
		}},
		{name: "config gone, copy there", want: ErrCorruptConfig, says: "cp -p", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			must(t, os.Remove(p+"/config"))
		}},
		{name: "both gone, data there", want: ErrCorruptConfig, says: "backup", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			must(t, os.Remove(p+"/config"))
			must(t, os.Remove(p+"/config.bak"))
			write(t, p+"/packs/x", "data")
		}},
		{name: "both damaged", want: ErrCorruptConfig, says: "backup", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			write(t, p+"/config", "x")
			write(t, p+"/config.bak", "x")
		}},
		{name: "config is huge", want: ErrCorruptConfig, says: "over", prepare: func(t *testing.T, p string) {
			makeStore(t, p)
			must(t, os.Truncate(p+"/config", 1<<40))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "parent", "store")
			mkdir(t, filepath.Dir(path))
			tc.prepare(t, path)
			before := listing(path)
			_, err := Open(path, Options{Create: !tc.noMake})
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %v saying %q", err, tc.want, tc.says)
			}
			if after := listing(path); after != before {
				t.Errorf("a refused directory was changed: %s, was %s", after, before)
			}
		})
	}
}

// The way out that the error names works.
func TestDamagedConfigComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	id := makeStore(t, path)
	edit(t, path, func(string) string { return "rubbish" })
	_, err := Open(path, Options{})
	_, command, ok := strings.Cut(fmt.Sprint(err), "put it back with: ")
	if !ok {
		t.Fatalf("no way out in %v", err)
	}
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	d := open(t, path, Options{})
	defer closeDir(t, d)
	if d.Config().ID != id {
		t.Errorf("id %s, was %s", d.Config().ID, id)
	}
}

// Fields that pass the checksum may still be wrong: another program's bug, or
// a person who recomputed it.
func TestConfigFields(t *testing.T) {
	cfg, err := newConfig()
	must(t, err)
	good, err := cfg.encode()
	must(t, err)
	for name, change := range map[string][2]string{
		"version":    {"stepfs store 8", "stepfs store 0"},
		"json":       {"{", "["},
		"id":         {cfg.ID, cfg.ID[2:]},
		"polynomial": {fmt.Sprintf("%#x", uint64(cfg.Polynomial)), "0x10"},
		"key":        {fmt.Sprintf("%x", cfg.Key), "00ff"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(string(good), change[0], change[1], 1)
			body := bad[:strings.LastIndex(bad, checksumPrefix)]
			_, err := decodeConfig(fmt.Appendf(nil, "%s%s%x\n", body, checksumPrefix, blake3.Sum256([]byte(body))))
			if !errors.Is(err, ErrCorruptConfig) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(err.Error(), "00ff") {
				t.Errorf("the key is in the message: %v", err)
			}
		})
	}
}

func FuzzDecodeConfig(f *testing.F) {
	cfg, err := newConfig()
	if err != nil {
		f.Fatal(err)
	}
	good, err := cfg.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("stepfs store 8\n\nblake3 "))
	f.Add([]byte("stepfs store 99999999999999999999\n"))
	f.Add(bytes.Replace(good, []byte("stepfs store 8"), []byte("stepfs store 1"), 1))
	f.Add(append(bytes.Clone(good), "trailing"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		// With a checksum that is right, so that the fuzzer gets behind it.
		if at := bytes.LastIndex(data, []byte("\n"+checksumPrefix)); at >= 0 {
			body := data[: at+1 : at+1]
			data = fmt.Appendf(bytes.Clone(body), "%s%x\n", checksumPrefix, blake3.Sum256(body))
		}
		var c Config
		var err error
		hostile.Bounded(t, len(data), 128, func() { c, err = decodeConfig(data) })
		if err != nil {
			if !errors.Is(err, ErrCorruptConfig) && !errors.Is(err, ErrNewerFormat) {
				t.Fatal(err)
			}
			return
		}
		again, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeConfig(again)
		if err != nil {
			t.Fatalf("accepted, but not when encoded again: %v", err)
		}
		if third, err := got.encode(); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%s became %s, %v", again, third, err)
		}
	})
}

// FuzzLease: what stands in the lock file names a file only if it is plain.
func FuzzLease(f *testing.F) {
	f.Add([]byte(`{"nonce":"abc-1"}`))
	f.Add([]byte(`{"nonce":"../../etc"}`))
	f.Add([]byte(`{"nonce":` + strings.Repeat("[", 5000)))
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), "lock")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(path, data, 0o600))
		var l Lease
		var err error
		hostile.Bounded(t, len(data)+64<<10, 64, func() { l, _, err = readLease(path) })
		if err != nil || !plainNonce(l.Nonce) {
			t.Fatalf("%+v, %v", l, err)
		}
	})
}

func TestSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	d := open(t, path, Options{Create: true})
	id := d.Config().ID
	must(t, d.SaveSettings(map[string]string{"snapdir": "visible"}))
	closeDir(t, d)
	d = open(t, path, Options{})
	defer closeDir(t, d)
	if d.Config().Settings["snapdir"] != "visible" || d.Config().ID != id {
		t.Errorf("config %+v", d.Config())
	}
}

func TestBackupIsKeptUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	makeStore(t, path)
	write(t, path+"/config.bak", "old")
	closeDir(t, open(t, path, Options{}))
	a, err := os.ReadFile(path + "/config")
	must(t, err)
	b, err := os.ReadFile(path + "/config.bak")
	must(t, err)
	if string(a) != string(b) {
		t.Error("the copies differ after an Open")
	}
}

func TestNotWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	must(t, os.Chmod(filepath.Dir(path), 0o755))
	makeStore(t, path)
	for name, target := range map[string]string{"store": path, "parent of a new one": filepath.Join(path, "packs", "new")} {
		t.Run(name, func(t *testing.T) {
			out := asOther(t, "open", target)
			if !strings.Contains(out, ErrNotWritable.Error()) {
				t.Errorf("another user was told: %s", out)
			}
		})
	}
}

func TestUnsuitable(t *testing.T) {
	env := hostEnvironment()
	env.kind = func(string) (Kind, error) { return Kind{}, errors.New("boom") }
	if _, err := Open(t.TempDir(), Options{Create: true, env: env}); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
}

func TestKinds(t *testing.T) {
	for path, want := range map[string]string{"/proc": "0x9fa0", "/dev/shm": "tmpfs"} {
		k, err := kindOf(path)
		if err != nil || !strings.Contains(k.Name, want) || k.Advice == "" {
			t.Errorf("%s: %+v, %v", path, k, err)
		}
	}
	if k, err := kindOf("/proc"); err != nil || !k.Shared {
		t.Errorf("an unknown filesystem must count as shared: %+v, %v", k, err)
	}
}

func TestProbe(t *testing.T) {
	must(t, probe(t.TempDir(), Kind{Name: "here"}))
	// A filesystem without sparse files, or any files at all: proc has neither.
	if err := probe("/proc", Kind{Name: "proc"}); err == nil {
		t.Error("proc passed")
	}
}

func TestSpace(t *testing.T) {
	d := open(t, t.TempDir(), Options{Create: true})
	defer closeDir(t, d)
	s, err := d.Space()
	if err != nil || s.Total <= 0 || s.Free > s.Total || s.Avail > s.Free {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSocketPath(t *testing.T) {
	if got := SocketPath("/a/store"); got != "/a/store/stepfs.sock" {
		t.Error(got)
	}
	long := "/" + strings.Repeat("x", 120)
	got := SocketPath(long)
	if len(got) > maxSocketPath || strings.HasPrefix(got, long) {
		t.Errorf("%s has %d bytes", got, len(got))
	}
	other := t.TempDir()
	if got := SocketPath(other); got != other+"/stepfs.sock" {
		t.Errorf("of our own store: %s", got)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(other, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if got := SocketPath(other); filepath.Dir(got) != runDir() {
			t.Errorf("of somebody else's store: %s", got)
		}
	}
	if got == SocketPath(long+"y") {
		t.Error("two stores share a socket")
	}
}

// helpers

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) { t.Helper(); must(t, os.MkdirAll(path, 0o755)) }

func write(t *testing.T, path, s string) { t.Helper(); must(t, os.WriteFile(path, []byte(s), 0o600)) }

func open(t *testing.T, path string, o Options) *Dir {
	t.Helper()
	d, err := Open(path, o)
	must(t, err)
	return d
}

func closeDir(t *testing.T, d *Dir) { t.Helper(); must(t, d.Close()) }

func makeStore(t *testing.T, path string) (id string) {
	t.Helper()
	d := open(t, path, Options{Create: true})
	defer closeDir(t, d)
	return d.Config().ID
}

func edit(t *testing.T, path string, f func(string) string) {
	t.Helper()
	b, err := os.ReadFile(path + "/config")
	must(t, err)
	write(t, path+"/config", f(string(b)))
}

// listing is every name and size below path, the lock file apart (it is made by looking).
func listing(path string) string {
	var b strings.Builder
	_ = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() != lockName {
			st, _ := e.Info()
			size := int64(0)
			if st != nil && st.Mode().IsRegular() {
				size = st.Size()
			}
			fmt.Fprintf(&b, "%s %d\n", p, size)
		}
		return nil
	})
	return b.String()
}

// asOther runs this test binary as a user that owns nothing.
func asOther(t *testing.T, args ...string) string {
	t.Helper()
	// The binary and the way to the store must be within that user's reach.
	dir := t.TempDir()
	for p := dir; p != filepath.Clean(os.TempDir()) && p != "/"; p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
	bin := filepath.Join(dir, "helper")
	data, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(bin, data, 0o755))
	cmd := helper(bin, args...)
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	} else {
		must(t, os.Chmod(args[1], 0o500))
		t.Cleanup(func() { _ = os.Chmod(args[1], 0o700) })
	}
	out, _ := cmd.CombinedOutput() // the exit code is part of the refusal
	return string(out)
}

// TestOlderFormat: a store of version 1 opens, and is one of this version then.
func TestOlderFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	makeStore(t, path)
	cfg, err := readConfig(path)
	must(t, err)
	id := cfg.ID
	cfg.Format = 1
	must(t, writeConfig(path, cfg))
	d, err := Open(path, Options{})
	must(t, err)
	if got := d.Config(); got.Format != FormatVersion || got.ID != id {
		t.Errorf("opened as format %d, store %s", got.Format, got.ID)
	}
	must(t, d.Close())
	for _, name := range []string{ConfigName, backupName} {
		if got, err := readConfigFile(filepath.Join(path, name)); err != nil || got.Format != FormatVersion {
			t.Errorf("%s: format %d, %v", name, got.Format, err)
		}
	}
}

// TestRename: what chunks were named by before is kept, in order, on the disk and over
// an Open; a config that says nothing of it has none.
func TestRename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	makeStore(t, path)
	d, err := Open(path, Options{})
	must(t, err)
	var want []Naming
	for k := range MaxOlder {
		want = append(want, d.Config().naming())
		next := Naming{Key: [32]byte{byte(k), 1}}
		next.Polynomial, err = chunker.RandomPolynomial()
		must(t, err)
		must(t, d.Rename(next))
		for _, name := range []string{ConfigName, backupName} {
			got, err := readConfigFile(filepath.Join(path, name))
			if err != nil || got.naming() != next || !slices.Equal(got.Older, want) {
				t.Fatalf("%s after %d: %+v, %v", name, k+1, got, err)
			}
		}
	}
	now := d.Config()
	if err := d.Rename(Naming{}); err == nil {
		t.Error("renamed without end")
	}
	must(t, d.Close())
	d, err = Open(path, Options{})
	must(t, err)
	defer d.Close()
	if got := d.Config(); got.naming() != now.naming() || !slices.Equal(got.Older, want) || got.ID != now.ID {
		t.Errorf("opened as %+v", got)
	}
}
