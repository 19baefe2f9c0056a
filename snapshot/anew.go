package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A store that has joined a bucket has chunks that are named by an older key, and
// none of those leaves (chunkstore/naming.go). So what is published and was stored
// before is stored anew first: the snapshot gets another tree, of files that are cut
// and named as the bucket does.
//
//   - What is stored anew comes out of chunks that were held against their names.
//   - Nothing that is there changes for it: generations keep their chunks, by which
//     snapshots are read here, and the older tree is held as long as the snapshot is
//     there. One record, once all of it is durable, says that the new tree is the
//     snapshot's. So no moment of it, whatever happens then, makes anything unreadable
//     that was not; it costs room (both are kept until the snapshot goes).
//   - What the new tree names is held by the snapshot, objects and chunks of files
//     alike, some at a time: what was done before a kill is found to be there.
//   - Writers wait for nothing of this: it takes no lock of an inode, no worker that
//     stores what is new, and no room that writers need (roomFor).
//
// Rejected: another chunk map for each generation. Every step that shows it has a
// tree that names the chunks that it had, and is to come back when all that is left
// is packs; so these would have to be held until the last of those trees was written
// again.

const (
	anewBatch   = 1024    // contents between two flushes ...
	anewBytes   = 1 << 30 // ... or plain bytes ...
	anewChunks  = 1 << 16 // ... or chunks
	anewHold    = 1024    // chunks that are held at a time: writers wait so long
	anewKnown   = 1 << 18 // chunks of what was stored anew that are remembered
	anewReserve = 256 << 20
)

// renewer writes the trees of snapshots anew. One runs at a time. It remembers how
// the version before of each file was cut, so that the next one is cut there, and
// what has become of each content: one that did not change is not read again.
type renewer struct {
	m     *Manager
	said  bool
	known map[string][]chunkstore.Ref   // by masked path
	same  map[[32]byte][]chunkstore.Ref // by contentName of what it was
	size  int                           // of same, which has all that known has, in chunks
}

// errNoRoom: what is to be published has to be stored anew, and there is no room.
var errNoRoom = errors.New("it was stored before the store joined the bucket, and there is no room to store it anew")

// renew has a snapshot's tree name nothing by an older key.
func (r *renewer) renew(ctx context.Context, i Info) (Info, error) {
	if !r.said {
		r.said = true
		if fn := r.m.cfg.Events.Renaming; fn != nil {
			fn(r.m.cfg.Chunks.OlderBytes())
		}
		if err := r.recall(ctx, i.Seq); err != nil {
			return i, err
		}
	}
	w := &treeWriter{m: r.m, ctx: ctx, view: r.m.tree.At(i.Seq), seen: map[uint64]bool{}, renewer: r, holder: schema.TreeHolder(i.Seq)}
	defer w.release()
	if err := w.renew(i); err != nil {
		return i, fmt.Errorf("store it anew: %w", err)
	}
	return r.m.Get(i.Seq)
}

func (w *treeWriter) renew(i Info) error {
	dir, err := w.entry(nil, Entry{Ino: i.ScopeIno})
	if err != nil {
		return err
	}
	rec, err := readSnapshot(w.m.db, i.Seq)
	if err != nil {
		return err
	}
	rec.Tree = [32]byte{}
	if err := w.keep(); err != nil { // whoever finds the root finds the rest
		return err
	}
	root, err := w.put(encodeRoot(i.Seq, rec, dir))
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	return w.durably(func(tx *state.Tx) error {
		now, err := readSnapshot(tx, i.Seq)
		if err != nil {
			return err
		}
		now.Tree = root.ID
		tx.Put(schema.Numbered(schema.PrefixSnapshot, i.Seq), now.Encode())
		return w.hold(tx, w.holder, w.needs())
	})
}

