// Package remote is the object store behind one small interface.
//
// Bucket is the contract. What keeps it: package s3 (any S3-compatible server),
// dir (a directory, on Lustre, GPFS, NFS or a local disk), mem (for tests).
// Each of these makes one attempt and says what came of it. Around them, each a
// Bucket itself: retry, limit (requests at a time, bytes a second), meter
// (counters), fault (for tests). Package location finds the bucket that a URL
// names and puts the wrappers around it; probe finds out by trying what a server
// holds; remotetest is the suite that every Bucket has to pass.
//
// Read first: this file, then errors.go and content.go.
package remote

import (
	"context"
	"iter"
	"time"
)

// What every Bucket takes, and no caller may exceed.
const (
	MaxKey     = 512     // bytes of a key; S3 has room for 1024, a prefix included
	MaxName    = 200     // bytes of a key between two slashes; a file's name has 255
	MaxObject  = 5 << 30 // bytes of an object: one PUT of S3
	MaxReplace = 64 << 10
)

// Bucket holds objects: immutable bytes under a key. All of its methods may be
// called at the same time, also from several machines.
//
// Keys are names joined by slashes. A name is made of a-z, 0-9 and . _ - = and
// does not begin with a dot; there are no upper-case letters, so that a
// directory that ignores case does no harm. A key is never both an object and a
// prefix of others ("a" and "a/b"), not even one after the other, since in a
// directory it can't be: a Bucket need not notice, and what then happens is
// undefined. What lies in the store under a name that is no key is not ours: it
// is not listed, and left alone.
//
// Atomic: an object is there whole or not at all, for everybody, whenever a
// machine or a connection dies. What Put, PutIfAbsent, ReplaceIfMatch or Delete
// returned nil for survives power loss, as far as the server keeps its word.
//
// Consistent: Get, Stat and List see every change that was answered before they
// began. (dir: on one machine. See there for what NFS delays.)
//
// Errors: one is of the kinds in errors.go, and says which; of a context that
// ended, errors.Is finds its error too. An error of a change, other than
// ErrExists, ErrChanged and ErrInvalid, leaves open whether it happened, and
// even whether it will: a request that nobody waits for any more may still
// arrive. So a key is never used twice for different content by Put or
// PutIfAbsent, not even after it was deleted, and no content is put under a key
// once more after ReplaceIfMatch has replaced it.
type Bucket interface {
	// Put makes an object, whatever was there. It is for keys that name their
	// content, where it does not matter who puts it or how often.
	Put(ctx context.Context, key string, c Content) error

	// PutIfAbsent makes an object and gives its version, if there is none under
	// the key; else ErrExists. Of many at the same time one wins. (Once retried
	// it can't be told from another that puts the same bytes, and both may win:
	// bytes of which there must be one maker have to name him.)
	PutIfAbsent(ctx context.Context, key string, c Content) (version string, err error)

	// ReplaceIfMatch puts another content, of at most MaxReplace bytes, in the
	// place of the one that has that version, and gives the new version. If the
	// object has another version, or is gone, that is ErrChanged. Of many at the
	// same time one wins. (Once retried, one who is told ErrChanged may have won
	// and been replaced in turn before he knew.) A Put or Delete of the same key
	// at the same time is not ordered with it.
	ReplaceIfMatch(ctx context.Context, key, version string, c Content) (newVersion string, err error)

	// Get fills p with the object's bytes from off on, and says how many they
	// are and of which object. It is io.EOF, itself, if there are fewer than
	// len(p), also when off lies behind the end. Any other error means n = 0
	// and nothing of p is to be used. An empty p asks for the Info alone.
	//
	// A server does not say whether a range of an object is right, so nothing of
	// it is known to be right until the caller has held it against a hash: see
	// GetVerified.
	Get(ctx context.Context, key string, p []byte, off int64) (n int, info Info, err error)

	// Stat says what an object is, without its bytes.
	Stat(ctx context.Context, key string) (Info, error)

	// List gives the objects whose keys begin with prefix and come after the key
	// after, in ascending order of the keys' bytes. prefix is any beginning of a
	// key, not of names alone; both may be empty. What is put or deleted
	// meanwhile is in it or not. An error is the last that it gives. Memory does
	// not grow with what is listed (dir: it does with the largest directory).
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]

	// Delete removes an object. That none is there is no error.
	Delete(ctx context.Context, key string) error

	// String is the bucket's address, without secrets, for messages.
	String() string
}

// Info is what is known of an object besides its bytes.
type Info struct {
	Size int64
	// Version is another one for other content, and the same one for as long as
	// nothing changes. It may be made of the content alone. At most 256 bytes.
	Version string
	// Modified is when the object was put, by the server's clock.
	Modified time.Time
}

// Object is one of a list.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
}

// Wrapper is a Bucket around another.
type Wrapper interface{ Unwrap() Bucket }

// Base is what is inside of all wrappers.
func Base(b Bucket) Bucket {
	for {
		w, ok := b.(Wrapper)
		if !ok {
			return b
		}
		b = w.Unwrap()
	}
}
