package chunkstore

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// Catalogued is the number of the last ref that a catalog of this store is about;
// 0: there is none. The bucket alone knows it, so nobody has to find out what came
// of a catalog that was put when a daemon ended.
func (u *Uploads) Catalogued(ctx context.Context) (last uint64, err error) {
	at := u.attached.Load()
	for o, err := range u.b.List(ctx, bucket.CatalogsPrefix+at.as.String()+"/", "") {
		if err != nil {
			return 0, err
		}
		if _, _, l, ok := bucket.ParseCatalogKey(o.Key); ok {
			last = max(last, l)
		}
	}
	return last, nil
}

// Catalogue puts a catalog of the store's refs from the number first on, of which
// refs, in ascending order, are the next that are there, and gives the number of
// the last that it is about: of all of them but for those that would make it too
// large. They are read from the bucket, since what a snapshot's record says here
// changes. One that is gone, or damaged, is left out.
func (u *Uploads) Catalogue(ctx context.Context, first uint64, refs []uint64) (last uint64, err error) {
	at := u.attached.Load()
	listed := make([]bucket.Listed, len(refs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploadWorkers)
	for k, seq := range refs {
		g.Go(func() error {
			f, err := bucket.ReadRef(gctx, u.b, at.as, seq)
			switch {
			case errors.Is(err, bucket.ErrGone), errors.Is(err, remote.ErrNotExist), errors.Is(err, remote.ErrDamaged),
				errors.Is(err, bucket.ErrFormat), errors.Is(err, bucket.ErrVersion):
				return nil
			case err == nil:
				listed[k] = f.Listed()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	c := &bucket.Catalog{Domain: u.s.cfg.Domain, Writer: at.as, First: first}
	bytes := 0
	for k, l := range listed {
		if bytes += len(l.Record); bytes > bucket.CatalogSize && k > 0 {
			break
		}
		if c.Last = refs[k]; l.Seq > 0 {
			c.Refs = append(c.Refs, l)
		}
	}
	if len(c.Refs) == 0 {
		return c.Last, nil
	}
	_, err = u.b.PutIfAbsent(ctx, c.Key(), remote.Bytes(c.Encode()))
	if errors.Is(err, remote.ErrExists) {
		err = nil // by this store, when fewer refs had been forgotten
	}
	return c.Last, err
}
