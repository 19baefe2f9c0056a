package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/snapshot/include"
)

// Verifying a snapshot reads it back from where it lies: every chunk out of its
// pack, past the caches, and its hash is checked; a hot copy, which readers get
// as long as it is there, is compared with it; what is not stored yet is read
// from staging. Then the structure of a step's files is checked, with all that
// has a checksum of its own.
//
// Of a step its own directories and files are read, and what it includes, and not
// what else the job had at that moment: the cost is that of the step. Of a snapshot that a person
// named all of it is read, and no structure is asked for: it may well show files
// that were half written.

const (
	maxProblems   = 20       // that a record keeps
	maxProblemLen = 500      // bytes of each
	verifyPiece   = 1 << 20  // read at a time of what is staged
	verifyTell    = 16 << 20 // how often whoever waits hears of it
)

// verifying lets one snapshot be verified at a time, and has those that wait to
// be by themselves.
type verifying struct {
	ctx   context.Context // ends with the manager
	end   context.CancelFunc
	turn  chan struct{}
	nudge chan struct{}

	mu   sync.Mutex
	seqs []uint64
}

func newVerifying() *verifying {
	ctx, end := context.WithCancel(context.Background())
	return &verifying{ctx: ctx, end: end, turn: make(chan struct{}, 1), nudge: make(chan struct{}, 1)}
}

// Verify reads a snapshot back, and records how that went. tell, which may be
// nil, hears how many bytes are done, and of how many. An error says that it
// could not be found out; damage is in the Info's Verified field.
func (m *Manager) Verify(ctx context.Context, seq uint64, tell func(done, total int64)) (Info, error) {
	if err := m.begin(); err != nil {
		return Info{}, err
	}
	defer m.wg.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.verify.ctx, func() { cancel(nil) })()
	select {
	case m.verify.turn <- struct{}{}:
		defer func() { <-m.verify.turn }()
	case <-ctx.Done():
		return Info{}, ctx.Err()
	}
	m.pin(seq, 1)
	defer m.pin(seq, -1)
	i, err := m.Get(seq)
	if err != nil {
		return Info{}, err
	}
	v := &verifier{m: m, ctx: ctx, stop: cancel, view: m.tree.At(seq), tell: tell, links: map[uint64]bool{}}
	start := time.Now()
	done := make(chan error, 1)
	go func() { // a thread of its own, which ends with it
		BeNice()
		done <- v.snapshot(i)
	}()
	err = <-done
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Info{}, fmt.Errorf("verify %s: %w", i.Path(), err)
	}
	rec := &schema.Verified{Time: m.cfg.Now().UnixNano(), Took: int64(time.Since(start)), Bytes: v.done, Problems: v.problems}
	i, err = m.keep(seq, func(s *schema.Snapshot) error { s.Verified = rec; return nil })
	if err != nil {
		return Info{}, fmt.Errorf("record that %s was verified: %w", i.Path(), err)
	}
	if m.cfg.Events.Verified != nil {
		m.cfg.Events.Verified(i)
	}
	return i, nil
}

// verifySoon has a step that was just stored verified by itself, if that is
// asked for.
func (m *Manager) verifySoon(i Info) {
	if !m.cfg.VerifyOnSeal || i.Explicit {
		return
	}
	m.verify.mu.Lock()
	m.verify.seqs = append(m.verify.seqs, i.Seq)
	m.verify.mu.Unlock()
	select {
	case m.verify.nudge <- struct{}{}:
	default:
	}
}

