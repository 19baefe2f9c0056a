package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sequence is up to two operations and the barrier after which the power fails.
// Sequences with a barrier in the middle are longer versions of others.
type sequence []string

var (
	operations = []string{"create", "write", "overwrite", "truncate", "link", "unlink", "rename", "mkdir", "rmdir"}
	barriers   = []string{"fsync", "fdatasync", "fsyncdir"}
)

// sequences is all of them.
func sequences() (all []sequence) {
	alphabet := slices.Concat(operations, barriers)
	for _, last := range barriers {
		all = append(all, sequence{last})
		for _, a := range alphabet {
			all = append(all, sequence{a, last})
			for _, b := range alphabet {
				all = append(all, sequence{a, b, last})
			}
		}
	}
	return all
}

// sequenceJob runs sequences, each in a directory of its own, several before
// each cut: first all but the barriers at their ends, then those at once, so
// that hardly any is made durable by another's. The cut comes when the first
// of them is acknowledged, or all, or some time between.
type sequenceJob struct {
	m        *machine
	left     []sequence      // that have not been acknowledged, then all again
	seen     map[string]bool // those that have
	perRound int
	base     string // the snapshot of what was there before
	cases    []*trial
	older    []*outcome
}

// outcome is what a round has left to be compared again.
type outcome struct {
	base, after string // snapshots; after: "" if nothing was acknowledged
	cases       []*trial
}

// trial is one sequence in its directory, and what is known of it.
type trial struct {
	m       *machine
	seq     sequence
	dir     string
	rnd     *rand.Rand
	keep    bool // files stay open: nothing but barriers commits
	open    []*os.File
	names   map[string]*inode // by path below dir
	before  map[string]sum    // of the base snapshot
	focus   string            // the file that operations are about
	cwd     string            // the directory
	created int
	acked   bool
}

// inode is a directory, or a file and the contents that it had.
type inode struct {
	dir      bool
	contents [][]byte // since the last that was synced
	synced   bool     // the last of them
	durable  bool     // some content of it was synced: no snapshot lacks it
}

func (i *inode) live() []byte { return i.contents[len(i.contents)-1] }

func (i *inode) change(b []byte) { i.contents, i.synced = append(i.contents, b), false }

// work runs a round's sequences and cuts the power.
func (j *sequenceJob) work(round int) error {
	if err := j.prepare(round); err != nil {
		return err
	}
	for _, c := range j.cases {
		for _, op := range c.seq[:len(c.seq)-1] {
			if err := c.do(op); err != nil {
				return fmt.Errorf("%s %v: %s: %w", c.dir, c.seq, op, err)
			}
		}
	}
	var wg sync.WaitGroup
	first, errs := make(chan struct{}, len(j.cases)), make([]error, len(j.cases))
	for i, c := range j.cases {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.do(c.seq[len(c.seq)-1]); err == nil {
				j.m.ack(func() { c.acked = true; j.m.ackedOps++ })
				first <- struct{}{}
			} else if !j.m.over() {
				errs[i] = fmt.Errorf("%s %v: the last: %w", c.dir, c.seq, err)
				first <- struct{}{}
			}
		}()
	}
	wait := []int{1, 1 + j.m.rnd.Intn(len(j.cases)), len(j.cases), len(j.cases)}[j.m.rnd.Intn(4)]
	for range wait {
		<-first
	}
	err := j.m.cut()
	wg.Wait()
	for _, c := range j.cases {
		if c.acked {
			j.seen[fmt.Sprint(c.seq)] = true
		} else {
			j.m.inFlight++
			j.left = append(j.left, c.seq)
		}
		for _, f := range c.open {
			f.Close()
		}
	}
	return errors.Join(append(errs, err)...)
}

// prepare makes the directories of a round and seals them, so that all of it is
// durable.
func (j *sequenceJob) prepare(round int) error {
	var old []string
	for _, c := range j.cases {
		old = append(old, c.dir)
	}
	if err := j.m.remove(old...); err != nil {
		return err
	}
	j.cases = nil
	for i := range j.perRound {
		if len(j.left) == 0 {
			j.left = sequences()
			j.m.rnd.Shuffle(len(j.left), func(i, k int) { j.left[i], j.left[k] = j.left[k], j.left[i] })
		}
		c := &trial{m: j.m, seq: j.left[0], dir: fmt.Sprintf("seq%d-%d", round, i), rnd: rand.New(rand.NewSource(j.m.rnd.Int63()))}
		j.left = slices.Clone(j.left[1:])
		if err := c.prepare(); err != nil {
			return err
		}
		j.cases = append(j.cases, c)
	}
	j.base = fmt.Sprintf("base-%d", round)
	return os.Mkdir(j.m.path("snapshots/"+j.base), 0o755)
}

