package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// worker is one of those that use a store. It tells the model of each call
// before and after it makes it. Its first error ends its work.
type worker struct {
	w    int
	rng  *rand.Rand
	m    *model
	s    *store
	dir  uint64         // its directory
	inos map[int]uint64 // of the nodes of its states
	fhs  map[int]uint64 // of those that are open
	how  map[int]uint32 // with which flags
	next *int           // number of the next node
	step *int           // and of the next step
	out  *outside
	did  *counts
	err  error

	weights []float32 // what is trained
}

func dirName(w int) string { return fmt.Sprint("w", w) }

// do is one call: change makes the state that is found after it.
func (k *worker) do(what string, change func(s *treeState), call func() error) bool {
	if k.err != nil {
		return false
	}
	s := k.m.last(k.w).clone(what)
	change(&s)
	k.m.begin(k.w, s)
	if err := call(); err != nil {
		k.err = fmt.Errorf("w%d: %s: %w", k.w, what, err)
		return false
	}
	k.m.end(k.w)
	return true
}

func (k *worker) pick(ok func(path string, n node) bool) (string, int, bool) {
	s := k.m.last(k.w)
	var paths []string
	for path, id := range s.names {
		if ok(path, s.nodes[id]) {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return "", 0, false
	}
	sort.Strings(paths)
	path := paths[k.rng.IntN(len(paths))]
	return path, s.names[path], true
}

func plain(path string, n node) bool { return n.f != nil && !strings.HasPrefix(path, "checkpoint") }

// where gives a path's directory and name in it.
func (k *worker) where(path string) (dir uint64, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return k.inos[k.m.last(k.w).names[path[:i]]], path[i+1:]
	}
	return k.dir, path
}

// free gives a path at which nothing is; seen: one that snapshots show.
func (k *worker) free(seen bool) (string, bool) {
	s := k.m.last(k.w)
	var free []string
	for _, path := range []string{"a", "b", "c", "d", "sub/a", "sub/b", "a.tmp", "b.tmp", "cache/a", "cache/b"} {
		if _, ok := s.names[path]; ok || seen && hidden(path) {
			continue
		}
		if dir, _, ok := strings.Cut(path, "/"); ok {
			if _, ok := s.names[dir]; !ok {
				continue
			}
		}
		free = append(free, path)
	}
	if len(free) == 0 {
		return "", false
	}
	return free[k.rng.IntN(len(free))], true
}

// run does n things at random.
func (k *worker) run(n int) {
	ops := []func(){k.write, k.write, k.write, k.write, k.write, k.shut, k.shut, k.shut, k.truncate, k.link, k.rename, k.rename, k.unlink, k.subdir, k.symlink,
		k.attr, k.copy, k.copyRange, k.copyRange, k.punch, k.exchange, k.tmpfile, k.hide, k.hide, k.takeIn, k.fsync, k.fsync, k.fsyncAll, k.fsyncDir, k.barrier, k.settle, k.wait, k.checkpoint, k.rotate, k.train}
	if k.w == 0 {
		ops = append(ops, k.named, k.named, k.forget, k.unforget, k.hold, k.release, k.prune, k.rollback, k.drain, k.drain, k.outdated)
	}
	for range n {
		if k.err != nil {
			return
		}
		if k.rng.IntN(len(ops)) == 0 {
			k.m.alone.Lock()
			[]func(){k.settled, k.spilled}[k.rng.IntN(2)]()
			k.m.alone.Unlock()
			continue
		}
		k.m.alone.RLock()
		ops[k.rng.IntN(len(ops))]()
		k.m.alone.RUnlock()
	}
}

// settled is an fsync of a file that has settled in the background since a
// barrier of somebody else, in a tree that nobody has changed since; nothing
// else syncs the journal for a while.
func (k *worker) settled() {
	path, id, ok := k.pick(plain)
	if !ok {
		return
	}
	if _, open := k.fhs[id]; !open && !k.open(path, id, 0) {
		return
	}
	k.put(id, 0, 67000)
	if k.err == nil {
		k.close(id)
	}
	k.sync("barrier")
	k.do("settle "+path, func(*treeState) {}, func() error { return k.s.tree.Settle(k.inos[id]) })
	k.sync("fsync of what has settled: "+path, id)
	for range 4 {
		k.attr()
	}
}

