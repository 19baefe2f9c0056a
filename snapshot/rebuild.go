package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/include"
)

// When index and journal are lost, the sealed steps that were stored are found
// again in packs: a root object for each, written after all that it refers to.
// Rebuild replays them in the order of their numbers (fs/stage/rebuild.go says
// how that becomes versions) and writes their records, names and holds on
// objects. Then the live tree is made the newest complete step of each scope, as
// by a rollback, each in a state of its own that no snapshot shows.
//
// What can't be read of a step is lost, and is neither guessed nor taken from
// another step: a file without some chunks keeps its place and its size, and
// reading what is gone is an error; of a directory without its object the names
// are gone. The step is partial then, and its marks say where.
//
// Packs do not know what happened to a step after its tree was written: holds,
// forget, a verdict of later. So steps that were forgotten or expired lately may
// be back.

// Objects are where directory objects are read.
type Objects interface {
	// ReadBack reads an object and verifies it.
	ReadBack(ctx context.Context, id chunkstore.ID, buf []byte) ([]byte, error)
}

// RebuiltTree takes the states of the tree; livetree.Rebuilder is one.
type RebuiltTree interface {
	Begin(seq uint64)
	// Scope says what the directory at a path was, and gives its number.
	Scope(path []string, e *schema.TreeEntry) (uint64, error)
	// Same says whether a directory, and all below it, is still as an object says
	// that was noted by Know.
	Same(dir uint64, object [32]byte) bool
	Know(dir uint64, object [32]byte)
	Dir(dir uint64) (RebuiltDir, error)
	Remove(dir uint64, name string) error
	End() error
	Finish(epoch uint64) error
}

// RebuiltDir takes the entries of a directory, in byte order.
type RebuiltDir interface {
	Put(e *schema.TreeEntry, c schema.TreeContent) (ino uint64, err error)
	Done() error
	Close() error
}

// RebuildConfig is what Rebuild needs.
type RebuildConfig struct {
	DB      *state.Engine // holds where chunks lie, and nothing else
	Objects Objects
	Domain  uint32
	Now     time.Time
	// Known are records that were found elsewhere. Their holds stay, and nothing else
	// is taken from them, since they may be older than what happened later; those of
	// snapshots that are not back are lost.
	Known map[uint64]*schema.Snapshot
	// Tree begins a tree; no step shows an inode with a number above last.
	Tree func(last uint64) RebuiltTree
	// Back hears of each step that is back, Lost of each path of one that is not
	// whole.
	Back func(i Info, lost int)
	Lost func(i Info, path, why string)
}

// Rebuilt is what came of it.
type Rebuilt struct {
	Steps, Partial int
	Unreadable     int      // objects that could not be read
	Twice          []string // steps whose number another, later one has
	Barriers       int      // that were known, and are gone
	Live           []Info   // what the live tree is now, for each scope
}

// Whole says whether everything that steps refer to is there.
func (r *Rebuilt) Whole() bool { return r.Partial == 0 && r.Unreadable == 0 && len(r.Twice) == 0 }

// Rebuild makes the namespace out of the steps that are found in packs.
func Rebuild(ctx context.Context, cfg RebuildConfig) (*Rebuilt, error) {
	w := &rebuild{cfg: cfg, ctx: ctx, below: map[[32]byte][][32]byte{}}
	roots, last, err := w.find()
	if err == nil {
		w.tree = cfg.Tree(last)
		for _, r := range roots {
			if err = w.step(r); err != nil {
				err = fmt.Errorf("step %s: %w", infoOf(r.seq, r.rec).ID(), err)
				break
			}
		}
	}
	if err == nil {
		w.gone()
		err = w.live(roots)
	}
	if err != nil {
		return nil, fmt.Errorf("rebuild the namespace: %w", err)
	}
	return &w.Rebuilt, nil
}

type rebuild struct {
	Rebuilt
	cfg  RebuildConfig
	ctx  context.Context
	tree RebuiltTree
	buf  []byte

	// below lists what an object refers to. A step holds each object of its tree,
	// also of what is passed over.
	below map[[32]byte][][32]byte

	// Of the step at hand:
	root  *foundRoot
	holds map[[32]byte]struct{}
	lost  int
}

// foundRoot is a step in packs.
type foundRoot struct {
	id    [32]byte
	pack  uint64
	seq   uint64
	rec   *schema.Snapshot
	dir   schema.TreeEntry
	ino   uint64 // of the scope's directory
	stays bool   // it has what was included, which the live tree does not show
}

