package bucket

import (
	"errors"
	"math"
	"reflect"
	"testing"
)

func testCatalog() *Catalog {
	f := testRef()
	return &Catalog{Domain: f.Domain, Writer: f.Writer, First: 1, Last: f.Seq + 3,
		Refs: []Listed{{Seq: 1, Size: 99, Snapshot: 2, Record: []byte("one"), Packs: 3, PackBytes: 4}, f.Listed()}}
}

func TestCatalog(t *testing.T) {
	c := testCatalog()
	if got, err := DecodeCatalog(c.Encode(), c.Writer, c.First, c.Last); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v %v", got, err)
	}
	f := testRef()
	if l := c.Refs[1]; l.Size != int64(len(f.Encode())) || l.Packs != uint64(len(f.Packs)) || l.Seq != f.Seq || l.Snapshot != f.Snapshot {
		t.Errorf("%+v", l)
	}
	for what, err := range map[string]error{
		"another writer": second(DecodeCatalog(c.Encode(), otherOne, c.First, c.Last)),
		"another first":  second(DecodeCatalog(c.Encode(), c.Writer, c.First+1, c.Last)),
		"another last":   second(DecodeCatalog(c.Encode(), c.Writer, c.First, c.Last+1)),
		"a ref":          second(DecodeCatalog(f.Encode(), f.Writer, f.Seq, f.Seq)),
	} {
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, seqs := range map[string][]uint64{"twice": {2, 2}, "backwards": {3, 2}, "before it": {0}, "behind it": {c.Last + 1}, "the last": {math.MaxUint64, 1}} {
		bad := testCatalog()
		bad.Refs = nil
		for _, seq := range seqs {
			bad.Refs = append(bad.Refs, Listed{Seq: seq})
		}
		if _, err := DecodeCatalog(bad.Encode(), bad.Writer, bad.First, bad.Last); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestCatalogKey(t *testing.T) {
	key := CatalogKey(testWriter, 1, math.MaxUint64)
	if w, first, last, ok := ParseCatalogKey(key); !ok || w != testWriter || first != 1 || last != math.MaxUint64 {
		t.Error(w, first, last, ok)
	}
	for _, bad := range []string{"", "-", CatalogsPrefix, key + "-", key + "0", key[1:], CatalogKey(testWriter, 2, 1), IndexKey(testWriter, 1), CatalogsPrefix + testWriter.String() + "/1-2"} {
		if _, _, _, ok := ParseCatalogKey(bad); ok {
			t.Errorf("%q is one", bad)
		}
	}
}
