package main

import (
	"fmt"

	"stepfs/integration/harness"
)

// linkRates are bandwidths that a user has, in MB/s.
var linkRates = []int64{100, 250}

// linkRestore measures restore and cp -a through a link that is narrower than what
// the machine can do. In the other rows the server, the plain SDK and stepfs share
// its cores, so those measure the cores.
func linkRestore(b *bench) (Result, error) {
	r := Result{What: fmt.Sprintf("stepfs restore, and cp -a from a mount, of %d MiB out of versitygw through a link of %v MB/s in turn", b.uploadMiB, linkRates), Target: "0.85 (restore) and 0.6 (cp -a) of parallel ranged GETs by the plain SDK"}
	o, err := b.cold()
	if err != nil {
		return r, err
	}
	defer o.close()
	r.Met = true
	for _, rate := range linkRates {
		if err := b.besideLink(&r, o, rate); err != nil {
			return r, err
		}
	}
	r.Note = "the link is of all connections together; the plain SDK throws away what it gets, or (to files) writes it to files and syncs them, as stepfs does"
	return r, nil
}

// besideLink holds restore and cp -a against the plain SDK through a link of so
// many MB/s.
func (b *bench) besideLink(r *Result, o *objectStore, rate int64) error {
	far, link, err := o.behind(harness.LinkOptions{Rate: rate * 1e6})
	if err != nil {
		return err
	}
	defer link.Close()
	var peaks [2]float64
	rates, err := b.turns(b.into(b.stepGot(far, b.restore, &peaks[0])), b.into(b.stepGot(far, b.copyOut, &peaks[1])), b.into(far.thrownAway), b.into(far.plainStep))
	if err != nil {
		return err
	}
	at := fmt.Sprintf(" at %d", rate)
	for k, name := range []string{"restore", "cp -a", "plain SDK", "plain SDK, to files"} {
		r.add(name+at, rates[k], "MB/s")
	}
	for k, name := range []string{"restore", "cp -a"} {
		r.add(name+at+", ratio", rates[k]/rates[2], "")
		r.add(name+at+", ratio to files", rates[k]/rates[3], "")
		r.add(name+at+", peak memory", peaks[k], "MiB")
	}
	r.Met = r.Met && rates[0] >= 0.85*rates[2] && rates[1] >= 0.6*rates[2]
	return nil
}
