package chunkstore

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The benchmarks run on the disk below $STEPFS_BENCH_DIR (default: the
// temporary directory), warm. Run them with -cpu 1 for the figures of one core.

const benchSize = 512 << 20

func benchFixture(b *testing.B) (*fixture, string) {
	dir, err := os.MkdirTemp(os.Getenv("STEPFS_BENCH_DIR"), "chunkstore-bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return openFixture(b, vfs.Default, dir, Config{Polynomial: testPol, Workers: 1}), dir
}

// fileSource is content in a real file, as staging has it.
type fileSource struct {
	*os.File
	size int64
}

func (f fileSource) Segments() []Segment { return []Segment{{0, f.size}} }

// benchFile writes a file of benchSize whose blocks fill makes.
func benchFile(b *testing.B, dir string, fill func(block []byte)) fileSource {
	f, err := os.CreateTemp(dir, "source")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	rewrite(b, f, fill)
	return fileSource{f, benchSize}
}

func rewrite(b *testing.B, f *os.File, fill func(block []byte)) {
	block := make([]byte, 1<<20)
	for off := int64(0); off < benchSize; off += int64(len(block)) {
		fill(block)
		if _, err := f.WriteAt(block, off); err != nil {
			b.Fatal(err)
		}
	}
}

func randomFill(seed int64) func([]byte) {
	r := rand.New(rand.NewSource(seed))
	return func(block []byte) { r.Read(block) }
}

func floatFill(seed int64) func([]byte) {
	r := rand.New(rand.NewSource(seed))
	return func(block []byte) {
		for i := 0; i < len(block); i += 4 {
			binary.LittleEndian.PutUint32(block[i:], math.Float32bits(float32(r.NormFloat64()*0.02)))
		}
	}
}

func textFill(seed int64) func([]byte) {
	r := rand.New(rand.NewSource(seed))
	words := []string{"step ", "loss ", "epoch ", "0.", "layer.", "weight ", "grad\n", "attention.", "12", "7"}
	return func(block []byte) {
		for i := 0; i < len(block); {
			i += copy(block[i:], words[r.Intn(len(words))])
		}
	}
}

func (f *fixture) benchIngest(b *testing.B, src Source, prior []Ref) *Pending {
	p, err := f.Ingest(context.Background(), src, prior)
	if err == nil {
		err = f.Flush(context.Background())
	}
	if err == nil {
		err = p.Wait(context.Background())
	}
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// benchIngestNew gives every round a new store, and removes the old one, so
// that the page cache is memory that was touched before. prior says whether
// to offer refs that never match.
func benchIngestNew(b *testing.B, fill func(seed int64) func([]byte), prior []Ref) {
	_, dir := benchFixture(b)
	src := benchFile(b, dir, fill(0))
	round := func(seed int64) {
		f, dir := benchFixture(b)
		rewrite(b, src.File, fill(seed))
		b.StartTimer()
		p := f.benchIngest(b, src, prior)
		b.StopTimer()
		b.ReportMetric(float64(p.StoredBytes())/float64(benchSize), "stored/raw")
		f.close()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
	}
	round(1)
	b.SetBytes(benchSize)
	b.ResetTimer()
	b.StopTimer()
	for i := range b.N {
		round(int64(i) + 2)
	}
}

// BenchmarkIngestRandom: new data that does not compress, end to end: until it
// is durable and indexed.
func BenchmarkIngestRandom(b *testing.B) { benchIngestNew(b, randomFill, nil) }

// BenchmarkIngestFloats: new fp32 weights.
func BenchmarkIngestFloats(b *testing.B) { benchIngestNew(b, floatFill, nil) }

// BenchmarkIngestText: new data that does compress.
func BenchmarkIngestText(b *testing.B) { benchIngestNew(b, textFill, nil) }

// BenchmarkIngestChanged: new random data with prior refs that never match.
func BenchmarkIngestChanged(b *testing.B) {
	var prior []Ref
	for off := int64(0); off < benchSize; off += 1 << 20 {
		prior = append(prior, Ref{Off: off, Len: 1 << 20})
	}
	benchIngestNew(b, randomFill, prior)
}

// BenchmarkIngestUnchanged: all cuts are inherited, all chunks are known.
func BenchmarkIngestUnchanged(b *testing.B) {
	f, dir := benchFixture(b)
	src := benchFile(b, dir, randomFill(1))
	prior := f.benchIngest(b, src, nil).Refs()
	b.SetBytes(benchSize)
	for b.Loop() {
		if p := f.benchIngest(b, src, prior); p.InheritedBytes() != benchSize {
			b.Fatalf("inherited %d", p.InheritedBytes())
		}
	}
}

// BenchmarkReadRaw: sequential reads of raw chunks in pieces of 128 KiB, as a
// FUSE read-ahead asks for them, each chunk read from its pack and verified.
func BenchmarkReadRaw(b *testing.B) {
	f, dir := benchFixture(b)
	refs := f.benchIngest(b, benchFile(b, dir, randomFill(1)), nil).Refs()
	f.benchRead(b, refs)
}

// BenchmarkReadZstd is the same of compressed chunks.
func BenchmarkReadZstd(b *testing.B) {
	f, dir := benchFixture(b)
	refs := f.benchIngest(b, benchFile(b, dir, textFill(1)), nil).Refs()
	f.benchRead(b, refs)
}

func (f *fixture) benchRead(b *testing.B, refs []Ref) {
	dst := make([]byte, 128<<10)
	pass := func() {
		for _, r := range refs {
			for off := 0; off < int(r.Len); off += len(dst) {
				n := min(len(dst), int(r.Len)-off)
				if err := f.ReadAt(context.Background(), r.ID, r.Len, dst[:n], off); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	pass() // brings the packs into the page cache
	b.SetBytes(benchSize)
	for b.Loop() {
		pass()
	}
}
