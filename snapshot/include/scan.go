package include

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

type kind byte

const (
	kindDir kind = iota + 1
	kindFile
	kindLink
)

// item is something to be taken.
type item struct {
	path   string // absolute, as it was given or found
	real   string // where it is, links resolved
	of     string // the path or pattern that names it
	kind   kind
	attr   Attr
	key    key
	size   int64
	target string // of a link
}

// stamp is what changes when a file does.
type stamp struct {
	dev, ino           uint64
	size, mtime, ctime int64
}

// key says whether a file is the one that was taken: what was committed to a
// SQLite database may be in its write-ahead log alone.
type key struct{ file, wal stamp }

func stampOf(fi fs.FileInfo) stamp {
	st := fi.Sys().(*syscall.Stat_t)
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

func attrOf(fi fs.FileInfo) Attr {
	st := fi.Sys().(*syscall.Stat_t)
	return Attr{Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Nano()}
}

// keyOf is the key of a file. A log without content is like none, and who only
// reads a database may still change the owner of its log, and so its ctime.
func keyOf(real string, fi fs.FileInfo) key {
	k := key{file: stampOf(fi)}
	if wal, err := os.Lstat(real + "-wal"); err == nil && wal.Size() > 0 {
		k.wal = stampOf(wal)
		k.wal.ctime = 0
	}
	return k
}

// scan is one look at what there is to take.
type scan struct {
	s     *Set
	ctx   context.Context
	items map[string]item
	rows  []Row // of what can't be taken
	bytes int64
	full  bool // there were more files than are taken
}

// errFull ends a scan.
var errFull = errors.New("too many files")

// scan finds what the paths name now.
func (s *Set) scan(ctx context.Context) *scan {
	c := &scan{s: s, ctx: ctx, items: map[string]item{}}
	for _, of := range s.cfg.Paths {
		paths := []string{of}
		if isPattern(of) {
			paths, _ = filepath.Glob(of) // New has looked at the pattern
			if len(paths) == 0 {
				c.miss(of, of, errors.New("the pattern matches nothing"))
			}
		}
		for _, path := range paths {
			c.given(path, of)
		}
	}
	return c
}

func (c *scan) miss(path, of string, err error) {
	c.rows = append(c.rows, Row{Source: path, Include: of, Error: plain(err).Error()})
}

// given looks at what was given or matches: links are followed.
func (c *scan) given(path, of string) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		err = c.s.allowed(real)
	}
	var fi fs.FileInfo
	if err == nil {
		fi, err = os.Lstat(real)
	}
	if err == nil {
		err = c.add(path, real, of, fi, stampDev(fi))
	}
	if err != nil && !errors.Is(err, errFull) {
		c.miss(path, of, err)
	}
}

func stampDev(fi fs.FileInfo) uint64 {
	if fi == nil {
		return 0
	}
	return stampOf(fi).dev
}

// add notes one entry, of a directory with all below it on the same filesystem.
func (c *scan) add(path, real, of string, fi fs.FileInfo, dev uint64) error {
	if err := c.ctx.Err(); err != nil {
		return errTime
	}
	if _, again := c.items[path]; again {
		return nil // two paths name it
	}
	if c.full || len(c.items) >= c.s.cfg.MaxFiles {
		if !c.full {
			c.full = true
			c.miss(path, of, fmt.Errorf("it is one more than %d files and directories; neither it nor any after it is taken", c.s.cfg.MaxFiles))
		}
		return errFull
	}
	it := item{path: path, real: real, of: of, attr: attrOf(fi)}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		it.kind = kindDir
		c.items[path] = it
		return c.list(it, dev)
	case fs.ModeSymlink:
		target, err := os.Readlink(real)
		if err != nil {
			return err
		}
		it.kind, it.target = kindLink, target
	case 0:
		if db, part := partOfSQLite(real); part {
			if path == of {
				return fmt.Errorf("it belongs to the database %s, and is in the backup of that", db)
			}
			return nil
		}
		it.kind, it.size, it.key = kindFile, fi.Size(), keyOf(real, fi)
		if c.bytes+it.size > c.s.cfg.MaxBytes {
			return fmt.Errorf("it is too large: with it more than %d bytes would be taken", c.s.cfg.MaxBytes)
		}
		c.bytes += it.size
	default:
		return errSpecial
	}
	c.items[path] = it
	return nil
}

// list adds what is in a directory.
func (c *scan) list(dir item, dev uint64) error {
	es, err := os.ReadDir(dir.real)
	if err != nil {
		return err
	}
	for _, e := range es {
		path, real := filepath.Join(dir.path, e.Name()), filepath.Join(dir.real, e.Name())
		err := c.s.allowed(real) // before the mount is looked at
		var fi fs.FileInfo
		if err == nil {
			fi, err = e.Info()
		}
		if err == nil && stampDev(fi) != dev {
			err = errors.New("it is on another filesystem; include it by itself")
		}
		if err == nil {
			err = c.add(path, real, dir.of, fi, dev)
		}
		if errors.Is(err, errFull) || errors.Is(err, errTime) {
			return err
		}
		if err != nil {
			c.miss(path, dir.of, err)
		}
	}
	return nil
}

// sorted gives the items so that a directory comes before what is in it.
func (c *scan) sorted() []item {
	items := make([]item, 0, len(c.items))
	for _, it := range c.items {
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.path, b.path) })
	return items
}