// spilled is a file that was small when it was synced, and then grows too large
// for the index: what was synced moves to a file of its own. The journal is synced
// then, and nothing else for a while.
func (k *worker) spilled() {
	path, ok := k.free(true)
	if !ok {
		return
	}
	id := k.create(path)
	if k.err == nil {
		k.put(id, 0, 3000)
	}
	k.sync("fsync of what is small: "+path, id)
	if k.err == nil {
		k.put(id, 3000, 67000)
	}
	k.sync("barrier")
	for range 4 {
		k.attr()
	}
}

// create makes a file, open.
func (k *worker) create(path string) int {
	*k.next++
	id, f, flags := *k.next, k.m.newFile(""), k.flags()
	dir, name := k.where(path)
	k.do(fmt.Sprintf("create %s %#x", path, flags), func(s *treeState) {
		if flags&unix.O_APPEND != 0 {
			k.m.logged(f, 0)
		}
		s.names[path], s.nodes[id] = id, node{mode: fileMode(0o644), f: f, commit: -1, log: flags&unix.O_APPEND != 0, unseen: hidden(path)}
	}, func() error {
		a, fh, err := k.s.tree.Create(dir, name, 0o644, unix.O_RDWR|flags, stage.Cred{})
		k.inos[id], k.fhs[id], k.how[id] = a.Ino, fh, flags
		return err
	})
	return id
}

// opened gives a file that is open, of those there are or a new one.
func (k *worker) opened() (id int, ok bool) {
	if path, free := k.free(false); free && k.rng.IntN(3) == 0 {
		return k.create(path), k.err == nil
	}
	path, id, ok := k.pick(plain)
	if !ok {
		return 0, false
	}
	if _, open := k.fhs[id]; open {
		return id, true
	}
	if trunc := k.rng.IntN(3) == 0; trunc {
		return id, k.open(path, id, unix.O_TRUNC)
	}
	return id, k.open(path, id, 0)
}

// flags says how a file is opened, besides for reading and writing.
func (k *worker) flags() uint32 {
	switch k.rng.IntN(12) {
	case 0:
		return unix.O_SYNC
	case 1:
		return unix.O_DSYNC
	case 2, 3:
		return unix.O_APPEND
	}
	return 0
}

func (k *worker) open(path string, id int, flags uint32) bool {
	flags |= k.flags()
	return k.do(fmt.Sprintf("open %s %#x", path, flags), func(s *treeState) {
		n := s.nodes[id].unlogged()      // a kill may have left it open
		n.log = flags&unix.O_APPEND != 0 // a log is one that is opened for that
		if flags&unix.O_TRUNC != 0 {
			n.log = n.log && k.content(n) == ""
			if n.live = k.m.version(n.f, ""); n.log {
				k.m.logged(n.f, n.live)
			}
		}
		s.nodes[id] = n
	}, func() error {
		fh, err := k.s.tree.Open(k.inos[id], unix.O_RDWR|flags, stage.Cred{})
		k.fhs[id], k.how[id] = fh, flags
		return err
	})
}

// version adds a content to a file.
func (m *model) version(f *file, content string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.contents = append(f.contents, content)
	return len(f.contents) - 1
}

// logged notes a version that a seal may take though the file is open.
func (m *model) logged(f *file, version int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.logs = append(f.logs, version)
}

// commit makes the live content of a node what snapshots show.
func (m *model) commit(n node) node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.commit != n.live {
		n.commit = n.live
		n.f.commits = append(n.f.commits, n.live)
	}
	n.maybe = nil
	return n
}

func (k *worker) content(n node) string {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	return n.f.contents[n.live]
}

func (k *worker) write() {
	id, ok := k.opened()
	if !ok {
		return
	}
	n := k.m.last(k.w).nodes[id]
	old := k.content(n)
	off := int64(len(old))
	if k.rng.IntN(2) == 0 {
		off = []int64{0, 0, 100, 4096, 5000}[k.rng.IntN(5)]
	}
	if k.how[id]&unix.O_APPEND != 0 {
		off = int64(len(old))
	}
	if off > 80<<10 {
		return
	}
	k.put(id, off, []int{1, 100, 3000, 4096, 9000, 67000}[k.rng.IntN(6)])
}

func (k *worker) put(id int, off int64, size int) { k.putData(id, off, noise(k.rng, size)) }

