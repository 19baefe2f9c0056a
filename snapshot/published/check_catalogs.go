package published

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// catalogs holds what catalogs say of refs against these. One that is wrong shows
// steps as they are not; it can be deleted at any time.
func (c *checker) catalogs(ctx context.Context) error {
	is := make(map[refKey]*Step, len(c.steps))
	for k := range c.steps {
		is[refKey{c.steps[k].Writer, c.steps[k].Ref}] = &c.steps[k]
	}
	for o, err := range c.bucket.List(ctx, bucket.CatalogsPrefix, "") {
		if err != nil {
			return err
		}
		w, first, last, ok := bucket.ParseCatalogKey(o.Key)
		if !ok {
			continue
		}
		all, err := bucket.ReadCatalog(ctx, c.bucket, w, first, last)
		switch {
		case errors.Is(err, remote.ErrNotExist), errors.Is(err, bucket.ErrVersion):
			continue // pruned meanwhile, or for newer programs
		case errors.Is(err, remote.ErrDamaged), errors.Is(err, bucket.ErrFormat):
		case err != nil:
			return err
		default:
			err = c.catalog(all, is)
		}
		if err != nil {
			c.found(Finding{What: "catalog", Object: o.Key, Detail: err.Error() + "; it may be deleted, refs say the same"})
		}
	}
	return nil
}

// catalog gives the first that is wrong in a catalog.
func (c *checker) catalog(all *bucket.Catalog, is map[refKey]*Step) error {
	if all.Domain != c.cfg.Domain {
		return fmt.Errorf("%w: it is of domain %d, the bucket of %d", ErrCatalog, all.Domain, c.cfg.Domain)
	}
	for _, l := range all.Refs {
		key := refKey{all.Writer, l.Seq}
		step := is[key]
		if step == nil {
			continue // forgotten
		}
		s, err := stepListed(all.Writer, l)
		if err == nil {
			s.from = &catalogSource{key: all.Key()}
			err = s.same(*step)
		}
		if err == nil && l.Size != c.sizes[key] {
			err = fmt.Errorf("%w: of %d bytes is %s, it says %d", ErrCatalog, c.sizes[key], bucket.RefKey(key.writer, key.seq), l.Size)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
