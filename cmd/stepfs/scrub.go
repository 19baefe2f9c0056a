package main

import (
	"fmt"
	"time"

	"stepfs/snapshot"
)

// scrubFlag is the flag of mount that says how fast the scrub reads.
const scrubFlag = "scrub"

// scrubRate is bytes a second; 0: as many as read the store in 30 days; -1: none.
type scrubRate int64

func (r *scrubRate) String() string {
	if *r < 0 {
		return "off"
	}
	b := byteSize(*r)
	return b.String()
}

// Type names the flag's value in help texts.
func (r *scrubRate) Type() string { return "rate" }

// Set takes a size, which is read each second, or "off".
func (r *scrubRate) Set(s string) error {
	if s == "off" {
		*r = -1
		return nil
	}
	var b byteSize
	if s != "" {
		if err := b.Set(s); err != nil {
			return fmt.Errorf("%q is not off, nor so much a second as 20M is", s)
		}
	}
	*r = scrubRate(b)
	return nil
}

// ScrubInfo says how far the scrub is, and how its last pass went.
type ScrubInfo struct {
	Off  bool       `json:"off,omitempty"`
	Rate int64      `json:"bytes_per_second"`
	Now  *ScrubPass `json:"now,omitempty"`  // nil: none is under way
	Last *ScrubPass `json:"last,omitempty"` // nil: there was none
}

// ScrubPass is one pass over the store.
type ScrubPass struct {
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"` // worked on it so far
	Done     float64   `json:"done"`    // of its packs, 0 to 1
	Bytes    uint64    `json:"bytes"`
	Findings uint64    `json:"findings"`
	Healed   uint64    `json:"healed"`
}

func scrubInfo(r snapshot.ScrubReport) (s ScrubInfo) {
	s.Off, s.Rate = r.Off, r.Rate
	pass := func(p snapshot.ScrubPass, done float64) *ScrubPass {
		if p.Began == 0 {
			return nil
		}
		return &ScrubPass{Began: time.Unix(0, p.Began).UTC(), Seconds: time.Duration(p.Took).Seconds(), Done: done,
			Bytes: p.Bytes, Findings: p.Findings, Healed: p.Healed}
	}
	s.Now, s.Last = pass(r.Now, r.Done), pass(r.Last, 1)
	return s
}

func (s *ScrubInfo) words() string {
	text := "no pass has ended yet"
	if s.Last != nil {
		text = fmt.Sprintf("%s: %s read in %s, %s", humanTime(s.Last.Began), humanBytes(int64(s.Last.Bytes)),
			humanSpan(time.Duration(s.Last.Seconds*float64(time.Second))), s.Last.found())
	}
	switch {
	case s.Off:
		text += "; off"
	case s.Now != nil:
		text += fmt.Sprintf("; %.0f%% of the next one, %s", 100*s.Now.Done, s.Now.found())
	}
	return text
}

func (p *ScrubPass) found() string {
	if p.Findings == 0 {
		return "nothing found"
	}
	return fmt.Sprintf("%d FINDINGS (stepfs check --read-data names the files), %d healed", p.Findings, p.Healed)
}
