package snapshot

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
)

// niceness of the threads that ingest: the training job comes first.
const niceness = 10

// splitted is one content with its chunks under way.
type splitted struct {
	f       Frozen
	pending *chunkstore.Pending
	path    string // "" when it has none any more
	key     string // of the content for the next version of the same file
	done    bool   // there was nothing to be stored
	later   bool   // its turn comes when nothing else is due
	err     error
}

// ingest splits a batch with a few workers, waits until all its chunks are
// durable, and swaps each content from staged to stored. What it puts off it notes.
func (s *storer) ingest(ctx context.Context, batch []Frozen) error {
	// Large contents first: the workers then end together.
	sort.SliceStable(batch, func(i, j int) bool { return batch[i].Bytes() > batch[j].Bytes() })
	results := make([]splitted, len(batch))
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range min(s.workers(), len(batch)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			BeNice()
			for k := range jobs {
				results[k] = s.split(ctx, batch[k])
			}
		}()
	}
	for k := range batch {
		jobs <- k
	}
	close(jobs)
	wg.Wait()
	return s.swap(ctx, results)
}

// swap ends a batch. A content that failed does not keep the others back; if
// all fail, something is wrong with more than each of them.
func (s *storer) swap(ctx context.Context, results []splitted) error {
	if err := s.m.cfg.Chunks.Flush(ctx); err != nil {
		for k := range results {
			if p := results[k].pending; p != nil {
				p.Release()
			}
		}
		return fmt.Errorf("flush packs: %w", err)
	}
	fresh := map[uint64]*account{}
	var failures []*splitted
	for k := range results {
		r := &results[k]
		if r.done || r.later {
			continue
		}
		if r.err == nil {
			r.err = r.pending.Wait(ctx)
		}
		if r.err == nil {
			r.err = r.f.Store(ctx, extents(r.pending.Refs()), r.key)
		}
		if r.pending != nil {
			r.pending.Release() // held, or given up
		}
		if r.err != nil {
			failures = append(failures, r)
			continue
		}
		s.account(fresh, r)
	}
	errs := []error{ctx.Err()}
	for seq, a := range fresh {
		errs = append(errs, s.m.amend(seq, func(i *schema.Snapshot) { i.Brought += a.raw; i.Stored += a.packed }))
	}
	if len(failures) == len(results) && len(failures) > 1 {
		return errors.Join(append(errs, failures[0].err)...)
	}
	s.note(results)
	return errors.Join(errs...)
}

// note remembers which contents failed.
func (s *storer) note(results []splitted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range results {
		ino := r.f.Ino()
		if r.later {
			s.later[ino] = true
			continue
		}
		if r.err == nil {
			delete(s.later, ino)
			delete(s.bad, ino)
			s.stored++
			continue
		}
		if s.bad[ino] == nil {
			s.bad[ino] = &retry{}
		}
		r.err = fmt.Errorf("store %q: %w", r.path, r.err)
		s.bad[ino].failed(r.err)
		s.m.fault("store", r.err)
	}
}

// account is what a step has brought that was not there before.
type account struct{ raw, packed int64 }

// account puts a content down to the oldest waiting step that has it.
func (s *storer) account(fresh map[uint64]*account, r *splitted) {
	raw, packed := r.pending.NewBytes(), r.pending.StoredBytes()
	if raw == 0 && packed == 0 {
		return
	}
	s.mu.Lock()
	var seqs []uint64
	for _, st := range s.steps {
		if sees(st.seq, r.f.Epoch(), r.f.Until()) {
			seqs = append(seqs, st.seq)
		}
	}
	s.mu.Unlock()
	sort.Slice(seqs, func(i, j int) bool { return seqs[i] < seqs[j] })
	for _, seq := range seqs {
		i, err := s.m.Get(seq)
		if err != nil || i.Scope != "" && !strings.HasPrefix(r.path, i.Scope+"/") {
			continue
		}
		if fresh[seq] == nil {
			fresh[seq] = &account{}
		}
		fresh[seq].raw += raw
		fresh[seq].packed += packed
		return
	}
}

// extents gives whole chunks as extents.
func extents(refs []chunkstore.Ref) []schema.ChunkExtent {
	es := make([]schema.ChunkExtent, len(refs))
	for k, r := range refs {
		es[k] = schema.ChunkExtent{Off: r.Off, Len: r.Len, Raw: r.Len, ID: r.ID}
	}
	return es
}

func (s *storer) workers() int {
	if n := s.m.cfg.Workers; n > 0 {
		return n
	}
	return max(1, runtime.NumCPU()/4)
}

// BeNice lowers the priority of the calling goroutine's thread, which ends
// with the goroutine. Without the right to, it stays as it is.
func BeNice() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness)
}

// source makes a frozen content a chunkstore.Source.
type source struct {
	Frozen
	segs []chunkstore.Segment
}

func (s source) Segments() []chunkstore.Segment { return s.segs }

// size is where its data ends.
func (s source) size() int64 {
	if len(s.segs) == 0 {
		return 0
	}
	last := s.segs[len(s.segs)-1]
	return last.Off + last.Len
}

// split hands one content to the chunk store. It is settled first: what is
// stored is read from its hot copy, which a power cut must not tear.
func (s *storer) split(ctx context.Context, f Frozen) (r splitted) {
	r.f = f
	if r.err = ctx.Err(); r.err != nil {
		return r
	}
	path, named := f.Path()
	r.path = path
	if err := f.Settle(); err != nil {
		r.err = fmt.Errorf("settle before ingest: %w", err)
		return r
	}
	if r.done, r.err = f.Done(); r.done || r.err != nil {
		return r
	}
	segs, err := f.Segments()
	if err != nil {
		r.err = err
		return r
	}
	var plan chunkstore.Plan
	if named {
		r.key = maskNumbers(path)
		if plan, r.later, r.err = s.plan(ctx, source{f, segs}, r.key); r.later || r.err != nil {
			return r
		}
	}
	r.pending, r.err = s.m.cfg.Chunks.IngestOver(ctx, source{f, segs}, plan)
	return r
}
