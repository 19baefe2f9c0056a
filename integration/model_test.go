package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// model is what one worker knows to be in its directory, from nothing but the
// calls that were acknowledged to it. A worker is alone in its directory and
// makes one call at a time, so at any moment at most one call is in flight.
type model struct {
	files map[string]*file // by path; hard links share a file
	dirs  map[string]bool
	links map[string]string // symlinks: path and target
}

func newModel() *model {
	return &model{files: map[string]*file{}, dirs: map[string]bool{}, links: map[string]string{}}
}

// file is one inode of the model.
type file struct {
	live []byte
	mode fs.FileMode
	// shown is what a barrier taken now may show: the content of the last
	// barrier or close. It has several entries only where a crash left it open
	// which one counts.
	shown []content
	// kept is what it may show if the power failed after that barrier: what it
	// was at its own last barrier, and at each close since, which may not have
	// settled.
	kept []content
	// dirty: live was changed since what is in shown.
	dirty bool
	// synced: a barrier of this file was acknowledged, and nothing came after it.
	synced bool
	// grew: since it was opened the file was only appended to. A seal or an
	// explicit snapshot, of whomever, may then take it up to its size, and what
	// was taken once is what later snapshots show until the next close or
	// barrier. So each size on the way may be shown; grown has them, and sum
	// goes along with what is appended.
	grew  bool
	grown []content
	sum   hash.Hash
	open  bool // by a handle of the worker
}

// content is one content of a file by its hash, or the absence of the file.
type content struct {
	absent bool
	size   int
	sum    [sha256.Size]byte
}

func contentOf(b []byte) content {
	return content{size: len(b), sum: sha256.Sum256(b)}
}

// newFile is a file just created: no snapshot may show it before its first
// close or barrier.
func newFile(mode fs.FileMode) *file {
	absent := []content{{absent: true}}
	return &file{mode: mode, shown: absent, kept: absent, dirty: true}
}

// write is an acknowledged write.
func (f *file) write(off int64, data []byte) {
	gap := off - int64(len(f.live)) // past the end is an append, too
	if gap < 0 {
		f.grew = false
	} else if f.grew {
		f.append(append(make([]byte, gap), data...))
	}
	f.live = overlay(f.live, off, data)
	f.dirty, f.synced = true, false
}

// append notes what an append makes of a file that only grew.
func (f *file) append(data []byte) {
	if f.sum == nil {
		f.sum = sha256.New()
		f.sum.Write(f.live)
		f.grown = append(f.grown, contentOf(f.live))
	}
	f.sum.Write(data)
	f.grown = append(f.grown, content{size: len(f.live) + len(data), sum: [sha256.Size]byte(f.sum.Sum(nil))})
}

// opened is an acknowledged open for writing.
func (f *file) opened() {
	f.open, f.grew, f.sum = true, true, nil
}

// overlay writes data over a copy of old, with zeros in the gap between them.
func overlay(old []byte, off int64, data []byte) []byte {
	b := make([]byte, max(int64(len(old)), off+int64(len(data))))
	copy(b, old)
	copy(b[off:], data)
	return b
}

// truncate is an acknowledged change of size.
func (f *file) truncate(size int64) {
	b := make([]byte, size)
	copy(b, f.live)
	f.live, f.dirty, f.grew, f.synced = b, true, false, false
}

// closed is an acknowledged close of this file.
func (f *file) closed() {
	if f.dirty {
		f.shown = []content{contentOf(f.live)}
		// A seal may have taken it, durably, at any size on the way.
		f.kept = slices.Concat(f.kept, f.grown, f.shown)
		f.dirty, f.grown = false, nil
	}
}

// barrier is an acknowledged barrier of this file.
func (f *file) barrier() {
	f.shown = []content{contentOf(f.live)}
	f.kept = f.shown
	f.dirty, f.synced, f.grown = false, true, nil
}

// unsure is what becomes of a file whose last change may or may not count as
// closed: its handles are gone with the daemon, or it never had one.
func (f *file) unsure() {
	if f.dirty {
		f.shown = append(f.shown, contentOf(f.live))
		f.kept = append(f.kept, contentOf(f.live))
	}
}

// node is one name as it is found on disk.
type node struct {
	kind   fs.FileMode // type bits
	mode   fs.FileMode // permissions
	data   []byte
	target string
}

// readNodes reads a directory whole.
func readNodes(dir string) (map[string]node, error) {
	nodes := map[string]node{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		n := node{kind: info.Mode().Type(), mode: info.Mode().Perm()}
		switch n.kind {
		case 0:
			n.data, err = os.ReadFile(path)
			if err == nil && int64(len(n.data)) != info.Size() {
				err = fmt.Errorf("%s: read %d bytes of %d", path, len(n.data), info.Size())
			}
		case fs.ModeSymlink:
			n.target, err = os.Readlink(path)
		}
		rel, _ := filepath.Rel(dir, path)
		nodes[rel] = n
		return err
	})
	return nodes, err
}

// differs says where the live directory is not what was acknowledged.
func (m *model) differs(got map[string]node) string {
	var bad []string
	for path, f := range m.files {
		n, ok := got[path]
		switch {
		case !ok:
			bad = append(bad, path+": missing")
		case n.kind != 0 || n.mode != f.mode:
			bad = append(bad, fmt.Sprintf("%s: mode %v %v, want %v", path, n.kind, n.mode, f.mode))
		case !bytes.Equal(n.data, f.live):
			bad = append(bad, fmt.Sprintf("%s: %s", path, firstDifference(n.data, f.live)))
		}
	}
	bad = append(bad, m.otherNames(got)...)
	sort.Strings(bad)
	return strings.Join(bad, "\n")
}

// otherNames holds directories, symlinks and unknown names against the model.
func (m *model) otherNames(got map[string]node) []string {
	var bad []string
	for path := range m.dirs {
		if got[path].kind != fs.ModeDir {
			bad = append(bad, path+": not a directory")
		}
	}
	for path, target := range m.links {
		if got[path].kind != fs.ModeSymlink || got[path].target != target {
			bad = append(bad, fmt.Sprintf("%s: not a symlink to %s", path, target))
		}
	}
	for path := range got {
		_, link := m.links[path]
		if m.files[path] == nil && !m.dirs[path] && !link {
			bad = append(bad, path+": unexpected")
		}
	}
	return bad
}

func firstDifference(got, want []byte) string {
	i, n := 0, 0
	for ; i < min(len(got), len(want)) && got[i] == want[i]; i++ {
	}
	for j := i; j < min(len(got), len(want)); j++ {
		if got[j] != want[j] {
			n++
		}
	}
	return fmt.Sprintf("%d bytes, want %d; first difference at %d, %d bytes of both differ", len(got), len(want), i, n)
}
