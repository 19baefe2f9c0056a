package integration

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// barrierLife is how long a record of a barrier is good for: stepfs keeps
// barriers that are not sealed for an hour, and a soak runs longer.
const barrierLife = 40 * time.Minute

// record is a snapshot that was acknowledged, and what it has to show of the
// directory of the worker that saw it.
type record struct {
	path    string // below snapshots/
	dir     string // of the worker
	barrier bool
	taken   time.Time
	want    model
	files   map[string]shown
}

// shown is what a snapshot may show of one name.
type shown struct {
	mode     fs.FileMode
	contents []content
	cut      []content // besides, if the power failed afterwards
}

// record notes what a snapshot taken now has to show.
func (m *model) record(path, dir string, barrier bool) *record {
	r := &record{path: path, dir: dir, barrier: barrier, taken: time.Now(), files: map[string]shown{}}
	r.want.dirs, r.want.links = maps.Clone(m.dirs), maps.Clone(m.links)
	r.want.files = maps.Clone(m.files) // the names alone are used
	for path, f := range m.files {
		// The barrier that was looked up may be a seal, so it may have taken
		// what only grew, like an explicit one.
		s := shown{mode: f.mode, contents: append(slices.Clone(f.shown), f.grown...)}
		if barrier {
			s.cut = slices.Concat(f.kept, f.grown)
		}
		r.files[path] = s
	}
	return r
}

// verify holds a snapshot against its record.
func (r *record) verify(mnt string) error {
	if r.barrier && time.Since(r.taken) > barrierLife {
		return nil
	}
	dir := filepath.Join(mnt, "snapshots", r.path, r.dir)
	got, err := readNodes(dir)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", r.path, err)
	}
	bad := r.want.otherNames(got)
	for path, s := range r.files {
		n, ok := got[path]
		if !s.allows(n, ok) {
			bad = append(bad, fmt.Sprintf("%s: present %v, mode %v, %d bytes; allowed: %s", path, ok, n.mode, len(n.data), s))
		}
	}
	if len(bad) > 0 {
		sort.Strings(bad)
		return fmt.Errorf("snapshot %s, directory %s, taken %s:\n%s", r.path, r.dir,
			r.taken.Format(time.RFC3339Nano), strings.Join(bad, "\n"))
	}
	return nil
}

func (s shown) allows(n node, present bool) bool {
	if present && (n.kind != 0 || n.mode != s.mode) {
		return false
	}
	got := content{absent: true}
	if present {
		got = contentOf(n.data)
	}
	return slices.Contains(s.contents, got)
}

// powerFailed widens a record to what its snapshot may show after a power cut:
// of files that were closed but had not settled, what they were before.
func (r *record) powerFailed() {
	for path, s := range r.files {
		s.contents = append(s.contents, s.cut...)
		r.files[path] = s
	}
}

func (s shown) String() string {
	words := []string{fmt.Sprintf("mode %v", s.mode)}
	for _, c := range s.contents {
		if c.absent {
			words = append(words, "absent")
		} else {
			words = append(words, fmt.Sprintf("%d bytes", c.size))
		}
	}
	return strings.Join(words, ", ")
}

// newestBarrier is the barrier with the highest number.
func newestBarrier(mnt string) (string, error) {
	names, err := barriers(mnt)
	if err != nil || len(names) == 0 {
		return "", fmt.Errorf("no barrier is listed: %w", err)
	}
	newest := names[0]
	for _, n := range names {
		if len(n) > len(newest) || len(n) == len(newest) && n > newest {
			newest = n
		}
	}
	return newest, nil
}

// barriers lists the numbers of all barriers.
func barriers(mnt string) ([]string, error) {
	d, err := os.Open(filepath.Join(mnt, "snapshots", ".barriers"))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
