package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"sync"
	"sync/atomic"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// inlineMax is the size up to which a generation stays in the index, in bytes.
const inlineMax = 64 << 10

// maxFiles is how many staging files without unsynced writes stay open.
const maxFiles = 256

// generation is the in-memory side of a generation that is in use.
type generation struct {
	id   uint64
	refs int // under genTable.mu

	mu     sync.RWMutex
	loaded bool
	rec    schema.Generation
	file   File // open staging file, or nil

	// Of a generation that the live tree writes:
	inline  map[uint32][]byte     // blocks of an inline generation, as in the index
	named   bool                  // the staging file's name is known to be durable
	writes  uint64                // counts writes to the staging file
	marked  bool                  // the index holds an unsettled mark: unsynced bytes
	settled int64                 // what that mark says
	failed  atomic.Pointer[error] // a sync failed: what is in the file is unknown

	walk walk // of one that is read from chunks
}

type genTable struct {
	t   *Tree
	mu  sync.Mutex
	all map[uint64]*generation
	old uint64 // generations up to this one take no more bytes

	wrong map[uint64]struct{} // under mu: their own copy is not what was stored; see copies.go
}

func (gt *genTable) init(t *Tree) {
	gt.t, gt.all, gt.wrong = t, map[uint64]*generation{}, map[uint64]struct{}{}
}

// get gives the generation with one more reference, loading its record.
func (gt *genTable) get(id uint64) (*generation, error) {
	gt.mu.Lock()
	g := gt.all[id]
	if g == nil {
		g = &generation{id: id}
		gt.all[id] = g
	}
	g.refs++
	gt.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.loaded {
		return g, nil
	}
	v, err := gt.t.db.Get(schema.Numbered(schema.PrefixGen, id))
	if err == nil {
		g.rec, err = schema.DecodeGeneration(v)
	}
	if err == nil && g.rec.File {
		err = gt.loadMark(g)
	}
	if err != nil {
		gt.put(g)
		return nil, wrapDisk(fmt.Errorf("generation %d: %w", id, err))
	}
	g.loaded = true
	return g, nil
}

// loadMark finds out what of g no sync has covered.
func (gt *genTable) loadMark(g *generation) error {
	v, err := gt.t.db.Get(schema.UnsettledKey(g.rec.Ino, g.id))
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	u, err := schema.DecodeUnsettled(v)
	g.marked, g.settled = true, u.Settled
	return err
}

// hasFailed says whether a sync of the generation failed.
func (gt *genTable) hasFailed(id uint64) bool {
	gt.mu.Lock()
	defer gt.mu.Unlock()
	g := gt.all[id]
	return g != nil && g.failed.Load() != nil
}

// fresh gives a new generation of inode ino, in memory only.
func (gt *genTable) fresh(ino uint64) (*generation, error) {
	id, err := gt.t.db.NextGen()
	if err != nil {
		return nil, wrapDisk(err)
	}
	g := &generation{id: id, refs: 1, loaded: true, rec: schema.Generation{Ino: ino, Inline: true}, inline: map[uint32][]byte{}}
	gt.mu.Lock()
	defer gt.mu.Unlock()
	gt.all[id] = g
	return g, nil
}

// put gives a reference back. Files without unsynced writes are closed when
// too many are open.
func (gt *genTable) put(g *generation) {
	gt.mu.Lock()
	defer gt.mu.Unlock()
	if g.refs--; g.refs > 0 {
		return
	}
	tries := 0
	for id, old := range gt.all { // a few at random: over time that is enough
		if tries++; len(gt.all) <= maxFiles || tries > 8 {
			break
		}
		if old.refs > 0 || old.marked || old.failed.Load() != nil {
			continue
		}
		if old.file != nil {
			_ = old.file.Close() // everything in it is synced
		}
		delete(gt.all, id)
	}
}

// forget closes the staging file of a generation that has none any more. The
// generation itself may live on, in chunks, and be in use.
func (gt *genTable) forget(id uint64) error {
	gt.mu.Lock()
	g := gt.all[id]
	if g != nil {
		g.refs++ // put, which closes what is not in use, leaves it alone
	}
	gt.mu.Unlock()
	if g == nil {
		return nil
	}
	g.mu.Lock()
	err := g.closeFile()
	g.mu.Unlock()
	gt.mu.Lock()
	defer gt.mu.Unlock()
	if g.refs--; g.refs == 0 && gt.all[id] == g {
		delete(gt.all, id)
	}
	return err
}

func (g *generation) closeFile() error {
	f := g.file
	g.file = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

func (gt *genTable) closeAll() error {
	gt.mu.Lock()
	defer gt.mu.Unlock()
	var errs []error
	for id, g := range gt.all {
		g.mu.Lock()
		errs = append(errs, g.closeFile())
		g.mu.Unlock()
		delete(gt.all, id)
	}
	return errors.Join(errs...)
}

// read fills dst with the bytes of a generation from file offset off. Every
// one of them was written: a short file is damage, not zeros. They come from the
// generation's own copy, as long as it has one that can be read, and is not known to
// be wrong; else, as far as they are stored, from chunks.
func (gt *genTable) read(id uint64, dst []byte, off int64) error {
	g, err := gt.get(id)
	if err != nil {
		return err
	}
	defer gt.put(g)
	stored := 0
	if gt.isWrong(id) {
		stored = g.storedAt(off, len(dst))
		if err := gt.readChunks(g, dst[:stored], off); err != nil {
			return err
		}
	}
	if stored == len(dst) {
		return nil
	}
	has, err := gt.readOwn(g, dst[stored:], off+int64(stored))
	if has && err == nil {
		return nil
	}
	if g.storedAt(off, len(dst)) == len(dst) {
		cerr := gt.readChunks(g, dst, off)
		if has && cerr == nil {
			gt.distrust(id, err)
		}
		if !has || cerr == nil {
			return cerr
		}
	}
	if !has {
		err = fmt.Errorf("%w: generation %d has no bytes at %d", ErrIO, id, off)
	}
	return err
}

// storedAt says how many of the n bytes from off on are stored.
func (g *generation) storedAt(off int64, n int) int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return int(max(0, min(int64(n), g.rec.Stored-off)))
}

