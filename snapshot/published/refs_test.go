package published

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/schema"
)

// catalogued is a bucket with refs of a writer, and a catalog for each ten.
type catalogued struct {
	*mem.Bucket
	gets atomic.Int64
	refs []*bucket.Ref
}

const perCatalog = 10

func newCatalogued(t *testing.T, n int) (*catalogued, remote.Bucket) {
	c := &catalogued{Bucket: mem.New()}
	for k := range n {
		c.refs = append(c.refs, put(t, c, 1, uint64(k+1), uint64(k+1), "", fmt.Sprint(1000+k), "complete"))
	}
	for k := 0; k+perCatalog <= n; k += perCatalog {
		c.put(t, c.catalog(k))
	}
	return c, fault.New(c.Bucket, func(verb, key string) fault.Fault {
		if verb == "get" {
			c.gets.Add(1)
		}
		return fault.Fault{}
	})
}

// catalog is of the refs from k on.
func (c *catalogued) catalog(k int) *bucket.Catalog {
	out := &bucket.Catalog{Writer: c.refs[k].Writer, First: c.refs[k].Seq}
	for _, f := range c.refs[k : k+perCatalog] {
		out.Last = f.Seq
		out.Refs = append(out.Refs, f.Listed())
	}
	return out
}

func (c *catalogued) put(t *testing.T, a *bucket.Catalog) { c.putAt(t, a.Key(), a.Encode()) }

func (c *catalogued) putAt(t *testing.T, key string, data []byte) {
	t.Helper()
	if err := c.Put(t.Context(), key, remote.Bytes(data)); err != nil {
		t.Fatal(err)
	}
}

