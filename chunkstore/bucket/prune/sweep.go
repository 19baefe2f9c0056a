package prune

import (
	"context"
	"errors"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// sweep deletes what the list says is dead, as often as it comes back: index
// objects before the packs that they list, since packs are how it is seen that
// there is something to do.
func (p *pruner) sweep(ctx context.Context) error {
	p.report.Epoch = p.list.Epoch
	var dead []object
	writers := map[bucket.Writer]bool{}
	for _, o := range p.packs {
		switch id := o.ID(); {
		case p.list.Dead.Has(id):
			dead = append(dead, o)
			writers[o.Writer] = true
			continue
		case p.list.Condemned.Has(id):
			p.report.Condemned.add(o.Size)
			p.report.Due = p.list.made.Add(p.opt.Grace)
		}
		p.report.Packs++
	}
	if err := p.sweepIndexes(ctx, writers); err != nil {
		return err
	}
	for _, o := range dead {
		if err := p.delete(ctx, o.key); err != nil {
			return err
		}
		p.report.Deleted.add(o.Size)
	}
	return p.sweepLists(ctx)
}

// sweepIndexes deletes the index objects of some writers that list only what is
// dead. One that can't be read stays.
func (p *pruner) sweepIndexes(ctx context.Context, writers map[bucket.Writer]bool) error {
	for w := range writers {
		for o, err := range p.b.List(ctx, bucket.IndexPrefix+w.String()+"/", "") {
			if err != nil {
				return err
			}
			switch alive, err := p.alive(ctx, o.Key); {
			case errors.Is(err, bucket.ErrFormat), errors.Is(err, bucket.ErrVersion), errors.Is(err, remote.ErrNotExist), alive:
				continue
			case err != nil:
				return err
			}
			if err := p.delete(ctx, o.Key); err != nil {
				return err
			}
			p.report.Indexes++
		}
	}
	return nil
}

// alive says whether an index object lists a pack that is not dead.
func (p *pruner) alive(ctx context.Context, key string) (alive bool, err error) {
	w, seq, ok := bucket.ParseNumbered(bucket.IndexPrefix, key)
	if !ok {
		return true, nil
	}
	_, err = read(ctx, p.b, key, bucket.MaxIndex, func(b []byte) error {
		x, err := bucket.DecodeIndex(b, w, seq)
		if err != nil {
			return err
		}
		for _, i := range x.Packs {
			alive = alive || !p.list.Dead.Has(bucket.PackID{Writer: w, Seq: i.Seq})
		}
		return nil
	})
	return alive, err
}

// sweepLists leaves of the lists but the newest tombstones.
func (p *pruner) sweepLists(ctx context.Context) error {
	if p.opt.DryRun {
		return nil
	}
	for o, err := range p.b.List(ctx, bucket.RetiredPrefix, "") {
		if err != nil {
			return err
		}
		epoch, ok := bucket.ParseRetiredKey(o.Key)
		if !ok || epoch >= p.list.Epoch || o.Size == bucket.GoneSize {
			continue
		}
		if err := bury(ctx, p.b, o.Key, bucket.Gone(bucket.Writer{}, epoch)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pruner) delete(ctx context.Context, key string) error {
	if p.opt.DryRun {
		return nil
	}
	return p.b.Delete(ctx, key)
}
