package bucket

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Catalog lists what many refs of a writer say, so that a new machine need not
// ask each of them. It is a cache of refs, and decides nothing: which refs there
// are a list of them says, and what one says that is relied on the ref itself.
// So whatever is wrong with one costs requests, and nothing else.
type Catalog struct {
	Domain uint32
	Writer Writer
	// First and Last bound the numbers of refs that it is about. What is not in it
	// was not there when it was made.
	First, Last uint64
	Refs        []Listed // in ascending order of Seq
}

// Listed is what a catalog says of a ref.
type Listed struct {
	Seq       uint64 // of the ref
	Size      int64  // of the ref, in bytes: who lists refs/ holds the two against each other
	Snapshot  uint64 // as in the ref
	Record    []byte // as in the ref
	Packs     uint64 // how many the ref names
	PackBytes int64  // and their size together
}

const (
	// CatalogRefs is how many refs a writer lists in one catalog.
	CatalogRefs = 256
	// CatalogSize is where a writer ends one, in bytes of its records.
	CatalogSize = 4 << 20
	// MaxCatalog bounds a catalog that a reader is willing to load.
	MaxCatalog = 32 << 20
)

// Listed is what a catalog says of the ref.
func (f *Ref) Listed() Listed {
	l := Listed{Seq: f.Seq, Size: int64(len(f.Encode())), Snapshot: f.Snapshot, Record: f.Record, Packs: uint64(len(f.Packs))}
	for _, p := range f.Packs {
		l.PackBytes += p.Size
	}
	return l
}

// CatalogKey is where a catalog is.
func CatalogKey(w Writer, first, last uint64) string {
	return fmt.Sprintf("%s%s/%016x-%016x", CatalogsPrefix, w, first, last)
}

// ParseCatalogKey is the inverse of CatalogKey.
func ParseCatalogKey(key string) (w Writer, first, last uint64, ok bool) {
	front, back, found := strings.Cut(key, "-")
	w, first, ok = ParseNumbered(CatalogsPrefix, front)
	last, counted := parseSeq(back)
	return w, first, last, found && ok && counted && first <= last
}

// Key is where the catalog is.
func (c *Catalog) Key() string { return CatalogKey(c.Writer, c.First, c.Last) }

// Encode gives the object.
//
// Body: uv first, uv refs, and for each: uv seq, uv size, uv snapshot, str record,
// uv packs, uv bytes of packs.
func (c *Catalog) Encode() []byte {
	b := binary.AppendUvarint(nil, c.First)
	b = binary.AppendUvarint(b, uint64(len(c.Refs)))
	for _, l := range c.Refs {
		b = binary.AppendUvarint(b, l.Seq)
		b = binary.AppendUvarint(b, uint64(l.Size))
		b = binary.AppendUvarint(b, l.Snapshot)
		b = appendString(b, l.Record)
		b = binary.AppendUvarint(b, l.Packs)
		b = binary.AppendUvarint(b, uint64(l.PackBytes))
	}
	return Seal(Head{Kind: KindCatalog, Domain: c.Domain, Writer: c.Writer, Seq: c.Last}, b)
}

// DecodeCatalog reads the catalog that lies under CatalogKey(w, first, last).
func DecodeCatalog(b []byte, w Writer, first, last uint64) (*Catalog, error) {
	h, body, err := Open(b, Head{Kind: KindCatalog, Writer: w, Seq: last})
	if err != nil {
		return nil, err
	}
	r := &reader{b: body}
	c := &Catalog{Domain: h.Domain, Writer: w, First: r.uvarint(), Last: last}
	if c.First != first {
		r.fail("a catalog of other refs")
	}
	c.Refs = make([]Listed, r.count(6))
	next := first
	for k := range c.Refs {
		l := &c.Refs[k]
		*l = Listed{Seq: r.uvarint(), Size: r.length(), Snapshot: r.uvarint(), Record: r.string(), Packs: r.uvarint(), PackBytes: r.length()}
		if l.Seq < next || l.Seq > last {
			r.fail("a catalog whose refs are not in order")
			break
		}
		next = l.Seq + 1
	}
	return c, r.done()
}
