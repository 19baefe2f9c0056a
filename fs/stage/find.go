package stage

import (
	"context"
	"strings"
)

// Find resolves a path below the root; "" is the root. Symbolic links are not
// followed.
func (t *Tree) Find(path string) (Attr, error) {
	a, err := t.GetAttr(RootIno)
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		if err != nil {
			return Attr{}, err
		}
		a, err = t.Lookup(a.Ino, name)
	}
	return a, err
}

// SettleCommitted makes durable, but for the journal, every content that a
// snapshot taken now would show. What is being written stays out of it.
func (t *Tree) SettleCommitted(ctx context.Context) error {
	return t.eachMarked(func(ino uint64, marks []mark) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		versions, err := t.versions(ino) // of one deleted or rewritten since, the snapshot shows an older one
		if err != nil {
			return err
		}
		for _, v := range versions {
			if v.rec.Committed != nil && !settledBy(marks, v.rec.Committed) {
				return t.Settle(ino)
			}
		}
		return nil // only what is being written waits for a sync
	})
}

// PathOf gives the path of a live inode below the root, without a leading
// slash; "" is the root.
func (t *Tree) PathOf(ino uint64) (string, error) { return t.path(ino, newest) }

func (t *Tree) path(ino, seq uint64) (string, error) {
	path := ""
	for ino != RootIno {
		rec, _, err := t.readInode(ino, seq)
		if err != nil {
			return "", err
		}
		if rec.Deleted || rec.Nlink == 0 || rec.Name == "" {
			return "", ErrNotExist
		}
		if path != "" {
			path = "/" + path
		}
		path = rec.Name + path
		ino = rec.Parent
	}
	return path, nil
}
