package include

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRefused: what can be known to be wrong when the mount begins is.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"/mnt/sub", "/store", "/out/[x]"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"/mnt/sub", dir+"/out/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/out/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"relative":               "absolute",
		dir + "/none":            "no such file",
		dir + "/mnt":             "on the mount",
		dir + "/mnt/sub":         "on the mount",
		dir + "/mnt/*.yaml":      "on the mount",
		dir + "/mn*":             "",
		dir + "/out/link":        "on the mount",
		dir + "/store/config":    "in the store",
		dir + "/store/pack[s]":   "in the store",
		dir + "/out/[":           "syntax error",
		dir + "/out/*.nothing":   "",
		dir + "/out/[x]":         "",
		dir + "/out":             "",
		dir + "/out/file":        "",
		dir + "/out/file/deeper": "not a directory",
		"/dev/null":              "neither",
	} {
		_, err := New(Config{Paths: []string{path}, Mountpoint: dir + "/mnt", Store: dir + "/store"})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// TestScanKeepsOut: a directory above the mount and the store is taken without
// them, and a pattern can't lead there either.
func TestScanKeepsOut(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"/mnt/a", "/store/b", "/out/c"} {
		if err := os.MkdirAll(dir+f, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"/mnt/a", dir+"/out/link"); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Paths: []string{dir, dir + "/out/l*"}, Mountpoint: dir + "/mnt", Store: dir + "/store"})
	if err != nil {
		t.Fatal(err)
	}
	c := s.scan(t.Context())
	for path := range c.items {
		if strings.HasPrefix(path, dir+"/mnt") || strings.HasPrefix(path, dir+"/store") {
			t.Error("it looks at", path)
		}
	}
	if len(c.rows) != 3 || len(c.items) != 4 {
		t.Errorf("%d items, %+v", len(c.items), c.rows)
	}
}

// TestKeyOfLog: what is only in the log of a database changes its key; who reads
// the database does not.
func TestKeyOfLog(t *testing.T) {
	db := t.TempDir() + "/db"
	write := func(path, data string) {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	get := func() key {
		fi, err := os.Lstat(db)
		if err != nil {
			t.Fatal(err)
		}
		return keyOf(db, fi)
	}
	write(db, sqliteMagic)
	plain := get()
	write(db+"-wal", "")
	if get() != plain {
		t.Error("an empty log counts")
	}
	write(db+"-wal", "committed")
	full := get()
	if full == plain {
		t.Error("the log does not count")
	}
	if err := os.Chmod(db+"-wal", 0o640); err != nil {
		t.Fatal(err)
	}
	if get() != full {
		t.Error("the ctime of the log counts")
	}
	write(db+"-wal", "committed more")
	if get() == full {
		t.Error("more in the log does not count")
	}
}

// TestKeyTells: a change of a moment ago does not tell the next one.
func TestKeyTells(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	for _, c := range []struct {
		file, wal time.Duration
		want      bool
	}{{time.Hour, time.Hour, true}, {time.Second, time.Hour, false}, {time.Hour, time.Second, false}, {-time.Hour, time.Hour, false}} {
		k := key{file: stamp{ctime: at(c.file)}, wal: stamp{mtime: at(c.wal)}}
		if k.tells(now, Fresh) != c.want {
			t.Errorf("changed %v ago, its log %v ago: %v", c.file, c.wal, !c.want)
		}
	}
}

// shelf is a Tree that keeps files by name, and changes something while one is
// copied.
type shelf struct {
	inos  uint64
	files map[string][]byte
	meet  func(name string)
}

func (s *shelf) Hidden() (uint64, error) { s.inos++; return s.inos, nil }

func (s *shelf) Mkdir(uint64, string, Attr) (uint64, error) { return s.Hidden() }

func (s *shelf) Symlink(uint64, string, string, Attr) error { return nil }

func (s *shelf) SetAttr(uint64, Attr) error { return nil }

func (s *shelf) Remove(_ uint64, name string) error { delete(s.files, name); return nil }

func (s *shelf) File(_ uint64, name string, _ Attr, fill func(w io.Writer) error) error {
	s.meet(name)
	var b bytes.Buffer
	err := fill(&b)
	s.files[name] = b.Bytes()
	return err
}

// TestChangedWhileCopied: a file that changes during each try is taken, and
// marked; one that changes during the first alone is not.
func TestChangedWhileCopied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := New(Config{Paths: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, c := range []struct {
		changes int
		note    string
	}{{tries, NoteChanged}, {1, ""}, {0, ""}} {
		if err := os.Chtimes(path, time.Time{}, time.Now()); err != nil { // or a slow machine finds it unchanged
			t.Fatal(err)
		}
		copies := 0
		s := &shelf{files: files, meet: func(name string) {
			if name != "log" {
				return
			}
			if copies++; copies <= c.changes {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				if err == nil {
					_, err = f.WriteString("more")
				}
				if err = errors.Join(err, f.Close()); err != nil {
					t.Error(err)
				}
			}
		}}
		if _, misses, err := set.Refresh(t.Context(), s); err != nil || len(misses) > 0 {
			t.Fatalf("%v, %v", misses, err)
		}
		var m Manifest
		if err := json.Unmarshal(s.files[ManifestName], &m); err != nil || len(m.Files) != 1 || m.Files[0].Note != c.note {
			t.Errorf("%d changes: %+v, %v", c.changes, m, err)
		}
		if want := min(c.changes+1, tries); copies != want {
			t.Errorf("%d changes: copied %d times, want %d", c.changes, copies, want)
		}
	}
}
