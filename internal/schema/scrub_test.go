package schema

import (
	"errors"
	"testing"
)

// TestScrub: what is written is read again, and what is cut short is refused.
func TestScrub(t *testing.T) {
	s := Scrub{Copies: true, Pos: 7, End: 900, Now: ScrubPass{Began: 1 << 60, Took: 5, Bytes: 1 << 40, Findings: 3, Healed: 2}, Last: ScrubPass{Began: 12}}
	b := s.Encode()
	if got, err := DecodeScrub(b); err != nil || got != s {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := DecodeScrub(b[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("of %d bytes: %v", n, err)
		}
	}
}
