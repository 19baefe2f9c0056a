package stage

import (
	"math"
	"time"
)

const (
	// growthAge is the age at which a sample counts 1/e of a fresh one.
	growthAge = 15 * time.Minute
	// growthMin is how long must have been looked at before a rate is told.
	growthMin = time.Minute
)

// growth is an exponentially weighted rate of growth: that of the last quarter
// of an hour, more or less, and unbiased from the first sample on.
type growth struct {
	at          time.Time // of the last sample; its monotonic clock counts
	last        int64
	bytes, secs float64 // weighted sums
	seen        time.Duration
}

// add notes that at now there were n bytes.
func (g *growth) add(now time.Time, n int64) {
	if !g.at.IsZero() {
		d := now.Sub(g.at)
		old := math.Exp(-d.Seconds() / growthAge.Seconds())
		g.bytes = g.bytes*old + float64(n-g.last)
		g.secs = g.secs*old + d.Seconds()
		g.seen += d
	}
	g.at, g.last = now, n
}

// rate is in bytes a second; 0 as long as too little is known.
func (g *growth) rate() float64 {
	if g.seen < growthMin || g.secs <= 0 {
		return 0
	}
	return g.bytes / g.secs
}

// lasts says how long n bytes last at that rate; 0 is for ever, as far as one
// can tell.
func (g *growth) lasts(n int64) time.Duration {
	const most = 20 * 365 * 24 * time.Hour // no forecast reaches further
	rate := g.rate()
	if rate <= 0 || float64(n)/rate > most.Seconds() {
		return 0
	}
	return max(time.Second, time.Duration(float64(n)/rate*float64(time.Second)))
}
