// Package published reads snapshots out of a bucket, with no store and no mount:
// which there are, what is in them. It needs nothing but the bucket.
//
// List gives what refs say; Find chooses one of them as commands name it. Open
// gives its tree, of which only what is looked at is fetched; File reads a file,
// and has what comes after fetched meanwhile. Everything is certified by the hash
// of the ref's root, and every byte was checked by who reads chunks
// (chunkstore.Published).
//
// A mount needs more: Catalog knows what there is by now, Names what it is called,
// and Snapshots keeps those open that somebody looks at.
//
// Read first: list.go, then tree.go and file.go; for mounts catalog.go, names.go
// and snapshots.go.
package published

import (
	"context"
	"errors"

	"stepfs/chunkstore"
)

var (
	// ErrNotExist: no such snapshot is published, or no such path is in it.
	ErrNotExist = errors.New("it does not exist")
	// ErrAmbiguous: several snapshots are called so.
	ErrAmbiguous = errors.New("several snapshots are called so")
	// ErrGone: the snapshot was published, and is not any more.
	ErrGone = errors.New("the snapshot is not published any more")
	// ErrTree: the tree is not one that stepfs writes, or not that of its ref.
	ErrTree = errors.New("a published tree is damaged")
)

// Chunks is where trees and contents come from: *chunkstore.Published.
type Chunks interface {
	ReadAt(ctx context.Context, id chunkstore.ID, rawLen uint32, dst []byte, off int) error
	// Ahead says what will be read soon.
	Ahead(ids []chunkstore.ID)
}
