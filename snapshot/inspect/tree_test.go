package inspect

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// memTree is a Tree in memory: content by path.
type memTree map[string][]byte

type memFile struct{ *bytes.Reader }

func (memFile) Close() error { return nil }

func (m memTree) Open(name string) (File, error) {
	b, ok := m[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return memFile{bytes.NewReader(b)}, nil
}

func (m memTree) List(dir string) ([]Entry, error) {
	found := map[string]Entry{}
	for name, b := range m {
		rest, ok := strings.CutPrefix(name, dir+"/")
		if dir == "" {
			rest, ok = name, true
		}
		if !ok {
			continue
		}
		first, _, deeper := strings.Cut(rest, "/")
		if deeper {
			found[first] = Entry{Name: first, Kind: KindDir}
		} else {
			found[first] = Entry{Name: first, Size: int64(len(b))}
		}
	}
	if len(found) == 0 && dir != "" {
		return nil, fs.ErrNotExist
	}
	return slices.Collect(maps.Values(found)), nil
}

// with gives the tree with one file changed; nil removes it.
func (m memTree) with(name string, content []byte) memTree {
	m = maps.Clone(m)
	if m[name] = content; content == nil {
		delete(m, name)
	}
	return m
}

// below gives a directory as a tree of its own.
func (m memTree) below(dir string) memTree {
	out := memTree{}
	for name, b := range m {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			out[rest] = b
		}
	}
	return out
}

// only gives one file as a tree of its own.
func (m memTree) only(t testing.TB, name string) memTree {
	t.Helper()
	if m[name] == nil {
		t.Fatalf("no file %q was made", name)
	}
	return memTree{path.Base(name): m[name]}
}

var realFiles = sync.OnceValues(func() (memTree, error) {
	dir, err := os.MkdirTemp("", "inspect")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out, err := exec.Command("/usr/bin/python3", "testdata/make.py", dir).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("real files are made by PyTorch, which `make deps` installs: %v\n%s", err, out)
	}
	tree := memTree{}
	return tree, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		tree[filepath.ToSlash(rel)], err = os.ReadFile(name)
		return err
	})
})

// made gives the files that testdata/make.py has torch write.
func made(t testing.TB) memTree {
	t.Helper()
	tree, err := realFiles()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func check(t testing.TB, tree Tree, o Options) *Report {
	t.Helper()
	r, err := Check(t.Context(), tree, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
