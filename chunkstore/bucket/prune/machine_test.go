package prune

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
)

// grace is that of the pruners here.
const grace = 10 * time.Minute

// chunks is how many different ones there are: few, so that all reuse the same.
const chunks = 5

// TestMachine explores the protocol: three stores that publish, reuse what
// others have put, forget, and at times come back as another writer, and three that prune, of whom two have clocks that
// are off by a day. After each change in the bucket every ref names only packs
// that are there; in the end nothing is there that no ref needs.
//
// STEPFS_PRUNE_SEEDS is how many runs there are, STEPFS_PRUNE_SEED the first.
func TestMachine(t *testing.T) {
	runs, first := number(t, "STEPFS_PRUNE_SEEDS", 8), number(t, "STEPFS_PRUNE_SEED", 1)
	var sum counts
	for seed := first; seed < first+runs && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) { sum.add(explore(t, uint64(seed))) })
	}
	t.Logf("%+v", sum)
	for what, n := range map[string]int{"requests were lost": sum.lost, "requests came late": sum.late, "processes crashed": sum.crashes, "lists were old": sum.oldLists,
		"refs were published": sum.published, "packs were reused": sum.hits, "refs were refused": sum.refused, "refs were forgotten": sum.forgotten,
		"writers were fenced": sum.fenced, "packs were spared": sum.spared, "packs were deleted": sum.deleted, "refs were stopped on their way": sum.blocked} {
		if n == 0 && runs >= 8 {
			t.Errorf("no %s: nothing is proved", what)
		}
	}
}

func number(t *testing.T, env string, standard int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return standard
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// explore is one run.
func explore(t *testing.T, seed uint64) counts {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), mem: mem.New(), refs: map[string]*bucket.Ref{}, writers: map[bucket.Writer]bool{}}
	config := &bucket.Config{ID: strings.Repeat("0a", 16), Polynomial: chunker.Pol(0x3DA3358B4DC173)}
	if err := w.mem.Put(t.Context(), bucket.ConfigKey, remote.Bytes(config.Encode())); err != nil {
		t.Fatal(err)
	}
	var running []*actor
	for k := range 3 {
		u := &uploader{world: w, id: bucket.Writer{byte(k + 1)}, rnd: rand.New(rand.NewPCG(seed, uint64(k+10))), known: map[int][]bucket.Pack{}}
		running = append(running, start(w, fmt.Sprintf("writer%d", k), u.run))
		skew := time.Duration(k-1) * 24 * time.Hour
		rnd := rand.New(rand.NewPCG(seed, uint64(k+20)))
		running = append(running, start(w, fmt.Sprintf("pruner%d", k), func(ctx context.Context, b remote.Bucket) {
			r, err := Run(ctx, b, Options{Grace: grace, Now: func() time.Time { return time.Now().Add(skew) }})
			if errors.Is(err, errLost) {
				t.Errorf("seed %d: %v", seed, err)
			}
			w.count(func(c *counts) {
				c.fenced += len(r.Fenced)
				c.spared += r.Spared
				c.deleted += r.Deleted.Packs
			})
			time.Sleep(time.Duration(rnd.Int64N(int64(grace))))
		}))
	}
	for range 4000 {
		if w.move(); w.wrong != nil {
			break
		}
	}
	for _, a := range running {
		a.stop(w)
	}
	// Some requests arrive now, some when all has been pruned.
	w.rnd.Shuffle(len(w.late), func(i, j int) { w.late[i], w.late[j] = w.late[j], w.late[i] })
	half := len(w.late) / 2
	for _, late := range [][]*request{w.late[:half], w.late[half:]} {
		for _, r := range late {
			w.deliverLate(r)
		}
		w.clean(seed)
	}
	if w.wrong != nil {
		t.Errorf("seed %d: %v", seed, w.wrong)
	}
	return w.seen
}

// actor is a process that is begun anew each time that it ends.
type actor struct {
	p       *process
	stopped chan struct{}
	done    chan struct{}
}

func start(w *world, name string, life func(ctx context.Context, b remote.Bucket)) *actor {
	a := &actor{stopped: make(chan struct{}), done: make(chan struct{})}
	renew := func() {
		ctx, end := context.WithCancel(context.Background())
		w.mu.Lock()
		a.p = &process{name: name, ctx: ctx, end: end}
		w.mu.Unlock()
	}
	renew()
	go func() {
		defer close(a.done)
		for {
			p := a.p
			life(p.ctx, wire{w, p})
			select {
			case <-a.stopped:
				return
			default:
			}
			if p.ctx.Err() != nil {
				renew()
			}
		}
	}()
	return a
}

