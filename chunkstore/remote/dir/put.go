package dir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"stepfs/chunkstore/remote"
)

// staleAfter is when a temporary file belongs to nobody any more.
const staleAfter = 24 * time.Hour

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	if err := remote.CheckPut("put", key, c); err != nil {
		return err
	}
	_, err := b.place(ctx, "put", key, c, b.fs.Rename)
	return err
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	if err := remote.CheckPut("put", key, c); err != nil {
		return "", err
	}
	return b.place(ctx, "put", key, c, b.moveNew)
}

// place writes a content to a temporary file and has move bring it to its place.
func (b *Bucket) place(ctx context.Context, op, key string, c remote.Content, move func(temp, path string) error) (version string, err error) {
	temp, version, err := b.writeTemp(ctx, c)
	if errors.Is(err, fs.ErrNotExist) { // somebody has removed .tmp
		b.forgetDirs()
		temp, version, err = b.writeTemp(ctx, c)
	}
	if temp != "" {
		defer b.fs.Remove(temp) // it is gone already if it was renamed
	}
	if err != nil {
		return "", rootFailed(ctx, op, key, err)
	}
	if err := remote.Ended(ctx, op, key); err != nil {
		return "", err
	}
	path := b.path(key)
	for try := 0; ; try++ {
		if err = b.ensureDir(filepath.Dir(path)); err == nil {
			err = move(temp, path)
		}
		if !errors.Is(err, fs.ErrNotExist) || try > 0 {
			break
		}
		b.forgetDirs() // somebody has removed the directory
	}
	if errors.Is(err, errExists) {
		return "", remote.Fail(op, key, remote.ErrExists, nil)
	}
	if err == nil {
		err = b.syncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", rootFailed(ctx, op, key, err)
	}
	return version, nil
}

var errExists = errors.New("the name is taken")

// moveNew gives a temporary file its name if nobody has it.
func (b *Bucket) moveNew(temp, path string) error {
	err := b.fs.Link(temp, path)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		// An NFS client that lost the answer has asked again, and found what it
		// had made itself.
		if b.sameFile(temp, path) {
			return nil
		}
		if info, err := b.fs.Stat(path); err == nil && info.IsDir() {
			return syscall.EISDIR
		}
		return errExists
	case (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)) && vfs.Root(b.fs) == vfs.Default:
		// No hard links. Linux can rename without overwriting, on some of the
		// filesystems that are so.
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
		if errors.Is(err, syscall.EEXIST) {
			return errExists
		}
		if errors.Is(err, syscall.EINVAL) {
			return syscall.EOPNOTSUPP
		}
	}
	return err
}

func (b *Bucket) sameFile(one, other string) bool {
	i, err1 := b.fs.Stat(one)
	j, err2 := b.fs.Stat(other)
	if err1 != nil || err2 != nil {
		return false
	}
	s, ok1 := i.Sys().(*syscall.Stat_t)
	r, ok2 := j.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && s.Ino == r.Ino && s.Dev == r.Dev
}

// writeTemp writes a content to a new file and syncs it. There may be a file to
// be removed even if there is an error.
func (b *Bucket) writeTemp(ctx context.Context, c remote.Content) (path, version string, err error) {
	if err := b.sweep(); err != nil {
		return "", "", err
	}
	path = filepath.Join(b.root, tempName, randomName())
	f, err := b.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", "", err
	}
	buf := make([]byte, min(max(c.Size, 1), 64<<10))
	v := newVersioner(c.Size)
	for r := c.Reader(ctx); err == nil; {
		var n int
		if n, err = r.Read(buf); n > 0 {
			v.Write(buf[:n])
			_, werr := f.Write(buf[:n])
			err = errors.Join(err, werr)
		}
	}
	if err == io.EOF {
		err = f.Sync()
	}
	var info vfs.FileInfo
	if err == nil {
		info, err = f.Stat()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return path, "", err
	}
	return path, v.version(info), nil
}

func randomName() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// sweep makes the directory of temporary files, or removes from it what crashes
// have left, once for each Bucket. How old something is the server's clock says:
// that of a file that is made for the purpose.
func (b *Bucket) sweep() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.swept {
		return nil
	}
	if info, err := b.fs.Stat(b.root); err != nil || !info.IsDir() {
		return errors.Join(err, syscall.ENOENT)
	}
	temp := filepath.Join(b.root, tempName)
	if err := b.fs.MkdirAll(temp, 0o777); err != nil {
		return err
	}
	clock := filepath.Join(temp, randomName())
	f, err := b.fs.Create(clock, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close(), b.fs.Remove(clock)); err != nil {
		return err
	}
	names, err := b.fs.List(temp)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(temp, name)
		if old, err := b.fs.Stat(path); err == nil && info.ModTime().Sub(old.ModTime()) > staleAfter {
			_ = b.fs.Remove(path) // next time, then
		}
	}
	b.mu.swept = true
	return nil
}

// Delete implements remote.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := remote.CheckKey("delete", key); err != nil {
		return err
	}
	if err := remote.Ended(ctx, "delete", key); err != nil {
		return err
	}
	path := b.path(key)
	info, err := b.fs.Stat(path)
	if err == nil && info.IsDir() { // Remove would remove an empty one
		return nil
	}
	if err == nil {
		err = b.fs.Remove(path)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		// Who finds it gone may have it from one whose removal is not durable.
		err = b.syncDir(filepath.Dir(path))
	}
	if err = ignoreMissing(err); err != nil {
		return failed(ctx, "delete", key, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}
