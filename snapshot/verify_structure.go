package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"stepfs/snapshot/inspect"
)

// structure checks the files of a step as far as their own formats tell. What
// can't be read is a problem already.
func (v *verifier) structure(scope string, pieces []string) {
	readable := len(v.problems) == 0
	for _, p := range pieces {
		ino, ok := find(v.view, p)
		if !ok {
			continue
		}
		n, err := v.view.Node(ino)
		if err != nil {
			continue
		}
		var r *inspect.Report
		o, at := inspect.Options{Deep: true, MaxProblems: maxProblems}, p
		if n.Mode&modeType == modeDir {
			r, err = inspect.Check(v.ctx, stepTree{v.view, p}, o)
		} else {
			at = scope
			r, err = inspect.CheckFile(v.ctx, stepTree{v.view, scope}, base(p), o)
		}
		if err != nil && readable {
			v.problem(p, err)
		}
		if err != nil {
			continue
		}
		for _, bad := range r.Problems {
			if !bad.Minor {
				v.problem(join(at, bad.Path), errors.New(bad.Why))
			}
		}
	}
}

// stepTree shows a directory of a view to package inspect.
type stepTree struct {
	view View
	root string
}

// List gives the entries of a directory.
func (t stepTree) List(dir string) (out []inspect.Entry, err error) {
	ino, ok := find(t.view, join(t.root, dir))
	if !ok {
		return nil, fmt.Errorf("%w: %s", fs.ErrNotExist, dir)
	}
	err = each(t.view, ino, func(e Entry) error {
		n, err := t.view.Node(e.Ino)
		out = append(out, inspect.Entry{Name: e.Name, Kind: inspectKind(e.Type), Size: n.Size})
		return err
	})
	return out, err
}

func inspectKind(typ uint32) inspect.Kind {
	switch typ {
	case modeReg:
		return inspect.KindFile
	case modeDir:
		return inspect.KindDir
	case modeLink:
		return inspect.KindSymlink
	}
	return inspect.KindOther
}

// Open opens a regular file.
func (t stepTree) Open(path string) (inspect.File, error) {
	ino, ok := find(t.view, join(t.root, path))
	if !ok {
		return nil, fmt.Errorf("%w: %s", fs.ErrNotExist, path)
	}
	n, err := t.view.Node(ino)
	if err != nil {
		return nil, err
	}
	return stepFile{t.view, n}, nil
}

type stepFile struct {
	view View
	n    Node
}

func (f stepFile) Size() int64  { return f.n.Size }
func (f stepFile) Close() error { return nil }

// ReadAt reads until p is full, as io.ReaderAt promises.
func (f stepFile) ReadAt(p []byte, off int64) (done int, err error) {
	for done < len(p) {
		n, err := f.view.Read(f.n.Ino, p[done:], off+int64(done))
		if done += n; err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
	}
	return done, nil
}
