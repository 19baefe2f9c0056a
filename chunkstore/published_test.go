package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/meter"
	"stepfs/chunkstore/remote/retry"
)

// published puts the packs of a store into a bucket, with index objects for all
// but each third, and gives a ref of them all.
func (f *fixture) published(b remote.Bucket) *bucket.Ref {
	f.t.Helper()
	w := bucket.Writer{7}
	ref := &bucket.Ref{Writer: w, Seq: 1, Snapshot: 1}
	x := &bucket.Index{Writer: w, Seq: 1}
	names, err := f.fs.List(f.dir)
	try(f.t, err)
	for _, name := range names {
		if !strings.HasSuffix(name, pack.Suffix) {
			continue
		}
		file, err := f.fs.Open(f.fs.PathJoin(f.dir, name))
		try(f.t, err)
		text, err := io.ReadAll(file)
		try(f.t, errors.Join(err, file.Close()))
		footer, id, err := pack.ReadFooter(bytes.NewReader(text), int64(len(text)))
		try(f.t, err)
		p := bucket.Pack{Name: id, Writer: w, Seq: uint64(len(ref.Packs)), Size: int64(len(text))}
		try(f.t, b.Put(f.t.(*testing.T).Context(), p.Key(), remote.Bytes(text)))
		ref.Packs = append(ref.Packs, p)
		if p.Seq%3 == 0 {
			continue
		}
		x.Packs = []bucket.Indexed{{Seq: p.Seq, Size: p.Size, Footer: text[footer.Body : len(text)-pack.TrailerSize]}}
		try(f.t, b.Put(f.t.(*testing.T).Context(), x.Key(), remote.Bytes(x.Encode())))
		x.Seq++
	}
	return ref
}

