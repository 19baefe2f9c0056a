package chunkstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/meter"
)

// otherWriter puts packs that are footers alone, and index objects of them.
type otherWriter struct {
	t           *testing.T
	b           remote.Bucket
	w           bucket.Writer
	packs, objs uint64
}

func (o *otherWriter) introduce() {
	i := &bucket.WriterInfo{Writer: o.w}
	try(o.t, o.b.Put(o.t.Context(), bucket.WriterKey(o.w), remote.Bytes(i.Encode())))
}

func numberedID(k int) (id ID) {
	copy(id[:], fmt.Sprintf("%-32d", k))
	return id
}

// put puts a pack of the chunks from first on, and an index object of it.
func (o *otherWriter) put(first, n int, there bool) bucket.Pack {
	o.t.Helper()
	f := pack.Footer{Info: pack.Info{Hash: pack.HashBLAKE3}, Body: pack.HeaderSize}
	for k := range n {
		e := pack.Entry{ID: numberedID(first + k), Type: pack.TypeData, Enc: pack.EncRaw, Offset: f.Body, Stored: 1, Raw: 1}
		f.Entries, f.Body = append(f.Entries, e), e.End()
	}
	foot := pack.AppendFooter(nil, f)
	body := append(make([]byte, f.Body), foot...)
	body = pack.AppendTrailer(body, f.Body, len(foot))
	o.packs++
	p := bucket.Pack{Name: pack.NameOf(foot), Writer: o.w, Seq: o.packs, Size: int64(len(body))}
	if there {
		try(o.t, o.b.Put(o.t.Context(), p.Key(), remote.Bytes(body)))
	}
	o.objs++
	x := &bucket.Index{Writer: o.w, Seq: o.objs, Packs: []bucket.Indexed{{Seq: p.Seq, Size: p.Size, Footer: foot}}}
	try(o.t, o.b.Put(o.t.Context(), x.Key(), remote.Bytes(x.Encode())))
	return p
}

func anyPack(bucket.Pack) bool { return true }

// finds says in which pack a chunk is found.
func (o *others) finds(t *testing.T, k int, may func(bucket.Pack) bool) (bucket.Pack, bool) {
	t.Helper()
	p, _, ok, err := o.find(t.Context(), numberedID(k), may)
	try(t, err)
	return p, ok
}

// What others have sent is found once their index object was read, which is done
// once: in packs that are there, and may be used.
func TestOthers(t *testing.T) {
	b := meter.New(mem.New())
	one, self := &otherWriter{t: t, b: b, w: bucket.Writer{1}}, &otherWriter{t: t, b: b, w: bucket.Writer{2}}
	one.introduce()
	self.introduce()
	want := one.put(0, 3, true)
	one.put(10, 3, false)
	self.put(20, 3, true)
	o := newOthers(b, self.w, 0)
	try(t, o.refresh(t.Context()))
	if p, ok := o.finds(t, 2, anyPack); !ok || p != want {
		t.Errorf("found in %v %v, not in %v", p, ok, want)
	}
	if _, ok := o.finds(t, 2, func(bucket.Pack) bool { return false }); ok {
		t.Error("a pack is used that may not be")
	}
	for what, k := range map[string]int{"nobody has": 99, "is in a pack that is not there": 11, "the store itself has": 21} {
		if _, ok := o.finds(t, k, anyPack); ok {
			t.Errorf("found what %s", what)
		}
	}
	try(t, b.Put(t.Context(), bucket.IndexKey(one.w, 3), remote.Bytes([]byte("no index object"))))
	one.objs++
	one.put(30, 3, true)
	try(t, o.refresh(t.Context()))
	if _, ok := o.finds(t, 31, anyPack); ok {
		t.Error("it is looked for again at once")
	}
	before := b.Stats().Get.Calls
	o.looked = o.looked.Add(-time.Hour)
	try(t, o.refresh(t.Context()))
	if _, ok := o.finds(t, 31, anyPack); !ok {
		t.Error("what has come since is not found")
	}
	if _, ok := o.finds(t, 1, anyPack); !ok || b.Stats().Get.Calls-before > 4 { // two objects, one of them twice, and a footer
		t.Errorf("%d requests", b.Stats().Get.Calls-before)
	}
	other := newOthers(b, self.w, 5)
	try(t, other.refresh(t.Context()))
	if _, ok := other.finds(t, 1, anyPack); ok {
		t.Error("found in another domain")
	}
}

// A refresh that fails goes on where it was.
func TestOthersFail(t *testing.T) {
	base := mem.New()
	one := &otherWriter{t: t, b: base, w: bucket.Writer{1}}
	one.introduce()
	for k := range 20 {
		one.put(10*k, 3, true)
	}
	var requests atomic.Int64
	b := fault.New(base, func(verb, key string) fault.Fault {
		if verb == "get" && requests.Add(1)%7 == 0 {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, fault.ErrInjected)}
		}
		return fault.Fault{}
	})
	o := newOthers(b, bucket.Writer{2}, 0)
	tries := 0
	for ; o.refresh(context.Background()) != nil; tries++ {
		if tries > 20 {
			t.Fatal("it does not come to an end")
		}
	}
	if tries == 0 {
		t.Error("nothing failed")
	}
	for k := range 20 {
		id := numberedID(10*k + 2)
		if _, known := o.chunks[shortID(id[:16])]; !known {
			t.Errorf("pack %d is not known after %d failures", k, tries)
		}
	}
}

// However much others have, what is kept of it is bounded, and is the newest.
func TestOthersMany(t *testing.T) {
	o := newOthers(mem.New(), bucket.Writer{2}, 0)
	foot := func(first, n int) []byte {
		f := pack.Footer{Info: pack.Info{Hash: pack.HashBLAKE3}, Body: pack.HeaderSize}
		for k := range n {
			e := pack.Entry{ID: numberedID(first + k), Type: pack.TypeData, Enc: pack.EncRaw, Offset: f.Body, Raw: 1, Stored: 1}
			f.Entries, f.Body = append(f.Entries, e), e.End()
		}
		return pack.AppendFooter(nil, f)
	}
	o.max = 1000
	for k := range 100 {
		o.add(&bucket.Index{Writer: bucket.Writer{1}, Packs: []bucket.Indexed{{Seq: uint64(k), Footer: foot(100*k, 100)}}})
		if len(o.chunks) > 1000 || len(o.packs) > 11 {
			t.Fatalf("%d chunks of %d packs are known", len(o.chunks), len(o.packs))
		}
		id := numberedID(100*k + 50)
		at, known := o.chunks[shortID(id[:16])]
		if !known || o.packs[at-o.gone].Seq != uint64(k) {
			t.Errorf("what came last is not known: %d %v", at, known)
		}
	}
}
