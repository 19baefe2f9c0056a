package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
)

// A sealed step's tree is written into packs as directory objects, each named
// by its hash, so that the root's name certifies the whole step and the step
// can be found again without index and journal. A directory that did not
// change makes the same object, which is stored once.
//
// A directory of more than pageEntries entries is split by name into pages
// under an index object, so that one change writes one page. A file of more
// than inlineExtents extents has them in objects of their own.
// docs/FORMAT.md has the byte tables.

// Object kinds: the first byte of an object; the second is its version.
const (
	objDir     = 'D' // entries of one directory, or of one page of it
	objIndex   = 'I' // pages of one directory
	objExtents = 'E' // extents of one file
	objRoot    = 'R' // one sealed step: its record and its root directory
	objVersion = 1
)

const (
	pageEntries   = 1024
	inlineExtents = 32
	pageExtents   = 8192
)

// errStaged: some content is not stored yet.
var errStaged = errors.New("content is only staged yet")

// objRef names an object in packs.
type objRef struct {
	id  [32]byte
	raw uint32
}

// treeWriter writes the tree of one snapshot.
type treeWriter struct {
	m       *Manager
	ctx     context.Context
	view    View
	pending []*chunkstore.Pending
	logical int64
	seen    map[uint64]bool // inodes with several names, counted once
}

// writeTree writes the tree of a sealed step into packs, and marks the step
// as stored once that is durable. errStaged: not all of it is stored yet.
func (m *Manager) writeTree(ctx context.Context, i Info) error {
	w := &treeWriter{m: m, ctx: ctx, view: m.tree.At(i.Seq), seen: map[uint64]bool{}}
	dir, err := w.dir(i.ScopeIno)
	if err != nil {
		return err
	}
	root, err := w.put(encodeRoot(i, dir))
	if err != nil {
		return err
	}
	if err := m.cfg.Chunks.Flush(ctx); err != nil {
		return err
	}
	for _, p := range w.pending {
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	return m.amend(i.Seq, func(s *schema.Snapshot) {
		s.Tree, s.Logical, s.Drained = root.id, w.logical, true
	})
}

// encodeRoot gives the object that stands for a step: whatever is needed to
// list it again when packs are all that is left.
func encodeRoot(i Info, dir objRef) []byte {
	b := []byte{objRoot, objVersion}
	b = binary.AppendUvarint(b, i.Seq)
	for _, s := range [...]string{i.Scope, i.Name, i.Reason, i.Verdict} {
		b = appendString(b, s)
	}
	b = binary.AppendVarint(b, i.Time.UnixNano())
	b = binary.AppendUvarint(b, uint64(i.Revision))
	for _, l := range [...][]string{i.Tags, i.Marks} {
		b = binary.AppendUvarint(b, uint64(len(l)))
		for _, s := range l {
			b = appendString(b, s)
		}
	}
	return appendRef(b, dir)
}

func (w *treeWriter) put(data []byte) (objRef, error) {
	p, err := w.m.cfg.Chunks.Put(w.ctx, data)
	if err != nil {
		return objRef{}, err
	}
	w.pending = append(w.pending, p)
	r := p.Refs()[0]
	return objRef{r.ID, r.Len}, nil
}

// dir writes a directory and all below it.
func (w *treeWriter) dir(ino uint64) (objRef, error) {
	var pages []objRef
	var firsts []string
	for after := ""; ; {
		if err := w.ctx.Err(); err != nil {
			return objRef{}, err
		}
		es, err := w.view.ReadDir(ino, after, pageEntries)
		if err != nil {
			return objRef{}, err
		}
		if len(es) == 0 && len(pages) > 0 {
			break
		}
		page := []byte{objDir, objVersion}
		page = binary.AppendUvarint(page, uint64(len(es)))
		for _, e := range es {
			if page, err = w.entry(page, e); err != nil {
				return objRef{}, fmt.Errorf("%s: %w", e.Name, err)
			}
		}
		ref, err := w.put(page)
		if err != nil {
			return objRef{}, err
		}
		pages = append(pages, ref)
		if len(es) == 0 {
			break
		}
		firsts = append(firsts, es[0].Name)
		after = es[len(es)-1].Name
		if len(es) < pageEntries {
			break
		}
	}
	if len(pages) == 1 {
		return pages[0], nil
	}
	b := []byte{objIndex, objVersion}
	b = binary.AppendUvarint(b, uint64(len(pages)))
	for k, p := range pages {
		b = appendRef(appendString(b, firsts[k]), p)
	}
	return w.put(b)
}

// entry adds one name with all that a restore needs of its inode.
func (w *treeWriter) entry(b []byte, e Entry) ([]byte, error) {
	n, err := w.view.Node(e.Ino)
	if err != nil {
		return nil, err
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
		ref, err := w.put(appendExtents([]byte{objExtents, objVersion}, es[:k]))
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

func appendRef(b []byte, r objRef) []byte {
	return binary.AppendUvarint(append(b, r.id[:]...), uint64(r.raw))
}
