package published

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/schema"
)

// put publishes a snapshot of which nothing but its ref is there.
func put(t *testing.T, b remote.Bucket, w byte, ref, seq uint64, scope, name, verdict string) *bucket.Ref {
	t.Helper()
	rec := &schema.Snapshot{Scope: scope, Name: name, Verdict: verdict, Time: int64(seq), Logical: 10}
	f := &bucket.Ref{Writer: bucket.Writer{w}, Seq: ref, Snapshot: seq, Record: rec.Encode(), Packs: []bucket.Pack{{Size: 1}}}
	if err := b.Put(t.Context(), f.Key(), remote.Bytes(f.Encode())); err != nil {
		t.Fatal(err)
	}
	return f
}

// shown lists a directory, with what its link points to.
func shown(n *Names, path string) string {
	d := n.Dir(path)
	if d == nil {
		return "-"
	}
	var all []string
	for _, e := range d.Entries {
		if e.Step == nil {
			e.Name += "/"
		} else if e.Step.ID() != e.Name {
			e.Name = e.Step.ID()
		}
		all = append(all, e.Name)
	}
	return strings.Join(all, " ") + " > " + d.Latest
}

func refreshed(t *testing.T, c *Catalog) *Names {
	t.Helper()
	if bad, err := c.Refresh(t.Context()); err != nil || bad != nil {
		t.Fatal(bad, err)
	}
	return c.Names()
}

func TestNames(t *testing.T) {
	b := mem.New()
	c := NewCatalog(b)
	check := func(what string, want map[string]string) {
		t.Helper()
		n := refreshed(t, c)
		for path, w := range want {
			if got := shown(n, path); got != w {
				t.Errorf("%s: %q has %q, want %q", what, path, got, w)
			}
		}
	}
	check("nothing", map[string]string{"": " > ", "a": "-"})
	put(t, b, 1, 1, 5, "", "100", "complete")
	put(t, b, 1, 2, 6, "", "200", "complete")
	put(t, b, 1, 3, 7, "", "100", "partial")
	put(t, b, 1, 4, 8, "run/a", "100", "complete")
	put(t, b, 1, 5, 9, "", "run", "partial")
	one := "0100000000000000"
	check("one writer", map[string]string{
		"": "100@7 200@6 run@9 > 200", "run": "a/ > ", "run/a": "100@8 > 100", one: "100@7 200@6 run@9 > 200", one + "/run/a": "100@8 > 100",
	})
	put(t, b, 1, 6, 10, "", "200", "partial")
	check("its latest is no newest", map[string]string{"": "100@7 200@10 run@9 > 200@6"})

	other := put(t, b, 2, 1, 20, "", "200", "complete")
	put(t, b, 2, 2, 21, "run/a", "300", "complete")
	put(t, b, 2, 3, 7, "", "100", "partial")
	two := "0200000000000000"
	check("two writers", map[string]string{
		"": one + "/ " + two + "/ run@9 > " + two + "/200@20", two: "100@7 200@20 run/ > 200",
		"run/a": "100@8 300@21 > 300", one: "100@7 200@10 run@9 > 200@6",
	})
	n := c.Names()
	for path, want := range map[string]uint64{"200@20": 20, "200@10": 10, "200@6": 6, "200@7": 0, "100@7": 0, "100": 0, "run": 9, "200@": 0, "x": 0} {
		e, ok := n.Lookup("", path)
		if ok != (want > 0) || ok && e.Step.Sequence != want {
			t.Errorf("%s is %+v", path, e)
		}
	}
	if count, logical := n.Steps(); count != 9 || logical != 90 {
		t.Error(count, logical)
	}
	if err := b.Put(t.Context(), other.Key(), remote.Bytes(bucket.Gone(other.Writer, other.Seq))); err != nil {
		t.Fatal(err)
	}
	check("a tombstone", map[string]string{"": one + "/ " + two + "/ 200@10 run@9 > " + one + "/200@6"})
}

// behind is a bucket whose list lacks a key, and that counts what is read.
type behind struct {
	remote.Bucket
	lacks string
	gets  int
	fails error
}

