package prune

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
)

// The world of machine_test.go: a bucket, and between it and those who use it a
// wire on which each request waits until the explorer says what becomes of it.
// It may be answered, fail without being made, be made and have its answer lost,
// fail and be made at any time later, or be made a second time later. Lists may
// be old, and have holes. A process may end at any request, or stand still.

// request is one that is on the wire.
type request struct {
	proc      *process
	verb, key string
	change    bool // whether it changes anything
	do        func(ctx context.Context) error
	answer    chan error
}

// process is one that uses the bucket, until it is ended.
type process struct {
	name   string
	ctx    context.Context
	end    context.CancelFunc
	frozen int // until this step
}

var errWire = remote.Fail("request", "", remote.ErrRetryable, errors.New("injected"))

// world is what the explorer moves.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	mem     *mem.Bucket
	step    int
	litters uint64
	seen    counts

	mu      sync.Mutex
	waiting []*request // whose callers wait
	late    []*request // whom nobody waits for
	lists   [][]remote.Object
	wrong   error                  // the invariant was broken
	writers map[bucket.Writer]bool // that there ever were
	refs    map[string]*bucket.Ref // that are there
}

// counts are what a run has explored.
type counts struct {
	requests, lost, late, crashes, oldLists                                               int
	published, hits, shared, missed, refused, forgotten, fenced, spared, deleted, blocked int
}

func (c *counts) add(o counts) {
	c.requests += o.requests
	c.lost += o.lost
	c.late += o.late
	c.crashes += o.crashes
	c.oldLists += o.oldLists
	c.published += o.published
	c.hits += o.hits
	c.shared += o.shared
	c.missed += o.missed
	c.refused += o.refused
	c.forgotten += o.forgotten
	c.fenced += o.fenced
	c.spared += o.spared
	c.deleted += o.deleted
	c.blocked += o.blocked
}

// count changes the counts.
func (w *world) count(f func(c *counts)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.seen)
}

// wire is the bucket as a process sees it.
type wire struct {
	w *world
	p *process
}

func (b wire) String() string { return "wire:" + b.p.name }

// send waits until the explorer has answered.
func (b wire) send(verb, key string, change bool, do func(ctx context.Context) error) error {
	if b.p.ctx.Err() != nil {
		return remote.Ended(b.p.ctx, verb, key)
	}
	r := &request{proc: b.p, verb: verb, key: key, change: change, do: do, answer: make(chan error, 1)}
	b.w.mu.Lock()
	b.w.waiting = append(b.w.waiting, r)
	b.w.mu.Unlock()
	return <-r.answer
}

func (b wire) Put(_ context.Context, key string, c remote.Content) error {
	if !strings.HasPrefix(key, bucket.PacksPrefix) && !strings.HasPrefix(key, bucket.IndexPrefix) { // the uploaders' of this test
		b.w.overwrites(key, c)
	}
	return b.send("put", key, true, func(ctx context.Context) error { return b.w.mem.Put(ctx, key, c) })
}

