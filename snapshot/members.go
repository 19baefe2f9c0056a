package snapshot

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"stepfs/snapshot/rules"
)

// member is a file of a step, as a view shows it.
type member struct {
	name  string // below the step; of a step that is a file or several, below its scope
	ino   uint64
	typ   uint32 // S_IFMT bits
	size  int64
	ctime int64 // ns
}

// pieces gives the files of a step of several pieces, below its scope, whose
// parts of the path are given.
func (s *sealer) pieces(v View, scope uint64, parts []string, step string) (out []member, err error) {
	err = each(v, scope, func(d Entry) error {
		if d.Type != modeDir {
			return nil
		}
		return each(v, d.Ino, func(e Entry) error {
			path := append(slices.Clone(parts), d.Name, e.Name)
			m, ok := s.rules.Match(path, e.Type == modeDir)
			if !ok || m.Parts != 2 || m.Scope != len(parts) || m.Step != step {
				return nil
			}
			f, err := memberOf(v, e, d.Name+"/"+e.Name)
			out = append(out, f)
			return err
		})
	})
	return out, err
}

func memberOf(v View, e Entry, name string) (member, error) {
	n, err := v.Node(e.Ino)
	return member{name, e.Ino, e.Type, n.Size, n.Ctime}, err
}

// members gives the files of a step, and the names of its pieces below the
// scope. errNothing: the view does not show it, or no file of it: it was moved
// or removed, or nobody ever closed one.
func (s *sealer) members(a *attempt, v View) (files []member, pieces []string, err error) {
	if scope, ok := find(v, a.scope); !ok || scope != a.in {
		return nil, nil, errNothing
	}
	switch {
	case a.match.Parts > 1:
		files, err = s.pieces(v, a.in, a.parts[:a.match.Scope], a.step)
		for _, f := range files {
			pieces = append(pieces, f.name)
		}
	default:
		pieces = []string{base(a.path)}
		ino, ok := find(v, a.path)
		if !ok || ino != a.candidate.key.ino {
			return nil, nil, errNothing
		}
		if !a.dir {
			var f member
			f, err = memberOf(v, Entry{Ino: ino, Type: modeReg}, base(a.path))
			files = []member{f}
			break
		}
		files, err = s.below(v, a, ino, "", 0)
	}
	if err == nil && len(files) == 0 {
		err = errNothing
	}
	return files, pieces, err
}

// below gives the files below a directory of the step, but for those of other
// steps in it, if it is one that gives way to them.
func (s *sealer) below(v View, a *attempt, dir uint64, path string, depth int) (out []member, err error) {
	if depth > maxDepth {
		return nil, nil
	}
	weak := !slices.ContainsFunc(a.rules, func(r *rules.Rule) bool { return !r.Weak })
	err = each(v, dir, func(e Entry) error {
		name := join(path, e.Name)
		if weak {
			parts := append(slices.Clone(a.parts), splitPath(name)...)
			if m, ok := s.rules.Match(parts, e.Type == modeDir); ok && (m.Scope != a.match.Scope || m.Parts != a.match.Parts) {
				return nil
			}
		}
		if e.Type != modeDir {
			f, err := memberOf(v, e, name)
			out = append(out, f)
			return err
		}
		more, err := s.below(v, a, e.Ino, name, depth+1)
		out = append(out, more...)
		return err
	})
	return out, err
}

func namesOf(files []member) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.name
	}
	return names
}

// masked gives the names, numbers masked, in order and each once: what the
// steps of one loop have in common.
func masked(files []member) []string {
	names := namesOf(files)
	for i, n := range names {
		names[i] = digits.ReplaceAllString(n, "#")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// errDiffers ends a comparison.
var errDiffers = errors.New("differs")

// holdsAll says whether view v shows all files as an older view did. It reads
// them where nothing simpler tells, the small ones first, for as long as they
// are equal.
func holdsAll(old View, was []member, v View, is []member) (bool, error) {
	now := map[string]member{}
	for _, f := range is {
		now[f.name] = f
	}
	was = slices.Clone(was)
	slices.SortFunc(was, func(a, b member) int { return cmp.Compare(a.size, b.size) })
	for _, f := range was {
		if g, ok := now[f.name]; !ok || g.typ != f.typ || g.size != f.size {
			return false, nil
		}
	}
	for _, f := range was {
		err := sameFile(old, f, v, now[f.name])
		if errors.Is(err, errDiffers) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func sameFile(old View, f member, v View, g member) error {
	switch {
	case f.ino == g.ino && f.ctime == g.ctime:
		return nil
	case f.typ == modeLink:
		return sameLink(old, f, v, g)
	case f.typ != modeReg:
		return nil
	}
	const block = 1 << 20
	a, b := make([]byte, min(block, f.size)), make([]byte, min(block, f.size))
	for off := int64(0); off < f.size; off += block {
		n, err := old.Read(f.ino, a, off)
		if err != nil {
			return err
		}
		k, err := v.Read(g.ino, b, off)
		if err != nil {
			return err
		}
		if !bytes.Equal(a[:n], b[:k]) {
			return errDiffers
		}
	}
	return nil
}

func sameLink(old View, f member, v View, g member) error {
	a, err := old.Readlink(f.ino)
	if err != nil {
		return err
	}
	b, err := v.Readlink(g.ino)
	if err == nil && a != b {
		err = errDiffers
	}
	return err
}

// newest gives when the newest of some files was changed.
func newest(files []member) (at int64) {
	for _, f := range files {
		at = max(at, f.ctime)
	}
	return at
}
