package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"stepfs/snapshot/published"
)

// bucketSource reads a snapshot out of a bucket.
type bucketSource struct {
	ctx  context.Context // of the command: io.ReaderAt has none
	tree *published.Tree
}

// placed is where a node was found: what follows it is read next.
type placed struct {
	page published.Page
	at   int
}

func (s *bucketSource) Close() error { return nil }

func (s *bucketSource) node(path string, page published.Page, at int) node {
	e := &page[at]
	return node{
		path: path, mode: e.Mode, uid: e.UID, gid: e.GID, rdev: e.Rdev, nlink: e.Nlink,
		size: e.Size, atime: e.Mtime, mtime: e.Mtime, ino: e.Ino, of: placed{page, at},
	}
}

func (s *bucketSource) Stat(path string) (node, error) {
	page, at, err := s.tree.Lookup(s.ctx, path)
	if errors.Is(err, published.ErrNotExist) {
		return node{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return node{}, err
	}
	return s.node(path, page, at), nil
}

func (s *bucketSource) Children(ctx context.Context, dir node, fn func(node) error) error {
	of := dir.of.(placed)
	return s.tree.Pages(ctx, &of.page[of.at], func(p published.Page) error {
		for k := range p {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(s.node(filepath.Join(dir.path, p[k].Name), p, k)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *bucketSource) Readlink(n node) (string, error) {
	of := n.of.(placed)
	return of.page[of.at].Target, nil
}

func (s *bucketSource) Xattrs(n node) (map[string][]byte, error) {
	of := n.of.(placed)
	all := map[string][]byte{}
	for _, x := range of.page[of.at].Xattrs {
		if !strings.HasPrefix(x.Name, ownXattr) {
			all[x.Name] = x.Value
		}
	}
	return all, nil
}

func (s *bucketSource) Open(n node) (content, error) {
	of := n.of.(placed)
	f, err := s.tree.File(s.ctx, of.page, of.at)
	return bucketContent{s.ctx, f}, err
}

// bucketContent is a copier, too.
type bucketContent struct {
	ctx context.Context
	*published.File
}

func (c bucketContent) Close() error { return nil }

func (c bucketContent) ReadAt(p []byte, off int64) (int, error) { return c.File.ReadAt(c.ctx, p, off) }