func (b wire) PutIfAbsent(_ context.Context, key string, c remote.Content) (version string, err error) {
	var v string // a late request must not write to what the caller has
	err = b.send("put-if-absent", key, true, func(ctx context.Context) error {
		got, err := b.w.mem.PutIfAbsent(ctx, key, c)
		v = got
		if errors.Is(err, remote.ErrExists) && strings.HasPrefix(key, bucket.RefsPrefix) && c.Size > bucket.GoneSize {
			b.w.count(func(c *counts) { c.blocked++ })
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return v, nil
}

func (b wire) ReplaceIfMatch(_ context.Context, key, version string, c remote.Content) (string, error) {
	if !strings.HasPrefix(key, bucket.LeasesPrefix) && c.Size != bucket.GoneSize {
		b.w.overwrites(key, c)
	}
	var v string
	err := b.send("replace", key, true, func(ctx context.Context) (err error) {
		v, err = b.w.mem.ReplaceIfMatch(ctx, key, version, c)
		return err
	})
	if err != nil {
		return "", err
	}
	return v, nil
}

// overwrites: nothing but a lease is, but by its tombstone.
func (w *world) overwrites(key string, c remote.Content) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong == nil {
		w.wrong = fmt.Errorf("step %d: %s is put over, %d bytes", w.step, key, c.Size)
	}
}

func (b wire) Get(_ context.Context, key string, p []byte, off int64) (n int, info remote.Info, err error) {
	err = b.send("get", key, false, func(ctx context.Context) (err error) {
		n, info, err = b.w.mem.Get(ctx, key, p, off)
		return err
	})
	return n, info, err
}

func (b wire) Stat(_ context.Context, key string) (info remote.Info, err error) {
	err = b.send("stat", key, false, func(ctx context.Context) (err error) {
		info, err = b.w.mem.Stat(ctx, key)
		return err
	})
	return info, err
}

func (b wire) Delete(_ context.Context, key string) error {
	return b.send("delete", key, true, func(ctx context.Context) error { return b.w.mem.Delete(ctx, key) })
}

// List gives what was there a while ago, at times, or not all of it.
func (b wire) List(_ context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		var all []remote.Object
		err := b.send("list", prefix, false, func(ctx context.Context) error {
			all = b.w.list()
			return nil
		})
		if err != nil {
			yield(remote.Object{}, err)
			return
		}
		for _, o := range all {
			if strings.HasPrefix(o.Key, prefix) && o.Key > after && !yield(o, nil) {
				return
			}
		}
	}
}

// list is all that is there, as a list has it.
func (w *world) list() []remote.Object {
	now := w.all()
	w.lists = append(w.lists, now)
	if len(w.lists) > 40 {
		w.lists = w.lists[1:]
	}
	switch w.rnd.IntN(4) {
	case 0:
		w.seen.oldLists++
		return w.lists[w.rnd.IntN(len(w.lists))]
	case 1:
		w.seen.oldLists++
		return slices.DeleteFunc(slices.Clone(now), func(remote.Object) bool { return w.rnd.IntN(5) == 0 })
	}
	return now
}

func (w *world) all() (all []remote.Object) {
	for o := range w.mem.List(context.Background(), "", "") {
		all = append(all, o)
	}
	return all
}

// deliver makes a request, and looks whether the invariant holds.
func (w *world) deliver(r *request) error {
	err := r.do(context.Background())
	if r.change && w.wrong == nil {
		if bad := w.dangling(r.key); bad != "" {
			w.wrong = fmt.Errorf("step %d: after %s %s of %s: %s", w.step, r.verb, r.key, r.proc.name, bad)
		}
	}
	return err
}

// deliverLate makes a request that nobody waits for.
func (w *world) deliverLate(r *request) {
	w.seen.late++
	_ = w.deliver(r)
}

// dangling names a ref that names a pack that is not there, now that something
// may have changed under a key.
func (w *world) dangling(key string) string {
	if writer, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, key); ok {
		f, err := readRef(context.Background(), w.mem, writer, seq)
		if err != nil && !errors.Is(err, bucket.ErrGone) {
			w.t.Fatal(err)
		}
		delete(w.refs, key)
		if err == nil {
			w.refs[key] = f
			for _, p := range f.Packs {
				if !w.there(p.Key()) {
					return fmt.Sprintf("%s names %s, which is not there", key, p.Key())
				}
			}
		}
	}
	if p, ok := bucket.ParsePackKey(key); ok && !w.there(key) {
		for name, f := range w.refs {
			if slices.ContainsFunc(f.Packs, func(q bucket.Pack) bool { return q.ID() == p.ID() }) {
				return fmt.Sprintf("%s names %s, which is not there any more", name, key)
			}
		}
	}
	return ""
}

func (w *world) there(key string) bool {
	_, err := w.mem.Stat(context.Background(), key)
	return err == nil
}

// move does one thing: it answers a request, delivers a late one, lets time go
// by, stops a process for a while or ends it.
func (w *world) move() {
	synctest.Wait()
	w.step++
	ready := w.ready()
	switch n := w.rnd.IntN(100); {
	case n < 2 && len(ready) > 0:
		ready[0].proc.frozen = w.step + w.rnd.IntN(300)
	case n < 3 && len(ready) > 0:
		w.crash(ready[w.rnd.IntN(len(ready))].proc)
	case n < 8 && len(w.late) > 0:
		k := w.rnd.IntN(len(w.late))
		r := w.late[k]
		w.late = slices.Delete(w.late, k, k+1)
		w.deliverLate(r)
	case n < 12 || len(ready) == 0:
		time.Sleep(time.Duration(w.rnd.Int64N(int64(grace))))
	default:
		w.answer(ready[w.rnd.IntN(len(ready))])
	}
}

// ready are the requests of processes that do not stand still, in an order that
// the seed decides.
func (w *world) ready() (rs []*request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.waiting {
		if r.proc.frozen < w.step {
			rs = append(rs, r)
		}
	}
	slices.SortStableFunc(rs, func(a, b *request) int {
		return strings.Compare(a.proc.name+a.verb+a.key, b.proc.name+b.verb+b.key)
	})
	return rs
}

// answer decides what becomes of a request.
func (w *world) answer(r *request) {
	w.take(r)
	w.seen.requests++
	n := w.rnd.IntN(100)
	if !r.change && w.rnd.IntN(4) != 0 {
		n = 99 // or no prune ever comes to its end
	}
	switch {
	case n < 4: // later, and once more if it is made now
		w.late = append(w.late, r)
		w.seen.lost++
		r.answer <- errWire
	case n < 6:
		w.seen.lost++
		r.answer <- errWire
	case n < 8:
		w.seen.lost++
		_ = w.deliver(r)
		r.answer <- errWire
	case n < 12 && r.change:
		r.answer <- w.deliver(r)
		w.late = append(w.late, r)
	default:
		r.answer <- w.deliver(r)
	}
}

// take takes a request off the wire.
func (w *world) take(r *request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = slices.DeleteFunc(w.waiting, func(o *request) bool { return o == r })
}

// crash ends a process. What it has on the wire arrives or not.
func (w *world) crash(p *process) {
	w.seen.crashes++
	p.end()
	w.mu.Lock()
	rs := slices.Clone(w.waiting)
	w.mu.Unlock()
	for _, r := range rs {
		if r.proc == p {
			w.take(r)
			if r.change && w.rnd.IntN(2) == 0 {
				w.late = append(w.late, r)
			}
			r.answer <- remote.Ended(p.ctx, r.verb, r.key)
		}
	}
}