// verifySealed verifies what waits for it until ctx ends. What waits then is
// not verified by itself any more.
func (m *Manager) verifySealed(ctx context.Context) {
	for {
		m.verify.mu.Lock()
		seqs := m.verify.seqs
		m.verify.seqs = nil
		m.verify.mu.Unlock()
		for _, seq := range seqs {
			_, err := m.Verify(ctx, seq, nil)
			if ctx.Err() != nil {
				return
			}
			if !errors.Is(err, ErrNotExist) { // it expired
				m.fault("verify", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-m.verify.nudge:
		}
	}
}

// verifier verifies one snapshot.
type verifier struct {
	m    *Manager
	ctx  context.Context
	stop context.CancelCauseFunc
	view View

	chunk []byte   // the chunk read last
	id    [32]byte // its name, while chunk is not empty
	copy  []byte   // what its hot copy says, or what is staged

	links       map[uint64]bool // files of several names that are done
	done, total int64
	told        int64
	tell        func(done, total int64)
	problems    []string
	left        int // problems that are too many
}

// snapshot verifies all there is. An error is one of ctx.
func (v *verifier) snapshot(i Info) error {
	own := piecesOf(v.view, i)
	pieces := []string{i.Scope}
	if len(own) > 0 {
		pieces = own
		if dir := join(i.Scope, include.Dir); exists(v.view, dir) {
			pieces = append(slices.Clone(own), dir)
		}
	}
	for _, p := range pieces {
		v.walk(p, func(_ string, n Node) { v.total += n.Size })
	}
	clear(v.links)
	v.problems, v.left = nil, 0 // the next walk finds them again
	for _, p := range pieces {
		v.walk(p, v.file)
	}
	v.objects(i)
	if i.Verdict != VerdictPartial {
		v.structure(i.Scope, own)
	}
	if v.left > 0 {
		v.problems = append(v.problems, fmt.Sprintf("and %d more problems", v.left))
	}
	return v.ctx.Err()
}

func exists(v View, path string) bool {
	_, ok := find(v, path)
	return ok
}

// piecesOf gives the paths of a step's own directories and files; none where a
// person gave the name, or nothing is called like the step.
func piecesOf(view View, i Info) (paths []string) {
	if i.Name == "" || i.Explicit {
		return nil
	}
	if i.Judged {
		for _, p := range i.Pieces {
			paths = append(paths, join(i.Scope, p))
		}
		return paths
	}
	_ = each(view, i.ScopeIno, func(e Entry) error { // without them all is verified, and finds the error again
		if step, ok := stepOf(e.Name, e.Type != modeDir); ok && step == i.Name {
			paths = append(paths, join(i.Scope, e.Name))
		}
		return nil
	})
	return paths
}

// problem keeps what is wrong with a path.
func (v *verifier) problem(path string, err error) {
	if v.ctx.Err() != nil {
		return // it is not the snapshot that failed
	}
	if errors.Is(err, chunkstore.ErrUnreachable) {
		v.stop(err) // nor is it now
		return
	}
	if len(v.problems) == maxProblems {
		v.left++
		return
	}
	text := path + ": " + err.Error()
	v.problems = append(v.problems, text[:min(len(text), maxProblemLen)])
}

func (v *verifier) advance(n int64) {
	v.done += n
	if v.tell != nil && v.done-v.told >= verifyTell {
		v.told = v.done
		v.tell(v.done, v.total)
	}
}

// walk calls fn for each regular file at or below a path.
func (v *verifier) walk(path string, fn func(path string, n Node)) {
	ino, ok := find(v.view, path)
	if !ok {
		v.problem(path, ErrNotExist)
		return
	}
	type directory struct {
		path string
		ino  uint64
	}
	var todo []directory
	visit := func(path string, ino uint64) {
		n, err := v.view.Node(ino)
		switch {
		case err != nil:
			v.problem(path, err)
		case n.Mode&modeType == modeDir:
			todo = append(todo, directory{path, ino})
		case n.Mode&modeType == modeReg && (n.Nlink < 2 || !v.links[ino]):
			if n.Nlink > 1 {
				v.links[ino] = true
			}
			fn(path, n)
		}
	}
	visit(path, ino)
	for len(todo) > 0 && v.ctx.Err() == nil {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		err := each(v.view, d.ino, func(e Entry) error {
			visit(join(d.path, e.Name), e.Ino)
			return v.ctx.Err()
		})
		if err != nil {
			v.problem(d.path, err)
		}
	}
}

// file verifies one file.
func (v *verifier) file(path string, n Node) {
	es, stored, err := v.view.Chunks(n.Ino)
	if err != nil {
		v.problem(path, err)
		return
	}
	if !stored {
		if err := v.staged(n); err != nil {
			v.problem(path, err)
		}
		return
	}
	copied, err := v.view.Copied(n.Ino)
	bad := 0
	for _, e := range es {
		if v.ctx.Err() != nil {
			return
		}
		if failed := v.extent(n.Ino, e, copied); failed != nil {
			bad++
			err = firstOf(err, fmt.Errorf("at %d: %w", e.Off, failed))
		}
		v.advance(int64(e.Len))
	}
	if bad > 1 {
		err = fmt.Errorf("%w; %d chunks of it are damaged", err, bad)
	}
	if err != nil {
		v.problem(path, err)
	}
}

// firstOf gives the first error.
func firstOf(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// extent verifies a chunk of a file, and that the file's hot copy agrees.
func (v *verifier) extent(ino uint64, e schema.ChunkExtent, copied bool) error {
	if len(v.chunk) == 0 || v.id != e.ID {
		b, err := v.m.cfg.Chunks.ReadBack(v.ctx, e.ID, v.chunk)
		if err != nil {
			v.chunk = v.chunk[:0]
			return err
		}
		v.chunk, v.id = b, e.ID
	}
	if int(e.Raw) != len(v.chunk) || uint64(e.Skip)+uint64(e.Len) > uint64(e.Raw) {
		return fmt.Errorf("chunk %x has %d bytes, the file says %d", e.ID, len(v.chunk), e.Raw)
	}
	if !copied {
		return nil
	}
	v.copy = slices.Grow(v.copy[:0], int(e.Len))[:e.Len]
	n, err := v.view.Read(ino, v.copy, e.Off)
	if err != nil {
		return fmt.Errorf("its hot copy: %w", err)
	}
	if n != len(v.copy) || !bytes.Equal(v.copy, v.chunk[e.Skip:e.Skip+e.Len]) {
		return errors.New("its hot copy is not what was stored")
	}
	return nil
}

// staged reads the data of a file that has no hashes yet.
func (v *verifier) staged(n Node) error {
	v.copy = slices.Grow(v.copy[:0], verifyPiece)[:verifyPiece]
	for off := int64(0); off < n.Size && v.ctx.Err() == nil; {
		start, err := v.view.Lseek(n.Ino, off, unix.SEEK_DATA)
		if err != nil {
			return nil // a hole up to the end; the read of data says what fails
		}
		end, err := v.view.Lseek(n.Ino, start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for off = start; off < end && v.ctx.Err() == nil; {
			got, err := v.view.Read(n.Ino, v.copy[:min(verifyPiece, end-off)], off)
			if err == nil && got == 0 {
				err = fmt.Errorf("it ends at %d of %d bytes", off, n.Size)
			}
			if err != nil {
				return err
			}
			off += int64(got)
			v.advance(int64(got))
		}
	}
	return nil
}

// objects reads back the objects of a stored step's tree, by which it can be
// found without the index.
func (v *verifier) objects(i Info) {
	if i.Tree == [32]byte{} {
		return
	}
	prefix := schema.Numbered(schema.PrefixTreeRef, schema.TreeHolder(i.Seq))
	it, err := v.m.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		v.problem("tree", err)
		return
	}
	defer it.Close()
	for ok := it.First(); ok && v.ctx.Err() == nil; ok = it.Next() {
		var id [32]byte
		if copy(id[:], it.Key()[len(prefix):]) != len(id) {
			v.problem("tree", errors.New("a key of it is too short"))
			continue
		}
		if len(it.Value()) > 0 {
			continue // content, which was read by the chunks that it has here
		}
		b, err := v.m.cfg.Chunks.ReadBack(v.ctx, id, v.chunk)
		if v.chunk, v.id = b, id; err != nil {
			v.chunk = v.chunk[:0]
			v.problem("tree", err)
		}
	}
	if err := it.Error(); err != nil {
		v.problem("tree", err)
	}
}
