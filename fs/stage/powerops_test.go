package stage

import (
	"bytes"
	"maps"

	"golang.org/x/sys/unix"
)

// What a machine does between two power cuts. Each operation changes the model
// before or after the tree so that what the cut may leave is always in it.

func (m *machine) step() {
	m.did.ops.Add(1)
	name := string("abcd"[m.rng.IntN(4)])
	ops := []func(string, *cutFile){m.write, m.write, m.write, m.append, m.append, m.truncate, m.punch, m.close, m.close, m.fsync, m.fsync, m.unlink, m.rename, m.background, m.copy, m.copy}
	ops[m.rng.IntN(len(ops))](name, m.names[name])
}

func (m *machine) named() { m.states = append(m.states, maps.Clone(m.names)) }

// opened gives the file of a name, open for writing.
func (m *machine) opened(name string, f *cutFile) *cutFile {
	switch {
	case f == nil:
		a, fh, err := m.tree.Create(RootIno, name, 0o644, unix.O_RDWR, Cred{})
		m.must(err)
		m.logf("create %s = %d", name, a.Ino)
		f = &cutFile{ino: a.Ino, fh: fh, open: true, versions: [][]byte{{}}, excluded: name == "d"}
		m.names[name] = f
		m.named()
	case !f.open:
		flags := uint32(unix.O_RDWR)
		if m.rng.IntN(3) == 0 {
			flags |= unix.O_TRUNC
			f.versions = append(f.versions, []byte{})
		}
		m.logf("open %s trunc=%v", name, flags&unix.O_TRUNC != 0)
		fh, err := m.tree.Open(f.ino, flags, Cred{})
		m.must(err)
		f.fh, f.open = fh, true
	}
	return f
}

func (m *machine) write(name string, f *cutFile) {
	f = m.opened(name, f)
	offs := []int64{0, 0, 1, 100, 4096, 5000, 20000, 60000, 70000, 90000}
	off := offs[m.rng.IntN(len(offs))]
	if m.rng.IntN(60) == 0 {
		off = 1<<20 - 5
	}
	m.put(f, off)
}

func (m *machine) append(name string, f *cutFile) {
	f = m.opened(name, f)
	m.put(f, int64(len(f.live())))
}

func (m *machine) put(f *cutFile, off int64) {
	sizes := []int{1, 10, 300, 4096, 5000, 9000, 30000, 66000}
	n := sizes[m.rng.IntN(len(sizes))]
	data := bytes.Repeat([]byte{byte(1 + m.rng.IntN(255))}, n)
	next := grow(clone(f.live()), off+int64(n))
	copy(next[off:], data)
	f.versions = append(f.versions, next)
	m.logf("write %d [%d+%d] = %d", f.ino, off, n, data[0])
	_, err := m.tree.Write(f.ino, f.fh, data, off)
	m.must(err)
}

// copy shares all or a part of a file, or copies it elsewhere; of a live one, or
// of what a crash has fixed in a snapshot.
func (m *machine) copy(name string, f *cutFile) {
	from := string("abcd"[m.rng.IntN(4)])
	var c Copy
	var src []byte
	if s := m.names[from]; s != nil {
		c.Src, src = s.ino, s.live()
	}
	for seq, s := range m.snaps {
		if _, ok := s.fixed[from]; !ok || s.gone || m.rng.IntN(2) == 0 {
			continue
		}
		c.From = m.tree.At(seq)
		a, err := c.From.Lookup(RootIno, from)
		m.must(err)
		c.Src, src = a.Ino, s.fixed[from]
		break
	}
	if c.Src == 0 || c.From == nil && from == name {
		return
	}
	f = m.opened(name, f)
	c.Dst, c.Fh, c.Len = f.ino, f.fh, 1<<40
	if m.rng.IntN(3) == 0 {
		c.SrcOff, c.Len = m.rng.Int64N(9000), 1+m.rng.Int64N(70000)
	}
	if c.DstOff = c.SrcOff; m.rng.IntN(6) == 0 {
		c.DstOff = m.rng.Int64N(70000)
	}
	want := min(c.Len, max(0, int64(len(src))-c.SrcOff))
	if want == 0 {
		return
	}
	next := grow(clone(f.live()), c.DstOff+want)
	copy(next[c.DstOff:], src[c.SrcOff:][:want])
	f.versions = append(f.versions, next)
	if c.DstOff != c.SrcOff {
		f.pieces = len(f.versions)
	}
	m.logf("copy %d (of a snapshot: %v) [%d+%d] to %d at %d", c.Src, c.From != nil, c.SrcOff, want, c.Dst, c.DstOff)
	n, err := m.tree.CopyRange(c)
	m.must(err)
	if n != want {
		m.fail("%d bytes copied, want %d", n, want)
	}
}

