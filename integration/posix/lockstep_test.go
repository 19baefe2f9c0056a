package posix

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockstep is one run of a script, in a new directory of both trees.
type lockstep struct {
	s       *session
	name    string // of the directory, in both trees
	commits *commits
	stamps  [2]map[uint64]stamp // what was last seen, by inode
	step    int
	done    []op // as they were made
	counts  *counts
}

// difference found by a run: the harness's own troubles are other errors.
type found struct{ text string }

func (f *found) Error() string { return f.text }

func differ(format string, args ...any) error { return &found{fmt.Sprintf(format, args...)} }

// everySteps is how often the trees are compared whole.
const everySteps = 40

// run makes the operations one after the other, up to the first difference.
func (s *session) run(ops []op, counts *counts) (done []op, err error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	s.runs++
	l := &lockstep{s: s, name: fmt.Sprintf("run-%d", s.runs), commits: newCommits(), counts: counts}
	l.stamps[peer], l.stamps[mount] = map[uint64]stamp{}, map[uint64]stamp{}
	for tree := range s.bases {
		if err := os.Mkdir(l.dir(tree), 0o700); err != nil {
			return nil, err
		}
		if err := os.Chmod(l.dir(tree), 0o777); err != nil {
			return nil, err
		}
	}
	if err := l.enter(true, true); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, l.enter(false, false), os.RemoveAll(l.dir(peer)))
		if s.daemon.Running() {
			err = errors.Join(err, os.RemoveAll(l.dir(mount)))
		}
	}()
	for _, o := range ops {
		if err := l.do(o); err != nil {
			return l.done, fmt.Errorf("step %d: %w", len(l.done), err)
		}
	}
	return l.done, l.compare()
}

func (l *lockstep) dir(tree int) string { return filepath.Join(l.s.bases[tree], l.name) }

// enter has all workers close what they have open and enter the trees, or
// leave them.
func (l *lockstep) enter(inPeer, inMount bool) error {
	var dirs [2]string
	for tree, in := range []bool{inPeer, inMount} {
		if in {
			dirs[tree] = l.dir(tree)
		}
	}
	for _, w := range l.s.workers {
		if err := w.enter(dirs); err != nil {
			return err
		}
	}
	return nil
}

