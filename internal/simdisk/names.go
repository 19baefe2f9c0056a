package simdisk

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// parent gives the directory of a path and the name in it.
func (d *Disk) parent(p string) (dir *node, name string, err error) {
	parts := strings.Split(strings.Trim(path.Clean(p), "/"), "/")
	dir = d.root
	for _, part := range parts[:len(parts)-1] {
		next := dir.names[part]
		if next == nil {
			return nil, "", &fs.PathError{Op: "open", Path: p, Err: syscall.ENOENT}
		}
		if !next.isDir() {
			return nil, "", &fs.PathError{Op: "open", Path: p, Err: syscall.ENOTDIR}
		}
		dir = next
	}
	return dir, parts[len(parts)-1], nil
}

// find gives what a path leads to.
func (d *Disk) find(p string) (*node, error) {
	if p = path.Clean(p); p == "/" || p == "." {
		return d.root, nil
	}
	dir, name, err := d.parent(p)
	if err != nil {
		return nil, err
	}
	if n := dir.names[name]; n != nil {
		return n, nil
	}
	return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ENOENT}
}

// change changes names now, and durably some time.
func (d *Disk) change(o nameOp) {
	o.apply(currentNames)
	d.pending = append(d.pending, o)
}

func (d *Disk) create(p string) (*node, error) {
	dir, name, err := d.parent(p)
	if err != nil {
		return nil, err
	}
	n := newFile()
	d.change(nameOp{dir: dir, name: name, node: n})
	return n, nil
}

func (d *Disk) mkdirAll(p string) error {
	dir := d.root
	for _, part := range strings.Split(strings.Trim(path.Clean(p), "/"), "/") {
		next := dir.names[part]
		if next == nil {
			next = newDir()
			d.change(nameOp{dir: dir, name: part, node: next})
		}
		if !next.isDir() {
			return &fs.PathError{Op: "mkdir", Path: p, Err: syscall.ENOTDIR}
		}
		dir = next
	}
	return nil
}

func (d *Disk) remove(p string, all bool) error {
	dir, name, err := d.parent(p)
	if err != nil {
		return err
	}
	n := dir.names[name]
	switch {
	case n == nil:
		return &fs.PathError{Op: "remove", Path: p, Err: syscall.ENOENT}
	case len(n.names) > 0 && !all:
		return &fs.PathError{Op: "remove", Path: p, Err: syscall.ENOTEMPTY}
	}
	for child := range n.names {
		if err := d.remove(path.Join(p, child), true); err != nil {
			return err
		}
	}
	d.change(nameOp{dir: dir, name: name})
	return nil
}

// move gives what is at a path another name, or with keep one more.
func (d *Disk) move(from, to string, keep bool) error {
	fromDir, fromName, err := d.parent(from)
	if err != nil {
		return err
	}
	dir, name, err := d.parent(to)
	if err != nil {
		return err
	}
	n := fromDir.names[fromName]
	switch {
	case n == nil:
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.ENOENT}
	case keep && dir.names[name] != nil:
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EEXIST}
	case keep:
		d.change(nameOp{dir: dir, name: name, node: n})
	case n != dir.names[name]:
		d.change(nameOp{dir: dir, name: name, node: n, fromDir: fromDir, fromName: fromName})
	}
	return nil
}

// syncDir makes the names in a directory durable.
func (d *Disk) syncDir(dir *node) {
	d.pending = slices.DeleteFunc(d.pending, func(o nameOp) bool {
		if o.dir != dir && o.fromDir != dir {
			return false
		}
		o.apply(syncedNames)
		return true
	})
}
