package published

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
)

// Tree is the tree of one published snapshot.
type Tree struct {
	chunks Chunks
	root   schema.TreeEntry // the scope's directory
}

// Open reads the root of a ref and holds it against the ref.
func Open(ctx context.Context, chunks Chunks, ref *bucket.Ref) (*Tree, error) {
	t := &Tree{chunks: chunks}
	b, err := t.object(ctx, schema.ObjectRef{ID: ref.Root, Len: ref.RootLen})
	if err != nil {
		return nil, fmt.Errorf("read the root of %s: %w", ref.Key(), err)
	}
	seq, _, dir, err := schema.DecodeRoot(b)
	if err == nil && seq != ref.Snapshot {
		err = fmt.Errorf("it is of snapshot %d, not %d", seq, ref.Snapshot)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the root of %s: %w", ErrTree, ref.Key(), err)
	}
	t.root = dir
	return t, nil
}

// object reads a directory object.
func (t *Tree) object(ctx context.Context, r schema.ObjectRef) ([]byte, error) {
	if r.Len > pack.MaxRaw {
		return nil, fmt.Errorf("%w: an object of %d bytes", ErrTree, r.Len)
	}
	b := make([]byte, r.Len)
	return b, t.chunks.ReadAt(ctx, r.ID, r.Len, b, 0)
}

// Page is some entries of a directory, in byte order of their names.
type Page []schema.TreeEntry

// Root is the page of one entry that is the snapshot's directory.
func (t *Tree) Root() Page { return Page{t.root} }

// Dir says of which pages a directory is made.
type Dir struct {
	Firsts []string // the first name in each
	Pages  []schema.ObjectRef
}

// Dir reads the object of a directory.
func (t *Tree) Dir(ctx context.Context, r schema.ObjectRef) (Dir, error) {
	b, err := t.object(ctx, r)
	if err != nil {
		return Dir{}, err
	}
	if len(b) == 0 || b[0] != schema.ObjectIndex {
		return Dir{[]string{""}, []schema.ObjectRef{r}}, nil // it is the page
	}
	firsts, pages, err := schema.DecodeIndex(b)
	if err != nil {
		return Dir{}, fmt.Errorf("%w: %w", ErrTree, err)
	}
	return Dir{firsts, pages}, nil
}

// Page reads page k of a directory, and has those after it fetched.
func (t *Tree) Page(ctx context.Context, d Dir, k int) (Page, error) {
	if k%pagesAhead == 0 && len(d.Pages) > 1 {
		t.chunks.Ahead(idsOf(d.Pages[k:min(len(d.Pages), k+2*pagesAhead)]))
	}
	return t.OnePage(ctx, d.Pages[k])
}

// OnePage reads a page of a directory.
func (t *Tree) OnePage(ctx context.Context, r schema.ObjectRef) (Page, error) {
	b, err := t.object(ctx, r)
	if err != nil {
		return nil, err
	}
	es, err := schema.DecodePage(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTree, err)
	}
	return es, nil
}

// PageOf gives the page in which a name is, if it is in the directory at all.
func (d Dir) PageOf(name string) int {
	return max(0, sort.Search(len(d.Firsts), func(k int) bool { return d.Firsts[k] > name })-1)
}

// Find gives the place of a name.
func (p Page) Find(name string) (at int, ok bool) {
	return sort.Find(len(p), func(k int) int { return strings.Compare(name, p[k].Name) })
}

// Pages calls fn for the pages of a directory, in order.
func (t *Tree) Pages(ctx context.Context, dir *schema.TreeEntry, fn func(Page) error) error {
	d, err := t.Dir(ctx, dir.Dir)
	if err != nil {
		return err
	}
	for k := range d.Pages {
		p, err := t.Page(ctx, d, k)
		if err == nil {
			err = fn(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pagesAhead is how many pages are fetched together.
const pagesAhead = 16

func idsOf(refs []schema.ObjectRef) (ids []chunkstore.ID) {
	for _, r := range refs {
		ids = append(ids, r.ID)
	}
	return ids
}

// Lookup finds a path below the snapshot's directory: the page that it is in,
// and its place there. ErrNotExist: there is none.
func (t *Tree) Lookup(ctx context.Context, path string) (Page, int, error) {
	page, at := t.Root(), 0
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		dir := &page[at]
		page = nil
		if dir.IsDir() {
			err := t.Pages(ctx, dir, func(p Page) error {
				for k := range p {
					if p[k].Name == name {
						page, at = p, k
					}
				}
				return nil
			})
			if err != nil {
				return nil, 0, fmt.Errorf("%s: %w", path, err)
			}
		}
		if page == nil {
			return nil, 0, fmt.Errorf("%s: %w", path, ErrNotExist)
		}
	}
	return page, at, nil
}

// EachFile calls fn for each regular file, with its path and where its chunks are.
func (t *Tree) EachFile(ctx context.Context, fn func(path string, es []schema.ChunkExtent) error) error {
	return t.walk(ctx, "", t.Root(), func(path string, e *schema.TreeEntry) error {
		es, err := t.extents(ctx, e)
		if err != nil {
			return err
		}
		return fn(path, es)
	})
}

// extents gives the extents of a regular file.
func (t *Tree) extents(ctx context.Context, e *schema.TreeEntry) ([]schema.ChunkExtent, error) {
	if len(e.Pages) == 0 {
		return e.Chunks, nil
	}
	t.chunks.Ahead(idsOf(e.Pages))
	var all []schema.ChunkExtent
	for _, r := range e.Pages {
		b, err := t.object(ctx, r)
		if err != nil {
			return nil, err
		}
		es, err := schema.DecodeExtents(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTree, err)
		}
		all = append(all, es...)
	}
	if !schema.InOrder(all, e.Size) {
		return nil, fmt.Errorf("%w: extents out of order", ErrTree)
	}
	return all, nil
}
