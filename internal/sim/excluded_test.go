package sim

import (
	"fmt"
	"strings"
)

// What is excluded is in the live tree and in no snapshot. A close does not
// commit it; an fsync makes it durable, without a snapshot. What a rename brings
// into sight is as of its last close.

// excludes are the patterns of every mount; hidden is what they match.
var excludes = []string{"*.tmp", "/w*/cache/"}

// hidden says whether a path of a worker's directory is excluded.
func hidden(path string) bool {
	for i, part := range strings.Split(path, "/") {
		if strings.HasSuffix(part, ".tmp") || i == 0 && part == "cache" {
			return true
		}
	}
	return false
}

// shown is what workers choose from for operations after which snapshots show
// the file.
func shown(path string, n node) bool { return plain(path, n) && !hidden(path) }

// unseen gives the nodes that are excluded.
func (s treeState) unseen() (ids []int) {
	for id, n := range s.nodes {
		if n.unseen {
			ids = append(ids, id)
		}
	}
	return ids
}

// cross makes a node excluded, or not any more. One of several names stays what
// it is; nothing here hides such a one.
func (k *worker) cross(s *treeState, id int, unseen bool) {
	n := s.nodes[id]
	if n.unseen == unseen {
		return
	}
	n.unseen = unseen
	if _, open := k.fhs[id]; n.f != nil && !unseen && !open {
		n = k.m.commit(n)
	}
	s.nodes[id] = n
}

// hide renames a file out of sight, or into it.
func (k *worker) hide() {
	from := k.rng.IntN(2) == 0
	path, id, ok := k.pick(func(path string, n node) bool { return plain(path, n) && hidden(path) == from })
	to, free := k.free(false)
	if !ok || !free || len(k.namesOf(id)) > 1 {
		return
	}
	k.move(path, to, id, 0)
	if hidden(to) {
		k.did.excluded.Add(1)
	} else if from {
		k.did.exposed.Add(1)
	}
}

func (k *worker) namesOf(id int) (paths []string) {
	for path, other := range k.m.last(k.w).names {
		if other == id {
			paths = append(paths, path)
		}
	}
	return paths
}

// moveDir renames a directory into sight, with all that is in it; nothing there
// is open.
func (k *worker) moveDir(path, to string) {
	d1, n1 := k.where(path)
	d2, n2 := k.where(to)
	k.do("rename "+path+" "+to, func(s *treeState) {
		for _, p := range append(below(*s, path), path) {
			id := s.names[p]
			delete(s.names, p)
			s.names[to+strings.TrimPrefix(p, path)] = id
			k.cross(s, id, false)
		}
	}, func() error { return k.s.tree.Rename(d1, n1, d2, n2, 0) })
	k.did.exposed.Add(1)
}

// shownOf leaves out what is excluded.
func shownOf(all map[string]seen) map[string]seen {
	out := map[string]seen{}
	for path, n := range all {
		if !hidden(path) {
			out[path] = n
		}
	}
	return out
}

// unmoved says whether what is excluded is as it was before a rollback.
func (k *worker) unmoved(before treeState, live map[string]seen) error {
	for path, id := range before.names {
		n := before.nodes[id]
		if v, there := live[path]; hidden(path) && (!there || v.mode != n.mode || v.isFile && v.data != k.content(n)) {
			return fmt.Errorf("%s was excluded: there %v, mode %o and not %o, %s", path, there, v.mode, n.mode, brief(v.data))
		}
	}
	for path := range live {
		if _, was := before.names[path]; hidden(path) && !was {
			return fmt.Errorf("%s is excluded, and is there", path)
		}
	}
	return nil
}
