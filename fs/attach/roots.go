package attach

import (
	"context"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/snapshot/published"
)

// rootsAhead is how many snapshots' directories are asked for at a time, when
// somebody looks at one after the other (ls -l snapshots).
const rootsAhead = 16

// rootEntry is the directory of a snapshot: nil until somebody looks at it.
type rootEntry struct {
	entry   *schema.TreeEntry
	err     error         // of the last time that it was asked for
	loading chan struct{} // not nil: it is being asked for, and then closed
}

// rootPage is the page that has a snapshot's own directory.
func (f *FileSystem) rootPage(ctx context.Context, s *shown) (published.Page, error) {
	if loading := f.wantRoot(s); loading != nil {
		select {
		case <-loading:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root.entry == nil {
		return nil, fmt.Errorf("open %s of %s: %w", s.step.ID(), s.step.Writer, s.root.err)
	}
	return published.Page{*s.root.entry}, nil
}

// wantRoot has a snapshot's directory read, and says when that is done; nil: it is.
func (f *FileSystem) wantRoot(s *shown) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root.entry != nil {
		return nil
	}
	if s.root.loading == nil {
		loading := make(chan struct{})
		s.root.loading = loading
		f.tasks.Go(func() {
			root, err := f.opts.Snapshots.Root(f.ctx, s.step)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.root = rootEntry{err: err}
			if err == nil {
				s.root.entry = &root
			}
			close(loading)
		})
	}
	return s.root.loading
}

// glance is the last snapshot that was looked up by its name.
type glance struct {
	dir *published.NameDir
	at  int
}

// looked notes which entry of a directory was looked up. Who does that one after
// the other will have the next ones read.
func (f *FileSystem) looked(path string, d *published.NameDir, at int) {
	next := glance{d, at}
	f.glanceMu.Lock()
	inOrder := f.glance == glance{d, at - 1}
	f.glance = next
	f.glanceMu.Unlock()
	if !inOrder {
		return
	}
	for _, e := range d.Entries[at+1 : min(len(d.Entries), at+1+rootsAhead)] {
		if e.Step == nil {
			continue
		}
		if s, err := f.shown.enter(path, e.Name, e.Step); err == nil {
			f.wantRoot(s)
		}
	}
}
