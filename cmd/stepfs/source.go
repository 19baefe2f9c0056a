package main

import (
	"context"
	"io"
)

// source is the tree of one snapshot, for restore: through the mount of a
// running daemon (dirSource), out of the store (viewSource) or out of a bucket
// (bucketSource). All check every chunk against its hash on the way; damage is an
// error of ReadAt.
type source interface {
	// Stat finds a path below the snapshot's directory; "." is that itself.
	// Missing paths are fs.ErrNotExist.
	Stat(path string) (node, error)
	// Children calls fn for each entry of a directory, in byte order.
	Children(ctx context.Context, dir node, fn func(node) error) error
	Readlink(n node) (string, error)
	// Xattrs leaves out what stepfs itself shows as user.stepfs.*.
	Xattrs(n node) (map[string][]byte, error)
	Open(n node) (content, error)
	Close() error
}

// node is one entry of a source.
type node struct {
	path           string // below the snapshot's directory
	mode           uint32 // S_IFMT bits and permissions
	uid, gid, rdev uint32
	nlink          uint32
	size           int64
	atime, mtime   int64 // ns
	ino            uint64
	of             any // the source's own
}

// content is an open file of a source. It may be read from several goroutines.
type content interface {
	io.ReaderAt
	// Data gives the next range of data at or after off; io.EOF when there is none.
	Data(off int64) (start, end int64, err error)
	io.Closer
}

// copier is a content that writes its bytes to a file itself, without a copy of
// them in between: those between two offsets, holes left out.
type copier interface {
	CopyTo(ctx context.Context, w io.WriterAt, from, to int64) error
}

// ownXattr begins the attributes that only describe a file's state in stepfs.
const ownXattr = "user.stepfs."
