package snapshot

import (
	"errors"

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
			r, err = inspect.Check(v.ctx, viewTree{v.view, p}, o)
		} else {
			at = scope
			r, err = inspect.CheckFile(v.ctx, viewTree{v.view, scope}, base(p), o)
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
