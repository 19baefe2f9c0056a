package attach

import (
	"sync"

	"stepfs/snapshot/published"
)

// The directories above snapshots are made up: the root, the directory of
// snapshots in it, and those of published.Names below. Their nodes are numbers
// that are given out as they are asked for.

// nameKind is what a synthetic name is.
type nameKind uint8

const (
	rootName nameKind = iota // of the mount, unless only snapshots are shown
	dirName
	latestOf
)

type nameOf struct {
	kind nameKind
	path string // of published.Names
}

// nameTable numbers synthetic names.
type nameTable struct {
	mu  sync.Mutex
	ids map[nameOf]nodeID
	of  []nameOf // by number, from 2 on
}

func (t *nameTable) init() { t.ids, t.of = map[nameOf]nodeID{}, make([]nameOf, 2) }

func (t *nameTable) id(of nameOf) nodeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.ids[of]
	if !ok {
		n = nodeID(len(t.of))
		t.ids[of], t.of = n, append(t.of, of)
	}
	return n
}

func (t *nameTable) get(n nodeID) (nameOf, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n < 2 || int(n) >= len(t.of) {
		return nameOf{}, false
	}
	return t.of[n], true
}

// top is what the mount's root is.
func (f *FileSystem) top() nameOf {
	if f.opts.SnapshotsOnly {
		return nameOf{kind: dirName}
	}
	return nameOf{kind: rootName}
}

func (f *FileSystem) nameOf(n nodeID) (nameOf, error) {
	if n == rootNode {
		return f.top(), nil
	}
	if of, ok := f.names.get(n); ok {
		return of, nil
	}
	return nameOf{}, errStale
}

// nameNode is the node of a synthetic name.
func (f *FileSystem) nameNode(of nameOf) nodeID {
	if of == f.top() {
		return rootNode
	}
	return f.names.id(of)
}

// nameDir gives what is in a synthetic directory now.
func (f *FileSystem) nameDir(of nameOf) (*published.NameDir, error) {
	if of.kind != dirName {
		return nil, errNotDir
	}
	d := f.opts.Catalog.Names().Dir(of.path)
	if d == nil {
		return nil, errStale // all that was in it is gone
	}
	return d, nil
}

// nameParent is the directory that a synthetic node is in.
func (f *FileSystem) nameParent(of nameOf) nodeID {
	switch {
	case of.kind == latestOf:
		return f.nameNode(nameOf{dirName, of.path})
	case of.kind == dirName && of.path != "":
		up, _ := cutLast(of.path)
		return f.nameNode(nameOf{dirName, up})
	}
	return rootNode
}

// lookupName finds a name in a synthetic directory.
func (f *FileSystem) lookupName(of nameOf, name string) (nodeID, error) {
	if of.kind == rootName {
		if name == f.opts.SnapDirName {
			return f.nameNode(nameOf{kind: dirName}), nil
		}
		return 0, errNotExist
	}
	names := f.opts.Catalog.Names()
	d := names.Dir(of.path)
	if d == nil {
		return 0, errNotExist
	}
	if name == latestName {
		if d.Latest == "" {
			return 0, errNotExist
		}
		return f.nameNode(nameOf{latestOf, of.path}), nil
	}
	e, ok := names.Lookup(of.path, name)
	switch {
	case !ok:
		return 0, errNotExist
	case e.Step == nil:
		return f.nameNode(nameOf{dirName, join(of.path, name)}), nil
	}
	s, err := f.shown.enter(of.path, name, e.Step)
	if err != nil {
		return 0, err
	}
	if at, ok := d.Place(name); ok {
		f.looked(of.path, d, at)
	}
	return snapshotNode(s.slot, 0, 0), nil
}

const latestName = "latest"

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// cutLast splits a path before its last component.
func cutLast(path string) (dir, base string) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return "", path
}
