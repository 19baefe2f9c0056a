package inspect

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// failing is a Tree whose files can't be read from some offset on.
type failing struct {
	memTree
	from int64
	err  error
}

type failingFile struct {
	File
	failing
}

func (f failing) Open(name string) (File, error) {
	in, err := f.memTree.Open(name)
	return failingFile{in, f}, err
}

func (f failingFile) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.from {
		return 0, f.err
	}
	return f.File.ReadAt(b, off)
}

// That a file can't be read says nothing about what it holds: an error, not a
// problem. That it ends before its size is one.
func TestReadError(t *testing.T) {
	tree := made(t)
	for name, b := range tree {
		if len(b) < 100 || len(b) > 1<<20 {
			continue
		}
		_, err := CheckFile(t.Context(), failing{tree, 50, syscall.EIO}, name, Options{})
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
		r, err := CheckFile(t.Context(), shorter{tree}, name, Options{Deep: true, NaN: true})
		if err != nil || r.Sound() {
			t.Errorf("%s, shorter than its size: %+v, %v", name, r, err)
		}
	}
}

// shorter is a Tree whose files end before their size.
type shorter struct{ memTree }

type shorterFile struct{ File }

func (s shorter) Open(name string) (File, error) {
	in, err := s.memTree.Open(name)
	return shorterFile{in}, err
}

func (f shorterFile) Size() int64 { return f.File.Size() + 10 }

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, made(t), Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := CheckFile(ctx, made(t), "one.pt", Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Structure is a small part of a file, and no more is read.
func TestReadsLittle(t *testing.T) {
	const size = 32 << 20
	for name, b := range map[string][]byte{"a.pt": torchZip(make([]byte, size)), "a.safetensors": manyTensors(16, size/16)} {
		if r := check(t, memTree{name: b}, Options{}); !r.Sound() || r.Bytes > 256<<10 {
			t.Errorf("%s: %+v", name, r)
		}
		if r := check(t, memTree{name: b}, Options{NaN: true}); !r.Sound() || r.Bytes < size {
			t.Errorf("%s for NaN: %+v", name, r)
		}
	}
}

// However many problems there are, the report has so many of each kind, and is
// not sound.
func TestMaxProblems(t *testing.T) {
	tree := memTree{}
	for i := range 30 {
		tree[fmt.Sprintf("a%d.safetensors", i)] = []byte(header(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0) + "\x00\x00\xc0\x7f")
		tree[fmt.Sprintf("b%d.json", i)] = []byte("{")
	}
	r := check(t, tree, Options{NaN: true, MaxProblems: 7})
	if len(r.Problems) != 14 || r.Sound() || r.Checked != 60 {
		t.Errorf("%d problems, sound %v, %d checked", len(r.Problems), r.Sound(), r.Checked)
	}
}

// links is a Tree that shows one file as a symlink and fails when it is opened.
type links struct {
	memTree
	link string
}

func (l links) List(dir string) ([]Entry, error) {
	entries, err := l.memTree.List(dir)
	for i := range entries {
		if entries[i].Name == l.link {
			entries[i].Kind = KindSymlink
		}
	}
	return entries, err
}

func (l links) Open(name string) (File, error) {
	if name == l.link {
		return nil, errors.New("a symlink was opened")
	}
	return l.memTree.Open(name)
}

// A symlink is there, and leads where we do not look.
func TestSymlink(t *testing.T) {
	st := made(t).below("st")
	if r := check(t, links{st, "model-00001-of-00002.safetensors"}, Options{}); len(r.Problems) > 0 || r.Files != len(st)-1 {
		t.Errorf("%+v", r)
	}
	if r := check(t, links{made(t).below("dcp"), "__0_0.distcp"}, Options{}); len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
}

// Directories below one another, and files that nobody knows.
func TestTree(t *testing.T) {
	one := made(t)["one.pt"]
	tree := memTree{"a/b/c/d/one.pt": one, "a/log.txt": {}, "a/b/x.json": []byte("{}"), "e.pt": one[:100]}
	r := check(t, tree, Options{})
	if r.Files != 4 || r.Checked != 3 || len(r.Problems) != 1 || r.Problems[0].Path != "e.pt" {
		t.Errorf("%+v", r)
	}
}
