package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A sealed step's tree is written into packs as directory objects, each named
// by its hash, so that the root's name certifies the whole step and the step
// can be found again without index and journal. A directory that did not
// change makes the same object, which is stored once.
//
// A large directory is split into pages under an index object. A page ends
// behind a name whose hash says so, so that an entry that comes or goes changes
// its own page alone. A file of more than inlineExtents extents has them in
// objects of their own. docs/FORMAT.md has the byte tables.

const (
	pageBits      = 9       // a page ends behind one name in 2^pageBits ...
	pageEntries   = 2048    // ... or at so many entries ...
	pageBytes     = 1 << 20 // ... or bytes
	readEntries   = 512     // read from a view at a time
	inlineExtents = 32
	pageExtents   = 8192
	maxUnflushed  = 1024 // objects on their way to the disk at a time
)

// endsPage says whether a page ends behind an entry of this name.
func endsPage(name string) bool {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // never fails
	v := h.Sum64()
	return ((v^v>>32)*0x9E3779B97F4A7C15)>>(64-pageBits) == 0
}

// errStaged: some content is not stored yet.
var errStaged = errors.New("content is only staged yet")

// treeWriter writes the tree of one snapshot.
type treeWriter struct {
	m       *Manager
	ctx     context.Context
	view    View
	pending []*chunkstore.Pending
	objects []*chunkstore.Pending // all that were put: nobody holds them yet
	logical int64
	seen    map[uint64]bool // inodes with several names, counted once

	// Of one that writes a tree anew (anew.go); else nil and zero.
	renewer *renewer
	holder  uint64
	files   []*chunkstore.Pending // contents that were put, and nobody holds yet
	path    []string              // of the entry at hand
	bytes   int64                 // that were stored for them
	chunks  int                   // of them
}

// writeTree writes the tree of a sealed step into packs, and marks the step
// as stored once that is durable. errStaged: not all of it is stored yet.
func (m *Manager) writeTree(ctx context.Context, i Info) error {
	w := &treeWriter{m: m, ctx: ctx, view: m.tree.At(i.Seq), seen: map[uint64]bool{}}
	defer w.release()
	// The scope's directory is an entry without a name.
	dir, err := w.entry(nil, Entry{Ino: i.ScopeIno})
	if err != nil {
		return err
	}
	v, err := m.db.Get(schema.Numbered(schema.PrefixSnapshot, i.Seq))
	if err != nil {
		return err
	}
	rec, err := schema.DecodeSnapshot(v)
	if err != nil {
		return err
	}
	rec.Logical, rec.Drained, rec.Tree = w.logical, true, [32]byte{}
	// Whoever finds the root in a pack must find the rest.
	if err := w.flush(); err != nil {
		return err
	}
	root, err := w.put(encodeRoot(i.Seq, rec, dir))
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	return m.amendTx(i.Seq, func(tx *state.Tx, s *schema.Snapshot) error {
		s.Tree, s.Logical, s.Drained = root.ID, w.logical, true
		return w.hold(tx, schema.TreeHolder(i.Seq), w.needs())
	})
}

// treeNeed is a chunk that a tree names.
type treeNeed struct {
	id    [32]byte
	value []byte // of its TreeRefKey
}

// needs lists what was put and is not held yet.
func (w *treeWriter) needs() (all []treeNeed) {
	add := func(puts []*chunkstore.Pending, value []byte) {
		for _, p := range puts {
			for _, r := range p.Refs() {
				all = append(all, treeNeed{r.ID, value})
			}
		}
	}
	add(w.objects, nil)
	add(w.files, schema.TreeRefContent)
	return all
}

// hold notes that the step needs what its tree names.
func (w *treeWriter) hold(tx *state.Tx, holder uint64, all []treeNeed) error {
	ids := make([][32]byte, len(all))
	for k, n := range all {
		ids[k] = n.id
		tx.Put(schema.TreeRefKey(holder, n.id), n.value)
	}
	return w.m.cfg.Chunks.Hold(tx, holder, ids)
}

// release ends what keeps objects that nobody holds.
func (w *treeWriter) release() {
	for _, p := range slices.Concat(w.objects, w.files) {
		p.Release()
	}
}

// encodeRoot gives the object that stands for a step: its record, which is all
// that is needed to list it again when packs are all that is left, and its
// directory.
func encodeRoot(seq uint64, rec *schema.Snapshot, dir []byte) []byte {
	b := binary.AppendUvarint([]byte{schema.ObjectRoot, schema.ObjectVersion}, seq)
	return append(appendString(b, string(rec.Encode())), dir...)
}

func (w *treeWriter) put(data []byte) (schema.ObjectRef, error) {
	p, err := w.m.cfg.Chunks.Put(w.ctx, data)
	if err != nil {
		return schema.ObjectRef{}, err
	}
	w.objects = append(w.objects, p)
	if w.pending = append(w.pending, p); len(w.pending) >= maxUnflushed {
		err = w.flush()
	}
	r := p.Refs()[0]
	return schema.ObjectRef{ID: r.ID, Len: r.Len}, err
}

