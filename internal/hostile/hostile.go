// Package hostile is what the fuzz tests of our formats share: a decoder may
// not allocate what a length in its input says, but only what is there.
package hostile

import "runtime"

// slack is what a decoder may allocate however short its input: errors, and
// what the runtime does meanwhile.
const slack = 64 << 10

// TB is what is needed of a testing.TB.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Bounded runs fn and fails when it allocated more than factor bytes for each
// of n bytes of input. What other goroutines allocate meanwhile counts too.
func Bounded(t TB, n, factor int, fn func()) {
	t.Helper()
	before := allocated()
	fn()
	if got, limit := allocated()-before, uint64(n*factor+slack); got > limit {
		t.Fatalf("%d bytes of input made it allocate %d, more than %d", n, got, limit)
	}
}

// allocated is the number of bytes that were ever allocated, to the byte: the
// cheaper runtime/metrics counts small objects late.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