// keep makes durable what was put, and has the snapshot hold it.
func (w *treeWriter) keep() error {
	w.bytes, w.chunks = 0, 0
	if len(w.objects)+len(w.files) == 0 {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	for some := range slices.Chunk(w.needs(), anewHold) {
		err := w.durably(func(tx *state.Tx) error {
			seq := w.holder &^ schema.TreeHolder(0)
			if _, err := readSnapshot(tx, seq); err != nil {
				return err // gone: nobody would let go of what it holds
			}
			return w.hold(tx, w.holder, some)
		})
		if err != nil {
			return err
		}
	}
	w.release()
	w.objects, w.files = w.objects[:0], w.files[:0]
	return nil
}

func (w *treeWriter) durably(fn func(tx *state.Tx) error) error {
	pos, err := w.m.db.Update(schema.KindRegistry, fn)
	if err == nil {
		err = w.m.db.Sync(pos)
	}
	return err
}

// anew gives chunks of a file's content that are named by the newest key.
func (w *treeWriter) anew(es []schema.ChunkExtent) ([]schema.ChunkExtent, error) {
	if older, err := w.anyOlder(es); !older || err != nil {
		return es, err
	}
	name := contentName(es)
	p, err := w.asBefore(w.renewer.same[name], es)
	key := maskNumbers(strings.Join(w.path, "/"))
	if p == nil && err == nil {
		p, err = w.storeAnew(es, w.renewer.known[key])
	}
	if err != nil {
		return nil, err
	}
	w.files, w.pending = append(w.files, p), append(w.pending, p)
	w.renewer.remember(key, name, p.Refs())
	w.chunks += len(p.Refs())
	if len(w.objects)+len(w.files) >= anewBatch || w.bytes >= anewBytes || w.chunks >= anewChunks {
		err = w.keep()
	}
	return extents(p.Refs()), err
}

// contentName names a content by where it lies: the same chunks are the same bytes.
func contentName(es []schema.ChunkExtent) [32]byte { return sha256.Sum256(schema.EncodeChunkMap(es)) }

// asBefore gives a content as it was stored anew before, if all of that is there.
func (w *treeWriter) asBefore(refs []chunkstore.Ref, es []schema.ChunkExtent) (*chunkstore.Pending, error) {
	if len(refs) == 0 || !slices.Equal(segmentsOf(extents(refs)), segmentsOf(es)) {
		return nil, nil
	}
	return w.m.cfg.Chunks.Again(refs)
}

// storeAnew reads a content and stores it over an earlier version.
func (w *treeWriter) storeAnew(es []schema.ChunkExtent, prior []chunkstore.Ref) (*chunkstore.Pending, error) {
	stored := &storedReader{ctx: w.ctx, chunks: w.m.cfg.Chunks, es: es}
	src := storedSource{w.m.cfg.Chunks.Polite(stored), segmentsOf(es)}
	n := int64(0)
	for _, s := range src.segs {
		n += s.Len
	}
	if err := w.roomFor(n); err != nil {
		return nil, err
	}
	w.bytes += n
	return w.m.cfg.Chunks.IngestOver(w.ctx, src, chunkstore.Unmoved(prior, src.segs))
}

func (w *treeWriter) anyOlder(es []schema.ChunkExtent) (bool, error) {
	for _, e := range es {
		if older, err := w.m.cfg.Chunks.Older(e.ID); older || err != nil {
			return older, err
		}
	}
	return false, nil
}

// roomFor makes sure that a content of n bytes can be stored anew without taking what
// writers have. Hot copies, and packs that are published, make room for it.
func (w *treeWriter) roomFor(n int64) error {
	for {
		free, low, err := w.m.tree.Room()
		if err != nil {
			return err
		}
		need := low + uint64(w.bytes+n) + min(anewReserve, free/16)
		if free >= need {
			return nil
		}
		if w.m.Relieve(w.ctx, need) {
			continue
		}
		if freed, err := w.m.packs.evict(w.ctx, int64(need-free)); err != nil {
			return err
		} else if freed == 0 {
			return fmt.Errorf("%w: %d bytes, and %d are free", errNoRoom, w.bytes+n, free)
		}
	}
}

func (r *renewer) remember(key string, name [32]byte, refs []chunkstore.Ref) {
	if r.size+len(refs) > anewKnown {
		r.known, r.same, r.size = nil, nil, 0
	}
	if r.known == nil {
		r.known, r.same = map[string][]chunkstore.Ref{}, map[[32]byte][]chunkstore.Ref{}
	}
	r.size += len(refs) - len(r.same[name])
	r.known[key], r.same[name] = refs, refs
}

// recall remembers the files of the step that was published last before seq, as the
// process before this one did. What of its tree can't be read is not remembered.
func (r *renewer) recall(ctx context.Context, seq uint64) error {
	all, err := r.m.all()
	if err != nil {
		return err
	}
	for _, i := range slices.Backward(all) {
		if i.Seq >= seq || i.Tree == [32]byte{} {
			continue
		}
		u, err := r.m.refUpload(r.m.db, i.Seq)
		if err != nil {
			return err
		}
		if u == nil {
			continue
		}
		w := treeRecall{r, ctx, r.m.tree.At(i.Seq)}
		if b, err := w.object(i.Tree); err == nil {
			if _, _, dir, err := schema.DecodeRoot(b); err == nil {
				w.dir(dir.Dir, "", 0)
			}
		}
		return ctx.Err()
	}
	return nil
}

// treeRecall goes through a tree for recall.
type treeRecall struct {
	r    *renewer
	ctx  context.Context
	view View
}

func (w *treeRecall) object(id [32]byte) ([]byte, error) {
	return w.r.m.cfg.Chunks.ReadBack(w.ctx, id, nil)
}

func (w *treeRecall) dir(ref schema.ObjectRef, path string, depth int) {
	b, err := w.object(ref.ID)
	if err != nil || depth > maxDepth || w.r.size >= anewKnown/2 {
		return
	}
	if len(b) == 0 || b[0] != schema.ObjectIndex {
		w.page(b, path, depth)
		return
	}
	pages, _ := schema.DecodePages(b)
	for _, p := range pages {
		if b, err = w.object(p.ID); err == nil {
			w.page(b, path, depth)
		}
	}
}

func (w *treeRecall) page(b []byte, path string, depth int) {
	entries, _ := schema.DecodePage(b)
	for _, e := range entries {
		path := path + "/" + e.Name
		switch {
		case e.IsDir():
			w.dir(e.Dir, path, depth+1)
		case e.IsReg():
			es := e.Chunks
			for _, p := range e.Pages {
				if b, err := w.object(p.ID); err == nil {
					more, _ := schema.DecodeExtents(b)
					es = append(es, more...)
				}
			}
			if was, ok, err := w.view.Chunks(e.Ino); ok && err == nil {
				w.r.remember(maskNumbers(path), contentName(was), wholeRefs(es))
			}
		}
	}
}

// storedSource is a content out of chunks.
type storedSource struct {
	io.ReaderAt
	segs []chunkstore.Segment
}

func (s storedSource) Segments() []chunkstore.Segment { return s.segs }

// storedReader reads a content as chunks have it, each held against its name.
type storedReader struct {
	ctx    context.Context
	chunks Chunks
	es     []schema.ChunkExtent
}

// segmentsOf gives the ranges that extents cover.
func segmentsOf(es []schema.ChunkExtent) (out []chunkstore.Segment) {
	for _, e := range es {
		if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == e.Off {
			out[k].Len += int64(e.Len)
			continue
		}
		out = append(out, chunkstore.Segment{Off: e.Off, Len: int64(e.Len)})
	}
	return out
}

func (s *storedReader) ReadAt(b []byte, off int64) (n int, err error) {
	k := sort.Search(len(s.es), func(k int) bool { return s.es[k].Off+int64(s.es[k].Len) > off })
	for ; n < len(b); k++ {
		if k == len(s.es) || s.es[k].Off > off {
			return n, io.ErrUnexpectedEOF
		}
		e := s.es[k]
		at := int(off - e.Off)
		part := b[n:min(len(b), n+int(e.Len)-at)]
		if err := s.chunks.ReadAt(s.ctx, e.ID, e.Raw, part, int(e.Skip)+at); err != nil {
			return n, err
		}
		n, off = n+len(part), off+int64(len(part))
	}
	return n, nil
}
