package snapshot_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
	"testing"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/internal/schema"
)

// merkle reads a step's tree from the chunk store alone, as somebody would who
// has docs/FORMAT.md and packs.
type merkle struct {
	t      testing.TB
	chunks interface {
		ReadAt(ctx context.Context, id chunkstore.ID, rawLen uint32, dst []byte, off int) error
	}
	eng     interface{ Get([]byte) ([]byte, error) }
	rootLen uint32 // 0: eng knows
	out     map[string]string
	first   map[uint64]string
	objects map[string][32]byte // by path: the object of each directory
	read    int                 // objects read
}

// object reads one object. Its length stands in its ref, but the root's in the
// index alone.
func (m *merkle) object(id [32]byte, raw uint32) []byte {
	m.t.Helper()
	if raw == 0 {
		v, err := m.eng.Get(schema.ChunkKey(0, id))
		if err == nil {
			var loc schema.ChunkLoc
			loc, err = schema.DecodeChunkLoc(v)
			raw = loc.Raw
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	b := make([]byte, raw)
	if err := m.chunks.ReadAt(m.t.Context(), id, raw, b, 0); err != nil {
		m.t.Fatal(err)
	}
	m.read++
	return b
}

// fields takes fields from an object.
type fields struct {
	t testing.TB
	b []byte
}

func (f *fields) uint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.t.Fatal("short object")
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) int() int64 {
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.t.Fatal("short object")
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) bytes(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.t.Fatal("short object")
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) string() string { return string(f.bytes(f.uint())) }

func (f *fields) ref() (id [32]byte, raw uint32) {
	copy(id[:], f.bytes(32))
	return id, uint32(f.uint())
}

func (m *merkle) fields(b []byte, kind byte) *fields {
	m.t.Helper()
	if len(b) < 2 || b[0] != kind || b[1] != 1 {
		m.t.Fatalf("object %.20q is not a %c of version 1", b, kind)
	}
	return &fields{m.t, b[2:]}
}

// root reads a whole step.
func (m *merkle) root(id [32]byte) (seq uint64, rec *schema.Snapshot) {
	m.t.Helper()
	f := m.fields(m.object(id, m.rootLen), 'R')
	seq = f.uint()
	rec, err := schema.DecodeSnapshot([]byte(f.string()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.entry("", f)
	if len(f.b) != 0 {
		m.t.Errorf("%d bytes behind the root", len(f.b))
	}
	return seq, rec
}

func (m *merkle) entry(dir string, f *fields) (name string) {
	m.t.Helper()
	name = f.string()
	path := dir
	if name != "" {
		path += "/" + name
	}
	ino, mode, uid, gid, rdev, nlink := f.uint(), f.uint(), f.uint(), f.uint(), f.uint(), f.uint()
	mtime, _, size, _ := f.int(), f.int(), f.int(), f.int()
	_ = f.string() // mark
	s := fmt.Sprintf("mode %o uid %d gid %d rdev %d mtime %d", mode, uid, gid, rdev, mtime)
	var xattrs []string
	for n := f.uint(); n > 0; n-- {
		name := f.string()
		xattrs = append(xattrs, fmt.Sprintf(" %s=%q", name, f.string()))
	}
	sort.Strings(xattrs)
	s += strings.Join(xattrs, "")
	switch mode & stage.ModeType {
	case stage.ModeLink:
		s += " -> " + f.string()
	case stage.ModeReg:
		data := m.content(f, size)
		s += fmt.Sprintf(" size %d of %d %x nlink %d", len(data), size, sha256.Sum256(data), nlink)
		if nlink > 1 {
			if m.first[ino] == "" {
				m.first[ino] = path
			}
			s += " same as " + m.first[ino]
		}
	case stage.ModeDir:
		id, raw := f.ref()
		m.objects[path] = id
		m.dir(path, m.object(id, raw))
	}
	m.out[path] = s
	return name
}

// dir reads a directory: an index of pages, or one page.
func (m *merkle) dir(path string, b []byte) {
	m.t.Helper()
	if b[0] != 'I' {
		m.page(path, b)
		return
	}
	f := m.fields(b, 'I')
	for n := f.uint(); n > 0; n-- {
		first := f.string()
		id, raw := f.ref()
		if got := m.page(path, m.object(id, raw)); got != first {
			m.t.Errorf("%s: a page begins with %q, its index says %q", path, got, first)
		}
	}
}

func (m *merkle) page(path string, b []byte) (first string) {
	m.t.Helper()
	f := m.fields(b, 'D')
	last := ""
	for n := f.uint(); n > 0; n-- {
		name := m.entry(path, f)
		if first == "" {
			first = name
		}
		if name <= last {
			m.t.Errorf("%s: %q stands behind %q", path, name, last)
		}
		last = name
	}
	if len(f.b) != 0 {
		m.t.Errorf("%s: %d bytes behind the entries", path, len(f.b))
	}
	return first
}

func (m *merkle) content(f *fields, size int64) []byte {
	m.t.Helper()
	var maps [][]byte
	n := f.uint()
	if n == 0 {
		maps = append(maps, []byte(f.string()))
	}
	for ; n > 0; n-- {
		e := m.fields(m.object(f.ref()), 'E')
		maps = append(maps, []byte(e.string()))
	}
	data := make([]byte, size)
	for _, v := range maps {
		es, err := schema.DecodeChunkMap(v)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, e := range es {
			if err := m.chunks.ReadAt(m.t.Context(), e.ID, e.Raw, data[e.Off:e.Off+int64(e.Len)], int(e.Skip)); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	return data
}

func (w *world) merkle() *merkle {
	return &merkle{t: w.t, chunks: w.chunks, eng: w.eng, out: map[string]string{}, first: map[uint64]string{}, objects: map[string][32]byte{}}
}