// stop ends it for good.
func (a *actor) stop(w *world) {
	synctest.Wait()
	close(a.stopped)
	for {
		w.mu.Lock()
		p := a.p
		w.mu.Unlock()
		w.crash(p)
		select {
		case <-a.done:
			return
		case <-time.After(time.Hour):
		}
	}
}

// clean prunes until nothing changes any more, and looks what is left.
func (w *world) clean(seed uint64) {
	for k := range 9 {
		if k == 5 {
			w.litter()
		}
		time.Sleep(2 * grace)
		if _, err := Run(context.Background(), w.mem, Options{Grace: grace}); err != nil {
			w.t.Errorf("seed %d: %v", seed, err)
			return
		}
	}
	all := w.all()
	needed := map[string]bool{}
	for _, f := range w.refs {
		for _, p := range f.Packs {
			needed[p.Key()] = true
		}
	}
	there := map[bucket.PackID]bool{}
	lists := 0
	for _, o := range all {
		if p, ok := bucket.ParsePackKey(o.Key); ok {
			there[p.ID()] = true
			if !needed[o.Key] {
				w.t.Errorf("seed %d: %s is there, and nobody needs it", seed, o.Key)
			}
		}
		if _, _, ok := bucket.ParseNumbered(bucket.IndexPrefix, o.Key); ok && !w.there(w.packOf(o.Key)) {
			w.t.Errorf("seed %d: %s lists what is not there any more", seed, o.Key)
		}
		if _, ok := bucket.ParseRetiredKey(o.Key); ok && o.Size != bucket.GoneSize {
			lists++
		}
	}
	if lists > 1 {
		w.t.Errorf("seed %d: %d lists are left", seed, lists)
	}
	for key, f := range w.refs {
		for _, p := range f.Packs {
			if w.there(p.Key()) {
				continue
			}
			w.t.Errorf("seed %d: in the end %s names %s, which is not there", seed, key, p.Key())
		}
	}
}

