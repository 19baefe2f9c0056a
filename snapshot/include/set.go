package include

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Set is what is taken into each step. Refresh is for one caller at a time.
type Set struct {
	cfg Config

	root     uint64           // the directory that a cut shows; 0: not made yet
	have     map[string]*node // by absolute path
	dirty    map[string]bool  // directories whose entries changed
	manifest []byte           // as it was written last
}

// node is something in the tree. Its parents are, too.
type node struct {
	item
	ino uint64 // of a directory
	key key    // zero: the file is taken again
	row Row
}

// top is the path under which the directory of all files is known: that of the
// root, of which it is the copy.
const top = "/"

// Refresh brings the copies up to date and gives the directory to be shown, and
// a row for each path that could not be taken. An error says that nothing can be
// shown. What is not taken by the end of ctx is missing.
func (s *Set) Refresh(ctx context.Context, t Tree) (dir uint64, misses []Row, err error) {
	s.dirty = map[string]bool{}
	if s.root == 0 {
		if err := s.begin(t); err != nil {
			return 0, nil, err
		}
	}
	found := s.scan(ctx)
	items := found.sorted()
	if err := s.sweep(t, items); err != nil {
		return 0, nil, s.broken(err)
	}
	rows := found.rows
	for _, it := range items {
		row, err := s.bring(ctx, t, it)
		switch {
		case err != nil:
			if err := s.remove(t, it.path); err != nil {
				return 0, nil, s.broken(err)
			}
			rows = append(rows, Row{Source: it.path, Include: it.of, Error: plain(err).Error()})
		case it.kind != kindDir:
			rows = append(rows, row)
		}
	}
	err = s.settle(t, found.items)
	if err == nil {
		err = s.writeManifest(t, rows)
	}
	if err != nil {
		return 0, nil, s.broken(err)
	}
	for _, r := range rows {
		if r.Error != "" {
			misses = append(misses, r)
		}
	}
	return s.root, misses, nil
}

// begin makes the directories. What an earlier daemon had, and backups that it
// left half done, are gone.
func (s *Set) begin(t Tree) error {
	if s.cfg.Scratch != "" {
		if err := os.RemoveAll(s.cfg.Scratch); err != nil {
			return err
		}
	}
	root, err := t.Hidden()
	if err != nil {
		return err
	}
	attr := Attr{Mode: 0o755, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Mtime: time.Now().UnixNano()}
	if err := t.SetAttr(root, attr); err != nil {
		return err
	}
	files, err := t.Mkdir(root, FilesDir, attr)
	if err != nil {
		return err
	}
	s.root = root
	s.have = map[string]*node{top: {item: item{path: top, kind: kindDir, attr: attr}, ino: files}}
	s.manifest = nil
	return nil
}

// broken has the next Refresh begin anew, since nobody knows what there is. The
// next start of the daemon removes the rest.
func (s *Set) broken(err error) error {
	s.root = 0
	return err
}

// sweep removes what is no more, or is something else by now.
func (s *Set) sweep(t Tree, items []item) error {
	want := map[string]kind{top: kindDir}
	for _, it := range items {
		for dir := filepath.Dir(it.path); want[dir] == 0; dir = filepath.Dir(dir) {
			want[dir] = kindDir
		}
		want[it.path] = it.kind
	}
	for path, n := range s.have {
		if want[path] != n.kind {
			if err := s.remove(t, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes a path with what is below it.
func (s *Set) remove(t Tree, path string) error {
	n := s.have[path]
	if n == nil || path == top {
		return nil
	}
	parent := filepath.Dir(path)
	if err := t.Remove(s.have[parent].ino, filepath.Base(path)); err != nil {
		return err
	}
	s.dirty[parent] = true
	delete(s.have, path)
	if n.kind == kindDir {
		for p := range s.have {
			if strings.HasPrefix(p, path+"/") {
				delete(s.have, p)
			}
		}
	}
	return nil
}

// bring makes the tree have an item as it is now.
func (s *Set) bring(ctx context.Context, t Tree, it item) (Row, error) {
	if it.kind == kindDir {
		_, err := s.dir(t, it.path, &it)
		return Row{}, err
	}
	n := s.have[it.path]
	switch {
	case n == nil:
	case it.kind == kindLink && n.target == it.target && n.attr == it.attr:
		return n.row, nil
	case it.kind == kindFile && n.key == it.key:
		n.of, n.row.Include = it.of, it.of
		return n.row, nil
	default:
		if err := s.remove(t, it.path); err != nil {
			return Row{}, err
		}
	}
	if ctx.Err() != nil {
		return Row{}, errTime
	}
	parent, err := s.dir(t, filepath.Dir(it.path), nil)
	if err != nil {
		return Row{}, err
	}
	s.dirty[filepath.Dir(it.path)] = true
	n = &node{item: it}
	if it.kind == kindLink {
		n.row = Row{Source: it.path, Include: it.of, How: HowLink, Mtime: time.Unix(0, it.attr.Mtime).UTC()}
		err = t.Symlink(parent, filepath.Base(it.path), it.target, it.attr)
	} else {
		n.row, n.key, err = s.take(ctx, t, parent, filepath.Base(it.path), it)
	}
	if err == nil {
		s.have[it.path] = n
	}
	return n.row, err
}

// dir gives the copy of a directory, making it; it is nil for one that only leads
// to an item.
func (s *Set) dir(t Tree, path string, it *item) (ino uint64, err error) {
	if n := s.have[path]; n != nil {
		if n.kind != kindDir {
			return 0, errors.New("what leads to it is included as something else than a directory")
		}
		if it != nil && n.attr != it.attr {
			n.attr = it.attr
			s.dirty[path] = true
		}
		return n.ino, nil
	}
	parent, err := s.dir(t, filepath.Dir(path), nil)
	if err != nil {
		return 0, err
	}
	if it == nil {
		fi, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		it = &item{path: path, kind: kindDir, attr: attrOf(fi)}
	}
	if ino, err = t.Mkdir(parent, filepath.Base(path), it.attr); err != nil {
		return 0, err
	}
	s.dirty[filepath.Dir(path)] = true
	s.have[path] = &node{item: *it, ino: ino}
	return ino, nil
}

// settle gives directories that got or lost entries their attributes again. Of
// those that only lead to an item mode and owner are followed: they may be closed
// to others by now.
func (s *Set) settle(t Tree, items map[string]item) error {
	for path, n := range s.have {
		if _, is := items[path]; is || n.kind != kindDir || path == top {
			continue
		}
		if fi, err := os.Stat(path); err == nil {
			now := attrOf(fi)
			if now.Mtime = n.attr.Mtime; now != n.attr {
				n.attr = now
				s.dirty[path] = true
			}
		}
	}
	for path := range s.dirty {
		n := s.have[path]
		if n == nil || n.kind != kindDir {
			continue
		}
		if err := t.SetAttr(n.ino, n.attr); err != nil {
			return err
		}
	}
	return nil
}

// writeManifest replaces the manifest, if it says something else by now.
func (s *Set) writeManifest(t Tree, rows []Row) error {
	b, err := encodeManifest(rows)
	if err != nil || bytes.Equal(b, s.manifest) {
		return err
	}
	if s.manifest != nil {
		if err := t.Remove(s.root, ManifestName); err != nil {
			return err
		}
	}
	s.manifest = nil
	attr := Attr{Mode: 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Mtime: time.Now().UnixNano()}
	err = t.File(s.root, ManifestName, attr, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err == nil {
		s.manifest = slices.Clip(b)
	}
	return err
}
