package dir

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote"
)

// List implements remote.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		err := remote.CheckPrefix("list", prefix)
		if err == nil {
			l := lister{b, ctx, prefix, after, yield}
			if err = l.dir(b.root); err != nil && !errors.Is(err, errLeft) {
				err = rootFailed(ctx, "list", prefix, err) // what is below may go, but not the root
			}
		}
		if err != nil && !errors.Is(err, errLeft) {
			yield(remote.Object{}, err)
		}
	}
}

// errLeft says that nobody wants more.
var errLeft = errors.New("left")

type lister struct {
	b             *Bucket
	ctx           context.Context
	prefix, after string
	yield         func(remote.Object, error) bool
}

// entry is a file, or a directory, whose key ends with a slash then: so it sorts
// as the keys in it do.
type entry struct {
	key  string
	info vfs.FileInfo
}

// dir lists a directory.
func (l *lister) dir(path string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	names, err := l.b.fs.List(path)
	if err != nil {
		if path != l.b.root {
			err = ignoreMissing(err)
		}
		return err
	}
	var entries []entry
	for _, name := range names {
		below := filepath.Join(path, name)
		key := l.b.keyOf(below)
		if !remote.IsKey(key) || !l.wants(key) && !l.wantsBelow(key+"/") {
			continue
		}
		info, err := l.b.fs.Stat(below)
		if err != nil {
			if err = ignoreMissing(err); err != nil {
				return err
			}
			continue // deleted meanwhile
		}
		switch {
		case info.IsDir() && l.wantsBelow(key+"/"):
			entries = append(entries, entry{key + "/", nil})
		case info.Mode().IsRegular() && l.wants(key):
			entries = append(entries, entry{key, info})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	for _, e := range entries {
		if e.info == nil {
			err = l.dir(filepath.Join(l.b.root, filepath.FromSlash(e.key)))
		} else if err = l.ctx.Err(); err == nil && !l.yield(remote.Object{Key: e.key, Size: e.info.Size(), Modified: e.info.ModTime()}, nil) {
			err = errLeft
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) wants(key string) bool { return strings.HasPrefix(key, l.prefix) && key > l.after }

// wantsBelow says whether there may be wanted keys in a directory.
func (l *lister) wantsBelow(dir string) bool {
	return (strings.HasPrefix(dir, l.prefix) || strings.HasPrefix(l.prefix, dir)) &&
		(dir > l.after || strings.HasPrefix(l.after, dir))
}