// prepare makes the files a and b and the directory d.
func (c *trial) prepare() error {
	c.keep, c.focus, c.names, c.before = c.rnd.Intn(2) == 0, "a", map[string]*inode{}, map[string]sum{}
	for _, dir := range []string{"", "d"} {
		if err := os.Mkdir(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	c.names["d"] = &inode{dir: true}
	for _, name := range []string{"a", "b"} {
		data := c.data()
		if err := os.WriteFile(c.path(name), data, 0o644); err != nil {
			return err
		}
		c.names[name] = &inode{contents: [][]byte{data}, synced: true, durable: true}
		c.before[name] = sumOf(data)
	}
	return nil
}

// data is content of one of the sizes that are kept in different ways.
func (c *trial) data() []byte {
	return random(c.rnd, []int{1, 300, 5000, 70 << 10, 300 << 10}[c.rnd.Intn(5)])
}

func (c *trial) path(name string) string { return filepath.Join(c.m.path(c.dir), name) }

func (c *trial) fresh() string {
	c.created++
	return filepath.Join(c.cwd, fmt.Sprintf("n%d", c.created))
}

// do makes one operation; what it can't be done to, it leaves alone.
func (c *trial) do(op string) error {
	file := c.names[c.focus]
	if file == nil && !slices.Contains([]string{"create", "mkdir", "rmdir", "fsyncdir"}, op) {
		op = "fsyncdir" // there is no file any more
	}
	switch op {
	case "create":
		c.focus = c.fresh()
		f, err := os.OpenFile(c.path(c.focus), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		c.names[c.focus] = &inode{contents: [][]byte{{}}}
		return c.done(f)
	case "write":
		return c.write(file, len(file.live()), c.data())
	case "overwrite":
		n := len(file.live())
		return c.write(file, n/3, random(c.rnd, n/3+1))
	case "truncate":
		b := make([]byte, c.rnd.Intn(len(file.live())*3/2+2))
		copy(b, file.live())
		file.change(b)
		return os.Truncate(c.path(c.focus), int64(len(b)))
	case "link":
		name := c.fresh()
		c.names[name] = file
		return os.Link(c.path(c.focus), c.path(name))
	case "unlink":
		name := c.focus
		delete(c.names, name)
		c.focus = c.anyFile()
		return os.Remove(c.path(name))
	case "rename":
		from, to := c.focus, c.fresh()
		if c.rnd.Intn(2) == 0 { // over another
			delete(c.names, from)
			to = c.anyFile()
			c.names[from] = file
			if to == "" || c.names[to] == file { // of two names of one file neither would go
				to = c.fresh()
			}
		}
		delete(c.names, from)
		c.names[to], c.focus = file, to
		return os.Rename(c.path(from), c.path(to))
	case "mkdir":
		c.cwd = c.fresh()
		c.names[c.cwd] = &inode{dir: true}
		return os.Mkdir(c.path(c.cwd), 0o755)
	case "rmdir":
		for name, i := range c.names {
			if i.dir && (name == c.cwd || c.cwd == "" || c.names[c.cwd] == nil) {
				delete(c.names, name)
				c.cwd = ""
				return os.Remove(c.path(name))
			}
		}
		return nil
	case "fsyncdir":
		return syncDir(c.path(c.cwd))
	}
	return c.sync(op, file)
}

func (c *trial) sync(op string, file *inode) error {
	f, err := os.OpenFile(c.path(c.focus), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if op == "fsync" {
		err = f.Sync()
	} else {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if err == nil {
		c.m.ack(func() { file.contents, file.synced, file.durable = [][]byte{file.live()}, true, true })
	}
	return err
}

func (c *trial) write(file *inode, at int, data []byte) error {
	f, err := os.OpenFile(c.path(c.focus), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := append([]byte(nil), file.live()...)
	b = append(b, make([]byte, max(0, at+len(data)-len(b)))...)
	copy(b[at:], data)
	file.change(b)
	if _, err := f.WriteAt(data, int64(at)); err != nil {
		f.Close()
		return err
	}
	return c.done(f)
}

// done closes a file, or keeps it open until the power fails.
func (c *trial) done(f *os.File) error {
	if !c.keep {
		return f.Close()
	}
	c.open = append(c.open, f)
	return nil
}

func (c *trial) anyFile() string {
	first := ""
	for name, i := range c.names {
		if !i.dir && (first == "" || name < first) {
			first = name
		}
	}
	return first
}

// verify compares what this round acknowledged, and notes it for later.
func (j *sequenceJob) verify() error {
	o := &outcome{base: j.base}
	for _, c := range j.cases {
		if !c.acked {
			continue
		}
		if err := c.verify("", false); err != nil {
			return err
		}
		o.cases = append(o.cases, c)
	}
	if len(o.cases) > 0 {
		// Nothing was done to these after their barriers: the newest snapshot
		// shows what theirs did.
		newest, err := newestBarrier(j.m.d.Mnt)
		if err != nil {
			return err
		}
		o.after = ".barriers/" + newest
	}
	j.older = append(j.older, o)
	if err := o.verifyBase(j.m, j.cases); err != nil {
		return err
	}
	return o.verify(j.m)
}

// verifyOlder compares a round before this one again.
func (j *sequenceJob) verifyOlder() error {
	if len(j.older) < 2 {
		return nil
	}
	for _, o := range []*outcome{j.older[len(j.older)-2], j.older[j.m.rnd.Intn(len(j.older)-1)]} {
		if err := o.verify(j.m); err != nil {
			return fmt.Errorf("of an earlier round: %w", err)
		}
	}
	return nil
}

func (j *sequenceJob) verifyAll() error {
	for _, o := range j.older {
		if err := o.verify(j.m); err != nil {
			return err
		}
	}
	return nil
}

// verify compares a round in the snapshots that were acknowledged.
func (o *outcome) verify(m *machine) error {
	for _, c := range o.cases {
		if err := c.verify("snapshots/"+o.after, true); err != nil {
			return err
		}
	}
	return o.verifyBase(m, o.cases)
}

// verifyBase compares the sealed snapshot of before.
func (o *outcome) verifyBase(m *machine, cases []*trial) error {
	for _, c := range cases {
		for name, want := range c.before {
			path := filepath.Join("snapshots", o.base, c.dir, name)
			if got, err := sumAt(m.path(path)); err != nil || got != want {
				return fmt.Errorf("%s %v: sealed: as it was: %v (%v)", path, c.seq, got == want, err)
			}
			m.files++
		}
	}
	return nil
}

// verify holds the directory, live or in a snapshot, against what was
// acknowledged: all names, of synced files the content, and of others at each
// byte one that was there since it was synced; in a snapshot one of their contents
// whole.
func (c *trial) verify(below string, snapshot bool) error {
	dir := filepath.Join(c.m.path(below), c.dir)
	seen := map[string]bool{}
	var bad []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		seen[name] = true
		i := c.names[name]
		if i == nil || i.dir != e.IsDir() {
			bad = append(bad, name+": unexpected")
			return nil
		}
		if i.dir {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil && !i.allows(b, snapshot) {
			bad = append(bad, fmt.Sprintf("%s: wrong content: %d bytes, want %d, synced %v", name, len(b), len(i.live()), i.synced))
		}
		c.m.files++
		return err
	})
	for name, i := range c.names {
		if !seen[name] && !(snapshot && !i.dir && !i.durable) && err == nil {
			bad = append(bad, name+": missing")
		}
	}
	if c.m.snapshots++; err == nil && len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("%s %v, files kept open: %v: %s (%v)", dir, c.seq, c.keep, strings.Join(bad, "\n"), err)
}

// allows says whether a file may have this content now.
func (i *inode) allows(b []byte, whole bool) bool {
	if i.synced {
		return bytes.Equal(b, i.live())
	}
	if whole {
		return slices.ContainsFunc(i.contents, func(c []byte) bool { return bytes.Equal(b, c) })
	}
	size := func(a, b []byte) int { return len(a) - len(b) }
	if len(b) < len(slices.MinFunc(i.contents, size)) || len(b) > len(slices.MaxFunc(i.contents, size)) {
		return false // what the disk lost of an append may shorten the file, no more
	}
	for at, v := range b {
		if !slices.ContainsFunc(i.contents, func(c []byte) bool { return at < len(c) && c[at] == v || at >= len(c) && v == 0 }) {
			return false
		}
	}
	return true
}
