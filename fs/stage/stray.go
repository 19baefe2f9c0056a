package stage

import (
	"errors"
	"fmt"
	"path/filepath"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Stray calls fn with the path below the staging directory dir of each file that
// no record names. The next Open of a tree removes them.
func Stray(db *state.Engine, dir string, fn func(path string) error) error {
	return NewDisk(dir).List(func(gen uint64) error {
		v, err := db.Get(schema.Numbered(schema.PrefixGen, gen))
		if err == nil {
			var g schema.Generation
			if g, err = schema.DecodeGeneration(v); err != nil || g.File {
				return err
			}
		} else if !errors.Is(err, state.ErrNotFound) {
			return err
		}
		path, err := filepath.Rel(dir, osDisk{dir}.path(gen))
		if err != nil {
			return fmt.Errorf("staging file of generation %d: %w", gen, err)
		}
		return fn(path)
	})
}

// Owners gives the inodes that name a generation.
func Owners(db *state.Engine, gen uint64) (inos []uint64, err error) {
	v, err := db.Get(schema.Numbered(schema.PrefixGen, gen))
	if err != nil {
		return nil, ignoreGone(err)
	}
	g, err := schema.DecodeGeneration(v)
	if err != nil {
		return nil, wrapDisk(err)
	}
	if g.Ino != 0 {
		inos = append(inos, g.Ino)
	}
	prefix := schema.Numbered(schema.PrefixGenRef, gen)
	it, err := db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if _, ino, err := schema.ParseUnsettledKey(it.Key()); err == nil { // of the same form
			inos = append(inos, ino)
		}
	}
	return inos, wrapDisk(errors.Join(it.Error(), it.Close()))
}

// Path gives a file's path in the view, if the name that it had last leads to it.
func (v *View) Path(ino uint64) (string, error) {
	path, err := v.t.path(ino, v.seq)
	if err != nil {
		return "", err
	}
	a, err := v.Find(path)
	if err == nil && a.Ino != ino {
		err = ErrNotExist
	}
	return path, err
}

// Walk calls fn for each name of anything but a directory in the view.
func (v *View) Walk(fn func(path string, ino uint64) error) error { return v.walk(RootIno, "", fn) }

func (v *View) walk(dir uint64, path string, fn func(path string, ino uint64) error) error {
	for after := ""; ; {
		es, err := v.ReadDir(dir, after, 512)
		if err != nil || len(es) == 0 {
			return err
		}
		for _, e := range es {
			after = e.Name
			if e.Type == ModeDir {
				err = v.walk(e.Ino, join(path, e.Name), fn)
			} else {
				err = fn(join(path, e.Name), e.Ino)
			}
			if err != nil {
				return err
			}
		}
	}
}

// Links is how many names the view's file has.
func (v *View) Links(ino uint64) (int, error) {
	rec, err := v.inode(ino)
	if err != nil {
		return 0, err
	}
	return int(rec.Nlink), nil
}
