package attach

import (
	"context"
	"fmt"
	"sync"

	"stepfs/internal/schema"
	"stepfs/snapshot/published"
)

// shown is a snapshot under one name: a directory has one parent, so one that is
// found by two names is two. Its number is never used for another.
type shown struct {
	slot uint32
	as   shownAs
	dir  string // of names, that its name is in
	step *published.Step

	mu    sync.Mutex
	root  rootEntry
	pages []pageOf             // by number; what page 0 has is root
	dirs  map[nodeID]pageRange // by the directory's node
}

// pageOf is a page of a directory: its object, and the directory.
type pageOf struct {
	object schema.ObjectRef
	dir    nodeID
}

type pageRange struct{ first, n int }

// snapshotTable numbers what is shown.
type snapshotTable struct {
	mu    sync.Mutex
	slots []*shown // by slot; 0 is nobody's
	of    map[shownAs]*shown
}

type shownAs struct {
	path string // of names
	step string // and writer
}

func (t *snapshotTable) init() { t.slots, t.of = []*shown{nil}, map[shownAs]*shown{} }

// enter gives what a snapshot is under a name.
func (t *snapshotTable) enter(dir, name string, step *published.Step) (*shown, error) {
	key := shownAs{dir + "/" + name, fmt.Sprint(step.Writer, step.Ref)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.of[key]; s != nil {
		return s, nil
	}
	if len(t.slots) > maxSlot {
		return nil, fmt.Errorf("more than %d snapshots were looked at: mount anew", maxSlot)
	}
	s := &shown{slot: uint32(len(t.slots)), as: key, dir: dir, step: step, dirs: map[nodeID]pageRange{}}
	s.pages = []pageOf{{}}
	t.slots, t.of[key] = append(t.slots, s), s
	return s, nil
}

func (t *snapshotTable) get(slot uint32) *shown {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(slot) >= len(t.slots) {
		return nil
	}
	return t.slots[slot]
}

// leave forgets what is gone. Should it come back, its nodes are new ones.
func (t *snapshotTable) leave(s *shown) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slots[s.slot] = nil
	delete(t.of, s.as)
}

// snapshotOf gives what a node is in, if that is still published.
func (f *FileSystem) snapshotOf(n nodeID) (*shown, error) {
	s := f.shown.get(n.slot())
	if s == nil {
		return nil, errStale
	}
	if !f.opts.Catalog.Has(s.step) {
		f.shown.leave(s)
		return nil, fmt.Errorf("%w: %s", published.ErrGone, s.step.ID())
	}
	return s, nil
}

// reading calls fn with the tree of a snapshot.
func (f *FileSystem) reading(ctx context.Context, s *shown, fn func(*published.Tree) error) error {
	o, err := f.opts.Snapshots.Open(ctx, s.step)
	if err != nil {
		return fmt.Errorf("open %s of %s: %w", s.step.ID(), s.step.Writer, err)
	}
	defer o.Release()
	if err := fn(o.Tree); err != nil {
		return f.opts.Snapshots.Explain(ctx, s.step, fmt.Errorf("read a directory of %s of %s: %w", s.step.ID(), s.step.Writer, err))
	}
	return nil
}

// entry finds the entry of a node: its page, and its place there.
func (f *FileSystem) entry(ctx context.Context, s *shown, n nodeID) (published.Page, *schema.TreeEntry, error) {
	page, err := f.pageOf(ctx, s, n.page())
	if err != nil {
		return nil, nil, err
	}
	if n.place() >= len(page) {
		return nil, nil, errStale
	}
	return page, &page[n.place()], nil
}

// pageOf gives a page by its number.
func (f *FileSystem) pageOf(ctx context.Context, s *shown, number int) (published.Page, error) {
	if number == 0 {
		return f.rootPage(ctx, s)
	}
	s.mu.Lock()
	if number >= len(s.pages) {
		s.mu.Unlock()
		return nil, errStale
	}
	object := s.pages[number].object
	s.mu.Unlock()
	return cachedPage(f, object, func() (p published.Page, err error) {
		err = f.reading(ctx, s, func(t *published.Tree) error {
			p, err = t.OnePage(ctx, object)
			return err
		})
		return p, err
	})
}

// cachedPage is a page that was decoded before, or what read gives.
func cachedPage(f *FileSystem, r schema.ObjectRef, read func() (published.Page, error)) (published.Page, error) {
	if p, ok := f.pages.get(r.ID).(published.Page); ok {
		return p, nil
	}
	p, err := read()
	if err != nil {
		return nil, err
	}
	if len(p) > maxPlace+1 {
		return nil, fmt.Errorf("%w: a page of %d entries", published.ErrTree, len(p))
	}
	f.pages.put(r.ID, int64(r.Len), p)
	return p, nil
}

// directory is one that is looked at: of which pages it is made, and the number
// of the first.
type directory struct {
	published.Dir
	first int
}

// directory gives that of a node.
func (f *FileSystem) directory(ctx context.Context, s *shown, n nodeID) (d directory, err error) {
	_, e, err := f.entry(ctx, s, n)
	switch {
	case err != nil:
		return d, err
	case !e.IsDir():
		return d, errNotDir
	}
	if d.Dir, err = f.dirObject(ctx, s, e.Dir); err != nil {
		return d, err
	}
	d.first, err = s.number(n, d.Pages)
	return d, err
}

// dirObject reads what a directory is made of. One of a single page is cached as
// that.
func (f *FileSystem) dirObject(ctx context.Context, s *shown, r schema.ObjectRef) (d published.Dir, err error) {
	switch v := f.pages.get(r.ID).(type) {
	case published.Dir:
		return v, nil
	case published.Page:
		return published.Dir{Firsts: []string{""}, Pages: []schema.ObjectRef{r}}, nil
	}
	err = f.reading(ctx, s, func(t *published.Tree) error {
		d, err = t.Dir(ctx, r)
		return err
	})
	if err == nil && (len(d.Pages) != 1 || d.Pages[0] != r) {
		f.pages.put(r.ID, int64(r.Len), d)
	}
	return d, err
}

// number gives the pages of a directory their numbers, once.
func (s *shown) number(n nodeID, pages []schema.ObjectRef) (first int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.dirs[n]; ok {
		return r.first, nil
	}
	first = len(s.pages)
	if first+len(pages) > maxPage {
		return 0, fmt.Errorf("%s has more than %d pages of directories", s.step.ID(), maxPage)
	}
	for _, p := range pages {
		s.pages = append(s.pages, pageOf{p, n})
	}
	s.dirs[n] = pageRange{first, len(pages)}
	return first, nil
}

// page reads page k of a directory.
func (f *FileSystem) page(ctx context.Context, s *shown, d directory, k int) (published.Page, error) {
	return cachedPage(f, d.Pages[k], func() (p published.Page, err error) {
		err = f.reading(ctx, s, func(t *published.Tree) error {
			p, err = t.Page(ctx, d.Dir, k)
			return err
		})
		return p, err
	})
}

// parentOf gives the directory that a node of a snapshot is in.
func (s *shown) parentOf(n nodeID) (dir nodeID, isRoot bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.page() == 0 || n.page() >= len(s.pages) {
		return 0, true
	}
	return s.pages[n.page()].dir, false
}