func (k *worker) putData(id int, off int64, data []byte) {
	n := k.m.last(k.w).nodes[id]
	old := k.content(n)
	if k.how[id]&unix.O_APPEND != 0 {
		off = int64(len(old))
	}
	size := len(data)
	b := make([]byte, max(len(old), int(off)+size))
	copy(b, old)
	copy(b[off:], data)
	k.do(fmt.Sprintf("write %d [%d+%d]", id, off, size), func(s *treeState) {
		n.live, n.log = k.m.version(n.f, string(b)), n.log && off >= int64(len(old))
		if n.log {
			k.m.logged(n.f, n.live)
		}
		s.nodes[id] = n
	}, func() error {
		got, err := k.s.tree.Write(k.inos[id], k.fhs[id], data, off)
		if err == nil && got != size {
			err = fmt.Errorf("%d of %d bytes", got, size)
		}
		return err
	})
	k.synchronous(id)
}

// noise is what does not compress well and has pages that are told apart.
func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 64 {
		v := byte(1 + rng.IntN(255))
		for j := i; j < min(i+64, n); j++ {
			b[j] = v
		}
	}
	return b
}

func (k *worker) shut() {
	for id := range k.fhs {
		k.close(id)
		return
	}
}

func (k *worker) close(id int) {
	_, linked := k.m.last(k.w).nodes[id]
	k.do(fmt.Sprintf("close %d", id), func(s *treeState) {
		if n := s.nodes[id]; linked {
			if !n.unseen {
				n = k.m.commit(n)
			}
			n.log = false
			s.nodes[id] = n
		}
	}, func() error { return k.s.tree.Flush(k.inos[id], k.fhs[id], false) })
	k.s.tree.Release(k.inos[id], k.fhs[id])
	delete(k.fhs, id)
	delete(k.how, id)
}

func (k *worker) closeAll() {
	for _, id := range k.openIDs() {
		k.close(id)
	}
}