// flush makes durable what was put.
func (w *treeWriter) flush() error {
	if err := w.m.cfg.Chunks.Flush(w.ctx); err != nil {
		return err
	}
	for _, p := range w.pending {
		if err := p.Wait(w.ctx); err != nil {
			return err
		}
	}
	w.pending = w.pending[:0]
	return nil
}

// page is a page of a directory under construction.
type page struct {
	first   string
	entries int
	data    []byte
}

// dir writes a directory and all below it.
func (w *treeWriter) dir(ino uint64) (schema.ObjectRef, error) {
	var refs []schema.ObjectRef
	var firsts []string
	var p page
	end := func() error {
		head := binary.AppendUvarint([]byte{schema.ObjectDir, schema.ObjectVersion}, uint64(p.entries))
		ref, err := w.put(append(head, p.data...))
		refs, firsts = append(refs, ref), append(firsts, p.first)
		p = page{}
		return err
	}
	err := each(w.view, ino, func(e Entry) (err error) {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if p.entries == 0 {
			p.first = e.Name
		}
		if p.data, err = w.entry(p.data, e); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		p.entries++
		if endsPage(e.Name) || p.entries >= pageEntries || len(p.data) >= pageBytes {
			return end()
		}
		return nil
	})
	if err != nil {
		return schema.ObjectRef{}, err
	}
	if p.entries > 0 || len(refs) == 0 {
		if err := end(); err != nil {
			return schema.ObjectRef{}, err
		}
	}
	if len(refs) == 1 {
		return refs[0], nil
	}
	b := binary.AppendUvarint([]byte{schema.ObjectIndex, schema.ObjectVersion}, uint64(len(refs)))
	for k, r := range refs {
		b = appendRef(appendString(b, firsts[k]), r)
	}
	return w.put(b)
}

// entry adds one name with all that a restore needs of its inode.
func (w *treeWriter) entry(b []byte, e Entry) ([]byte, error) {
	n, err := w.view.Node(e.Ino)
	if err != nil {
		return nil, err
	}
	if w.renewer != nil {
		w.path = append(w.path, e.Name)
		defer func() { w.path = w.path[:len(w.path)-1] }()
	}
	b = appendString(b, e.Name)
	for _, v := range [...]uint64{n.Ino, uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.Rdev), uint64(n.Nlink)} {
		b = binary.AppendUvarint(b, v)
	}
	for _, v := range [...]int64{n.Mtime, n.Ctime, n.Size, n.Alloc} {
		b = binary.AppendVarint(b, v)
	}
	b = appendString(b, n.Mark)
	if b, err = w.xattrs(b, n.Ino); err != nil {
		return nil, err
	}
	switch n.Mode & modeType {
	case modeDir:
		ref, err := w.dir(n.Ino)
		return appendRef(b, ref), err
	case modeLink:
		target, err := w.view.Readlink(n.Ino)
		return appendString(b, target), err
	case modeReg:
		return w.content(b, n)
	}
	return b, nil
}

// S_IFMT bits.
const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeReg  = 0o100000
	modeLink = 0o120000
)

func (w *treeWriter) xattrs(b []byte, ino uint64) ([]byte, error) {
	names, err := w.view.ListXattr(ino)
	if err != nil {
		return nil, err
	}
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		v, err := w.view.GetXattr(ino, name)
		if err != nil {
			return nil, err
		}
		b = appendString(appendString(b, name), string(v))
	}
	return b, nil
}

// content adds a file's extents: 0 and the extents themselves, or the number
// of extent objects and their names.
func (w *treeWriter) content(b []byte, n Node) ([]byte, error) {
	es, ok, err := w.view.Chunks(n.Ino)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errStaged
	}
	if w.renewer != nil {
		if es, err = w.anew(es); err != nil {
			return nil, err
		}
	}
	if n.Nlink < 2 || !w.seen[n.Ino] {
		w.logical += n.Size
		w.seen[n.Ino] = n.Nlink > 1
	}
	if len(es) <= inlineExtents {
		return appendExtents(binary.AppendUvarint(b, 0), es), nil
	}
	objects := (len(es) + pageExtents - 1) / pageExtents
	b = binary.AppendUvarint(b, uint64(objects))
	for len(es) > 0 {
		k := min(len(es), pageExtents)
		ref, err := w.put(appendExtents([]byte{schema.ObjectExtents, schema.ObjectVersion}, es[:k]))
		if err != nil {
			return nil, err
		}
		b = appendRef(b, ref)
		es = es[k:]
	}
	return b, nil
}

func appendExtents(b []byte, es []schema.ChunkExtent) []byte {
	v := schema.EncodeChunkMap(es)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendRef(b []byte, r schema.ObjectRef) []byte {
	return binary.AppendUvarint(append(b, r.ID[:]...), uint64(r.Len))
}
