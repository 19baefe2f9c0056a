package chunkstore

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	deltaVersions = 16
	deltaBytes    = 64 << 20 // of each
)

// weightSeries gives versions of weights in fp32, or in bf16, each some steps of
// Adam from the one before.
func weightSeries(half bool) (versions []content) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := deltaBytes / 4
	if half {
		n *= 2
	}
	steps := make([]float32, 1<<20)
	for i := range steps {
		steps[i] = float32(rng.NormFloat64() * 2e-4)
	}
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(rng.NormFloat64() * 0.03)
	}
	for range deltaVersions {
		b, at := make([]byte, 0, deltaBytes), rng.IntN(len(steps))
		for i := range w {
			w[i] += steps[(at+i)%len(steps)]
			if x := math.Float32bits(w[i]); half {
				b = binary.LittleEndian.AppendUint16(b, uint16((x+0x7fff+x>>16&1)>>16))
			} else {
				b = binary.LittleEndian.AppendUint32(b, x)
			}
		}
		versions = append(versions, solid(b))
	}
	return versions
}

// used is what this process has computed, on whatever cores: others may be at
// work.
func used() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic(err) // Linux has it
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkDeltas: versions of a file one after the other, each a delta from an
// earlier one; then the deepest read from its packs.
func BenchmarkDeltas(b *testing.B) {
	for _, kind := range []string{"fp32", "fp32-hot", "bf16", "bf16-hot"} {
		b.Run(kind, func(b *testing.B) {
			versions := weightSeries(kind[:4] == "bf16")
			for b.Loop() {
				f, _ := benchFixture(b)
				if kind[4:] != "" {
					f.Copies(func(holder uint64, _ [32]byte, off int64, dst []byte) bool {
						copy(dst, versions[holder-1].data[off:])
						return true
					})
				}
				var prior []Ref
				var took, wall time.Duration
				stored := int64(0)
				for i, v := range versions {
					start, began := used(), time.Now()
					p := f.benchIngest(b, v, prior)
					if i > 0 {
						took, wall, stored = took+used()-start, wall+time.Since(began), stored+p.StoredBytes()
					}
					prior = p.Refs()
					f.hold(uint64(i+1), prior)
					p.Release()
				}
				n := float64((deltaVersions - 1) * deltaBytes)
				b.ReportMetric(n/1e6/took.Seconds(), "ingest-MB/cpu-s")
				b.ReportMetric(n/1e6/wall.Seconds(), "ingest-MB/s")
				b.ReportMetric(n/float64(stored), "ratio")
				f.benchDeep(b, "one", prior, false)
				f.benchDeep(b, "ahead", prior, true)
				f.close()
			}
		})
	}
}

// benchDeep reads chunks one after the other, in pieces as the kernel asks for
// them; ahead has those that come next decoded meanwhile, as a live tree does.
func (f *fixture) benchDeep(b *testing.B, name string, refs []Ref, ahead bool) {
	f.cache.drop()
	start, began := used(), time.Now()
	dst := make([]byte, 128<<10)
	for i, r := range refs {
		for _, next := range refs[i+1:] {
			if !ahead || !f.Prefetch(next.ID, next.Len) {
				break
			}
		}
		for off := 0; off < int(r.Len); off += len(dst) {
			piece := dst[:min(len(dst), int(r.Len)-off)]
			if err := f.ReadAt(context.Background(), r.ID, r.Len, piece, off); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(deltaBytes/1e6/(used()-start).Seconds(), name+"-MB/cpu-s")
	b.ReportMetric(deltaBytes/1e6/time.Since(began).Seconds(), name+"-MB/s")
}
