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

// HasFile says whether anything but directories is below dir. It costs what
// it visits before it finds something.
func (t *Tree) HasFile(dir uint64) (bool, error) {
	var dirs []uint64
	for after := ""; ; {
		es, err := t.ReadDir(dir, after, 256)
		if err != nil {
			return false, err
		}
		for _, e := range es {
			if e.Type != ModeDir {
				return true, nil
			}
			dirs = append(dirs, e.Ino)
			after = e.Name
		}
		if len(es) < 256 {
			break
		}
	}
	for _, d := range dirs {
		if has, err := t.HasFile(d); err != nil || has {
			return has, err
		}
	}
	return false, nil
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