func (k *worker) openIDs() (ids []int) {
	for id := range k.fhs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (k *worker) truncate() {
	path, id, ok := k.pick(plain)
	if !ok {
		return
	}
	size := []int64{0, 10, 4097, 70000}[k.rng.IntN(4)]
	k.do(fmt.Sprintf("truncate %s to %d", path, size), func(s *treeState) {
		n := s.nodes[id]
		b := make([]byte, size)
		copy(b, k.content(n))
		if int64(len(k.content(n))) != size {
			n = n.unlogged()
		}
		n.live = k.m.version(n.f, string(b))
		if _, open := k.fhs[id]; !open && !n.unseen {
			n = k.m.commit(n)
		}
		s.nodes[id] = n
	}, func() error {
		_, err := k.s.tree.SetAttr(k.inos[id], stage.SetAttr{Size: &size})
		return err
	})
}

func (k *worker) link() {
	path, id, ok := k.pick(shown)
	to, free := k.free(true)
	if !ok || !free {
		return
	}
	dir, name := k.where(to)
	k.do("link "+path+" "+to, func(s *treeState) { s.names[to] = id }, func() error {
		_, err := k.s.tree.Link(k.inos[id], dir, name)
		return err
	})
}

func (k *worker) rename() {
	path, id, ok := k.pick(shown)
	to, free := k.free(true)
	over := 0
	if !free || k.rng.IntN(2) == 0 {
		to, over, free = k.pick(shown)
	}
	if ok && free && over != id {
		k.move(path, to, id, over)
	}
}

// move renames a file, perhaps over another. What comes into sight is what its
// last close or sync has left; what goes out of sight is in snapshots no more.
func (k *worker) move(path, to string, id, over int) {
	d1, n1 := k.where(path)
	d2, n2 := k.where(to)
	k.do("rename "+path+" "+to, func(s *treeState) {
		s.names[to] = id
		delete(s.names, path)
		s.drop(over)
		k.cross(s, id, hidden(to))
	}, func() error { return k.s.tree.Rename(d1, n1, d2, n2, 0) })
}

// drop forgets a node without a name.
func (s *treeState) drop(id int) {
	for _, other := range s.names {
		if other == id {
			return
		}
	}
	delete(s.nodes, id)
}

func (k *worker) unlink() {
	if path, _, ok := k.pick(plain); ok {
		k.remove(path)
	}
}

func (k *worker) remove(path string) {
	dir, name := k.where(path)
	k.do("unlink "+path, func(s *treeState) {
		id := s.names[path]
		delete(s.names, path)
		s.drop(id)
	}, func() error { return k.s.tree.Unlink(dir, name) })
}

func (k *worker) mkdir(path string) {
	*k.next++
	id := *k.next
	dir, name := k.where(path)
	k.do("mkdir "+path, func(s *treeState) {
		s.names[path], s.nodes[id] = id, node{mode: stage.ModeDir | 0o755, commit: -1, unseen: hidden(path)}
	}, func() error {
		a, err := k.s.tree.Mknod(dir, name, stage.ModeDir|0o755, 0, stage.Cred{})
		k.inos[id] = a.Ino
		return err
	})
}

func (k *worker) rmdir(path string) {
	dir, name := k.where(path)
	k.do("rmdir "+path, func(s *treeState) {
		id := s.names[path]
		delete(s.names, path)
		s.drop(id)
	}, func() error { return k.s.tree.Rmdir(dir, name) })
}

func (k *worker) subdir() {
	s := k.m.last(k.w)
	dir := []string{"sub", "cache"}[k.rng.IntN(2)]
	if _, ok := s.names[dir]; !ok {
		k.mkdir(dir)
	} else if len(below(s, dir)) == 0 {
		k.rmdir(dir)
	}
}

func (k *worker) symlink() {
	path, ok := k.free(true)
	if !ok || k.rng.IntN(2) == 0 {
		return
	}
	*k.next++
	id := *k.next
	dir, name := k.where(path)
	target := fmt.Sprint("to", id)
	k.do("symlink "+path, func(s *treeState) {
		s.names[path], s.nodes[id] = id, node{mode: stage.ModeLink | 0o777, target: target, commit: -1}
	}, func() error {
		a, err := k.s.tree.Symlink(dir, name, target, stage.Cred{})
		k.inos[id] = a.Ino
		return err
	})
}

func (k *worker) attr() {
	path, id, ok := k.pick(plain)
	if !ok {
		return
	}
	if k.rng.IntN(2) == 0 {
		perm := uint32(0o600 + k.rng.IntN(0o100))
		k.do(fmt.Sprintf("chmod %s %o", path, perm), func(s *treeState) {
			n := s.nodes[id]
			n.mode = fileMode(perm)
			s.nodes[id] = n
		}, func() error {
			_, err := k.s.tree.SetAttr(k.inos[id], stage.SetAttr{Mode: &perm})
			return err
		})
		return
	}
	if k.rng.IntN(3) == 0 && k.m.last(k.w).nodes[id].xattr != "" {
		k.do("removexattr "+path, func(s *treeState) {
			n := s.nodes[id]
			n.xattr = ""
			s.nodes[id] = n
		}, func() error { return k.s.tree.RemoveXattr(k.inos[id], "user.k") })
		return
	}
	val := fmt.Sprint("v", k.rng.IntN(1000))
	k.do("setxattr "+path, func(s *treeState) {
		n := s.nodes[id]
		n.xattr = val
		s.nodes[id] = n
	}, func() error { return k.s.tree.SetXattr(k.inos[id], "user.k", []byte(val), 0) })
}

// copy shares the content of a file with a new one.
func (k *worker) copy() {
	_, id, ok := k.pick(plain)
	to, free := k.free(false)
	if !ok || !free {
		return
	}
	src := k.m.last(k.w).nodes[id]
	content := k.content(src)
	if len(content) == 0 {
		return
	}
	dst := k.create(to)
	if k.how[dst]&unix.O_APPEND != 0 {
		return // no range of it can be chosen
	}
	k.do(fmt.Sprintf("copy %d to %d", id, dst), func(s *treeState) {
		n := s.nodes[dst]
		n.live, n.log = k.m.version(n.f, content), false
		s.nodes[dst], s.pieces = n, true
	}, func() error {
		n, err := k.s.tree.CopyRange(stage.Copy{Src: k.inos[id], Dst: k.inos[dst], Fh: k.fhs[dst], Len: 1 << 30})
		if err == nil && n != int64(len(content)) {
			err = fmt.Errorf("%d of %d bytes copied", n, len(content))
		}
		return err
	})
	k.synchronous(dst)
}

// sync is a barrier of some nodes; of those that are excluded it is another one.
func (k *worker) sync(what string, ids ...int) {
	var unseen []int
	s := k.m.last(k.w)
	ids = slices.DeleteFunc(ids, func(id int) bool {
		if s.nodes[id].unseen {
			unseen = append(unseen, id)
		}
		return s.nodes[id].unseen
	})
	if len(ids) > 0 || len(unseen) == 0 {
		k.syncOne(what, ids...)
	}
	if len(unseen) > 0 {
		k.syncOne(what+", excluded", unseen...)
	}
}

func (k *worker) syncOne(what string, ids ...int) {
	var inos []uint64
	var files []int
	for _, id := range ids {
		inos = append(inos, k.inos[id])
	}
	span := k.m.span()
	var seq uint64
	ok := k.do(what, func(s *treeState) {
		for _, id := range ids {
			if n := s.nodes[id]; n.f != nil {
				s.nodes[id] = k.m.commit(n)
				files = append(files, id)
			}
		}
	}, func() (err error) {
		seq, err = k.s.m.Barrier(ctx, "fsync", inos...)
		return err
	})
	if ok {
		k.m.acked(seq, k.w, span, "", false, files...)
	}
}

func (k *worker) fsync() {
	if path, id, ok := k.pick(func(path string, n node) bool { return n.f != nil }); ok {
		k.sync("fsync "+path, id)
	}
}

func (k *worker) fsyncAll() {
	s := k.m.last(k.w)
	var ids []int
	for id := range s.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	k.sync("fsync of all", ids...)
}

func (k *worker) fsyncDir() {
	k.do("fsync of the directory", func(*treeState) {}, func() error {
		span := k.m.span()
		seq, err := k.s.m.Barrier(ctx, "fsync", k.dir)
		if err == nil {
			k.m.acked(seq, k.w, span, "", false)
		}
		return err
	})
}

func (k *worker) barrier() { k.sync("barrier") }

// settle syncs a file as the background does, now; often a barrier follows that
// finds the tree as it was.
func (k *worker) settle() {
	path, id, ok := k.pick(plain)
	if !ok {
		return
	}
	if k.rng.IntN(2) == 0 {
		k.sync("barrier") // of nobody's
	}
	k.do("settle "+path, func(*treeState) {}, func() error { return k.s.tree.Settle(k.inos[id]) })
	if _, open := k.fhs[id]; !open && k.rng.IntN(2) == 0 {
		k.sync("fsync of what has settled: "+path, id)
	}
}

// wait lets the background work.
func (k *worker) wait() {
	if k.rng.IntN(4) == 0 {
		time.Sleep(time.Duration(k.rng.IntN(60)) * time.Millisecond)
	}
}

// checkpoint writes a step as transformers does.
func (k *worker) checkpoint() {
	*k.step++
	final := fmt.Sprint("checkpoint-", *k.step)
	dir := final
	if k.rng.IntN(3) == 0 { // as those who rename it into sight do
		dir += ".tmp"
	}
	k.mkdir(dir)
	for part := range 1 + k.rng.IntN(2) {
		id := k.create(fmt.Sprintf("%s/weights%d.dat", dir, part))
		data := k.trained()
		if part > 0 {
			data = noise(k.rng, []int{3000, 9000, 67000}[k.rng.IntN(3)])
		}
		k.putWhole(id, data)
	}
	id := k.create(dir + "/trainer_state.json")
	if k.err != nil {
		return
	}
	n := k.m.last(k.w).nodes[id]
	data := fmt.Sprintf(`{"global_step": %d, "log_history": []}`, *k.step)
	k.do("write the state of "+dir, func(s *treeState) {
		n.live = k.m.version(n.f, data)
		s.nodes[id] = n
	}, func() error {
		_, err := k.s.tree.Write(k.inos[id], k.fhs[id], []byte(data), 0)
		return err
	})
	if dir == final {
		k.m.committing(k.w, fmt.Sprint(*k.step))
	}
	k.close(id)
	if dir != final && k.err == nil {
		k.m.committing(k.w, fmt.Sprint(*k.step))
		k.moveDir(dir, final)
	}
	if k.rng.IntN(2) == 0 {
		time.Sleep(5 * time.Millisecond) // it is sealed meanwhile
	}
}

// putWhole writes and closes.
func (k *worker) putWhole(id int, data []byte) {
	if k.err == nil {
		k.putData(id, 0, data)
	}
	if k.err == nil {
		k.close(id)
	}
}

// trained gives the weights after one more step, which are near those before:
// chunks of them are stored as deltas.
func (k *worker) trained() []byte {
	if k.weights == nil {
		k.weights = make([]float32, 6000)
		for i := range k.weights {
			k.weights[i] = float32(k.rng.NormFloat64() * 0.03)
		}
	}
	var b []byte
	for i := range k.weights {
		k.weights[i] += float32(k.rng.NormFloat64() * 3e-6)
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(k.weights[i]))
	}
	return b
}