func (b *behind) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		for o, err := range b.Bucket.List(ctx, prefix, after) {
			if b.fails != nil {
				yield(o, b.fails)
				return
			}
			if (o.Key != b.lacks || err != nil) && !yield(o, err) {
				return
			}
		}
	}
}

func (b *behind) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	b.gets++
	return b.Bucket.Get(ctx, key, p, off)
}

// A ref is read once. What a list lacks is there as long as it is there by name;
// what can't be read is named, and no more than that.
func TestCatalog(t *testing.T) {
	b := &behind{Bucket: mem.New()}
	c := NewCatalog(b)
	first := put(t, b, 1, 1, 5, "", "100", "complete")
	refreshed(t, c)
	put(t, b, 1, 2, 6, "", "200", "complete")
	read := b.gets
	if got := shown(refreshed(t, c), ""); got != "100@5 200@6 > 200" || b.gets != read+1 {
		t.Errorf("%s after %d reads", got, b.gets-read)
	}
	b.lacks = first.Key()
	if got := shown(refreshed(t, c), ""); got != "100@5 200@6 > 200" {
		t.Errorf("a list that is behind: %s", got)
	}
	step, _ := c.Names().Lookup("", "100")
	b.fails = errors.New("no network")
	if _, err := c.Refresh(t.Context()); !errors.Is(err, b.fails) || !c.Has(step.Step) {
		t.Error("without a network: ", err)
	}
	b.fails = nil
	if err := b.Delete(t.Context(), first.Key()); err != nil {
		t.Fatal(err)
	}
	if got := shown(refreshed(t, c), ""); got != "200@6 > 200" || c.Has(step.Step) {
		t.Errorf("one is gone: %s", got)
	}
	if err := b.Put(t.Context(), bucket.RefKey(bucket.Writer{1}, 3), remote.Bytes([]byte("<html>"))); err != nil {
		t.Fatal(err)
	}
	if bad, err := c.Refresh(t.Context()); err != nil || len(bad) != 1 || shown(c.Names(), "") != "200@6 > 200" {
		t.Error(bad, err)
	}
}

// What is fetched ahead follows what was read in order.
func TestReadInOrder(t *testing.T) {
	var run Run
	const mib = 1 << 20
	var r reader
	for _, c := range []struct{ off, n, want int64 }{
		{0, mib, 4 * mib}, {mib, mib, 8 * mib}, {3 * mib, mib, 12 * mib}, {2 * mib, mib, 16 * mib}, // two at once
		{50 * mib, mib, 0}, {51 * mib, mib, 4 * mib}, {7 * mib, 10, 0},
	} {
		if got := r.window(c.off, c.n, 100*mib, &run); got != c.want {
			t.Errorf("at %d: %d, want %d", c.off, got, c.want)
		}
	}
	whole := &File{size: 2 * mib}
	whole.reader.window(0, 2*mib, whole.size, &run)
	whole.Leave(&run)
	var next, head reader
	if got := next.window(0, mib, 9*mib, &run); got != 12*mib {
		t.Errorf("behind a file that was read whole: %d", got)
	}
	left := &File{size: 2 * mib, reader: reader{begun: true}}
	left.Leave(&run)
	if got := head.window(0, 100, 9*mib, &run); got != 400 {
		t.Errorf("behind one that was not: %d", got)
	}
}

// Data and holes, as lseek(2) has them.
func TestSeekTo(t *testing.T) {
	f := &File{size: 100, extents: []schema.ChunkExtent{{Off: 10, Len: 10}, {Off: 20, Len: 5}, {Off: 50, Len: 10}}}
	for _, c := range []struct{ off, data, hole int64 }{
		{0, 10, 0}, {10, 10, 25}, {15, 15, 25}, {24, 24, 25}, {25, 50, 25}, {50, 50, 60}, {60, -1, 60}, {99, -1, 99}, {100, -1, -1}, {-1, -1, -1},
	} {
		for _, data := range []bool{true, false} {
			want := c.hole
			if data {
				want = c.data
			}
			got, err := f.SeekTo(c.off, data)
			if err != nil {
				got = -1
			}
			if got != want {
				t.Errorf("from %d, data %v: %d %v, want %d", c.off, data, got, err, want)
			}
		}
	}
}
