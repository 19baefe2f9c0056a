package posix

import (
	"hash/crc32"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ref is something that an operation touches: where it is in each tree.
type ref struct {
	what   string
	path   [2]string
	follow bool
}

// refs gives what an operation touches: its paths, the directories that they
// are in, what they lead to, and what is open.
func (l *lockstep) refs(w *worker, o op) []ref {
	var all []ref
	for i, typ := range kinds[o.kind].args {
		switch typ {
		case "slot":
			if _, ok := w.fds[o.args[i]]; ok {
				all = append(all, ref{o.args[i], [2]string{w.file(o.args[i], peer), w.file(o.args[i], mount)}, true})
			}
		case "file", "dir", "any", "new", "link", "fresh":
			p := expand(o.args[i])
			if strings.HasPrefix(o.args[i], "@@") {
				p = "a" // which below our directories would be too long
			}
			all = append(all, l.ref(path.Dir(p), true), l.ref(p, false), l.ref(p, true))
		}
	}
	return all
}

func (l *lockstep) ref(p string, follow bool) ref {
	return ref{p, [2]string{l.dir(peer) + "/" + p, l.dir(mount) + "/" + p}, follow}
}

// look is what is at a ref in one tree.
type look struct {
	err error
	st  unix.Stat_t
}

func (r ref) look(tree int) (k look) {
	stat := unix.Lstat
	if r.follow {
		stat = unix.Stat
	}
	k.err = stat(r.path[tree], &k.st)
	return k
}

func (k look) String() string {
	if k.err != nil {
		return errnoName(k.err)
	}
	return describe(&k.st) + stampOf(&k.st).set()
}

func (k look) isFile() bool { return k.err == nil && k.st.Mode&unix.S_IFMT == unix.S_IFREG }

// seen notes the times of what is at a ref in both trees, and says in which way
// they are others than they were, where they were known in both.
func (l *lockstep) seen(looks [2]look) (moved [2]string) {
	if looks[peer].err != nil || looks[mount].err != nil {
		return moved
	}
	known := true
	for tree, k := range looks {
		now := stampOf(&k.st)
		before, ok := l.stamps[tree][k.st.Ino]
		known = known && ok
		l.stamps[tree][k.st.Ino] = now
		moved[tree] = now.moved(before)
	}
	if !known {
		return [2]string{}
	}
	return moved
}

func compareResults(o op, r [2]string) error {
	switch {
	case kinds[o.kind].how&wantsPeerOff != 0:
		if strings.HasPrefix(r[mount], "ok") {
			return differ("is not refused")
		}
		return nil
	case r[peer] == r[mount]:
		return nil
	}
	return differ("results differ\n   ext4   %s\n   stepfs %s", r[peer], r[mount])
}

func (l *lockstep) compareRef(o op, r ref) error {
	now := [2]look{r.look(peer), r.look(mount)}
	if now[peer].String() != now[mount].String() {
		return differ("%s differs\n   ext4   %s\n   stepfs %s", r.what, now[peer], now[mount])
	}
	if moved := l.seen(now); moved[peer] != moved[mount] {
		return differ("times of %s moved\n   ext4   %s\n   stepfs %s", r.what, moved[peer], moved[mount])
	}
	// Reading fills the page cache, and not to read leaves it as it is: both
	// have to be right.
	if !r.follow || !now[peer].isFile() || crc32.ChecksumIEEE([]byte(o.String()))%2 == 0 {
		return nil
	}
	// O_PATH opens nothing: an unlinked file is gone, though it can be looked at.
	if d := l.commits.descs[descKey{o.who, r.what}]; d != nil && d.path && now[peer].st.Nlink == 0 {
		return nil
	}
	return l.compareContent(r)
}

func (l *lockstep) compareContent(r ref) error {
	want, err := readContent(r.path[peer])
	if err != nil {
		return err
	}
	got, err := readContent(r.path[mount])
	if err != nil {
		return differ("read %s: %v", r.what, err)
	}
	if want != got {
		return differ("content of %s: ext4 %v, stepfs %v", r.what, want, got)
	}
	return nil
}

// compare holds the whole trees against each other.
func (l *lockstep) compare() error {
	want, err := readTree(l.dir(peer))
	if err != nil {
		return err
	}
	got, err := readTree(l.dir(mount))
	if err != nil {
		return differ("read the tree: %v", err)
	}
	for path, w := range want {
		if g, ok := got[path]; ok {
			moved := l.seen([2]look{w.look(), g.look()})
			if moved[peer] != moved[mount] {
				return differ("times of %s moved\n   ext4   %s\n   stepfs %s", path, moved[peer], moved[mount])
			}
		}
	}
	if diff := compareTrees(want, got, nil); diff != "" {
		return differ("the trees differ:\n%s", diff)
	}
	l.counts.trees++
	return nil
}

func (e entry) look() (k look) {
	k.st.Ino = e.ino
	k.st.Atim, k.st.Mtim, k.st.Ctim = unix.NsecToTimespec(e.stamp.atime), unix.NsecToTimespec(e.stamp.mtime), unix.NsecToTimespec(e.stamp.ctime)
	return k
}

// compareBarrier holds the newest snapshot against the peer's tree as it is
// now, which nobody has changed since.
func (l *lockstep) compareBarrier() error {
	all, err := os.ReadDir(l.s.barriers())
	if err != nil {
		return differ("list the barriers: %v", err)
	}
	newest, name := uint64(0), ""
	for _, e := range all {
		if seq, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && seq >= newest {
			newest, name = seq, e.Name()
		}
	}
	if name == "" {
		return differ("no barrier is listed")
	}
	return l.compareSnapshot(filepath.Join(l.s.barriers(), name, l.name), false)
}

func (l *lockstep) compareSnapshot(dir string, named bool) error {
	want, err := readTree(l.dir(peer))
	if err != nil {
		return err
	}
	got, err := readTree(dir)
	if err != nil {
		return differ("read the snapshot: %v", err)
	}
	diff := compareTrees(want, got, func(path string, w, g entry) (entry, verdict) {
		if w.mode&unix.S_IFMT != unix.S_IFREG {
			return w, present
		}
		var there *content
		if _, ok := got[path]; ok {
			there = &g.content
		}
		shown, v, known := l.commits.shows(w.ino, w.content, there, named)
		if shown != w.content || l.commits.file(w.ino).dirty {
			w.set = g.set // the time is that of the content that shows
		}
		w.content = shown
		l.counts.shown(known, l.commits.file(w.ino).dirty)
		return w, v
	})
	if diff != "" {
		return differ("snapshot %s differs:\n%s", dir, diff)
	}
	l.counts.snapshots++
	return nil
}
