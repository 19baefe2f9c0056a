package schema

import "testing"

// A store of format 2 has no Until in what waits for ingest.
func TestPendingOfFormat2(t *testing.T) {
	p := Pending{Ino: 7, Content: Content{Gen: 9, Base: 8, Len: 100, Alloc: 50, Mtime: 3}, Epoch: 4, Time: 5, Until: 300}
	if got, err := DecodePending(p.Encode()); err != nil || got != p {
		t.Errorf("%+v came back as %+v, %v", p, got, err)
	}
	p.Until = 0
	b := p.Encode()
	if got, err := DecodePending(b[:len(b)-1]); err != nil || got != p {
		t.Errorf("%+v of format 2 came back as %+v, %v", p, got, err)
	}
	if _, err := DecodePending(append(b, 1)); err == nil {
		t.Error("bytes behind the record are accepted")
	}
}
