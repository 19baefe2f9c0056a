package posix

import "golang.org/x/sys/unix"

// commits follows what a snapshot must show of each file: its content as of its
// own last barrier or close, whichever is later. A file is closed when every
// writable description of it was flushed, by a close of it or of a duplicate,
// with no write through it since. Files are known by their inode on the peer.
type commits struct {
	files map[uint64]*file
	descs map[descKey]*description
}

type descKey struct{ who, slot string }

// file is one that was changed since its last commit, or is open for writing.
type file struct {
	dirty   bool
	unsure  bool     // its writer died with the daemon: it may show what it wrote
	lost    bool     // and it was changed again: it may show anything between
	shown   *content // while it is dirty; nil: nothing was ever committed
	writers map[*description]bool
}

// description is an open file description: what dup(2) shares.
type description struct {
	ino              uint64
	writable, append bool
	sync, path       bool // O_SYNC or O_DSYNC, O_PATH
	flushed          bool
	slots            int
}

func newCommits() *commits {
	return &commits{files: map[uint64]*file{}, descs: map[descKey]*description{}}
}

func (c *commits) file(ino uint64) *file {
	f := c.files[ino]
	if f == nil {
		f = &file{writers: map[*description]bool{}}
		c.files[ino] = f
	}
	return f
}

// made is a new file: one made by open(2) has no content to show before it is
// closed, one made by mknod(2) has.
func (c *commits) made(ino uint64, open bool) {
	delete(c.files, ino) // the number of one that is gone
	c.file(ino).dirty = open
}

func (c *commits) opened(who, slot string, ino uint64, flags int) {
	acc := flags & unix.O_ACCMODE
	d := &description{ino: ino, slots: 1, append: flags&unix.O_APPEND != 0, sync: flags&unix.O_DSYNC != 0, path: flags&unix.O_PATH != 0,
		writable: (acc == unix.O_WRONLY || acc == unix.O_RDWR) && flags&unix.O_PATH == 0}
	c.descs[descKey{who, slot}] = d
	if d.writable {
		c.file(ino).writers[d] = true
	}
}

func (c *commits) duplicated(who, from, to string) {
	d := c.descs[descKey{who, from}]
	d.slots++
	c.descs[descKey{who, to}] = d
}

func (c *commits) closed(who, slot string) {
	key := descKey{who, slot}
	d := c.descs[key]
	delete(c.descs, key)
	if !d.writable {
		return
	}
	d.flushed = true
	f := c.file(d.ino)
	if f.closed() {
		f.commit()
	}
	if d.slots--; d.slots == 0 {
		delete(f.writers, d)
	}
}

func (f *file) closed() bool {
	for d := range f.writers {
		if !d.flushed {
			return false
		}
	}
	return true
}

func (f *file) commit() { f.dirty, f.unsure, f.lost, f.shown = false, false, false, nil }

// changing is told of a file before a call that may change its content.
func (c *commits) changing(ino uint64, now func() content) {
	if f := c.file(ino); !f.dirty {
		before := now()
		f.shown = &before
	}
}

// changed is told that it did, through d, or by name (nil) or O_RDONLY|O_TRUNC,
// which closes the file unless somebody is writing it.
func (c *commits) changed(ino uint64, d *description) {
	f := c.file(ino)
	if d != nil {
		d.flushed = false
	}
	f.lost = f.unsure
	if f.dirty = true; (d == nil || !d.writable) && f.closed() {
		f.commit()
	}
}

// barrier is one of that file.
func (c *commits) barrier(ino uint64) { c.file(ino).commit() }

// killed: what nobody had closed shows, or does not.
func (c *commits) killed() {
	for _, f := range c.files {
		f.unsure = f.dirty
		clear(f.writers)
	}
	clear(c.descs)
}

// shows gives what a snapshot must show of a file whose content is now; got is
// what it does. named: it was asked for, and takes what was only appended.
// known: it could show but one thing.
func (c *commits) shows(ino uint64, now content, got *content, named bool) (want content, v verdict, known bool) {
	f := c.files[ino]
	if f == nil || !f.dirty {
		return now, present, true
	}
	if named && f.log() && got != nil && *got == now {
		f.commit() // it was taken as it is, and stays so
		return now, present, false
	}
	if f.unsure {
		switch {
		case got != nil && (f.lost || *got == now):
			return *got, present, false
		case f.lost && got == nil:
			return now, absent, false
		}
	}
	if f.shown == nil {
		return now, absent, !f.unsure
	}
	return *f.shown, present, !f.unsure
}

// log says whether somebody writes the file, and all who do append.
func (f *file) log() bool {
	if len(f.writers) == 0 {
		return false
	}
	for d := range f.writers {
		if !d.append {
			return false
		}
	}
	return true
}
