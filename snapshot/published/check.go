package published

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
)

// Finding is one thing in a bucket that is not as it should be.
type Finding struct {
	What      string   `json:"what"`   // the class, a word for programs: "pack-missing"
	Object    string   `json:"object"` // its key
	Detail    string   `json:"detail"`
	Snapshots []string `json:"snapshots,omitempty"` // some of those that need it
	More      int      `json:"more,omitempty"`      // and so many more
}

// CheckOptions say how much is looked at.
type CheckOptions struct {
	// ReadData: every chunk is read and held against its name, and of every tree
	// that what it names is in the packs of its ref.
	ReadData bool
	// Progress hears how many bytes of packs have been read, of how many.
	Progress func(done, total int64)
}

// CheckSummary is what was looked at.
type CheckSummary struct {
	Snapshots int   `json:"snapshots"`
	Packs     int   `json:"packs"` // that some snapshot needs
	PackBytes int64 `json:"pack_bytes"`
	Chunks    int   `json:"chunks_read"`
	Bytes     int64 `json:"bytes_read"`
	Damage    int   `json:"damage"`
}

const (
	footersAtOnce = 16
	maxNamed      = 8 // snapshots that a finding names
)

// Check holds every ref of a bucket against the packs that it names.
func Check(ctx context.Context, b remote.Bucket, cfg *bucket.Config, o CheckOptions, report func(Finding)) (CheckSummary, error) {
	c := &checker{bucket: b, cfg: cfg, opts: o, tell: report, needed: map[string]*neededPack{}, sizes: map[refKey]int64{}}
	for _, part := range []func(context.Context) error{c.refs, c.catalogs, c.packs, c.footers, c.data, c.trees} {
		if err := part(ctx); err != nil {
			return c.sum, err
		}
	}
	return c.sum, nil
}

type checker struct {
	bucket remote.Bucket
	cfg    *bucket.Config
	opts   CheckOptions
	tell   func(Finding)

	mu     sync.Mutex
	sum    CheckSummary
	steps  []Step
	sizes  map[refKey]int64       // of refs
	needed map[string]*neededPack // by key
}

// neededPack is a pack that refs name.
type neededPack struct {
	bucket.Pack
	by    []string // some snapshots that need it
	more  int
	roots map[pack.ID]string // what must be in it, as the root of which snapshot
	bad   bool               // and it was said
}

func (c *checker) found(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Damage++
	c.tell(f)
}

func (c *checker) wrong(p *neededPack, what string, err error) {
	p.bad = true
	c.found(Finding{What: what, Object: p.Key(), Detail: err.Error(), Snapshots: p.by, More: p.more})
}