func try(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publishedSeries is a store of versions, chunks of all encodings among them, in
// a bucket.
func publishedSeries(t *testing.T, b remote.Bucket) (*bucket.Ref, Config, []content, [][]Ref) {
	t.Helper()
	cfg := deltaConfig()
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	versions := append(series(1, 10_000, 8), solid(randomBytes(3, 60_000)), solid(bytes.Repeat([]byte("text "), 9000)))
	refs := f.storeSeries(versions)
	have := map[pack.Encoding]bool{}
	for _, loc := range audit(f).chunks {
		have[pack.Encoding(loc.Enc)] = true
	}
	if len(have) != 4 {
		t.Fatalf("the store has the encodings %v alone", have)
	}
	ref := f.published(b)
	if len(ref.Packs) <= 6 {
		t.Fatalf("%d packs", len(ref.Packs))
	}
	return ref, cfg, versions, refs
}

// openPublished opens a ref as if all of its packs were large.
func openPublished(t *testing.T, b remote.Bucket, cfg Config, ref *bucket.Ref, o PublishedOptions) *Published {
	t.Helper()
	p, err := OpenPublished(t.Context(), b, cfg.Key, ref, o)
	try(t, err)
	p.where.whole = nil
	t.Cleanup(p.Close)
	return p
}

// readVersion reads a version front to back, as a file is read: in pieces, with what
// follows announced.
func readVersion(ctx context.Context, p *Published, refs []Ref, want []byte) error {
	var ids []ID
	for _, r := range refs {
		ids = append(ids, r.ID)
	}
	for k, r := range refs {
		p.Ahead(ids[k:min(k+8, len(ids))])
		for off := 0; off < int(r.Len); off += 1500 {
			b := make([]byte, min(1500, int(r.Len)-off))
			if err := p.ReadAt(ctx, r.ID, r.Len, b, off); err != nil {
				return err
			}
			if !bytes.Equal(b, want[int(r.Off)+off:][:len(b)]) {
				return errors.New("WRONG BYTES")
			}
		}
	}
	return nil
}

// What is made from a part of a base, or rounded from one, comes back, too.
func TestPublishedWindows(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	versions := series(11, 10_000, 2)
	versions[1] = longer(versions[1], 777)
	versions = append(versions, rounded(versions[0]))
	refs := f.storeSeries(versions[:1])
	for i, plan := range []Plan{moved(refs[0], 777), halves(refs[0])} {
		p := f.over(versions[i+1], plan)
		f.hold(uint64(i+2), p.Refs())
		refs = append(refs, p.Refs())
		p.Release()
	}
	x, windows, wide := audit(f), 0, 0
	for _, loc := range x.chunks {
		if link, err := linkOf(loc); err == nil && link.Window != (pack.Window{}) {
			windows++
			if link.Wide {
				wide++
			}
		}
	}
	if windows == wide || wide == 0 {
		t.Fatalf("%d windows, %d wide: nothing proved", windows, wide)
	}
	b := mem.New()
	p := openPublished(t, b, f.cfg, f.published(b), PublishedOptions{CacheBytes: 1})
	for v, rs := range refs {
		try(t, readVersion(t.Context(), p, rs, versions[v].data))
	}
}

// Everything comes back, whatever its encoding, with little fetched in vain, and
// within the memory that is allowed.
func TestPublished(t *testing.T) {
	b := meter.New(mem.New())
	ref, cfg, versions, refs := publishedSeries(t, b)
	for _, room := range []int64{1, 64 << 10, 4 << 20} {
		p := openPublished(t, b, cfg, ref, PublishedOptions{AheadBytes: room, CacheBytes: room})
		before := b.Stats().Get
		wanted := map[*located]bool{}
		for v, c := range versions {
			for _, r := range refs[v] {
				chain, err := p.where.chain(r.ID)
				try(t, err)
				for _, l := range chain {
					wanted[l] = true
				}
			}
			try(t, readVersion(t.Context(), p, refs[v], c.data))
		}
		after := b.Stats().Get
		bytes := int64(0)
		for l := range wanted {
			bytes += int64(l.stored)
		}
		got := after.Bytes - before.Bytes
		t.Logf("room for %d: %d requests, %d bytes of %d", room, after.Calls-before.Calls, got, bytes)
		if room == 4<<20 && (got > bytes*11/10 || after.Calls-before.Calls > int64(len(wanted))/2) {
			t.Errorf("%d bytes by %d requests, where %d chunks of %d bytes are wanted", got, after.Calls-before.Calls, len(wanted), bytes)
		}
		p.spans.mu.Lock()
		if len(p.spans.of) > 0 && p.spans.bytes > max(room, 2*spanSize) {
			t.Errorf("room for %d: %d bytes are kept", room, p.spans.bytes)
		}
		p.spans.mu.Unlock()
	}
}

// Where chunks lie is known, with the index and without, and when it is wrong.
func TestPublishedWhereabouts(t *testing.T) {
	b := mem.New()
	ref, cfg, versions, refs := publishedSeries(t, b)
	for len(ref.Packs) <= ownFooters { // what else there is in it does not matter
		ref.Packs = append(ref.Packs, ref.Packs[len(ref.Packs)%7])
	}
	for o, err := range b.List(t.Context(), bucket.IndexPrefix, "") {
		try(t, err)
		if strings.HasSuffix(o.Key, "2") {
			try(t, b.Put(t.Context(), o.Key, remote.Bytes([]byte("no index"))))
		}
	}
	counted := meter.New(b)
	p := openPublished(t, counted, cfg, ref, PublishedOptions{})
	if s := counted.Stats(); s.List.Calls == 0 || s.List.Bytes == 0 {
		t.Error("no index object was looked for")
	}
	for v, c := range versions {
		try(t, readVersion(t.Context(), p, refs[v], c.data))
	}
}

// short gives fewer bytes than there are, now and then.
type short struct {
	remote.Bucket
	n atomic.Int64
}

func (b *short) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	n, info, err := b.Bucket.Get(ctx, key, p, off)
	if b.n.Add(1)%23 == 0 && n > 1 {
		return n / 2, info, io.EOF
	}
	return n, info, err
}

