package hostile

import "testing"

type recorder struct{ failed bool }

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

var sink []byte

func TestBounded(t *testing.T) {
	for size, bad := range map[int]bool{1 << 10: false, 150 << 10: false, 1 << 20: true, 1 << 30: true} {
		var r recorder
		Bounded(&r, 10<<10, 16, func() { sink = make([]byte, size) })
		if r.failed != bad {
			t.Errorf("%d bytes allocated for 10 KiB of input: failed %v", size, r.failed)
		}
	}
}
