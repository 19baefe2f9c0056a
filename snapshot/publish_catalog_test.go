package snapshot_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// cataloguing is a world that publishes, with a catalog behind each n steps.
func cataloguing(t *testing.T, b remote.Bucket, n int) *world {
	w := newWorld(t, func(c *snapshot.Config) { c.CatalogRefs = n })
	w.publishTo(b, snapshot.Publish{})
	return w
}

// publishSteps takes some and has them published.
func (w *world) publishSteps(from, to int) {
	w.t.Helper()
	for k := from; k <= to; k++ {
		w.put("a", fmt.Sprint(k))
		w.step(fmt.Sprint(k))
	}
	w.published()
}

// catalogsIn gives the catalogs of a bucket, as "first-last: snapshot …", and holds
// what they say against refs.
func catalogsIn(t testing.TB, b remote.Bucket) (all []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), bucket.CatalogsPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		w, first, last, _ := bucket.ParseCatalogKey(o.Key)
		c, err := bucket.ReadCatalog(context.Background(), b, w, first, last)
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%d-%d:", first, last)
		for _, l := range c.Refs {
			s += fmt.Sprint(" ", l.Seq)
			f, err := bucket.ReadRef(context.Background(), b, w, l.Seq)
			if err != nil {
				continue // forgotten since
			}
			if is := f.Listed(); is.Size != l.Size || is.Snapshot != l.Snapshot || string(is.Record) != string(l.Record) || is.PackBytes != l.PackBytes || is.Packs != l.Packs {
				t.Errorf("catalog %s of %+v says %+v", o.Key, is, l)
			}
		}
		all = append(all, s)
	}
	return all
}

// awaitCatalogs waits until a bucket has these catalogs.
func awaitCatalogs(t testing.TB, b remote.Bucket, want ...string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		got := catalogsIn(t, b)
		if slices.Equal(got, want) {
			return
		}
		if len(got) > len(want) || time.Now().After(end) {
			t.Fatalf("catalogs %q, want %q", got, want)
		}
	}
}

// A catalog is put behind each so many steps, also across restarts; what is
// forgotten is not in it.
func TestCatalogue(t *testing.T) {
	b := mem.New()
	w := cataloguing(t, b, 3)
	w.publishSteps(1, 2)
	w.restart()
	w.publishSteps(3, 3)
	awaitCatalogs(t, b, "1-3: 1 2 3")
	w.publishSteps(4, 4)
	for _, f := range refs(t, b) {
		if f.Seq == 4 {
			w.ok(prune.Forget(w.ctx(), b, f.Writer, 4))
		}
	}
	w.restart()
	w.publishSteps(5, 7)
	awaitCatalogs(t, b, "1-3: 1 2 3", "4-6: 5 6")
	w.noFaults()
}

// A daemon that ends, or is killed, anywhere between the refs and their catalog
// leaves it to the next; so does one that knew nothing of catalogs.
func TestCatalogueAfterCrash(t *testing.T) {
	base := mem.New()
	var refused atomic.Int64
	b := fault.New(base, func(verb, key string) (f fault.Fault) {
		if verb == "put-if-absent" && strings.HasPrefix(key, bucket.CatalogsPrefix) && refused.Add(1) < 1000 {
			f.Before = remote.Fail(verb, key, remote.ErrRetryable, nil)
		}
		return f
	})
	w := cataloguing(t, b, 3)
	w.publishSteps(1, 8)
	for end := time.Now().Add(20 * time.Second); refused.Load() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	w.noFaults()
	if all := catalogsIn(t, base); all != nil {
		t.Fatal(all)
	}
	refused.Store(1000)
	w.kill()
	awaitCatalogs(t, base, "1-3: 1 2 3", "4-6: 4 5 6")
	w.publishSteps(9, 9)
	awaitCatalogs(t, base, "1-3: 1 2 3", "4-6: 4 5 6", "7-9: 7 8 9")
	w.noFaults()
}