// refs reads all refs.
func (c *checker) refs(ctx context.Context) error {
	err := EachRef(ctx, c.bucket, func(f *bucket.Ref, err error) {
		var s Step
		if err == nil {
			s, err = stepOf(f)
		}
		if err == nil && (f.Domain != c.cfg.Domain || len(f.Packs) == 0) {
			err = fmt.Errorf("%s: %w: %d packs, domain %d", f.Key(), bucket.ErrFormat, len(f.Packs), f.Domain)
		}
		if err != nil {
			c.found(Finding{What: "ref", Object: bucket.RefsPrefix, Detail: err.Error()})
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.steps = append(c.steps, s)
		c.sizes[refKey{s.Writer, s.Ref}] = f.Listed().Size
		for k, p := range f.Packs {
			c.needLocked(p, k == 0, s, f.Root)
		}
	})
	slices.SortFunc(c.steps, func(a, b Step) int {
		return cmp.Or(slices.Compare(a.Writer[:], b.Writer[:]), cmp.Compare(a.Ref, b.Ref))
	})
	c.sum.Snapshots, c.sum.Packs = len(c.steps), len(c.needed)
	return err
}

func (c *checker) needLocked(p bucket.Pack, first bool, s Step, root pack.ID) {
	n := c.needed[p.Key()]
	if n == nil {
		n = &neededPack{Pack: p}
		c.needed[p.Key()] = n
		c.sum.PackBytes += p.Size
	}
	name := s.Writer.String() + "/" + s.ID()
	if len(n.by) < maxNamed {
		n.by = append(n.by, name)
	} else {
		n.more++
	}
	if first {
		if n.roots == nil {
			n.roots = map[pack.ID]string{}
		}
		n.roots[root] = name
	}
}

// sorted gives the packs that are needed, by key.
func (c *checker) sorted() (all []*neededPack) {
	for _, key := range slices.Sorted(maps.Keys(c.needed)) {
		all = append(all, c.needed[key])
	}
	return all
}

// packs looks whether packs are there, and of the size that refs say.
func (c *checker) packs(ctx context.Context) error {
	there := make(map[string]bool, len(c.needed))
	for o, err := range c.bucket.List(ctx, bucket.PacksPrefix, "") {
		if err != nil {
			return err
		}
		p := c.needed[o.Key]
		if p == nil {
			continue
		}
		there[o.Key] = true
		if o.Size != p.Size {
			c.wrong(p, "pack-size", fmt.Errorf("it has %d bytes, its refs say %d", o.Size, p.Size))
		}
	}
	for _, p := range c.sorted() {
		if !there[p.Key()] {
			c.wrong(p, "pack-missing", errors.New("it is not there"))
		}
	}
	return nil
}

// footers reads the footer of each pack that is there.
func (c *checker) footers(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(footersAtOnce)
	for _, p := range c.sorted() {
		if !p.bad {
			g.Go(func() error { return c.footer(ctx, p) })
		}
	}
	return g.Wait()
}

func (c *checker) footer(ctx context.Context, p *neededPack) error {
	f, err := bucket.ReadFooter(ctx, c.bucket, p.Pack)
	switch {
	case errors.Is(err, remote.ErrNotExist):
		c.wrong(p, "pack-missing", err)
		return nil
	case errors.Is(err, remote.ErrDamaged), errors.Is(err, pack.ErrFormat), errors.Is(err, bucket.ErrFormat):
		c.wrong(p, "pack-footer", err)
		return nil
	case err != nil:
		return err
	case f.Domain != c.cfg.Domain:
		c.wrong(p, "pack-domain", fmt.Errorf("it is of domain %d, the bucket of %d", f.Domain, c.cfg.Domain))
	}
	missing := maps.Clone(p.roots)
	for _, e := range f.Entries {
		delete(missing, e.ID)
	}
	for _, name := range missing {
		c.found(Finding{What: "root-missing", Object: p.Key(), Detail: "the root of a snapshot is not in it", Snapshots: []string{name}})
	}
	return nil
}

// data reads every chunk of the packs that can be read.
func (c *checker) data(ctx context.Context) error {
	if !c.opts.ReadData {
		return nil
	}
	all := &bucket.Ref{Domain: c.cfg.Domain}
	total := int64(0)
	for _, p := range c.sorted() {
		if !p.bad {
			all.Packs, total = append(all.Packs, p.Pack), total+p.Size
		}
	}
	chunks, err := chunkstore.OpenPublished(ctx, c.bucket, c.cfg.Key, all, chunkstore.PublishedOptions{})
	if err != nil {
		return err
	}
	defer chunks.Close()
	for _, err := range chunks.Lost() {
		c.found(Finding{What: "pack-footer", Object: bucket.PacksPrefix, Detail: err.Error()})
	}
	return chunks.ReadAll(ctx, func(r chunkstore.ChunkRead) error {
		c.sum.Chunks++
		c.sum.Bytes += int64(r.Stored)
		if r.Err != nil {
			c.wrong(c.needed[r.Object], "chunk", r.Err)
		}
		if c.opts.Progress != nil {
			c.opts.Progress(c.sum.Bytes, total)
		}
		return nil
	})
}

// trees looks whether all that trees name is in the packs of their refs.
func (c *checker) trees(ctx context.Context) error {
	if !c.opts.ReadData {
		return nil
	}
	for _, s := range c.steps {
		err := c.tree(ctx, s)
		switch {
		case errors.Is(err, chunkstore.ErrCorrupt), errors.Is(err, chunkstore.ErrMissing), errors.Is(err, ErrTree):
			c.found(Finding{What: "tree", Object: bucket.RefKey(s.Writer, s.Ref), Detail: err.Error(), Snapshots: []string{s.Writer.String() + "/" + s.ID()}})
		case errors.Is(err, remote.ErrNotExist): // the ref: it was forgotten meanwhile
		case err != nil:
			return err
		}
	}
	return nil
}

func (c *checker) tree(ctx context.Context, s Step) error {
	ref, err := bucket.ReadRef(ctx, c.bucket, s.Writer, s.Ref)
	if err != nil {
		return err
	}
	chunks, err := chunkstore.OpenPublished(ctx, c.bucket, c.cfg.Key, ref, chunkstore.PublishedOptions{})
	if err != nil {
		return err
	}
	defer chunks.Close()
	t, err := Open(ctx, chunks, ref)
	if err != nil {
		return err
	}
	return t.walk(ctx, "", t.Root(), func(path string, e *schema.TreeEntry) error {
		es, err := t.extents(ctx, e)
		for k := 0; k < len(es) && err == nil; k++ {
			err = chunks.Has(es[k].ID, es[k].Raw)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
}

// walk calls fn for each regular file.
func (t *Tree) walk(ctx context.Context, path string, p Page, fn func(path string, e *schema.TreeEntry) error) error {
	for k := range p {
		e, at := &p[k], filepath.Join(path, p[k].Name)
		var err error
		switch {
		case e.IsDir():
			err = t.Pages(ctx, e, func(p Page) error { return t.walk(ctx, at, p, fn) })
		case e.IsReg():
			err = fn(at, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
