package published

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"stepfs/chunkstore/bucket"
)

// Names is what is published, as the directories of a mount:
//
//	12000/           the newest revision of a step, if one writer alone has a step
//	                 of that name in the scope, else nothing, as Find has it
//	12000@77/        a revision, not listed; if it is one writer's alone
//	latest           a link to what Find calls so
//	run-a/           a scope, or what leads to one
//	a102030405060708/  all that is of one writer, in the same way; listed if there
//	                 are several
//
// A step hides a directory of its name. It does not change.
type Names struct {
	dirs    map[string]*NameDir
	writers int
}

// NameDir is one directory.
type NameDir struct {
	Entries []NameEntry // in byte order
	Latest  string      // where "latest" points; "": it is not there
	Newest  int64       // when the last of its snapshots was taken, ns

	writer, scope string
	steps         []*Step // of the scope: all revisions
}

// NameEntry is a name in a directory.
type NameEntry struct {
	Name string
	Step *Step // nil: it is a directory
}

const latestName = "latest"

func newNames(steps []*Step) *Names {
	slices.SortFunc(steps, func(a, b *Step) int {
		return cmp.Or(cmp.Compare(a.Record.Time, b.Record.Time), cmp.Compare(a.Ref, b.Ref))
	})
	n := &Names{dirs: map[string]*NameDir{}}
	n.dir("", "")
	of := map[bucket.Writer]bool{}
	for _, s := range steps {
		if !nameable(s.Record.Scope, s.Record.Name) {
			continue // no stepfs has made it
		}
		of[s.Writer] = true
		for _, writer := range []string{"", s.Writer.String()} {
			d := n.dir(writer, s.Record.Scope)
			d.steps = append(d.steps, s)
		}
	}
	n.writers = len(of)
	for _, path := range slices.Sorted(maps.Keys(n.dirs)) { // parents first
		n.fill(path)
	}
	return n
}

// nameable says whether a scope and a name are a path.
func nameable(scope, name string) bool {
	path := joinName(scope, name)
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 || strings.ContainsRune(part, 0) {
			return false
		}
	}
	return !strings.Contains(name, "/")
}

func joinName(dir, name string) string {
	if dir == "" || name == "" {
		return dir + name
	}
	return dir + "/" + name
}

// dir gives the directory of a scope, and makes those that lead to it.
func (n *Names) dir(writer, scope string) *NameDir {
	path := joinName(writer, scope)
	d := n.dirs[path]
	if d == nil {
		d = &NameDir{writer: writer, scope: scope}
		n.dirs[path] = d
		if scope != "" {
			up, _ := cutLast(scope)
			n.dir(writer, up)
		}
	}
	return d
}

// cutLast splits a path before its last component.
func cutLast(path string) (dir, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// fill finds out what is in a directory, and enters it where it is listed.
func (n *Names) fill(path string) {
	d := n.dirs[path]
	named := map[string]*Step{}
	for _, s := range d.steps {
		d.Newest = max(d.Newest, s.Record.Time)
		switch last, ok := named[s.Record.Name]; {
		case !ok, last != nil && last.Writer == s.Writer && last.Sequence < s.Sequence:
			named[s.Record.Name] = s
		case last != nil && last.Writer != s.Writer:
			named[s.Record.Name] = nil // of several writers
		}
	}
	for name, s := range named {
		if s != nil && name != latestName {
			d.Entries = append(d.Entries, NameEntry{name, s})
		}
	}
	slices.SortFunc(d.Entries, func(a, b NameEntry) int { return cmp.Compare(a.Name, b.Name) })
	d.Latest = n.latest(d)
	if up, base := cutLast(path); path != "" && (d.writer == "" || d.scope != "" || n.writers > 1) {
		n.dirs[up].enter(base)
	}
}

// enter adds a directory, unless a step of that name is there.
func (d *NameDir) enter(name string) {
	at, ok := d.Place(name)
	if !ok && name != latestName {
		d.Entries = slices.Insert(d.Entries, at, NameEntry{Name: name})
	}
}

// Place gives the place of a name in Entries, or where it would be.
func (d *NameDir) Place(name string) (int, bool) {
	return slices.BinarySearchFunc(d.Entries, name, func(e NameEntry, name string) int { return cmp.Compare(e.Name, name) })
}

// latest is the name, seen from a directory, of the step that is its latest.
func (n *Names) latest(d *NameDir) string {
	var found []Step
	for _, s := range d.steps {
		if rankOf(*s) > 0 {
			found = append(found, *s)
		}
	}
	if len(found) == 0 {
		return ""
	}
	last := latest(found)
	if at, ok := d.Place(last.Record.Name); ok && d.Entries[at].Step.Writer == last.Writer && d.Entries[at].Step.Ref == last.Ref {
		return last.Record.Name
	}
	if d.writer != "" || n.writers == 1 {
		return last.ID()
	}
	up := ""
	if d.scope != "" {
		up = strings.Repeat("../", strings.Count(d.scope, "/")+1)
	}
	return up + joinName(joinName(last.Writer.String(), d.scope), last.ID())
}

// Dir gives a directory, by its path; nil if there is none.
func (n *Names) Dir(path string) *NameDir { return n.dirs[path] }

// Lookup finds a name in a directory.
func (n *Names) Lookup(path, name string) (NameEntry, bool) {
	d := n.dirs[path]
	if d == nil {
		return NameEntry{}, false
	}
	if at, ok := d.Place(name); ok {
		return d.Entries[at], true
	}
	if to := n.dirs[joinName(path, name)]; to != nil && path == "" && to.writer != "" {
		return NameEntry{Name: name}, true // the only writer's: not listed
	}
	var found *Step
	for _, s := range d.steps {
		if !strings.Contains(name, "@") || s.ID() != name {
			continue
		}
		if found != nil && found.Writer != s.Writer {
			return NameEntry{}, false
		}
		found = s
	}
	return NameEntry{name, found}, found != nil
}

// Steps is how many snapshots there are, and what their files come to.
func (n *Names) Steps() (count int, logical int64) {
	for _, d := range n.dirs {
		if d.writer != "" {
			continue // they are in the others, too
		}
		count += len(d.steps)
		for _, s := range d.steps {
			logical += s.Record.Logical
		}
	}
	return count, logical
}