// Whatever happens to requests, what is read is right, or an error.
func TestPublishedFaults(t *testing.T) {
	b := mem.New()
	ref, cfg, versions, refs := publishedSeries(t, b)
	rnd := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	faults, failures := 0, 0
	sometimes := fault.Sometimes(0.15, 1)
	flaky := fault.New(&short{Bucket: b}, func(verb, key string) fault.Fault {
		mu.Lock()
		defer mu.Unlock()
		f := sometimes(verb, key)
		if f == (fault.Fault{}) && verb == "get" && rnd.IntN(8) == 0 {
			f.Damage = true
		}
		if f != (fault.Fault{}) {
			faults++
		}
		return f
	})
	defer flaky.Wait()
	quick := retry.Options{First: time.Microsecond, Most: time.Millisecond, Budget: 1 << 20}
	for round := 0; faults < 600; round++ {
		p, err := OpenPublished(t.Context(), retry.New(flaky, quick), cfg.Key, ref, PublishedOptions{AheadBytes: 256 << 10, CacheBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for v, c := range versions {
			group.Go(func() {
				if err := readVersion(t.Context(), p, refs[v], c.data); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failures++
					if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMissing) {
						t.Errorf("version %d: %v", v, err)
					}
				}
			})
		}
		group.Wait()
		p.Close()
	}
	t.Logf("%d faults, %d of the files not read to the end", faults, failures)
}

// A bit that is wrong in the bucket is found, named, and hurts nothing else.
func TestPublishedDamage(t *testing.T) {
	b := mem.New()
	ref, cfg, versions, refs := publishedSeries(t, b)
	p := openPublished(t, b, cfg, ref, PublishedOptions{})
	bad := refs[8][0] // of random bytes: nothing is made from it
	l, err := p.where.chain(bad.ID)
	try(t, err)
	key := p.where.key(l[0])
	text, _, err := remote.ReadAll(t.Context(), b, key, 1<<20)
	try(t, err)
	text[l[0].off+5] ^= 4
	try(t, b.Put(t.Context(), key, remote.Bytes(text)))
	counted := meter.New(b)
	p = openPublished(t, counted, cfg, ref, PublishedOptions{})
	before := counted.Stats().Get.Calls
	err = p.ReadAt(t.Context(), bad.ID, bad.Len, make([]byte, bad.Len), 0)
	for _, says := range []string{key, fmt.Sprintf("%x", bad.ID)} {
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: it is not said of %s", err, says)
		}
	}
	if n := counted.Stats().Get.Calls - before; n != 2 {
		t.Errorf("wrong bytes were fetched %d times", n)
	}
	for v, c := range versions {
		if v != 8 {
			try(t, readVersion(t.Context(), p, refs[v], c.data))
		}
	}
	p = openPublished(t, b, cfg, ref, PublishedOptions{})
	var ids []ID
	for _, r := range refs[8] {
		ids = append(ids, r.ID)
	}
	p.Ahead(ids) // together with the bad one
	for _, r := range refs[8][1:] {
		try(t, p.ReadAt(t.Context(), r.ID, r.Len, make([]byte, r.Len), 0))
	}
}

// A pack that is not there is named; what is in the others can be read.
func TestPublishedMissingPack(t *testing.T) {
	for _, early := range []bool{true, false} {
		b := mem.New()
		ref, cfg, versions, refs := publishedSeries(t, b)
		p := openPublished(t, b, cfg, ref, PublishedOptions{})
		chain, err := p.where.chain(refs[9][0].ID)
		try(t, err)
		key := p.where.key(chain[0])
		for o, err := range b.List(t.Context(), bucket.IndexPrefix, "") {
			try(t, err)
			try(t, b.Delete(t.Context(), o.Key))
		}
		try(t, b.Delete(t.Context(), key))
		if early {
			p = openPublished(t, b, cfg, ref, PublishedOptions{})
		}
		readable, lost := 0, 0
		for v, c := range versions {
			switch err := readVersion(t.Context(), p, refs[v], c.data); {
			case err == nil:
				readable++
			case errors.Is(err, ErrMissing) && strings.Contains(err.Error(), key):
				lost++
			default:
				t.Errorf("version %d: %v", v, err)
			}
		}
		if readable == 0 || lost == 0 {
			t.Errorf("%d files can be read, %d not", readable, lost)
		}
	}
}

