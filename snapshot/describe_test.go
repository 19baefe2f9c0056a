package snapshot_test

import (
	"crypto/sha256"
	"fmt"
	"sort"
	"testing"

	"stepfs/fs/stage"
)

// reader is what the live tree and a view have in common.
type reader interface {
	ReadDir(dir uint64, after string, max int) ([]stage.Dirent, error)
	GetAttr(ino uint64) (stage.Attr, error)
	Readlink(ino uint64) (string, error)
	ListXattr(ino uint64) ([]string, error)
	GetXattr(ino uint64, name string) ([]byte, error)
	Read(ino uint64, dst []byte, off int64) (int, error)
}

// live shows the live tree as a reader.
type live struct{ *stage.Tree }

func (l live) Read(ino uint64, dst []byte, off int64) (int, error) {
	return l.Tree.Read(ino, 0, dst, off)
}

// describe gives, by path, all that a restore brings back of a tree. Files of
// several names say which one comes first.
func describe(t testing.TB, r reader, root uint64) map[string]string {
	t.Helper()
	d := describer{t, r, map[string]string{}, map[uint64]string{}}
	d.inode("", root)
	return d.out
}

type describer struct {
	t     testing.TB
	r     reader
	out   map[string]string
	first map[uint64]string
}

func (d *describer) inode(path string, ino uint64) {
	d.t.Helper()
	a, err := d.r.GetAttr(ino)
	d.ok(path, err)
	s := fmt.Sprintf("mode %o uid %d gid %d rdev %d mtime %d", a.Mode, a.UID, a.GID, a.Rdev, a.Mtime)
	names, err := d.r.ListXattr(ino)
	d.ok(path, err)
	sort.Strings(names)
	for _, n := range names {
		v, err := d.r.GetXattr(ino, n)
		d.ok(path, err)
		s += fmt.Sprintf(" %s=%q", n, v)
	}
	switch a.Mode & stage.ModeType {
	case stage.ModeLink:
		to, err := d.r.Readlink(ino)
		d.ok(path, err)
		s += " -> " + to
	case stage.ModeReg:
		b := make([]byte, a.Size+1)
		n, err := d.r.Read(ino, b, 0)
		d.ok(path, err)
		s += fmt.Sprintf(" size %d of %d %x nlink %d", n, a.Size, sha256.Sum256(b[:n]), a.Nlink)
		if a.Nlink > 1 {
			if d.first[ino] == "" {
				d.first[ino] = path
			}
			s += " same as " + d.first[ino]
		}
	case stage.ModeDir:
		d.dir(path, ino)
	}
	d.out[path] = s
}

func (d *describer) dir(path string, ino uint64) {
	d.t.Helper()
	for after := ""; ; {
		es, err := d.r.ReadDir(ino, after, 100)
		d.ok(path, err)
		if len(es) == 0 {
			return
		}
		for _, e := range es {
			d.inode(path+"/"+e.Name, e.Ino)
			after = e.Name
		}
	}
}

func (d *describer) ok(path string, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%s: %v", path, err)
	}
}

// same compares two descriptions.
func same(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	for p, s := range want {
		if got[p] != s {
			t.Errorf("%s: %q is\n  %s, want\n  %s", what, p, got[p], s)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %q should not be there", what, p)
		}
	}
}