// find reads all objects once, in the order in which they lie: it gives the
// steps by number, and the greatest number of an inode.
func (w *rebuild) find() (roots []*foundRoot, last uint64, err error) {
	objects, err := w.objects()
	if err != nil {
		return nil, 0, err
	}
	bySeq := map[uint64]*foundRoot{}
	for _, o := range objects {
		if err := w.ctx.Err(); err != nil {
			return nil, 0, err
		}
		b, err := w.read(o.id)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case len(b) == 0:
			w.Unreadable++
		case b[0] == schema.ObjectDir:
			es, _ := schema.DecodePage(b) // one that can't be decoded is met again
			for _, e := range es {
				last = max(last, e.Ino)
			}
		case b[0] == schema.ObjectRoot:
			r := &foundRoot{id: o.id, pack: o.pack}
			if r.seq, r.rec, r.dir, err = schema.DecodeRoot(b); err != nil || r.seq == 0 || r.rec.Scope == "" && r.dir.Ino != rootIno {
				w.Unreadable++
				continue
			}
			last = max(last, r.dir.Ino)
			w.choose(bySeq, r)
		}
	}
	for _, r := range bySeq {
		roots = append(roots, r)
	}
	slices.SortFunc(roots, func(a, b *foundRoot) int { return cmp.Compare(a.seq, b.seq) })
	return roots, last, nil
}

// choose keeps one root of each number. The same step may have been written
// twice; the later root knows more. A store that went back to an old backup has
// given numbers twice: then the later step counts.
func (w *rebuild) choose(bySeq map[uint64]*foundRoot, r *foundRoot) {
	old := bySeq[r.seq]
	if old == nil {
		bySeq[r.seq] = r
		return
	}
	same := old.rec.Scope == r.rec.Scope && old.rec.Name == r.rec.Name && old.rec.Time == r.rec.Time
	better := cmp.Compare(old.rec.Time, r.rec.Time)
	if same {
		better = cmp.Or(cmp.Compare(b2i(old.rec.Pending != ""), b2i(r.rec.Pending != ""))*-1, cmp.Compare(old.pack, r.pack))
	}
	loser := r
	if better < 0 {
		loser, bySeq[r.seq] = old, r
	}
	if !same {
		w.Twice = append(w.Twice, infoOf(loser.seq, loser.rec).Path())
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// place is where an object lies.
type place struct {
	id   [32]byte
	pack uint64
	off  int64
}

// objects lists the chunks that are objects, in the order in which they lie.
func (w *rebuild) objects() (all []place, err error) {
	it, err := w.cfg.DB.NewIter(schema.ChunkBounds())
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		domain, id, e := schema.ParseChunkKey(it.Key())
		loc, e2 := schema.DecodeChunkLoc(it.Value())
		if err = errors.Join(e, e2); err == nil && domain == w.cfg.Domain && loc.Type == chunkTree {
			all = append(all, place{id, loc.Pack, loc.Offset})
		}
	}
	slices.SortFunc(all, func(a, b place) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off)) })
	return all, errors.Join(err, it.Error(), it.Close())
}

// chunkTree is the type of a chunk that is a directory object (docs/FORMAT.md).
const chunkTree = 2