// A small pack comes with its footer: it is asked for once, and what is in it is held
// against its name all the same. What is wrong is fetched again.
func TestPublishedSmallPacks(t *testing.T) {
	b := mem.New()
	ref, cfg, versions, refs := publishedSeries(t, b)
	counted := meter.New(b)
	p, err := OpenPublished(t.Context(), counted, cfg.Key, ref, PublishedOptions{})
	try(t, err)
	defer p.Close()
	small := uint64(0)
	for _, k := range ref.Packs {
		if k.Size <= 64<<10 {
			small++
		}
	}
	if len(p.where.whole) != int(small) || small < 6 {
		t.Fatalf("of %d packs, %d are small and %d were kept", len(ref.Packs), small, len(p.where.whole))
	}
	chain, err := p.where.chain(refs[2][0].ID)
	try(t, err)
	wrong := chain[len(chain)-1]
	p.where.whole[wrong.pack][wrong.off+1] ^= 8
	before := counted.Stats().Get.Calls
	for v := range 8 { // of small chunks alone, in small packs
		try(t, readVersion(t.Context(), p, refs[v], versions[v].data))
	}
	if n := counted.Stats().Get.Calls - before; n != 1 {
		t.Errorf("%d requests, and one chunk of what came with the footers is wrong", n)
	}
	short, err := OpenPublished(t.Context(), b, cfg.Key, ref, PublishedOptions{})
	try(t, err)
	defer short.Close()
	for k, whole := range short.where.whole {
		short.where.whole[k] = whole[:100] // its footer says that there is more
	}
	for v, c := range versions {
		try(t, readVersion(t.Context(), short, refs[v], c.data))
	}
}

// Right checksums prove nothing: the name does.
func TestPublishedWrongKey(t *testing.T) {
	b := mem.New()
	ref, cfg, _, refs := publishedSeries(t, b)
	cfg.Key[0]++
	p := openPublished(t, b, cfg, ref, PublishedOptions{})
	for v := range refs {
		r := refs[v][0]
		if err := p.ReadAt(t.Context(), r.ID, r.Len, make([]byte, r.Len), 0); !errors.Is(err, ErrCorrupt) || !errors.Is(err, errWrongName) {
			t.Errorf("version %d: %v", v, err)
		}
		if err := p.ReadAt(t.Context(), r.ID, r.Len+1, make([]byte, r.Len), 0); !errors.Is(err, ErrCorrupt) {
			t.Errorf("version %d, of another length: %v", v, err)
		}
	}
}

// Who goes away while he waits fails nobody else.
func TestPublishedCancel(t *testing.T) {
	b := mem.New()
	ref, cfg, versions, refs := publishedSeries(t, b)
	slow := fault.New(b, func(string, string) fault.Fault { return fault.Fault{Delay: time.Millisecond} })
	p := openPublished(t, slow, cfg, ref, PublishedOptions{})
	var group sync.WaitGroup
	for k := range 40 {
		group.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if k%2 == 0 {
				time.AfterFunc(time.Duration(k)*50*time.Microsecond, cancel)
			}
			v := k / 2 % len(versions)
			if err := readVersion(ctx, p, refs[v], versions[v].data); err != nil && (k%2 == 1 || !errors.Is(err, context.Canceled)) {
				t.Errorf("reader %d: %v", k, err)
			}
		})
	}
	group.Wait()
}

