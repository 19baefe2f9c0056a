package published

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
)

const (
	// idleChunks bounds what is kept of snapshots that nobody reads at the
	// moment: where so many chunks lie, at 72 bytes each.
	idleChunks = 512 << 10
	idleOpen   = 64 // and so many snapshots
)

// Snapshots keeps the snapshots of a bucket open that are read, and those that
// were read last: finding out where the chunks of one lie takes requests.
type Snapshots struct {
	bucket    remote.Bucket
	downloads *chunkstore.Downloads
	ctx       context.Context // of all that is opened: nobody's leaving fails another reader
	stop      context.CancelFunc
	tasks     sync.WaitGroup

	mu     sync.Mutex
	open   map[refKey]*Opened
	idle   list.List // of *Opened that nobody reads, the one read last in front
	chunks int       // of those that are idle
}

// Opened is an open snapshot.
type Opened struct {
	Tree *Tree
	Run  Run

	of     *Snapshots
	key    refKey
	chunks *chunkstore.Published
	ready  chan struct{} // closed when it is open, or err is set
	err    error
	refs   int           // under Snapshots.mu
	elem   *list.Element // in idle; nil: not there
}

// NewSnapshots reads snapshots out of a bucket. key is that of its config.
func NewSnapshots(b remote.Bucket, key [32]byte, o chunkstore.PublishedOptions) *Snapshots {
	s := &Snapshots{bucket: b, downloads: chunkstore.NewDownloads(b, key, o), open: map[refKey]*Opened{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Close ends it. Nothing of it may be in use any more.
func (s *Snapshots) Close() {
	s.stop()
	s.tasks.Wait()
	s.downloads.Close()
}

// Open gives a snapshot, which stays open until it is released.
func (s *Snapshots) Open(ctx context.Context, step *Step) (*Opened, error) {
	o := s.take(step)
	select {
	case <-o.ready:
	case <-ctx.Done():
		o.Release()
		return nil, ctx.Err()
	}
	if o.err != nil {
		err := o.err
		o.Release()
		return nil, s.Explain(ctx, step, err)
	}
	return o, nil
}

// Explain says of an error in reading a snapshot whether it is ErrGone.
func (s *Snapshots) Explain(ctx context.Context, step *Step, err error) error {
	if !errors.Is(err, remote.ErrNotExist) && !errors.Is(err, chunkstore.ErrMissing) && !errors.Is(err, bucket.ErrGone) {
		return err
	}
	if there, e := isThere(ctx, s.bucket, step); e == nil && !there {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}

// Root gives a snapshot's own directory. Of all packs only the first is looked at,
// which has the root: who lists many snapshots opens none.
func (s *Snapshots) Root(ctx context.Context, step *Step) (schema.TreeEntry, error) {
	if root, err := s.rootAlone(ctx, step); err == nil {
		return root, nil
	}
	o, err := s.Open(ctx, step) // which knows what is wrong, or another way
	if err != nil {
		return schema.TreeEntry{}, err
	}
	defer o.Release()
	return o.Tree.root, nil
}

func (s *Snapshots) rootAlone(ctx context.Context, step *Step) (root schema.TreeEntry, err error) {
	ref, err := bucket.ReadRef(ctx, s.bucket, step.Writer, step.Ref)
	if err != nil {
		return root, err
	}
	ref.Packs = ref.Packs[:min(1, len(ref.Packs))]
	chunks, err := s.downloads.Open(ctx, ref)
	if err != nil {
		return root, err
	}
	defer chunks.Close()
	t, err := Open(ctx, chunks, ref)
	if err != nil {
		return root, err
	}
	return t.root, nil
}

func (s *Snapshots) take(step *Step) *Opened {
	key := refKey{step.Writer, step.Ref}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.open[key]
	if o == nil {
		o = &Opened{of: s, key: key, ready: make(chan struct{})}
		s.open[key] = o
		s.tasks.Go(func() { s.begin(o) })
	}
	if o.elem != nil {
		s.idle.Remove(o.elem)
		o.elem = nil
		s.chunks -= o.chunks.Chunks()
	}
	o.refs++
	return o
}

// begin opens a snapshot. One that can't be opened is tried again by who comes next.
func (s *Snapshots) begin(o *Opened) {
	err := o.read(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.err = err; err != nil {
		delete(s.open, o.key)
	}
	close(o.ready)
	if o.refs == 0 {
		s.rest(o) // nobody has waited for it
	}
}

func (o *Opened) read(ctx context.Context) error {
	ref, err := bucket.ReadRef(ctx, o.of.bucket, o.key.writer, o.key.seq)
	if err != nil {
		return err
	}
	if o.chunks, err = o.of.downloads.Open(ctx, ref); err != nil {
		return fmt.Errorf("find the chunks of %s: %w", ref.Key(), err)
	}
	if o.Tree, err = Open(ctx, o.chunks, ref); err != nil {
		o.chunks.Close()
	}
	return err
}

// Release ends what Open began.
func (o *Opened) Release() {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if o.refs--; o.refs > 0 {
		return
	}
	select {
	case <-o.ready:
		o.of.rest(o)
	default: // begin does
	}
}

// rest keeps a snapshot that nobody reads, as far as there is room. s.mu is held.
func (s *Snapshots) rest(o *Opened) {
	if o.err != nil {
		return
	}
	o.elem = s.idle.PushFront(o)
	s.chunks += o.chunks.Chunks()
	for s.idle.Len() > 1 && (s.chunks > idleChunks || s.idle.Len() > idleOpen) {
		last := s.idle.Remove(s.idle.Back()).(*Opened)
		s.chunks -= last.chunks.Chunks()
		delete(s.open, last.key)
		last.chunks.Close()
	}
}
