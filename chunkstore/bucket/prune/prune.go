package prune

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// Options of a run.
type Options struct {
	// Grace is how old a pack must be before it is condemned, and how long after
	// that it is deleted. Who reads a snapshot that is being forgotten has so
	// long to come to an end, and a writer to renew its lease. Nothing that is
	// needed depends on it.
	Grace  time.Duration
	Now    func() time.Time // the clock to which Grace is held
	DryRun bool             // change nothing
}

// Report says what a run found and did. Of a dry run: would do.
type Report struct {
	Epoch     uint64 // of the newest list
	Refs      int    // snapshots that are there
	Forgotten int    // tombstones
	Packs     int    // that are there and stay
	Condemned Amount // that are deleted by a run after Due, if no ref names them by then
	Kept      Amount // of them those that no ref names, and that a writer says it will
	Deleted   Amount // packs
	Indexes   int    // index objects deleted
	Spared    int    // packs whose condemnation ended, since a ref has come to name them

	Due     time.Time       // when the condemned may go
	Waiting []bucket.Writer // not heard of since they were condemned; fenced after Due
	Fenced  []bucket.Writer
}

// Amount is a number of packs.
type Amount struct {
	Packs int
	Bytes int64
}

func (a *Amount) add(size int64) { a.Packs++; a.Bytes += size }

// pruner is one run.
type pruner struct {
	b      remote.Bucket
	opt    Options
	list   list
	leases []slotted
	report Report
	packs  []object // that are there
}

// object is a pack that is there.
type object struct {
	bucket.Pack
	key  string
	made time.Time
}

// Run goes on from where the last run ended: it deletes what is dead, and what
// was condemned long enough ago and is still not needed, and condemns what has
// become unneeded since. Several may run at the same time, and each may be ended
// at any moment.
func Run(ctx context.Context, b remote.Bucket, opt Options) (Report, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	p := &pruner{b: b, opt: opt}
	err := p.run(ctx)
	if err != nil {
		err = fmt.Errorf("prune %s: %w", b, err)
	}
	return p.report, err
}

func (p *pruner) run(ctx context.Context) error {
	if err := p.known(ctx); err != nil {
		return err
	}
	if err := p.look(ctx); err != nil {
		return err
	}
	var err error
	if p.packs, err = listPacks(ctx, p.b); err != nil {
		return err
	}
	if err := p.advance(ctx); err != nil {
		return err
	}
	return p.sweep(ctx)
}

// look reads the newest list, and then the leases.
func (p *pruner) look(ctx context.Context) (err error) {
	p.list = noList()
	for range attempts {
		if p.list, err = newest(ctx, p.b, p.list); err != nil {
			return err
		}
		if p.leases, err = readLeases(ctx, p.b); err != nil {
			return err
		}
		late := slices.IndexFunc(p.leases, func(l slotted) bool { return l.Epoch > p.list.Epoch })
		if late < 0 {
			return nil
		}
		err = fmt.Errorf("%w: %s", errLost, bucket.RetiredKey(p.leases[late].Epoch)) // or it has come since
	}
	return err
}

// known refuses a bucket of which this program does not know what is needed.
func (p *pruner) known(ctx context.Context) error {
	if _, err := bucket.Read(ctx, p.b); err != nil {
		return err
	}
	for o, err := range p.b.List(ctx, bucket.GroupsPrefix, "") {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: there is %s", bucket.ErrVersion, o.Key)
	}
	return nil
}

func listPacks(ctx context.Context, b remote.Bucket) (all []object, err error) {
	for o, err := range b.List(ctx, bucket.PacksPrefix, "") {
		if err != nil {
			return nil, err
		}
		if p, ok := bucket.ParsePackKey(o.Key); ok {
			p.Size = o.Size
			all = append(all, object{p, o.Key, o.Modified})
		}
	}
	return all, nil
}

// advance makes the next list, if its time has come.
func (p *pruner) advance(ctx context.Context) error {
	keeps := slices.ContainsFunc(p.leases, func(l slotted) bool { return l.behind(p.list.Epoch) && l.Keep != bucket.KeepNone })
	if keeps || !p.list.Condemned.Empty() {
		p.report.Due = p.list.made.Add(p.opt.Grace)
		if p.opt.Now().Before(p.report.Due) {
			p.wait()
			return nil
		}
		if err := p.fence(ctx); err != nil {
			return err
		}
	}
	n, err := readNeeds(ctx, p.b, p.leases)
	if err != nil {
		return err
	}
	p.report.Refs, p.report.Forgotten = n.refs, n.forgotten
	return p.putNext(ctx, p.next(n))
}

// wait reports what is waited for.
func (p *pruner) wait() {
	for _, l := range p.leases {
		if l.behind(p.list.Epoch) {
			p.report.Waiting = append(p.report.Waiting, l.Writer)
		}
	}
}

// fence leaves no lease behind.
func (p *pruner) fence(ctx context.Context) error {
	for k, l := range p.leases {
		if !l.behind(p.list.Epoch) {
			continue
		}
		p.report.Fenced = append(p.report.Fenced, l.Writer)
		if p.opt.DryRun {
			continue
		}
		var err error
		if p.leases[k], err = fence(ctx, p.b, l, p.list.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// next makes the next list: what was condemned and no ref names is dead, what no
// ref names is condemned.
func (p *pruner) next(n *needs) *bucket.Retired {
	needed := n.set()
	next := &bucket.Retired{Epoch: p.list.Epoch + 1, Dead: p.list.Dead.Union(p.list.Condemned.Minus(needed))}
	keep := map[bucket.Writer]uint64{}
	for _, l := range p.leases {
		keep[l.Writer] = l.Keep
	}
	young := p.opt.Now().Add(-p.opt.Grace)
	var condemned []bucket.PackID
	for _, o := range p.packs {
		from, leased := keep[o.Writer]
		switch {
		case next.Dead.Has(o.ID()):
		case needed.Has(o.ID()):
			if p.list.Condemned.Has(o.ID()) {
				p.report.Spared++
			}
		case o.made.After(young):
		case leased && o.Seq >= from:
			p.report.Kept.add(o.Size)
		default:
			condemned = append(condemned, o.ID())
		}
	}
	next.Condemned = bucket.NewPackSet(condemned...)
	return next
}

// putNext puts the next list, if it says anything new, or if packs are kept for a
// writer: whether it is still alive is seen by its keeping to the new list. If
// another was faster, his list is the next.
func (p *pruner) putNext(ctx context.Context, next *bucket.Retired) error {
	if p.list.Condemned.Empty() && next.Condemned.Empty() && p.report.Kept.Packs == 0 {
		return nil
	}
	body := next.Encode()
	if len(body) > bucket.MaxRetired {
		return fmt.Errorf("the list of retired packs would have %d bytes", len(body))
	}
	if p.opt.DryRun {
		p.list = list{next, p.opt.Now()}
		return nil
	}
	_, err := p.b.PutIfAbsent(ctx, next.Key(), remote.Bytes(body))
	if err != nil && !errors.Is(err, remote.ErrExists) {
		return err
	}
	p.list, err = newest(ctx, p.b, p.list)
	return err
}
