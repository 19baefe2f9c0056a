package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/fs/stage"
	"stepfs/internal/state"
)

// mount is a store with its tree, mounted.
type mount struct {
	testing.TB
	dir  string
	tree *stage.Tree
	cuts *cuts
	fs   *FileSystem
	srv  *Server
}

// openTree opens a new store's tree in a directory of its own.
func openTree(t testing.TB) *stage.Tree {
	t.Helper()
	return openTreeOn(t, vfs.Default)
}

// openTreeOn is openTree with journal and index on a disk.
func openTreeOn(t testing.TB, disk vfs.FS) *stage.Tree {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"staging", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e, err := state.Open(state.Config{Dir: filepath.Join(dir, "meta"), FS: disk, MemTable: 1 << 20, SegmentSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := stage.Open(stage.Config{Engine: e, Disk: stage.NewDisk(filepath.Join(dir, "staging")),
		Events: stage.Events{Fault: func(what string, err error) { t.Errorf("%s: %v", what, err) }}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Errorf("close the tree: %v", err)
		}
		if err := e.Close(true); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	return tree
}

// newMount mounts a new store; change adapts the options.
func newMount(t testing.TB, change ...func(*Options)) *mount {
	t.Helper()
	tree := openTree(t)
	return mountTree(t, tree, newCuts(tree), change...)
}

func mountTree(t testing.TB, tree *stage.Tree, c *cuts, change ...func(*Options)) *mount {
	t.Helper()
	o := Options{Tree: tree, Registry: c, Manager: c, Status: func(json bool) ([]byte, error) {
		return fmt.Appendf(nil, "json=%v barriers=%d\n", json, c.count("fsync")), nil
	}}
	for _, fn := range change {
		fn(&o)
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	dir := mountDir(t)
	return &mount{TB: t, dir: dir, tree: tree, cuts: c, fs: f, srv: serveDir(t, dir, f)}
}

func (m *mount) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

func (m *mount) write(name, content string) {
	m.Helper()
	if err := os.WriteFile(m.path(name), []byte(content), 0o644); err != nil {
		m.Fatal(err)
	}
}

func (m *mount) mkdir(name string) {
	m.Helper()
	if err := os.MkdirAll(m.path(name), 0o755); err != nil {
		m.Fatal(err)
	}
}

// want checks what a file holds.
func (m *mount) want(name, content string) {
	m.Helper()
	b, err := os.ReadFile(m.path(name))
	if err != nil || string(b) != content {
		m.Errorf("%s holds %q, %v; want %q", name, b, err, content)
	}
}

// names lists a directory.
func (m *mount) names(name string) []string {
	m.Helper()
	entries, err := os.ReadDir(m.path(name))
	if err != nil {
		m.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