// train overwrites the weights at one path, and often has snapshots keep them.
func (k *worker) train() {
	const path = "model"
	id, ok := k.m.last(k.w).names[path]
	if !ok {
		id = k.create(path)
	} else if _, open := k.fhs[id]; !open {
		k.open(path, id, 0)
	}
	k.putWhole(id, k.trained())
	if k.w == 0 && k.rng.IntN(3) > 0 {
		k.named()
		k.drain()
	}
}

// rotate removes the oldest checkpoint, or a lone part of one.
func (k *worker) rotate() {
	s := k.m.last(k.w)
	var dirs []string
	for path := range s.names {
		if strings.HasPrefix(path, "checkpoint") && !strings.Contains(path, "/") {
			dirs = append(dirs, path)
		}
	}
	if len(dirs) < 2 {
		return
	}
	sort.Strings(dirs)
	for _, path := range below(s, dirs[0]) {
		k.remove(path)
	}
	k.rmdir(dirs[0])
}

func below(s treeState, dir string) (paths []string) {
	for path := range s.names {
		if strings.HasPrefix(path, dir+"/") {
			paths = append(paths, path)
		}
	}
	sort.Strings(paths)
	return paths
}

// named is mkdir snapshots/w0/NAME.
func (k *worker) named() {
	*k.step++
	name := fmt.Sprint("n", *k.step)
	k.do("mkdir snapshot "+name, func(*treeState) {}, func() error {
		span := k.m.span()
		i, err := k.s.m.Snapshot(ctx, dirName(k.w), name, "mkdir", nil)
		if err == nil {
			k.m.acked(i.Seq, k.w, span, name, true)
		}
		return err
	})
}