// Parts become requests: near ones one, in the order in which they are needed.
func TestMerge(t *testing.T) {
	at := func(pack uint32, off int64, n uint32) *located { return &located{pack: pack, off: off, stored: n} }
	parts := []*located{at(2, 500, 100), at(1, 9<<20, 1000), at(1, 100, 1000), at(1, 1200, 1000), at(1, 2300, spanSize), at(2, 650, 10), at(2, 4000, 10)}
	var got []string
	for _, s := range merge(parts) {
		got = append(got, fmt.Sprintf("%d:%d+%d of %d", s.pack, s.off, s.size, len(s.parts)))
	}
	want := []string{"2:500+160 of 2", "1:9437184+1000 of 1", "1:100+2100 of 2", "1:2300+4194304 of 1", "2:4000+10 of 1"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Who announces what he does not read is not believed for long.
func TestAheadInVain(t *testing.T) {
	fetched := atomic.Int64{}
	s := newSpans(16<<20, func(_ context.Context, sp *span) error {
		fetched.Add(int64(sp.size))
		sp.buf = &buffer{bytes: make([]byte, sp.size)}
		return nil
	}, func(*buffer) {})
	defer s.close()
	var ahead []*located
	for k := range 200 {
		ahead = append(ahead, &located{pack: 1, off: int64(k) << 20, stored: 1 << 20})
	}
	read := int64(0)
	for k := range 400 {
		s.ahead(nil, ahead[k/2:])
		l := &located{pack: 2, off: int64(k) << 21, stored: 1 << 20}
		sp, _, err := s.take(t.Context(), nil, l)
		try(t, err)
		s.release(sp, l)
		read += 1 << 20
	}
	s.close()
	if vain := fetched.Load() - read; vain > read/16+spanWaste+16<<20+spanSize {
		t.Errorf("%d bytes were fetched in vain, %d read", vain, read)
	}
	if s.bytes > s.max+spanSize {
		t.Errorf("%d bytes are kept", s.bytes)
	}
}

// Who announces a little more with each read has it fetched by few requests, each
// byte once, and all of it.
func TestAheadInOrder(t *testing.T) {
	requests, bytes := atomic.Int64{}, atomic.Int64{}
	s := newSpans(64<<20, func(_ context.Context, sp *span) error {
		requests.Add(1)
		bytes.Add(int64(sp.size))
		sp.buf = &buffer{bytes: make([]byte, sp.size)}
		return nil
	}, func(*buffer) {})
	defer s.close()
	const chunk, window, chunks = 256 << 10, 128, 1000
	var all []*located
	for k := range chunks {
		all = append(all, &located{pack: 1, off: int64(k) * chunk, stored: chunk})
	}
	for k, l := range all {
		s.ahead(nil, all[k:min(k+window, chunks)])
		sp, _, err := s.take(t.Context(), nil, l)
		try(t, err)
		s.release(sp, l)
	}
	s.close()
	if n := requests.Load(); n > chunks*chunk/spanSize+10 || bytes.Load() != chunks*chunk {
		t.Errorf("%d chunks were fetched by %d requests of %d bytes", chunks, n, bytes.Load())
	}
}

// What was read last is kept longest: its reader comes back for the rest.
func TestReadLastGoesLast(t *testing.T) {
	s := newSpans(3<<20, func(_ context.Context, sp *span) error {
		sp.buf = &buffer{bytes: make([]byte, sp.size)}
		return nil
	}, func(*buffer) {})
	defer s.close()
	read := func(l *located) *span {
		sp, _, err := s.take(t.Context(), nil, l)
		try(t, err)
		s.releasePiece(sp, l, 1000)
		return sp
	}
	parts := make([]*located, 4)
	for k := range parts {
		parts[k] = &located{pack: uint32(k), stored: 1 << 20}
	}
	first := read(parts[0])
	read(parts[1])
	read(parts[2])
	read(parts[0])
	read(parts[3]) // there is room for three
	if read(parts[0]) != first || s.of[parts[1]] != nil {
		t.Error("what was read last has gone, and what was read first is kept")
	}
}
