package chunkstore

import (
	"bytes"
	"context"
	"io"
	"math/rand"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/restic/chunker"

	"stepfs/internal/state"
)

var testPol = func() chunker.Pol {
	p, err := chunker.DerivePolynomial(rand.New(rand.NewSource(7)))
	if err != nil {
		panic(err)
	}
	return p
}()

// smallConfig has chunks of some hundred bytes and packs of a few kilobytes,
// so that little data takes all paths.
func smallConfig() Config {
	return Config{Polynomial: testPol, Key: [32]byte{1, 2, 3}, MinSize: 128, AverageBits: 8, MaxSize: 2048,
		PackSize: 8 << 10, Workers: 2, CacheBytes: 16 << 10, OpenFiles: 2}
}

// tester is what *testing.T, *testing.B and *rapid.T have in common.
type tester interface {
	Helper()
	Cleanup(func())
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// fixture is a store over its own metadata on one filesystem.
type fixture struct {
	*Store
	t      tester
	fs     vfs.FS
	engine *state.Engine
	closed bool

	snapshots uint64 // that were published
}

func openFixture(t tester, fs vfs.FS, dir string, cfg Config) *fixture {
	t.Helper()
	return openStore(t, openEngine(t, fs, dir), fs, dir, cfg)
}

func openEngine(t tester, fs vfs.FS, dir string) *state.Engine { return openBoot(t, fs, dir, "") }

// openBoot is openEngine in another boot of the machine: power was cut.
func openBoot(t tester, fs vfs.FS, dir, boot string) *state.Engine {
	t.Helper()
	e, err := state.Open(state.Config{Dir: dir, FS: fs, SegmentSize: 128 << 10, MemTable: 512 << 10, Cache: 1 << 20, BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func openStore(t tester, e *state.Engine, fs vfs.FS, dir string, cfg Config) *fixture {
	t.Helper()
	s, err := Open(e, fs, fs.PathJoin(dir, "packs"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Store: s, t: t, fs: fs, engine: e}
	t.Cleanup(f.close)
	return f
}

func (f *fixture) close() {
	if f.closed {
		return
	}
	f.closed = true
	if err := f.Close(); err != nil {
		f.t.Error(err)
	}
	if err := f.engine.Close(true); err != nil {
		f.t.Error(err)
	}
}

func newFixture(t tester) *fixture { return openFixture(t, vfs.NewMem(), "store", smallConfig()) }

// content is a Source: bytes with holes between its segments.
type content struct {
	data []byte
	segs []Segment
}

func solid(data []byte) content {
	c := content{data: data}
	if len(data) > 0 {
		c.segs = []Segment{{0, int64(len(data))}}
	}
	return c
}

func (c content) Segments() []Segment { return c.segs }

func (c content) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(c.data).ReadAt(b, off)
}

var _ io.ReaderAt = content{}

// ingest stores and waits.
func (f *fixture) ingest(c content, prior []Ref) *Pending {
	f.t.Helper()
	p, err := f.Ingest(context.Background(), c, prior)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.Flush(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	if err := p.Wait(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	return p
}

// fetchAll reads every ref back.
func (f *fixture) fetchAll(size int, refs []Ref) ([]byte, error) {
	out := make([]byte, size)
	for _, r := range refs {
		if err := f.ReadAt(context.Background(), r.ID, r.Len, out[r.Off:r.End()], 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func randomBytes(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}
