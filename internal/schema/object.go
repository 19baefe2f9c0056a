package schema

import "strings"

// Directory objects: what stands for a sealed step in packs (docs/FORMAT.md,
// "Directory objects"). They are written by snapshot/merkle.go; here they are
// read. What is read may be anything: a length is compared with what is there.

// The kinds of objects; the first byte of each. The second is the version.
const (
	ObjectDir     = 'D' // entries of one directory, or of one page of it
	ObjectIndex   = 'I' // pages of one directory
	ObjectExtents = 'E' // extents of one file
	ObjectRoot    = 'R' // one sealed step: its record and its directory

	ObjectVersion = 1
)

// ObjectRef names an object in packs.
type ObjectRef struct {
	ID  [32]byte
	Len uint32
}

// NamedValue is an extended attribute.
type NamedValue struct {
	Name  string
	Value []byte
}

// TreeEntry is one name with all that a restore needs of its inode.
type TreeEntry struct {
	Name                        string // empty: the scope's directory
	Ino                         uint64
	Mode, UID, GID, Rdev, Nlink uint32
	Mtime, Ctime                int64 // ns
	Size, Alloc                 int64 // bytes; Alloc of them are no hole
	Mark                        string
	Xattrs                      []NamedValue

	Dir    ObjectRef     // of a directory: its D or I
	Target string        // of a symbolic link
	Chunks []ChunkExtent // of a regular file, unless
	Pages  []ObjectRef   // its extents lie in these E objects
}

// Range is a range of a file, in bytes.
type Range struct{ Off, Len int64 }

// TreeContent is what a regular file holds, wherever it was read. What is neither
// in chunks nor lost is a hole.
type TreeContent struct {
	Chunks []ChunkExtent // in order
	Lost   []Range       // nobody knows any more what these hold
}

// S_IFMT bits.
const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeReg  = 0o100000
	modeLink = 0o120000
)

// IsDir says whether the entry is a directory.
func (e *TreeEntry) IsDir() bool { return e.Mode&modeType == modeDir }

// IsReg says whether the entry is a regular file.
func (e *TreeEntry) IsReg() bool { return e.Mode&modeType == modeReg }

// IsLink says whether the entry is a symbolic link.
func (e *TreeEntry) IsLink() bool { return e.Mode&modeType == modeLink }

// object begins to read an object of a kind.
func object(b []byte, kind byte) *reader {
	r := &reader{b: b}
	if head := r.fixed(2); head[0] != kind || head[1] != ObjectVersion {
		r.fail("not an object of that kind and version")
	}
	return r
}

// DecodeRoot reads the object of a sealed step.
func DecodeRoot(b []byte) (seq uint64, rec *Snapshot, dir TreeEntry, err error) {
	r := object(b, ObjectRoot)
	seq = r.uint()
	v := r.bytes()
	dir = r.entry(true)
	if r.err == nil && !dir.IsDir() {
		r.fail("the scope is no directory")
	}
	if err = r.done("step"); err == nil {
		rec, err = DecodeSnapshot(v)
	}
	return seq, rec, dir, err
}

// DecodePage reads a page of a directory: its entries in byte order.
func DecodePage(b []byte) (es []TreeEntry, err error) {
	r := object(b, ObjectDir)
	last := ""
	for n := r.uint(); n > 0 && r.err == nil; n-- {
		e := r.entry(false)
		if e.Name <= last {
			r.fail("names out of order")
		}
		last = e.Name
		es = append(es, e)
	}
	return es, r.done("page of a directory")
}

// DecodePages reads the index of a large directory.
func DecodePages(b []byte) (pages []ObjectRef, err error) {
	_, pages, err = DecodeIndex(b)
	return pages, err
}

// DecodeIndex is DecodePages with the first name of each page.
func DecodeIndex(b []byte) (firsts []string, pages []ObjectRef, err error) {
	r := object(b, ObjectIndex)
	for n := r.uint(); n > 0 && r.err == nil; n-- {
		firsts = append(firsts, string(r.bytes()))
		pages = append(pages, r.ref())
	}
	return firsts, pages, r.done("index of a directory")
}

// DecodeExtents reads a part of the extents of a large file.
func DecodeExtents(b []byte) (es []ChunkExtent, err error) {
	r := object(b, ObjectExtents)
	v := r.bytes()
	if err := r.done("extents"); err != nil {
		return nil, err
	}
	return DecodeChunkMap(v)
}

func (r *reader) ref() (o ObjectRef) {
	copy(o.ID[:], r.fixed(32))
	o.Len = r.uint32()
	return o
}

// entry reads one name; only that of the scope's directory is empty.
func (r *reader) entry(scope bool) (e TreeEntry) {
	e.Name = string(r.bytes())
	if (e.Name == "") != scope || e.Name == "." || e.Name == ".." || len(e.Name) > 255 || strings.ContainsAny(e.Name, "/\x00") {
		r.fail("a name that no file has")
	}
	e.Ino = r.uint()
	e.Mode, e.UID, e.GID, e.Rdev, e.Nlink = r.uint32(), r.uint32(), r.uint32(), r.uint32(), r.uint32()
	e.Mtime, e.Ctime, e.Size, e.Alloc = r.int(), r.int(), r.int(), r.int()
	e.Mark = string(r.bytes())
	for n := r.uint(); n > 0 && r.err == nil; n-- {
		x := NamedValue{Name: string(r.bytes())}
		if x.Name == "" || strings.ContainsRune(x.Name, 0) {
			r.fail("an attribute without a name")
		}
		x.Value = append([]byte(nil), r.bytes()...)
		e.Xattrs = append(e.Xattrs, x)
	}
	switch {
	case e.Ino == 0 || e.Size < 0:
		r.fail("an inode that can't be")
	case e.IsDir():
		e.Dir = r.ref()
	case e.IsLink():
		e.Target = string(r.bytes())
	case e.IsReg():
		r.fileContent(&e)
	}
	return e
}

func (r *reader) extentsOf(v []byte, size int64) (es []ChunkExtent) {
	es, err := DecodeChunkMap(v)
	if err != nil || !InOrder(es, size) {
		r.fail("extents out of order")
	}
	return es
}

// fileContent reads where the bytes of a regular file lie.
func (r *reader) fileContent(e *TreeEntry) {
	n := r.uint()
	if n == 0 {
		e.Chunks = r.extentsOf(r.bytes(), e.Size)
		return
	}
	for ; n > 0 && r.err == nil; n-- {
		e.Pages = append(e.Pages, r.ref())
	}
}

// InOrder says whether extents follow each other without overlap, up to size.
func InOrder(es []ChunkExtent, size int64) bool {
	end := int64(0)
	for _, e := range es {
		if e.Len == 0 || e.Off < end || e.Off > size-int64(e.Len) {
			return false
		}
		end = e.Off + int64(e.Len)
	}
	return true
}