func (m *machine) truncate(name string, f *cutFile) {
	if f == nil {
		return
	}
	sizes := []int64{0, 1, 99, 4097, 50000, 100000}
	size := sizes[m.rng.IntN(len(sizes))]
	f.versions = append(f.versions, clone(grow(clone(f.live()), size)[:size]))
	m.logf("truncate %d to %d", f.ino, size)
	if !f.open && !f.excluded {
		f.commits = append(f.commits, f.live())
	}
	_, err := m.tree.SetAttr(f.ino, SetAttr{Size: &size})
	m.must(err)
}

func (m *machine) punch(_ string, f *cutFile) {
	if f == nil || !f.open {
		return
	}
	off := m.rng.Int64N(80000)
	next := clone(f.live())
	for i := off; i < min(off+20000, int64(len(next))); i++ {
		next[i] = 0
	}
	f.versions = append(f.versions, next)
	m.logf("punch %d at %d", f.ino, off)
	m.must(m.tree.Fallocate(f.ino, f.fh, off, 20000, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE))
}

func (m *machine) close(_ string, f *cutFile) {
	if f == nil || !f.open {
		return
	}
	m.logf("close %d", f.ino)
	if !f.excluded {
		f.commits = append(f.commits, f.live())
	}
	m.shut(f)
}

func (m *machine) shut(f *cutFile) {
	m.must(m.tree.Flush(f.ino, f.fh, false))
	m.tree.Release(f.ino, f.fh)
	f.open = false
}

func (m *machine) fsync(_ string, f *cutFile) {
	var fs []*cutFile
	if f != nil && f.excluded {
		m.syncLive(f)
		return
	}
	if f != nil {
		fs = append(fs, f)
	}
	m.barrier(m.rng.IntN(2) == 0, fs...)
}

func (m *machine) unlink(name string, f *cutFile) {
	if f == nil {
		return
	}
	m.logf("unlink %s", name)
	delete(m.names, name)
	m.named()
	m.must(m.tree.Unlink(RootIno, name))
	if f.open {
		m.shut(f)
	}
}

func (m *machine) rename(name string, f *cutFile) {
	to := string("abcd"[m.rng.IntN(4)])
	if f == nil || to == name {
		return
	}
	old := m.names[to]
	if f.excluded && f.open {
		m.shut(f)
	}
	if f.excluded = to == "d"; name == "d" {
		f.commits = append(f.commits, f.live())
	}
	m.names[to] = f
	delete(m.names, name)
	m.named()
	m.logf("rename %s to %s", name, to)
	m.must(m.tree.Rename(RootIno, name, RootIno, to, 0))
	if old != nil && old.open {
		m.shut(old)
	}
}

// background is what runs on the daemon's own account.
func (m *machine) background(string, *cutFile) {
	switch m.rng.IntN(5) {
	case 4:
		m.expire()
	case 0:
		m.logf("settle and reap")
		m.must(m.tree.eachMarked(func(ino uint64, _ []mark) error { return m.tree.Settle(ino) }))
		m.checkLeaks()
	case 1:
		m.logf("store")
		m.must(m.tree.reapAll()) // drops what waits and is named by nobody
		m.must(m.chunks.storeAll(m.tree))
	case 2:
		m.logf("evict")
		var gens []uint64
		m.must(m.tree.Hot(func(gen uint64, _ int64) bool { gens = append(gens, gen); return true }))
		for _, g := range gens {
			m.must(m.tree.Evict(g))
		}
		m.must(m.tree.UnlinkEvicted())
	case 3:
		m.rollback()
	}
}

// expire gives up some snapshots and frees what they alone showed.
func (m *machine) expire() {
	for seq, s := range m.snaps {
		if s.gone || m.rng.IntN(2) == 0 {
			continue
		}
		m.logf("expire %d", seq)
		s.gone = true
		m.must(expire(m.eng, seq))
	}
	m.must(prune(m.t, m.tree))
}

// rollback goes back to a snapshot that a crash has fixed.
func (m *machine) rollback() {
	for seq, s := range m.snaps {
		if s.fixed == nil || s.gone || m.rng.IntN(2) == 0 {
			continue
		}
		m.logf("rollback to %d", seq)
		before := m.names
		_, err := m.tree.Rollback(RootIno, seq, RootIno, "")
		m.must(err)
		m.names = map[string]*cutFile{}
		if f := before["d"]; f != nil {
			m.names["d"] = f
		}
		for name, b := range s.fixed {
			a, err := m.tree.Lookup(RootIno, name)
			m.must(err)
			m.names[name] = &cutFile{ino: a.Ino, versions: [][]byte{b}, commits: [][]byte{b}, acks: []int{0}}
		}
		m.named()
		for _, f := range before {
			if f.open && !f.excluded {
				m.shut(f)
			}
		}
		return
	}
}
