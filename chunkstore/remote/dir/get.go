package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote"
)

// Get implements remote.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	if err := remote.CheckGet("get", key, off); err != nil {
		return 0, remote.Info{}, err
	}
	return b.get(ctx, "get", key, p, off)
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (remote.Info, error) {
	if err := remote.CheckKey("stat", key); err != nil {
		return remote.Info{}, err
	}
	_, info, err := b.get(ctx, "stat", key, nil, 0)
	return info, err
}

func (b *Bucket) get(ctx context.Context, op, key string, p []byte, off int64) (int, remote.Info, error) {
	if err := remote.Ended(ctx, op, key); err != nil {
		return 0, remote.Info{}, err
	}
	n, info, err := b.read(b.path(key), p, off)
	if err != nil && err != io.EOF {
		return 0, remote.Info{}, failed(ctx, op, key, err)
	}
	return n, info, err
}

// read reads a range of a file. What was opened stays what it is, whoever
// replaces it meanwhile, so the range and what is said of the file belong
// together.
func (b *Bucket) read(path string, p []byte, off int64) (int, remote.Info, error) {
	f, err := b.open(path)
	if err != nil {
		return 0, remote.Info{}, err
	}
	defer f.Close()
	stat, err := f.Stat()
	switch {
	case err != nil:
		return 0, remote.Info{}, err
	case stat.IsDir():
		return 0, remote.Info{}, fs.ErrNotExist
	}
	info := remote.Info{Size: stat.Size(), Modified: stat.ModTime()}
	if info.Version, err = versionOf(f, stat); err != nil {
		return 0, remote.Info{}, err
	}
	if len(p) == 0 {
		return 0, info, nil
	}
	want := p[:max(0, min(int64(len(p)), info.Size-off))]
	if len(want) > 0 {
		if n, err := f.ReadAt(want, off); n < len(want) {
			return 0, remote.Info{}, fmt.Errorf("%d bytes at %d of a file of %d: %w", n, off, info.Size, err)
		}
	}
	if len(want) < len(p) {
		return len(want), info, io.EOF
	}
	return len(want), info, nil
}

// open opens a file. If it is not there, the directory is opened first and it is
// looked for once more: that has an NFS client ask its server.
func (b *Bucket) open(path string) (vfs.File, error) {
	f, err := b.fs.Open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	d, derr := b.fs.OpenDir(filepath.Dir(path))
	if derr != nil {
		return nil, err
	}
	defer d.Close()
	if _, derr := d.Stat(); derr != nil {
		return nil, err
	}
	return b.fs.Open(path)
}

// versioner makes the version of a file: the hash of one that ReplaceIfMatch may
// replace, since inode numbers come again and times tick slowly; of a larger one
// it is its time.
type versioner struct{ hash.Hash }

func newVersioner(size int64) versioner {
	if size > remote.MaxReplace {
		return versioner{}
	}
	return versioner{sha256.New()}
}

// Write takes the next bytes of the file.
func (v versioner) Write(p []byte) {
	if v.Hash != nil {
		v.Hash.Write(p)
	}
}

func (v versioner) version(info fs.FileInfo) string {
	if v.Hash != nil {
		return hex.EncodeToString(v.Sum(nil))
	}
	return fmt.Sprintf("%x-%x", info.ModTime().UnixNano(), info.Size())
}

func versionOf(f vfs.File, info fs.FileInfo) (string, error) {
	v := newVersioner(info.Size())
	if v.Hash != nil {
		p := make([]byte, info.Size())
		if n, err := f.ReadAt(p, 0); n < len(p) {
			return "", fmt.Errorf("%d of %d bytes: %w", n, len(p), err)
		}
		v.Write(p)
	}
	return v.version(info), nil
}
