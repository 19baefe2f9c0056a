// Package dir is a remote.Bucket in a directory: on Lustre, GPFS, NFS or a disk.
//
// An object is a file of its own, with nothing but its bytes in it, so that
// anything else can read it too. It is written under a temporary name in .tmp,
// synced, and only then gets its key: by rename(2), or by link(2) where nothing
// may be overwritten, which on NFS as well is one step for everybody. Then the
// directory is synced, and before it those above that are new. So a crash leaves
// an object or none, and a temporary file, which is removed after a day.
//
// ReplaceIfMatch compares and renames under an fcntl(2) lock of .lock, which NFS
// (v4, or v3 with lockd), GPFS and Lustre (mounted with flock, not localflock)
// extend to all machines; where there are no locks it is ErrUnsupported. Its
// limit: a client that is cut off from its server in between, for longer than
// the server lets it keep its locks (NFSv4: 90 s), may rename afterwards and so
// undo what another did meanwhile. An update of a lease that takes that long is
// one that everybody must hold for lost anyway.
//
// What another machine put may be seen late on NFS: a client believes for up to
// acdirmax (60 s) that a name is not there. Before a name is said not to be there
// its directory is opened, which has the client ask (close-to-open). PutIfAbsent
// and ReplaceIfMatch are decided by the server and see everything.
//
// Read first: put.go. get.go and list.go read.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote"
)

// Our own names in the directory; no key begins with a dot.
const (
	tempName = ".tmp"
	lockName = ".lock"
)

// Bucket is a directory.
type Bucket struct {
	fs   vfs.FS
	root string
	lock chan struct{} // who replaces, of this Bucket, has put something in: so few ask for the file's lock

	mu struct {
		sync.Mutex
		durable map[string]bool // directories whose names are on the disk
		swept   bool            // .tmp is there, and old files in it are gone
	}
}

// Open gives the bucket in a directory, which has to be there: one that is not
// mounted must not be taken for an empty one and filled.
func Open(filesystem vfs.FS, root string) (*Bucket, error) {
	root = filepath.Clean(root)
	info, err := filesystem.Stat(root)
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a directory")
	}
	if err != nil {
		return nil, remote.Fail("open dir:"+root, "", remote.ErrAddress, err)
	}
	b := &Bucket{fs: filesystem, root: root, lock: make(chan struct{}, 1)}
	b.mu.durable = map[string]bool{root: true}
	return b, nil
}

func (b *Bucket) String() string { return "dir:" + b.root }

// path is where the object of a key lies.
func (b *Bucket) path(key string) string { return filepath.Join(b.root, filepath.FromSlash(key)) }

// syncDir makes the names in a directory durable.
func (b *Bucket) syncDir(path string) error {
	d, err := b.fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ensureDir makes a directory and those above it, durably. Another may have
// made one and not synced it yet, so all are synced once.
func (b *Bucket) ensureDir(path string) error {
	b.mu.Lock()
	known := b.mu.durable[path]
	b.mu.Unlock()
	if known {
		return nil
	}
	if len(path) <= len(b.root) {
		return fmt.Errorf("%s is not below %s", path, b.root)
	}
	above := filepath.Dir(path)
	if err := b.ensureDir(above); err != nil {
		return err
	}
	if err := b.fs.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := b.syncDir(above); err != nil {
		return err
	}
	b.mu.Lock()
	b.mu.durable[path] = true
	b.mu.Unlock()
	return nil
}

// forgetDirs has directories looked at again: somebody has removed one.
func (b *Bucket) forgetDirs() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.durable = map[string]bool{b.root: true}
	b.mu.swept = false
}

// failed makes an error of what the system said.
func failed(ctx context.Context, op, key string, err error) error {
	if ended := remote.Ended(ctx, op, key); ended != nil {
		return ended
	}
	kind := remote.ErrRetryable
	var errno syscall.Errno
	switch {
	case errors.Is(err, remote.ErrContent):
		return remote.PutFailed(ctx, op, key, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		kind = remote.ErrNotExist
	case !errors.As(err, &errno):
	case errno == syscall.ENOSPC, errno == syscall.EDQUOT, errno == syscall.EFBIG:
		kind = remote.ErrFull
	case errno == syscall.EACCES, errno == syscall.EPERM, errno == syscall.EROFS:
		kind = remote.ErrAccess
	case errno == syscall.EISDIR, errno == syscall.ENOTEMPTY, errno == syscall.EEXIST, errno == syscall.ENAMETOOLONG, errno == syscall.ELOOP:
		kind = remote.ErrInvalid // the key is a prefix of others, or the path is too long
	case errno == syscall.ENOSYS, errno == syscall.EOPNOTSUPP, errno == syscall.ENOLCK:
		kind = remote.ErrUnsupported
	}
	return remote.Fail(op, key, kind, err)
}

// rootFailed makes an error where only the root can be missing.
func rootFailed(ctx context.Context, op, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		return remote.Fail(op, key, remote.ErrAddress, err)
	}
	return failed(ctx, op, key, err)
}

// keyOf is the key of a path below the root.
func (b *Bucket) keyOf(path string) string {
	return filepath.ToSlash(strings.TrimPrefix(path, b.root+string(filepath.Separator)))
}