// readOwn reads a generation's own copy, if it has one.
func (gt *genTable) readOwn(g *generation, dst []byte, off int64) (has bool, err error) {
	g.mu.RLock()
	for g.rec.File && g.file == nil { // once it is unlinked, open says so
		g.mu.RUnlock()
		if err := gt.open(g); err != nil {
			return true, err
		}
		g.mu.RLock()
	}
	defer g.mu.RUnlock()
	switch {
	case g.rec.File:
		return true, readFile(g, dst, off)
	case g.rec.Inline:
		return true, gt.readInline(g, dst, off)
	}
	return false, nil
}

// open opens the staging file of a generation that is said to have one.
func (gt *genTable) open(g *generation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.rec.File || g.file != nil {
		return nil
	}
	f, err := gt.t.cfg.Disk.Open(g.id)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: staging file of generation %d is missing", ErrIO, g.id)
	}
	if err != nil {
		return wrapDisk(fmt.Errorf("open staging file %d: %w", g.id, err))
	}
	g.file = f
	return nil
}

func readFile(g *generation, dst []byte, off int64) error {
	n, err := g.file.ReadAt(dst, off)
	if n == len(dst) {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("%w: staging file %d ends before %d", ErrIO, g.id, off+int64(len(dst)))
	}
	return fmt.Errorf("%w: read staging file %d: %w", ErrIO, g.id, err)
}

func (gt *genTable) readInline(g *generation, dst []byte, off int64) error {
	for len(dst) > 0 {
		blk, in := uint32(off/schema.InlineBlock), int(off%schema.InlineBlock)
		v, ok := g.inline[blk]
		if !ok {
			var err error
			if v, err = gt.t.db.Get(schema.InlineKey(g.id, blk)); err != nil {
				return wrapDisk(fmt.Errorf("%w: generation %d block %d: %w", ErrIO, g.id, blk, err))
			}
		}
		n := min(len(dst), schema.InlineBlock-in)
		if in+n > len(v) {
			return fmt.Errorf("%w: generation %d block %d is %d bytes short", ErrIO, g.id, blk, in+n-len(v))
		}
		copy(dst[:n], v[in:])
		dst, off = dst[n:], off+int64(n)
	}
	return nil
}

// readChunks reads through the chunk map of a stored generation.
func (gt *genTable) readChunks(g *generation, dst []byte, off int64) error {
	if gt.t.cfg.Chunks == nil {
		return fmt.Errorf("%w: no chunk store", ErrIO)
	}
	m := &mapReader{t: gt.t, gen: g.id}
	for len(dst) > 0 {
		e, err := m.at(off)
		if err != nil {
			return err
		}
		gt.readAhead(g, m, e)
		in := off - e.Off
		n := min(int64(len(dst)), int64(e.Len)-in)
		if err := gt.t.cfg.Chunks.ReadChunk(context.Background(), e.ID, e.Raw, dst[:n], int(int64(e.Skip)+in)); err != nil {
			return fmt.Errorf("%w: %w", ErrIO, err)
		}
		dst, off = dst[n:], off+n
	}
	return nil
}

// chunkAt finds the chunk that holds file offset off of a stored generation.
func (t *Tree) chunkAt(gen uint64, off int64) (schema.ChunkExtent, error) {
	return (&mapReader{t: t, gen: gen}).at(off)
}

// mapReader looks things up in the chunk map of a stored generation. It keeps the
// page that was asked for last: one of a database has thousands of extents.
type mapReader struct {
	t    *Tree
	gen  uint64
	page uint32
	es   []schema.ChunkExtent // of page; nil: none was read
}

// at finds the chunk that holds file offset off.
func (m *mapReader) at(off int64) (schema.ChunkExtent, error) {
	if page := uint32(off / schema.ChunkPage); m.es == nil || page != m.page {
		es, err := m.t.chunkPage(m.gen, page)
		if err != nil {
			return schema.ChunkExtent{}, err
		}
		m.page, m.es = page, es
	}
	k := sort.Search(len(m.es), func(k int) bool { return off < m.es[k].Off+int64(m.es[k].Len) })
	if k == len(m.es) || off < m.es[k].Off {
		return schema.ChunkExtent{}, fmt.Errorf("%w: generation %d: no chunk holds offset %d", ErrIO, m.gen, off)
	}
	return m.es[k], nil
}

func (t *Tree) chunkPage(gen uint64, page uint32) ([]schema.ChunkExtent, error) {
	v, err := t.db.Get(schema.ChunkMapKey(gen, page))
	if err != nil {
		return nil, wrapDisk(fmt.Errorf("%w: chunk map of generation %d, page %d: %w", ErrIO, gen, page, err))
	}
	es, err := schema.DecodeChunkMap(v)
	return es, wrapDisk(err)
}
