package pace

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Gentle work gets no more than its share of the time; other work never rests;
// neither goes on once its context has ended.
func TestPace(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	worked, begin := time.Duration(0), time.Now()
	p := New(ctx, true)
	for range 10 {
		from := time.Now()
		for time.Since(from) < 2*slice {
		}
		worked += time.Since(from)
		if err := p.Rest(); err != nil {
			t.Fatal(err)
		}
	}
	if all := time.Since(begin); all < (share+1)*worked {
		t.Errorf("worked for %v of %v", worked, all)
	}
	hard := New(ctx, false)
	rests := func(p *Pace) bool {
		p.since = time.Now().Add(-time.Hour)
		from := time.Now()
		if err := p.Rest(); err != nil {
			t.Error(err)
		}
		return time.Since(from) >= most
	}
	if rests(hard) || !rests(p) {
		t.Error("gentle work rests, and no other")
	}
	p.since = begin.Add(-time.Hour)
	p.Skip()
	if time.Since(p.since) > time.Minute {
		t.Error("what was skipped counts as work")
	}
	cancel()
	if err := p.Rest(); !errors.Is(err, context.Canceled) {
		t.Errorf("a rest ended with %v", err)
	}
	if err := hard.Rest(); !errors.Is(err, context.Canceled) {
		t.Errorf("work goes on: %v", err)
	}
}
