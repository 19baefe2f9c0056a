package s3

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/restic/chunker"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	faulty "stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/retry"
)

// Writers publish, reuse each other's packs and forget, while two prune that
// have no patience at all, on a real server and with one request in twenty
// failing. Every ref names what is there, at each moment at which nobody prunes;
// and in the end nothing else is there. (Package prune explores all that can
// happen; this is that a server does what the protocol builds on.)
func TestPrune(t *testing.T) {
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			opt := srv.options(srv.bucket(t))
			opt.Prefix = "run"
			inner := open(t, opt)
			_, err := bucket.Join(t.Context(), inner, &bucket.Config{ID: strings.Repeat("0a", 16), Polynomial: chunker.Pol(0x3DA3358B4DC173)})
			must(t, err)
			p := &pruneRun{t: t, inner: inner, begun: time.Now()}
			var writers, pruners sync.WaitGroup
			for k := range 3 {
				writers.Go(func() { p.write(bucket.Writer{byte(k + 1)}, uint64(k)) })
			}
			stop := make(chan struct{})
			for k := range 2 {
				pruners.Go(func() { p.prune(p.faulty(uint64(k+10)), stop) })
			}
			writers.Wait()
			close(stop)
			pruners.Wait()
			p.end()
		})
	}
}

// pruneRun is one such test.
type pruneRun struct {
	t     *testing.T
	inner remote.Bucket
	begun time.Time

	mu    sync.Mutex
	packs []bucket.Pack // that were put, by anybody

	published, refused, forgotten, deleted, fenced, failed atomic.Int64
}

// proved says whether all that is to happen has happened.
func (p *pruneRun) proved() bool {
	return p.published.Load() > 0 && p.forgotten.Load() > 0 && p.deleted.Load() > 0 && p.fenced.Load() > 0
}

// on says whether to go on: for a second, and on a slow machine until something
// is proved.
func (p *pruneRun) on() bool {
	past := time.Since(p.begun)
	return past < time.Second || past < time.Minute && !p.proved()
}

// faulty is the bucket as one process sees it.
func (p *pruneRun) faulty(seed uint64) remote.Bucket {
	f := faulty.New(p.inner, faulty.Sometimes(0.05, seed))
	p.t.Cleanup(f.Wait)
	return retry.New(f, retry.Options{First: time.Millisecond, Most: 10 * time.Millisecond})
}

func (p *pruneRun) write(w bucket.Writer, seed uint64) {
	ctx, b, rnd := p.t.Context(), p.faulty(seed), rand.New(rand.NewPCG(seed, 0))
	l, err := prune.Take(ctx, b, w)
	if err != nil {
		p.t.Error(err)
		return
	}
	seq := uint64(0)
	for snapshot := uint64(1); p.on(); snapshot++ {
		f := &bucket.Ref{Snapshot: snapshot}
		if old, ok := p.known(rnd); ok && l.MayUse(old) {
			f.Packs = append(f.Packs, old)
		}
		seq++
		l.Keep(seq)
		own := bucket.Pack{Name: pack.Name{byte(seq)}, Writer: w, Seq: seq, Size: 1}
		if err := b.Put(ctx, own.Key(), remote.Bytes([]byte("x"))); err != nil {
			p.t.Error(err)
			return
		}
		f.Packs = append(f.Packs, own)
		p.mu.Lock()
		p.packs = append(p.packs, own)
		p.mu.Unlock()
		var bad *prune.RetiredError
		switch err := l.Publish(ctx, f); {
		case errors.As(err, &bad):
			p.refused.Add(1)
			continue
		case err != nil: // of a server that answers; so it is one of ours
			p.failed.Add(1)
			continue
		}
		p.published.Add(1)
		if rnd.IntN(3) > 0 {
			if err := prune.Forget(ctx, b, w, f.Seq); err != nil {
				p.t.Error(err)
			}
			p.forgotten.Add(1)
		}
	}
}

func (p *pruneRun) known(rnd *rand.Rand) (bucket.Pack, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.packs) == 0 {
		return bucket.Pack{}, false
	}
	return p.packs[rnd.IntN(len(p.packs))], true
}

func (p *pruneRun) prune(b remote.Bucket, stop chan struct{}) {
	for {
		r, err := prune.Run(context.WithoutCancel(p.t.Context()), b, prune.Options{Now: func() time.Time { return time.Now().Add(time.Hour) }})
		if err != nil {
			p.t.Error(err)
			return
		}
		p.deleted.Add(int64(r.Deleted.Packs))
		p.fenced.Add(int64(len(r.Fenced)))
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end prunes what is left, and looks that all that is needed is there, and no
// more.
func (p *pruneRun) end() {
	ctx := p.t.Context()
	for range 3 {
		_, err := prune.Run(ctx, p.inner, prune.Options{Now: func() time.Time { return time.Now().Add(time.Hour) }})
		must(p.t, err)
	}
	there, needed := map[string]bool{}, map[string]bool{}
	for o, err := range p.inner.List(ctx, "", "") {
		must(p.t, err)
		if _, ok := bucket.ParsePackKey(o.Key); ok {
			there[o.Key] = true
		}
		w, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if !ok || o.Size == bucket.GoneSize {
			continue
		}
		data, _, err := remote.ReadAll(ctx, p.inner, o.Key, bucket.MaxRef)
		must(p.t, err)
		f, err := bucket.DecodeRef(data, w, seq)
		must(p.t, err)
		for _, k := range f.Packs {
			needed[k.Key()] = true
		}
	}
	for key := range needed {
		if !there[key] {
			p.t.Errorf("%s is needed, and gone", key)
		}
	}
	for key := range there {
		if !needed[key] {
			p.t.Errorf("%s is not needed, and there", key)
		}
	}
	p.t.Logf("published %d, refused %d, forgotten %d, packs deleted %d, writers fenced %d, failed %d", p.published.Load(), p.refused.Load(), p.forgotten.Load(), p.deleted.Load(), p.fenced.Load(), p.failed.Load())
	if !p.proved() {
		p.t.Error("nothing is proved")
	}
}
