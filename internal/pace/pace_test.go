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
	hard.since = begin.Add(-time.Hour) // a rest would take two
	if err := hard.Rest(); err != nil {
		t.Error(err)
	}
	p.since = begin.Add(-time.Hour)
	p.Skip()
	if err := p.Rest(); err != nil { // else this takes two hours
		t.Error(err)
	}
	p.since = begin.Add(-time.Hour)
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := p.Rest(); !errors.Is(err, context.Canceled) {
		t.Errorf("a rest ended with %v", err)
	}
	if err := hard.Rest(); !errors.Is(err, context.Canceled) {
		t.Errorf("work goes on: %v", err)
	}
}