// anyNamed gives a snapshot that was made under a name, of those that are ok.
func (k *worker) anyNamed(ok func(s *snap) bool) (seq uint64, name string, found bool) {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	var seqs []uint64
	for seq, s := range k.m.snaps {
		if strings.HasPrefix(s.name, "n") && ok(s) {
			seqs = append(seqs, seq)
		}
	}
	if len(seqs) == 0 {
		return 0, "", false
	}
	slices.Sort(seqs)
	seq = seqs[k.rng.IntN(len(seqs))]
	return seq, k.m.snaps[seq].name, true
}

func kept(s *snap) bool { return !s.forgetBegun }

// told changes what is known of a snapshot.
func (k *worker) told(seq uint64, change func(s *snap)) {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	change(k.m.snaps[seq])
}

func (k *worker) forget() {
	seq, name, ok := k.anyNamed(func(s *snap) bool { return kept(s) && !s.holdBegun })
	if !ok {
		return
	}
	k.told(seq, func(s *snap) { s.forgetBegun = true })
	if k.do("forget "+name, func(*treeState) {}, func() error {
		_, err := k.s.m.Forget(snapshot.Forget{Scope: dirName(k.w), Names: []string{name}})
		return err
	}) {
		k.told(seq, func(s *snap) { s.forgotten = true })
	}
}

// unforget brings back what prune has not removed.
func (k *worker) unforget() {
	seq, name, ok := k.anyNamed(func(s *snap) bool { return s.forgetBegun })
	if !ok {
		return
	}
	sure, gone := false, false
	k.told(seq, func(s *snap) { sure, s.forgotten = s.forgotten, false })
	if k.do("unforget "+name, func(*treeState) {}, func() error {
		_, err := k.s.m.Unforget(dirName(k.w), []string{name})
		if gone = errors.Is(err, snapshot.ErrPruned) || errors.Is(err, snapshot.ErrNotExist); gone {
			return nil
		}
		if err != nil && !sure && strings.HasSuffix(err.Error(), " is not forgotten") {
			return nil // a kill came before it was
		}
		return err
	}) && !gone {
		k.told(seq, func(s *snap) { s.forgetBegun = false })
	}
}

