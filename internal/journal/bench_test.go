package journal

import (
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The benchmarks run on the disk of TMPDIR, in whole microseconds per record.

func openBench(b *testing.B) *Log {
	b.Helper()
	l, err := Open(vfs.Default, b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(false); err != nil {
			b.Error(err)
		}
	})
	return l
}

// trimOften keeps the benchmark's log short, as a store does.
func trimOften(b *testing.B, l *Log, i int) {
	if i%50_000 == 49_999 {
		if err := l.Trim(l.End()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	l := openBench(b)
	data := payload(1, 120)
	mustAppend(b, l, data)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		mustAppendBytes(b, l, data)
		trimOften(b, l, i)
		i++
	}
}

func mustAppendBytes(b *testing.B, l *Log, data []byte) Pos {
	end, err := l.Append(data)
	if err != nil {
		b.Fatal(err)
	}
	return end
}

func BenchmarkAppendSync(b *testing.B) {
	l := openBench(b)
	data := payload(1, 120)
	mustAppend(b, l, data)
	var took []time.Duration
	i := 0
	for b.Loop() {
		start := time.Now()
		mustSync(b, l, mustAppendBytes(b, l, data))
		took = append(took, time.Since(start))
		trimOften(b, l, i)
		i++
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}

// BenchmarkOpen is what a restart costs with one full segment and one spare.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	l, err := Open(vfs.Default, dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	data := payload(1, 120)
	for l.End() < DefaultSegmentSize-4096 {
		mustAppendBytes(b, l, data)
	}
	mustClose(b, l, true)
	for b.Loop() {
		if l, err = Open(vfs.Default, dir, Options{}); err != nil {
			b.Fatal(err)
		}
		mustClose(b, l, false)
	}
}
