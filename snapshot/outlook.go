package snapshot

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// What would be given up next if room were scarce now, and what can't be: what
// giveUp (pressure.go) would do, without doing it.

// Outlook says what would go, in this order, and what keeps space.
type Outlook struct {
	Forgotten Group // goes first: all that nobody holds or reads
	Barriers  Group // then: the oldest, at most as many as go at a time
	Step      Group // then: one step, if one may go
	KeepSteps bool  // none may (--on-full=stop)

	// Pins are snapshots that can't be given up and need the most space of
	// their own, the largest of each kind first.
	Pins []Pin
}

// Group is what would go together.
type Group struct {
	Snapshots []Info // oldest first
	Bytes     int64  // that would come back
	Waits     int    // more of the kind, which go later
}

// Why a snapshot can't be given up.
const (
	PinHeld   = "held"
	PinReader = "reader" // somebody reads it, or did a moment ago
	PinNamed  = "named"  // a person gave it its name
	PinNewest = "newest" // one of the newest complete steps of its scope
)

// Pin is a snapshot that can't be given up.
type Pin struct {
	Why   string
	Info  Info
	Bytes int64 // that it alone needs
	Open  int   // of a reader: what is open in it; 0: it was only looked into
}

const (
	// topPins is how many of each kind are named, and pinsAsked of how many it
	// is found out what they need: those that added the most.
	topPins, pinsAsked = 3, 24
	// outlookAge is how old an outlook may be; outlookShare as in Freeable.
	outlookAge, outlookShare = time.Second, 20
)

// outlooks keeps the last one.
type outlooks struct {
	mu   sync.Mutex
	last Outlook
	at   time.Time // zero: there is none
	took time.Duration
}

// Outlook looks, unless that was done a moment ago.
func (m *Manager) Outlook(ctx context.Context) (Outlook, error) {
	o := &m.outlooks
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.at.IsZero() && time.Since(o.at) < max(outlookAge, outlookShare*o.took) {
		return o.last, nil
	}
	start := time.Now()
	out, err := m.look(ctx)
	if err != nil {
		return out, err
	}
	o.last, o.at, o.took = out, start, time.Since(start)
	return out, nil
}

func (m *Manager) look(ctx context.Context) (o Outlook, err error) {
	all, err := m.all()
	if err != nil {
		return o, err
	}
	forgotten, barriers := m.loose(all)
	if o.Forgotten, err = m.group(ctx, forgotten, len(forgotten)); err != nil {
		return o, err
	}
	if o.Barriers, err = m.group(ctx, barriers, expireBatch); err != nil {
		return o, err
	}
	if o.KeepSteps = m.cfg.KeepSteps; !o.KeepSteps {
		left := slices.DeleteFunc(slices.Clone(all), func(i Info) bool { return i.Forgotten != nil })
		seqs, _, err := m.oldestStep(left)
		if err != nil {
			return o, err
		}
		steps := slices.DeleteFunc(left, func(i Info) bool { return !slices.Contains(seqs, i.Seq) })
		if o.Step, err = m.group(ctx, steps, len(steps)); err != nil {
			return o, err
		}
	}
	o.Pins, err = m.pins(ctx, all)
	return o, err
}

// group says what the first most of some snapshots would free.
func (m *Manager) group(ctx context.Context, is []Info, most int) (g Group, err error) {
	n := min(len(is), most)
	g.Snapshots, g.Waits = is[:n], len(is)-n
	if n == 0 {
		return g, nil
	}
	g.Bytes, err = m.FreeableTogether(ctx, numbersOf(g.Snapshots))
	return g, err
}

// pins finds what can't be given up.
func (m *Manager) pins(ctx context.Context, all []Info) (top []Pin, err error) {
	spare, _ := m.newestSteps(all)
	kinds := map[string][]Pin{}
	for _, i := range all {
		add := func(why string, open int) { kinds[why] = append(kinds[why], Pin{Why: why, Info: i, Open: open}) }
		open, reads := m.readers(i.Seq)
		switch {
		case len(i.Holds) > 0:
			add(PinHeld, 0)
		case reads:
			add(PinReader, open)
		case i.Forgotten != nil:
		case i.Explicit:
			add(PinNamed, 0)
		case spare[i.Seq]:
			add(PinNewest, 0)
		}
	}
	for _, why := range [...]string{PinHeld, PinReader, PinNamed, PinNewest} {
		ps := kinds[why]
		slices.SortFunc(ps, func(a, b Pin) int { return cmp.Compare(b.Info.Stored, a.Info.Stored) })
		ps = ps[:min(len(ps), pinsAsked)]
		for k := range ps {
			if ps[k].Bytes, err = m.Freeable(ctx, ps[k].Info.Seq, outlookAge); err != nil {
				return nil, err
			}
		}
		slices.SortStableFunc(ps, func(a, b Pin) int { return cmp.Compare(b.Bytes, a.Bytes) })
		top = append(top, ps[:min(len(ps), topPins)]...)
	}
	return top, nil
}