func (k *worker) hold() {
	seq, name, ok := k.anyNamed(kept)
	if !ok {
		return
	}
	k.told(seq, func(s *snap) { s.holdBegun = true })
	if k.do("hold "+name, func(*treeState) {}, func() error {
		_, err := k.s.m.Hold(seq, snapshot.Hold{Name: "sim", By: "sim"})
		return err
	}) {
		k.told(seq, func(s *snap) { s.held = true })
	}
}

func (k *worker) release() {
	seq, name, ok := k.anyNamed(func(s *snap) bool { return s.held })
	if !ok {
		return
	}
	k.told(seq, func(s *snap) { s.held = false })
	if k.do("release "+name, func(*treeState) {}, func() error {
		_, err := k.s.m.Release(seq, "sim")
		return err
	}) {
		k.told(seq, func(s *snap) { s.holdBegun = false })
	}
}

func (k *worker) prune() {
	k.m.mu.Lock()
	k.m.pruned = true
	k.m.mu.Unlock()
	k.do("prune", func(*treeState) {}, func() error {
		_, err := k.s.m.PruneNow(ctx, nil)
		return err
	})
}

func (k *worker) drain() {
	k.do("drain", func(*treeState) {}, func() error { return k.s.m.Drain(ctx, nil) })
}

// rollback makes the worker's directory what a snapshot shows of it.
func (k *worker) rollback() {
	seq, name, ok := k.anyNamed(kept)
	if !ok || k.rng.IntN(2) == 0 {
		return
	}
	k.closeAll()
	before := k.m.last(k.w)
	k.sync("fsync of what is excluded", before.unseen()...)
	if !k.do("rollback to "+name, func(s *treeState) { s.wild = true }, func() error {
		_, err := k.s.m.Rollback(ctx, dirName(k.w), name)
		return err
	}) {
		return
	}
	live, err := k.s.liveOf(k.w)
	if err == nil {
		var was map[string]seen
		if was, err = k.s.view(seq); err == nil {
			own, _ := apart(of(was, k.w)) // what is included stays in the snapshot
			err = sameShown(own, shownOf(of(live, k.w)))
		}
		if err == nil {
			err = k.unmoved(before, of(live, k.w))
		}
	}
	if err != nil {
		k.err = errors.Join(k.err, fmt.Errorf("w%d: rollback to %s (%d): %w", k.w, name, seq, err))
		return
	}
	k.adopt("rolled back", of(live, k.w))
}

// sameShown compares what two trees show.
func sameShown(want, got map[string]seen) error {
	for path, w := range want {
		g, ok := got[path]
		w.ino, w.mark, g.ino, g.mark = 0, "", 0, ""
		if !ok || g != w {
			return fmt.Errorf("%s: there %v, mode %o xattr %q %s; want %o %q %s", path, ok, g.mode, g.xattr, brief(g.data), w.mode, w.xattr, brief(w.data))
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			return fmt.Errorf("%s is there and should not be", path)
		}
	}
	return nil
}

// of gives what is seen of a worker's directory, by its own paths.
func of(all map[string]seen, w int) map[string]seen {
	out := map[string]seen{}
	for path, n := range all {
		if rest, ok := strings.CutPrefix(path, dirName(w)+"/"); ok {
			out[rest] = n
		}
	}
	return out
}

// adopt takes what is there for the worker's state; all of it is durable.
func (k *worker) adopt(what string, found map[string]seen) {
	s := treeState{what: what, names: map[string]int{}, nodes: map[int]node{}}
	ids := map[uint64]int{}
	k.inos, k.fhs, k.how = map[int]uint64{}, map[int]uint64{}, map[int]uint32{}
	for path, v := range found {
		id := ids[v.ino]
		if id == 0 {
			*k.next++
			id = *k.next
			ids[v.ino], k.inos[id] = id, v.ino
		}
		n := node{mode: v.mode, xattr: v.xattr, target: v.data, commit: -1, unseen: hidden(path)}
		if v.isFile {
			n.target = ""
			if n.f = s.nodes[id].f; n.f == nil {
				n.f = k.m.newFile()
				k.m.mu.Lock()
				n.f.contents, n.f.commits, n.f.acks = []string{v.data}, []int{0}, []int{0}
				k.m.mu.Unlock()
			}
			n.commit = 0
		}
		s.names[path], s.nodes[id] = id, n
	}
	k.m.begin(k.w, s)
	k.m.end(k.w)
}