// do makes one operation.
func (l *lockstep) do(o op) error {
	w := l.s.workers[o.who]
	if w != nil {
		var ok bool
		if o, ok = l.resolve(w, o); !ok {
			return nil // nothing is open that it could be made with
		}
	}
	l.done = append(l.done, o)
	var err error
	switch o.kind {
	case "kill":
		err = l.kill()
	case "remount":
		err = l.remount()
	case "compare":
		err = l.compare()
	case "snapshot":
		err = l.snapshot()
	default:
		err = l.call(w, o)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	if l.step++; l.step%everySteps == 0 {
		return l.compare()
	}
	return nil
}

// resolve turns descriptors that are not open into ones that are, and frees the
// slot that a call fills.
func (l *lockstep) resolve(w *worker, o op) (op, bool) {
	k := kinds[o.kind]
	args := append([]string(nil), o.args...)
	fills := -1
	switch o.kind {
	case "open", "tmpfile":
		fills = 0
	case "dup":
		fills = 1
	}
	for i, typ := range k.args {
		if typ != "slot" || i == fills {
			continue
		}
		slot, ok := w.openSlot(args[i])
		if !ok {
			return o, false
		}
		args[i] = slot
	}
	o.args = args
	if fills >= 0 {
		if _, full := w.fds[args[fills]]; full {
			if o.kind == "dup" && args[0] == args[1] {
				return o, false
			}
			if err := l.do(op{o.who, "close", []string{args[fills]}}); err != nil {
				return o, false // comes again with the next comparison
			}
		}
	}
	return o, true
}

// openSlot gives the slot, or the next one that is not empty.
func (w *worker) openSlot(slot string) (string, bool) {
	at := int(slot[1] - '0')
	for i := range slots {
		s := fmt.Sprintf("f%d", (at+i)%slots)
		if _, ok := w.fds[s]; ok {
			return s, true
		}
	}
	return "", false
}

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

// call makes a call in both trees and compares what it did.
func (l *lockstep) call(w *worker, o op) error {
	refs := l.refs(w, o)
	before := make([][2]look, len(refs))
	for i, r := range refs {
		before[i] = [2]look{r.look(peer), r.look(mount)}
		l.seen(before[i])
	}
	l.beforeCall(w, o, refs, before)
	results, err := w.do(o)
	if err != nil {
		return differ("%v\n%s", err, l.s.daemon.Output())
	}
	l.counts.add(o, results)
	if err := compareResults(o, results); err != nil {
		return err
	}
	l.afterCall(w, o, results, before, refs)
	if o.kind != "close" && w.fds[lastSlot(o)] != [2]int{} { // what it has opened
		refs = append(refs, l.refs(w, op{o.who, "fstat", []string{lastSlot(o)}})...)
	}
	for i, r := range refs {
		if o.kind == "close" && r.what == o.args[0] {
			continue
		}
		now := [2]look{r.look(peer), r.look(mount)}
		var was [2]look
		if i < len(before) {
			was = before[i]
		}
		if err := l.compareRef(o, r, was, now); err != nil {
			return err
		}
	}
	if kinds[o.kind].how&isBarrier != 0 && results[mount] == "ok " || o.kind == "mmap" && good(results[mount]) {
		return l.compareBarrier()
	}
	return nil
}

func good(result string) bool {
	return strings.HasPrefix(result, "ok") && result != "ok "+skipped
}

// lastSlot is the descriptor that a call fills, or writes to.
func lastSlot(o op) string {
	slot := ""
	for i, typ := range kinds[o.kind].args {
		if typ == "slot" {
			slot = o.args[i]
		}
	}
	return slot
}

func compareResults(o op, r [2]string) error {
	switch {
	case kinds[o.kind].how&wantsPeerOff != 0:
		if strings.HasPrefix(r[mount], "ok") {
			return differ("is not refused")
		}
		return nil
	case r[peer] == r[mount], wanted(o, r) != "":
		return nil
	}
	return differ("results differ\n   ext4   %s\n   stepfs %s", r[peer], r[mount])
}

func (l *lockstep) compareRef(o op, r ref, before, now [2]look) error {
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

// beforeCall tells the model which file may be about to change.
func (l *lockstep) beforeCall(w *worker, o op, refs []ref, before [][2]look) {
	for i, r := range refs {
		if !r.follow || !before[i][peer].isFile() {
			continue
		}
		slot := kinds[o.kind].how&changesContent != 0 && r.what == lastSlot(o)
		if slot || o.kind == "truncate" || o.kind == "open" && strings.Contains(o.args[2], "O_TRUNC") {
			l.commits.changing(before[i][peer].st.Ino, func() content {
				c, _ := readContent(r.path[peer])
				return c
			})
		}
	}
}

// afterCall tells the model what has happened.
func (l *lockstep) afterCall(w *worker, o op, results [2]string, before [][2]look, refs []ref) {
	c, result := l.commits, results[mount]
	if !good(result) {
		return
	}
	ino := func(slot string) uint64 {
		if d := c.descs[descKey{o.who, slot}]; d != nil {
			return d.ino
		}
		return 0
	}
	switch o.kind {
	case "open":
		l.opened(w, o, flagsOf(o.args[2]), before[2][peer].err != nil)
	case "tmpfile":
		l.opened(w, o, flagsOf(o.args[2]), true)
	case "dup":
		c.duplicated(o.who, o.args[0], o.args[1])
	case "close":
		c.closed(o.who, o.args[0])
	case "mknod":
		if now := l.ref(expand(o.args[0]), false).look(peer); now.isFile() {
			c.made(now.st.Ino, false)
		}
	case "truncate":
		if before[2][peer].isFile() {
			c.changed(before[2][peer].st.Ino, nil)
		}
	case "ftruncate", "fallocate":
		if now := refs[0].look(mount); now.isFile() && stampOf(&now.st).mtime != stampOf(&before[0][mount].st).mtime {
			c.changed(ino(o.args[0]), c.descs[descKey{o.who, o.args[0]}])
		}
	case "write", "pwrite", "pwritev", "copyrange", "sendfile":
		slot := lastSlot(o)
		if n, _ := strconv.Atoi(strings.TrimPrefix(result, "ok ")); n > 0 && before[slotRef(o)][peer].isFile() {
			d := c.descs[descKey{o.who, slot}]
			if c.changed(d.ino, d); d.sync {
				c.barrier(d.ino)
			}
		}
	case "fsync", "fdatasync", "mmap":
		c.barrier(ino(o.args[0]))
	}
}

// slotRef is the place of the last descriptor among the refs of a call that has
// descriptors alone.
func slotRef(o op) int {
	n := -1
	for _, typ := range kinds[o.kind].args {
		if typ == "slot" {
			n++
		}
	}
	return n
}

func (l *lockstep) opened(w *worker, o op, flags int, made bool) {
	k := ref{path: [2]string{w.file(o.args[0], peer), ""}, follow: true}.look(peer)
	ino := k.st.Ino
	if made && flags&unix.O_PATH == 0 {
		l.commits.made(ino, true)
	}
	if !k.isFile() {
		flags = unix.O_PATH // nothing that has content
	}
	l.commits.opened(o.who, o.args[0], ino, flags)
	if flags&unix.O_TRUNC != 0 && flags&unix.O_PATH == 0 && !made {
		l.commits.changed(ino, l.commits.descs[descKey{o.who, o.args[0]}])
	}
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

// snapshot takes one under a name.
func (l *lockstep) snapshot() error {
	l.s.snapshots++
	dir := filepath.Join(l.s.daemon.Mnt, "snapshots", fmt.Sprintf("s%d", l.s.snapshots))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return differ("%v", err)
	}
	return l.compareSnapshot(filepath.Join(dir, l.name), true)
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

// kill kills the daemon and mounts again: all that was answered is there.
func (l *lockstep) kill() error {
	l.commits.killed()
	if err := l.s.daemon.Kill(); err != nil {
		return differ("%v", err)
	}
	return l.back(&l.counts.kills)
}

// remount ends the daemon as an operator would.
func (l *lockstep) remount() error {
	for key := range l.commits.descs {
		l.commits.closed(key.who, key.slot)
	}
	if err := l.enter(false, false); err != nil {
		return err
	}
	if err := l.s.daemon.Stop(); err != nil {
		return differ("%v", err)
	}
	return l.back(&l.counts.remounts)
}

func (l *lockstep) back(count *int) error {
	if err := l.enter(true, false); err != nil {
		return err
	}
	if err := l.s.daemon.Start(); err != nil {
		return differ("%v", err)
	}
	if err := l.enter(true, true); err != nil {
		return err
	}
	*count++
	return l.compare()
}
