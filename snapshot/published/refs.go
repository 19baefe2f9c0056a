package published

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// Ten thousand refs are ten thousand requests, so writers put catalogs, which tell
// what hundreds of refs say. What there is, the list of refs alone says. A catalog
// tells of a ref that is listed, with the size that the catalog knows; all other
// refs are read, and so is everything if a catalog is missing, damaged, of another
// writer or of another version.
//
// The invariant: no catalog makes a step show what another one has. Who opens a
// step reads its ref, and holds all that the catalog said against it (Step.Is).

// ErrCatalog: what a catalog says of a ref is not what the ref says.
var ErrCatalog = errors.New("a catalog is wrong about a ref")

const (
	refsAtOnce = 32 // refs and catalogs that are read at a time
	// fewRefs are read rather than a catalog.
	fewRefs = 4
)

// refKey names a ref.
type refKey struct {
	writer bucket.Writer
	seq    uint64
}

// catalogSource is a catalog of which steps are.
type catalogSource struct {
	key   string
	wrong atomic.Bool // of one of them at least
}

// Is says whether the step is what its ref says, else ErrCatalog.
func (s *Step) Is(f *bucket.Ref) error {
	if s.from == nil {
		return nil
	}
	is, err := stepOf(f)
	if err != nil {
		return err
	}
	return s.same(is)
}

func (s *Step) same(is Step) error {
	if is.from = s.from; s.from == nil || reflect.DeepEqual(*s, is) {
		return nil
	}
	s.from.wrong.Store(true)
	return fmt.Errorf("%w: %s says that %s is %s", ErrCatalog, s.from.key, bucket.RefKey(s.Writer, s.Ref), s.ID())
}

// EachRef calls fn for each ref, several at a time and in no order; or with what
// is wrong with one that is there.
func EachRef(ctx context.Context, b remote.Bucket, fn func(*bucket.Ref, error)) error {
	r := &refReader{bucket: b, plain: true}
	return r.run(ctx, fn, nil)
}

// refReader reads what refs say.
type refReader struct {
	bucket   remote.Bucket
	plain    bool               // without catalogs
	wanted   func(refKey) bool  // asked of each ref that is listed; nil: all are
	wrong    map[string]bool    // keys of catalogs that are not to be believed
	catalogs []*coverage        // by writer and first number
	told     func(*Step, error) // as fn of steps

	g   *errgroup.Group
	ctx context.Context // of g
	ref func(*bucket.Ref, error)
}

// coverage is a catalog, and the refs of its range that are wanted.
type coverage struct {
	writer      bucket.Writer
	first, last uint64
	refs        map[uint64]int64 // number -> size, both as listed
}

// steps calls fn for each step, as EachRef does.
func (r *refReader) steps(ctx context.Context, fn func(*Step, error)) error {
	return r.run(ctx, func(f *bucket.Ref, err error) {
		var s Step
		if err == nil {
			s, err = stepOf(f)
		}
		fn(&s, err)
	}, fn)
}

// run lists the refs, has those read of which no catalog tells, and then the others.
func (r *refReader) run(ctx context.Context, ref func(*bucket.Ref, error), told func(*Step, error)) error {
	r.g, r.ctx = errgroup.WithContext(ctx)
	r.g.SetLimit(refsAtOnce)
	r.ref, r.told = ref, told
	catalogs := make(chan struct{})
	r.g.Go(func() error {
		defer close(catalogs)
		if !r.plain {
			r.listCatalogs()
		}
		return nil
	})
	for o, err := range r.bucket.List(r.ctx, bucket.RefsPrefix, "") {
		<-catalogs // both lists are asked for at once
		if err != nil {
			r.g.Go(func() error { return err })
			break
		}
		w, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if !ok || o.Size == bucket.GoneSize || r.wanted != nil && !r.wanted(refKey{w, seq}) {
			continue // not ours, a tombstone, or known
		}
		if c := r.covering(w, seq); c != nil {
			c.refs[seq] = o.Size
		} else {
			r.read(w, seq)
		}
	}
	<-catalogs
	for _, c := range r.catalogs {
		if len(c.refs) <= fewRefs {
			r.readAll(c)
		} else {
			r.g.Go(func() error { r.ask(c); return nil })
		}
	}
	if err := r.g.Wait(); err != nil {
		return err
	}
	return r.readRest(ctx)
}

// listCatalogs finds out which there are. Without a list of them there are none.
func (r *refReader) listCatalogs() {
	for o, err := range r.bucket.List(r.ctx, bucket.CatalogsPrefix, "") {
		if err != nil {
			return
		}
		w, first, last, ok := bucket.ParseCatalogKey(o.Key)
		if ok && !r.wrong[o.Key] {
			r.catalogs = append(r.catalogs, &coverage{w, first, last, map[uint64]int64{}})
		}
	}
}

// covering gives the catalog that may tell of a ref: of several the one that
// begins last. The list was in the order of keys, which is theirs.
func (r *refReader) covering(w bucket.Writer, seq uint64) *coverage {
	after := sort.Search(len(r.catalogs), func(k int) bool {
		c := r.catalogs[k]
		order := slices.Compare(c.writer[:], w[:])
		return order > 0 || order == 0 && c.first > seq
	})
	if after == 0 {
		return nil
	}
	if c := r.catalogs[after-1]; c.writer == w && seq <= c.last {
		return c
	}
	return nil
}

// ask takes out of a catalog what it tells of refs that are listed; they are not
// wanted any more. Whatever is wrong with it, the refs are there to be read.
func (r *refReader) ask(c *coverage) {
	all, err := bucket.ReadCatalog(r.ctx, r.bucket, c.writer, c.first, c.last)
	if err != nil {
		return
	}
	from := &catalogSource{key: all.Key()}
	for _, l := range all.Refs {
		size, listed := c.refs[l.Seq]
		if !listed || size != l.Size {
			continue
		}
		s, err := stepListed(c.writer, l)
		if err != nil {
			continue
		}
		s.from = from
		delete(c.refs, l.Seq)
		r.told(&s, nil)
	}
}

// readRest reads what catalogs were to tell, and did not.
func (r *refReader) readRest(ctx context.Context) error {
	r.g, r.ctx = errgroup.WithContext(ctx)
	r.g.SetLimit(refsAtOnce)
	for _, c := range r.catalogs {
		r.readAll(c)
	}
	return r.g.Wait()
}

func (r *refReader) readAll(c *coverage) {
	for _, seq := range slices.Sorted(maps.Keys(c.refs)) {
		r.read(c.writer, seq)
	}
	clear(c.refs)
}

// read has a ref read.
func (r *refReader) read(w bucket.Writer, seq uint64) {
	r.g.Go(func() error {
		f, err := bucket.ReadRef(r.ctx, r.bucket, w, seq)
		switch {
		case errors.Is(err, bucket.ErrGone), errors.Is(err, remote.ErrNotExist):
			return nil // it was forgotten meanwhile
		case err == nil, errors.Is(err, bucket.ErrFormat), errors.Is(err, bucket.ErrVersion), errors.Is(err, remote.ErrDamaged):
			r.ref(f, err)
			return nil
		}
		return err
	})
}
