package published

import (
	"context"
	"fmt"
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

// Pages calls fn for the pages of a directory, in order.
func (t *Tree) Pages(ctx context.Context, dir *schema.TreeEntry, fn func(Page) error) error {
	b, err := t.object(ctx, dir.Dir)
	if err != nil {
		return err
	}
	if len(b) == 0 || b[0] != schema.ObjectIndex {
		return t.page(b, fn)
	}
	pages, err := schema.DecodePages(b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTree, err)
	}
	for k, r := range pages {
		if k%pagesAhead == 0 {
			t.chunks.Ahead(idsOf(pages[k:min(len(pages), k+2*pagesAhead)]))
		}
		if b, err = t.object(ctx, r); err == nil {
			err = t.page(b, fn)
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

func (t *Tree) page(b []byte, fn func(Page) error) error {
	es, err := schema.DecodePage(b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTree, err)
	}
	return fn(es)
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