// litter puts a pack of each writer that nobody needs: an index object that came
// after its packs were deleted goes with the next pack of its writer.
func (w *world) litter() {
	for id := range w.writers {
		w.litters++
		p := bucket.Pack{Writer: id, Seq: 1<<20 + w.litters}
		if err := w.mem.Put(context.Background(), p.Key(), remote.Bytes(nil)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// packOf is the key of the one pack that an index object lists.
func (w *world) packOf(key string) string {
	writer, seq, _ := bucket.ParseNumbered(bucket.IndexPrefix, key)
	data, _, err := remote.ReadAll(context.Background(), w.mem, key, bucket.MaxIndex)
	if err != nil {
		w.t.Fatal(err)
	}
	x, err := bucket.DecodeIndex(data, writer, seq)
	if err != nil {
		w.t.Fatal(err)
	}
	return x.Pack(x.Packs[0]).Key()
}

// uploader is a writer. What is in it is in its store, and survives a crash.
type uploader struct {
	world       *world
	id          bucket.Writer
	attached    byte // how often
	rnd         *rand.Rand
	pack, index uint64 // numbers given out
	snapshot    uint64
	known       map[int][]bucket.Pack // packs that hold a chunk, of all writers

	// Of its process.
	lease *Lease
	b     remote.Bucket
	ctx   context.Context
}

// run is the life of one process.
func (u *uploader) run(ctx context.Context, b remote.Bucket) {
	var err error
	u.ctx, u.b = ctx, b
	if u.rnd.IntN(3) == 0 { // its store is attached anew
		u.attached++
		u.id[1] = u.attached
	}
	u.world.count(func(*counts) { u.world.writers[u.id] = true })
	if u.lease, err = Take(ctx, b, u.id); err != nil {
		time.Sleep(time.Second)
		return
	}
	for ctx.Err() == nil {
		switch u.rnd.IntN(12) {
		case 0:
			err = u.lease.Renew(ctx)
		case 1:
			u.learn()
		case 2, 3, 4:
			u.forget()
		case 5:
			switch u.rnd.IntN(8) {
			case 0, 1:
				err = u.lease.Release(ctx)
			case 2, 3: // it ends without a word
				return
			}
		case 6:
			long := []time.Duration{time.Minute, time.Hour, 7 * 24 * time.Hour}
			time.Sleep(long[u.rnd.IntN(len(long))] / 10)
		case 7:
			u.lease.Keep(u.pack + 1)
		default:
			u.snapshot++
			for range 3 { // whatever goes wrong, it is tried again
				if err = u.publish(u.snapshot); err == nil || ctx.Err() != nil {
					break
				}
			}
		}
		if errors.Is(err, ErrTaken) || errors.Is(err, errLost) {
			u.world.t.Errorf("%s: %v", u.id, err)
			return
		}
	}
}

// publish puts what a snapshot of some chunks needs, and its ref.
func (u *uploader) publish(snapshot uint64) error {
	f := &bucket.Ref{Snapshot: snapshot, Root: pack.ID{byte(snapshot), byte(snapshot >> 8)}}
	for k := range chunks {
		if (snapshot*7+uint64(k)*3)%5 < 2 {
			p, err := u.store(k)
			if err != nil {
				return err
			}
			f.Packs = append(f.Packs, p)
		}
	}
	err := u.lease.Publish(u.ctx, f)
	var bad *RetiredError
	if errors.As(err, &bad) {
		u.world.count(func(c *counts) { c.refused++ })
	}
	if err == nil {
		u.world.count(func(c *counts) { c.published++ })
	}
	return err
}

// store gives a pack that holds a chunk: one that it knows, if it may use it.
func (u *uploader) store(chunk int) (bucket.Pack, error) {
	known := u.known[chunk]
	for _, k := range u.rnd.Perm(len(known)) {
		if u.lease.MayUse(known[k]) {
			u.world.count(func(c *counts) { c.hits++ })
			return known[k], nil
		}
	}
	u.pack++
	e := pack.Entry{ID: blake3.Sum256([]byte{byte(chunk)}), Type: pack.TypeData, Enc: pack.EncRaw, Offset: pack.HeaderSize, Stored: uint32(chunk + 1), Raw: uint32(chunk + 1)}
	footer := pack.AppendFooter(nil, pack.Footer{Info: pack.Info{Hash: pack.HashBLAKE3}, Body: e.End(), Entries: []pack.Entry{e}})
	p := bucket.Pack{Name: pack.NameOf(footer), Writer: u.id, Seq: u.pack, Size: 1}
	if err := u.b.Put(u.ctx, p.Key(), remote.Bytes([]byte{byte(chunk)})); err != nil {
		return p, err
	}
	u.known[chunk] = append(u.known[chunk], p)
	u.index++
	x := &bucket.Index{Writer: u.id, Seq: u.index, Packs: []bucket.Indexed{{Seq: p.Seq, Size: 1, Footer: footer}}}
	return p, u.b.Put(u.ctx, x.Key(), remote.Bytes(x.Encode()))
}

// learn reads the index objects of all. What they list is believed for ever.
func (u *uploader) learn() {
	for o, err := range u.b.List(u.ctx, bucket.IndexPrefix, "") {
		if err != nil {
			return
		}
		if u.rnd.IntN(4) != 0 {
			continue
		}
		w, seq, _ := bucket.ParseNumbered(bucket.IndexPrefix, o.Key)
		data, _, err := remote.ReadAll(u.ctx, u.b, o.Key, bucket.MaxIndex)
		if err != nil {
			continue
		}
		x, err := bucket.DecodeIndex(data, w, seq)
		if err != nil {
			u.world.t.Error(err)
			return
		}
		entries, err := x.Packs[0].Entries()
		if err != nil {
			u.world.t.Error(err)
			return
		}
		chunk := int(entries[0].Stored) - 1
		if p := x.Pack(x.Packs[0]); !slices.Contains(u.known[chunk], p) {
			u.known[chunk] = append(u.known[chunk], p)
		}
	}
}

// forget forgets a snapshot of anybody.
func (u *uploader) forget() {
	left := 4
	for o, err := range u.b.List(u.ctx, bucket.RefsPrefix, "") {
		if err != nil || left == 0 {
			return
		}
		w, seq, _ := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if o.Size > bucket.GoneSize && u.rnd.IntN(3) != 0 {
			if Forget(u.ctx, u.b, w, seq) == nil {
				u.world.count(func(c *counts) { c.forgotten++ })
			}
			left--
		}
	}
}
