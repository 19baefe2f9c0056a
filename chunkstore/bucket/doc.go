// Package bucket is the format of what stores keep in an object store: the keys
// of the objects, and their bytes. Of I/O it has what all need: Join, Read,
// ReadRef, ReadIndex, ReadFooter. It knows nothing of who uploads what and when.
// docs/FORMAT.md has the tables.
//
//	config                            what names chunks here; written once
//	writers/<writer>                  a store that uploads here, and whose it is
//	packs/<hh>/<name>.<writer>.<seq>  a pack, byte for byte as in a store
//	index/<writer>/<seq>              the footers of some packs of a writer
//	refs/<writer>/<seq>               one published snapshot
//	groups/…                          reserved: a step of many writers
//	leases/<slot>, retired/<epoch>    of prune: see there
//
// Invariants:
//   - Nothing is overwritten but a lease, and a ref or retired list by its
//     tombstone. No key is used twice, not even after its object was deleted:
//     each has its writer in it, and a number that this writer gives out once
//     (recorded in the store before the first request; of refs: in its lease).
//   - A ref is put last. It names every pack that is needed to read its snapshot
//     (the packs of the chunks of its content and of its tree, and of all that
//     these are made from), and each of them was there, and was not retired,
//     when the ref was put. So refs alone say which packs are needed.
//   - An index object says what is in packs that are there; it is a cache of
//     their footers, and no proof that a pack still is there.
//   - The ID of the root object certifies a snapshot: everything below is named
//     by its hash.
//
// Read first: names.go, then ref.go and index.go.
package bucket

import "errors"

var (
	// ErrFormat is wrapped by every parse error: the bytes are no such object, or
	// are damaged.
	ErrFormat = errors.New("bad object of a bucket")
	// ErrVersion: the object was written by a newer program.
	ErrVersion = errors.New("written by a newer version of stepfs")
	// ErrOther: the bucket belongs to stores that name chunks otherwise.
	ErrOther = errors.New("the bucket was made by another store")
	// ErrForeign: there are objects, but no config: something else lives there.
	ErrForeign = errors.New("the place is in use by something that is not stepfs")
)