// read gives an object, nil if it is lost. It is valid until the next one.
func (w *rebuild) read(id [32]byte) ([]byte, error) {
	b, err := w.cfg.Objects.ReadBack(w.ctx, id, w.buf)
	if errors.Is(err, chunkstore.ErrCorrupt) || errors.Is(err, chunkstore.ErrMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w.buf = b
	return b, nil
}

// step replays one step.
func (w *rebuild) step(r *foundRoot) error {
	w.root, w.holds, w.lost = r, map[[32]byte]struct{}{r.id: {}}, 0
	// Marks of before stay; what is lost is added.
	w.tree.Begin(r.seq)
	if err := w.apply(r); err != nil {
		return err
	}
	if err := w.tree.End(); err != nil {
		return err
	}
	return w.record(r)
}

// apply makes the tree what a step says.
func (w *rebuild) apply(r *foundRoot) (err error) {
	var path []string
	if r.rec.Scope != "" {
		path = strings.Split(r.rec.Scope, "/")
	}
	if r.ino, err = w.tree.Scope(path, &r.dir); err != nil {
		return err
	}
	_, err = w.dir(r.ino, r.dir.Dir.ID, "")
	return err
}

// lostMarks is how many paths of a step are marked one by one.
const lostMarks = 20

// lose notes that something of the step at hand is lost.
func (w *rebuild) lose(path, why string) {
	if path == "" {
		path = "."
	}
	w.lost++
	if w.lost <= lostMarks {
		w.root.rec.Marks = append(w.root.rec.Marks, path+": "+why)
	}
	if w.cfg.Lost != nil {
		w.cfg.Lost(infoOf(w.root.seq, w.root.rec), path, why)
	}
}

// gone says which of the known snapshots are not back.
func (w *rebuild) gone() {
	for _, seq := range slices.Sorted(maps.Keys(w.cfg.Known)) {
		if s := w.cfg.Known[seq]; s.Name == "" {
			w.Barriers++
		} else if w.cfg.Lost != nil {
			w.cfg.Lost(infoOf(seq, s), ".", "the step is not in packs")
		}
	}
}

// record writes what the registry knows of a step.
func (w *rebuild) record(r *foundRoot) error {
	s := r.rec
	s.ScopeIno, s.Tree, s.Drained = r.ino, r.id, true
	if k := w.cfg.Known[r.seq]; k != nil && k.Time == s.Time {
		if k.Scope == s.Scope && k.Name == s.Name {
			s.Holds = k.Holds
		}
		delete(w.cfg.Known, r.seq)
	}
	if w.lost > 0 {
		if w.lost > lostMarks {
			s.Marks = append(s.Marks, fmt.Sprintf(".: %d more are not whole", w.lost-lostMarks))
		}
		becomePartial(s, nil)
		w.Partial++
	}
	w.Steps++
	if err := w.hold(r.seq); err != nil {
		return err
	}
	_, err := w.cfg.DB.Update(schema.KindRegistry, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixSnapshot, r.seq), s.Encode())
		if s.Name != "" {
			tx.Put(schema.NameKey(s.Scope, s.Name, r.seq), s.NameFlags())
		}
		return nil
	})
	if err == nil && w.cfg.Back != nil {
		w.cfg.Back(infoOf(r.seq, s), w.lost)
	}
	return err
}

// hold notes that a step needs the objects of its tree.
func (w *rebuild) hold(seq uint64) error {
	holder := schema.TreeHolder(seq)
	var ids [][32]byte
	for id := range w.holds {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	for some := range slices.Chunk(ids, 4096) {
		_, err := w.cfg.DB.Update(schema.KindRegistry, func(tx *state.Tx) error {
			for _, id := range some {
				tx.Put(schema.TreeRefKey(holder, id), nil)
				tx.Put(schema.ChunkRefKey(w.cfg.Domain, id, holder), nil)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// live makes the live tree the newest complete step of each scope, and ends the
// rebuild. A later one of a scope around another one goes over that.
func (w *rebuild) live(roots []*foundRoot) error {
	latest, last := map[string]*foundRoot{}, map[string]*foundRoot{}
	best, clock, seq := map[string]standing{}, int64(1), uint64(0)
	for _, r := range roots {
		scope := r.rec.Scope
		last[scope], seq, clock = r, r.seq, max(clock, r.rec.Clock)
		if s := standingOf(r.rec.NameFlags(), r.seq); s.over(best[scope]) {
			best[scope], latest[scope] = s, r
		}
	}
	var chosen []*foundRoot
	back := false
	for scope, r := range last {
		if c := latest[scope]; c != nil {
			chosen = append(chosen, c)
			back = back || c != r
		}
	}
	slices.SortFunc(chosen, func(a, b *foundRoot) int { return cmp.Compare(a.seq, b.seq) })
	for _, r := range chosen {
		w.Live = append(w.Live, infoOf(r.seq, r.rec))
		if back {
			seq++
			if err := w.state(seq, func() error { return w.apply(r) }); err != nil {
				return err
			}
		}
	}
	if slices.ContainsFunc(roots, func(r *foundRoot) bool { return r.stays }) {
		seq++
		err := w.state(seq, func() (err error) {
			for _, r := range last {
				err = errors.Join(err, w.tree.Remove(r.ino, include.Dir))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := w.tree.Finish(seq + 1); err != nil {
		return err
	}
	_, err := w.cfg.DB.Update(schema.KindRegistry, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixClock, uint64(clock)), schema.Counter(seq))
		tx.Put(schema.MetaKey(metaResolved), schema.Counter(uint64(w.cfg.Now.UnixNano())))
		return nil
	})
	return err
}

// state makes a state that no snapshot shows: prune finds it among the expired.
func (w *rebuild) state(seq uint64, fn func() error) error {
	w.root, w.holds, w.lost = &foundRoot{seq: seq, rec: &schema.Snapshot{}}, map[[32]byte]struct{}{}, 0
	w.tree.Begin(seq)
	if err := fn(); err != nil {
		return err
	}
	if err := w.tree.End(); err != nil {
		return err
	}
	_, err := w.cfg.DB.Update(schema.KindRegistry, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixExpired, seq), nil)
		return nil
	})
	return err
}
