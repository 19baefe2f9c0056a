package snapshot_test

import (
	"fmt"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// everything makes one of each kind of thing below a directory.
func (w *world) everything(dir string) {
	w.t.Helper()
	ino := w.dir(dir)
	w.put(dir+"/small", "small")
	w.put(dir+"/empty", "")
	large := w.put(dir+"/sub/large", noise(1, 2<<20+5))
	w.put(dir+"/sub/odd \n\xff name", "x")
	w.dir(dir + "/empty dir")
	_, err := w.tree.Link(large, ino, "large too")
	w.ok(err)
	_, err = w.tree.Symlink(ino, "link", "sub/large", stage.Cred{UID: 5})
	w.ok(err)
	_, err = w.tree.Mknod(ino, "fifo", unix.S_IFIFO|0o640, 0, stage.Cred{})
	w.ok(err)
	_, err = w.tree.Mknod(ino, "null", unix.S_IFCHR|0o666, 0x103, stage.Cred{})
	w.ok(err)
	mode, uid, gid, old := uint32(0o6751), uint32(1000), uint32(100), int64(123456789)
	_, err = w.tree.SetAttr(large, stage.SetAttr{Mode: &mode, UID: &uid, GID: &gid, Mtime: &old})
	w.ok(err)
	w.ok(w.tree.SetXattr(large, "user.a", []byte("1\x00\xff"), 0))
	w.ok(w.tree.SetXattr(large, "user.b", nil, 0))
	w.ok(w.tree.SetXattr(ino, "user.dir", []byte("d"), 0))
	sub := w.dir(dir + "/sub")
	_, err = w.tree.SetAttr(sub, stage.SetAttr{Mode: &mode, Mtime: &old})
	w.ok(err)
	// A file over several generations, with holes.
	f, fh := w.openFile(dir+"/patched", 0)
	w.pwrite(f, fh, noise(2, 1<<20), 1<<20)
	w.closeFile(f, fh)
	w.barrier(f)
	f, fh = w.openFile(dir+"/patched", 0)
	w.pwrite(f, fh, "patch", 1<<20+1000)
	w.closeFile(f, fh)
}

// A stored step can be read back whole from its root object and packs.
func TestTreeFromPacksAlone(t *testing.T) {
	w := newWorld(t, nil)
	w.everything("run")
	w.put("outside", "not in the scope")
	open, fh := w.openFile("run/open", 0)
	w.pwrite(open, fh, "x", 7)
	i, err := w.m.SnapshotAs(w.ctx(), "run", "name", "mkdir", 42, []string{"a", "b"})
	w.ok(err)
	want := describe(t, w.tree.At(i.Seq), i.ScopeIno)
	w.drain()
	w.closeFile(open, fh)
	i, err = w.m.Get(i.Seq)
	w.ok(err)
	m := w.merkle()
	seq, rec := m.root(i.Tree)
	same(t, "from packs", want, m.out)
	if seq != i.Seq || rec.Name != "name" || rec.Scope != "run" || rec.UID != 42 || !rec.Explicit || rec.Logical != i.Logical ||
		!reflect.DeepEqual(rec.Tags, i.Tags) || !reflect.DeepEqual(rec.Marks, i.Marks) || rec.Time != i.Time.UnixNano() {
		t.Errorf("record %d %+v, want %+v", seq, rec, i)
	}
	w.noFaults()
}

// A large directory is read whole, also where the view leaves files out; a
// file of many extents too.
func TestLargeDirectory(t *testing.T) {
	w := newWorld(t, nil)
	const files = 3000
	var open [][2]uint64
	for k := range files {
		path := fmt.Sprintf("d/f%04d", k)
		if k%700 == 13 { // never closed: absent
			ino, fh := w.openFile(path, 0)
			w.pwrite(ino, fh, "x", 1)
			open = append(open, [2]uint64{ino, fh})
			continue
		}
		w.put(path, path)
	}
	w.put("other/f", "f")
	w.put("many", noise(5, 4<<20)) // hundreds of chunks
	i := w.step("1")
	want := describe(t, w.tree.At(i.Seq), 1)
	w.drain()
	a := w.merkle()
	a.root(w.stored("1").Tree)
	same(t, "from packs", want, a.out)
	if len(a.out) != files-len(open)+5 {
		t.Errorf("%d entries", len(a.out))
	}

	// One more name in front: few new objects.
	before := w.chunks.Stats().Written
	w.put("d/a", "new")
	w.step("2")
	w.drain()
	b := w.merkle()
	b.root(w.stored("2").Tree)
	if a.objects["/other"] != b.objects["/other"] {
		t.Error("an unchanged directory became another object")
	}
	if a.objects["/d"] == b.objects["/d"] {
		t.Error("a changed directory is the same object")
	}
	all := a.bytes("/d")
	if grown := w.chunks.Stats().Written - before; grown > all/2 {
		t.Errorf("one new name in %d wrote %d bytes; the directory has %d", files, grown, all)
	}
	for _, o := range open {
		w.closeFile(o[0], o[1])
	}
	w.noFaults()
}

// bytes counts what the pages of a directory take.
func (m *merkle) bytes(path string) (n uint64) {
	f := m.fields(m.object(m.objects[path], 0), 'I')
	for k := f.uint(); k > 0; k-- {
		f.string()
		_, raw := f.ref()
		n += uint64(raw)
	}
	return n
}