// sameAsRefs holds a listing against what the refs say, and gives how many
// requests it took.
func (c *catalogued) sameAsRefs(t *testing.T, b remote.Bucket) int64 {
	t.Helper()
	c.gets.Store(0)
	got, err := List(t.Context(), b)
	gets := c.gets.Load()
	if err != nil {
		t.Fatal(err)
	}
	want, err := ListRefs(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	for k := range got.Steps {
		got.Steps[k].from = nil
	}
	if want.Catalogs = got.Catalogs; !reflect.DeepEqual(got, want) {
		t.Errorf("%d steps, and refs have %d, or they differ", len(got.Steps), len(want.Steps))
	}
	return gets
}

// What catalogs tell is what refs say, in fewer requests; a list of refs says what
// there is.
func TestCatalogsOfRefs(t *testing.T) {
	c, b := newCatalogued(t, 3*perCatalog+2)
	if gets := c.sameAsRefs(t, b); gets != 3+2 {
		t.Errorf("%d requests", gets)
	}
	for _, k := range []int{3, 12, 31} {
		f := c.refs[k]
		c.putAt(t, f.Key(), bucket.Gone(f.Writer, f.Seq))
	}
	if gets := c.sameAsRefs(t, b); gets != 3+1 {
		t.Errorf("three are forgotten: %d requests", gets)
	}
	if err := c.Delete(t.Context(), c.refs[4].Key()); err != nil { // by other means
		t.Fatal(err)
	}
	if all, err := List(t.Context(), b); err != nil || len(all.Steps) != 32-4 {
		t.Error(len(all.Steps), err)
	}
	for k := range perCatalog - fewRefs {
		f := c.refs[20+k]
		c.putAt(t, f.Key(), bucket.Gone(f.Writer, f.Seq))
	}
	if gets := c.sameAsRefs(t, b); gets != 2+fewRefs+1 {
		t.Errorf("a catalog of few that are there: %d requests", gets)
	}
}

// A mount asks for a catalog when it tells of enough that is new.
func TestCatalogsRefreshed(t *testing.T) {
	c, b := newCatalogued(t, 2*perCatalog)
	cat := NewCatalog(b)
	refreshed(t, cat)
	if gets := c.gets.Swap(0); gets != 2 {
		t.Errorf("%d requests", gets)
	}
	refreshed(t, cat)
	for k := range perCatalog {
		n := uint64(2*perCatalog + k + 1)
		c.refs = append(c.refs, put(t, c, 1, n, n, "", fmt.Sprint(1000+n), "complete"))
		if k < fewRefs {
			refreshed(t, cat)
		}
	}
	c.put(t, c.catalog(2*perCatalog))
	refreshed(t, cat)
	if gets := c.gets.Load(); gets != fewRefs+1 {
		t.Errorf("%d requests for %d and a catalog of %d more", gets, fewRefs, perCatalog-fewRefs)
	}
	if n, _ := cat.Names().Steps(); n != 3*perCatalog {
		t.Error(n)
	}
}

// Whatever is wrong with a catalog, what is listed is what the refs say.
func TestCatalogsWrong(t *testing.T) {
	c, _ := newCatalogued(t, 2*perCatalog)
	good, other := c.catalog(0), c.catalog(perCatalog)
	stranger := *good
	stranger.Writer[3]++
	short := *good
	short.Refs = short.Refs[:5]
	sizes, records := c.catalog(0), c.catalog(0)
	for k := range sizes.Refs {
		sizes.Refs[k].Size++
		sizes.Refs[k].Record = (&schema.Snapshot{Name: "lie"}).Encode()
		records.Refs[k].Record = []byte("?")
	}
	newer := good.Encode()
	newer[10]++
	for what, data := range map[string][]byte{
		"truncated": good.Encode()[:100], "empty": nil, "HTML": []byte("<html>"), "another": other.Encode(), "of a stranger": stranger.Encode(),
		"of half": short.Encode(), "of other sizes": sizes.Encode(), "of no records": records.Encode(), "of a newer version": newer,
		"a ref": c.refs[0].Encode(),
	} {
		t.Run(what, func(t *testing.T) {
			c, b := newCatalogued(t, 2*perCatalog)
			c.putAt(t, good.Key(), data)
			c.sameAsRefs(t, b)
		})
	}
	t.Run("a bit", func(t *testing.T) {
		c, b := newCatalogued(t, 2*perCatalog)
		if err := c.Damage(good.Key(), 77); err != nil {
			t.Fatal(err)
		}
		if c.sameAsRefs(t, b); len(checked(t, b)) != 1 {
			t.Error("check says: ", checked(t, b))
		}
	})
	t.Run("all requests fail", func(t *testing.T) {
		c, _ := newCatalogued(t, 2*perCatalog)
		for _, verb := range []string{"list", "get"} {
			c.sameAsRefs(t, fault.New(c.Bucket, func(v, key string) (f fault.Fault) {
				if v == verb && strings.HasPrefix(key, bucket.CatalogsPrefix) {
					f.Before = remote.Fail(verb, key, remote.ErrAccess, nil)
				}
				return f
			}))
		}
	})
	t.Run("others", func(t *testing.T) { // that overlap, and names that are none
		c, b := newCatalogued(t, 2*perCatalog)
		c.put(t, c.catalog(5))
		wide := *good
		wide.Last = 1 << 63
		c.put(t, &wide)
		c.put(t, &stranger)
		c.putAt(t, bucket.CatalogsPrefix+"readme", []byte("x"))
		c.sameAsRefs(t, b)
		if bad := checked(t, b); bad != nil {
			t.Error(bad)
		}
	})
}

// A catalog that is whole, and lies: nobody gets one step for another, check says
// so, and a mount finds the truth.
func TestCatalogsLie(t *testing.T) {
	c, b := newCatalogued(t, perCatalog)
	if bad := checked(t, b); bad != nil {
		t.Fatal(bad)
	}
	lie := c.catalog(0)
	lie.Refs[2].Record, lie.Refs[3].Record = lie.Refs[3].Record, lie.Refs[2].Record
	c.put(t, lie)
	if bad := checked(t, b); len(bad) != 1 || !strings.HasPrefix(bad[0], "catalog catalogs/") {
		t.Errorf("check says %q", bad)
	}
	all, err := List(t.Context(), b)
	if err != nil || all.Catalogs != 1 {
		t.Fatal(all, err)
	}
	for k, s := range all.Steps {
		if err := s.Is(c.refs[k]); errors.Is(err, ErrCatalog) != (k == 2 || k == 3) {
			t.Errorf("step %d: %v", k, err)
		}
	}
	cat := NewCatalog(b)
	refreshed(t, cat)
	e, _ := cat.Names().Lookup("", "1003")
	if e.Step.Ref != 3 {
		t.Fatalf("%+v: it does not lie", e.Step)
	}
	if err := e.Step.Is(c.refs[2]); !errors.Is(err, ErrCatalog) {
		t.Error(err)
	}
	refreshed(t, cat)
	if now, _ := cat.Names().Lookup("", "1003"); now.Step.Ref != 4 || cat.Has(e.Step) || !cat.Has(now.Step) {
		t.Errorf("it goes on lying: %+v", now.Step)
	}
}

// checked gives what check finds in catalogs.
func checked(t *testing.T, b remote.Bucket) (bad []string) {
	t.Helper()
	_, err := Check(t.Context(), b, &bucket.Config{}, CheckOptions{}, func(f Finding) {
		if f.What == "catalog" {
			bad = append(bad, f.What+" "+f.Object+" "+f.Detail)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return bad
}
