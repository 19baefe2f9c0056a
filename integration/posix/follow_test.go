package posix

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// beforeCall tells the model which file may be about to change.
func (l *lockstep) beforeCall(o op, refs []ref, before [][2]look) {
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
