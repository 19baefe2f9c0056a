package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/restic/chunker"
	"pgregory.net/rapid"
)

// drawContent gives data of several kinds with holes in between.
func drawContent(t *rapid.T) content {
	var c content
	for range rapid.IntRange(0, 4).Draw(t, "segments") {
		hole := rapid.SampledFrom([]int{0, 0, 1, 500, 5000}).Draw(t, "hole")
		n := rapid.SampledFrom([]int{1, 63, 128, 300, 2048, 2049, 9000, 30000}).Draw(t, "len")
		var b []byte
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			b = make([]byte, n)
		case 1:
			b = bytes.Repeat([]byte("step 12000 loss 0.25 "), n/21+1)[:n]
		default:
			b = randomBytes(rapid.Int64Range(0, 9).Draw(t, "seed"), n)
		}
		c.data = append(c.data, make([]byte, hole)...)
		c.segs = append(c.segs, Segment{int64(len(c.data)), int64(n)})
		c.data = append(c.data, b...)
	}
	return c
}

// edit gives a later version: a few bytes changed, inserted, cut out or appended.
func edit(t *rapid.T, c content) content {
	data := bytes.Clone(c.data)
	for range rapid.IntRange(0, 3).Draw(t, "edits") {
		at := rapid.IntRange(0, len(data)).Draw(t, "at")
		n := rapid.SampledFrom([]int{1, 40, 700}).Draw(t, "n")
		end := min(len(data), at+n)
		piece := randomBytes(rapid.Int64().Draw(t, "editSeed"), n)
		switch rapid.IntRange(0, 3).Draw(t, "edit") {
		case 0:
			copy(data[at:], piece)
		case 1:
			data = append(data[:at:at], append(piece, data[at:]...)...)
		case 2:
			data = append(data[:at:at], data[end:]...)
		case 3:
			data = append(data, piece...)
		}
	}
	return solid(data)
}

func TestIngestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := openFixture(t, vfs.NewMem(), "store", smallConfig())
		c := drawContent(t)
		checkContent(t, f, c, f.ingest(c, nil).Refs())
		v2 := edit(t, c)
		p := f.ingest(v2, nil)
		checkContent(t, f, v2, p.Refs())
		if again := f.ingest(v2, nil); again.NewBytes() != 0 || !reflect.DeepEqual(again.Refs(), p.Refs()) {
			t.Fatalf("the same content again: %d new bytes", again.NewBytes())
		}
	})
}

func checkContent(t tester, f *fixture, c content, refs []Ref) {
	t.Helper()
	segs, err := coalesce(c.segs)
	if err != nil {
		t.Fatal(err)
	}
	var got []Segment
	for _, r := range refs {
		if n := len(got); n > 0 && got[n-1].Off+got[n-1].Len == r.Off {
			got[n-1].Len += int64(r.Len)
		} else {
			got = append(got, Segment{r.Off, int64(r.Len)})
		}
	}
	if !reflect.DeepEqual(got, segs) {
		t.Fatal("refs cover", got, "instead of", segs)
	}
	back, err := f.fetchAll(len(c.data), refs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, c.data) {
		t.Fatal("what was read is not what was stored")
	}
}

// TestInheritedCutsAreTheChunkersCuts: whatever prior refs are offered, the
// refs are those that the chunker alone gives, unless the length is the same as
// before or a delta pays. What was stored reads back in any case.
func TestInheritedCutsAreTheChunkersCuts(t *testing.T) {
	inherited := int64(0)
	rapid.Check(t, func(t *rapid.T) {
		cfg := smallConfig()
		cfg.Turns = rapid.SampledFrom([]int{1, 16}).Draw(t, "turns")
		f := openFixture(t, vfs.NewMem(), "store", cfg)
		v1 := drawContent(t)
		prior := f.ingest(v1, nil).Refs()
		v2 := edit(t, v1)
		if rapid.Bool().Draw(t, "grow holes") {
			v2 = v1
		}
		want := f.ingest(v2, nil).Refs()
		switch rapid.IntRange(0, 2).Draw(t, "prior") {
		case 1: // a prior with pieces missing
			prior = append([]Ref(nil), prior[min(len(prior), 1):]...)
		case 2: // a prior that another segment end cut short
			short := solid(v1.data[:len(v1.data)/2])
			prior = f.ingest(short, nil).Refs()
		}
		// Another store, or all would be found.
		g := openFixture(t, vfs.NewMem(), "store", cfg)
		g.ingest(v1, nil)
		p := g.ingest(v2, prior)
		checkContent(t, g, v2, p.Refs())
		moved := len(prior) == 0 || len(want) == 0 || prior[len(prior)-1].End() != want[len(want)-1].End()
		if cfg.Turns == 1 && moved && !reflect.DeepEqual(p.Refs(), want) {
			t.Fatalf("with prior %v, without %v", p.Refs(), want)
		}
		inherited += p.InheritedBytes()
	})
	if inherited == 0 {
		t.Fatal("nothing was ever inherited")
	}
}

// TestCutsAreResticChunkers: the cuts are those of restic/chunker over each
// segment, so that another program can find the same chunks.
func TestCutsAreResticChunkers(t *testing.T) {
	f := newFixture(t)
	data := randomBytes(3, 100_000)
	refs := f.ingest(solid(data), nil).Refs()
	cfg := smallConfig()
	c := chunker.NewWithBoundaries(bytes.NewReader(data), cfg.Polynomial, uint(cfg.MinSize), uint(cfg.MaxSize))
	c.SetAverageBits(cfg.AverageBits)
	for i := 0; ; i++ {
		chunk, err := c.Next(make([]byte, cfg.MaxSize))
		if err == io.EOF {
			if i != len(refs) {
				t.Fatalf("%d chunks, want %d", len(refs), i)
			}
			return
		}
		if int64(chunk.Start) != refs[i].Off || uint32(chunk.Length) != refs[i].Len {
			t.Fatalf("chunk %d at %d+%d, want %d+%d", i, refs[i].Off, refs[i].Len, chunk.Start, chunk.Length)
		}
	}
}

// The periodic part gives chunks of the maximal length, whose ends no
// fingerprint marks.
func TestUnchangedIsInheritedWhole(t *testing.T) {
	f := newFixture(t)
	data := append(randomBytes(1, 100_000), bytes.Repeat([]byte("compress me "), 4000)...)
	c := solid(append(data, randomBytes(2, 52_000)...))
	prior := f.ingest(c, nil).Refs()
	if !slices.ContainsFunc(prior, func(r Ref) bool { return r.Len == f.cfg.MaxSize }) {
		t.Fatal("no chunk of the maximal length")
	}
	if p := f.ingest(c, prior); p.InheritedBytes() != 200_000 || p.NewBytes() != 0 {
		t.Fatalf("inherited %d, new %d", p.InheritedBytes(), p.NewBytes())
	}
}

// TestGrownFileDoesNotInheritItsOldEnd: the last chunk of a file ended where
// the file ended, not where the chunker would cut.
func TestGrownFileDoesNotInheritItsOldEnd(t *testing.T) {
	f := newFixture(t)
	data := randomBytes(1, 40_000)
	prior := f.ingest(solid(data[:20_000]), nil).Refs()
	p := f.ingest(solid(data), prior)
	last := prior[len(prior)-1]
	if p.InheritedBytes() != last.Off {
		t.Fatalf("inherited %d, want the %d before the last chunk", p.InheritedBytes(), last.Off)
	}
	if want := f.ingest(solid(data), nil).Refs(); !reflect.DeepEqual(p.Refs(), want) {
		t.Fatal("cuts differ from the chunker's")
	}
}

// TestMissesStopTrying: content that is new pays for a few tries only.
func TestMissesStopTrying(t *testing.T) {
	f := newFixture(t)
	data := randomBytes(1, 400_000)
	prior := f.ingest(solid(data), nil).Refs()
	for i := range prior {
		prior[i].ID[0] ^= 1
	}
	src := &countingSource{content: solid(data)}
	if _, err := f.Ingest(context.Background(), src, prior); err != nil {
		t.Fatal(err)
	}
	if extra := src.read - len(data); extra > len(data)/10 {
		t.Fatalf("%d bytes were read twice", extra)
	}
}

type countingSource struct {
	content
	read int
}

func (s *countingSource) ReadAt(b []byte, off int64) (int, error) {
	n, err := s.content.ReadAt(b, off)
	s.read += n
	return n, err
}

func TestBadSources(t *testing.T) {
	f := newFixture(t)
	for what, c := range map[string]content{
		"shorter than its segment": {data: make([]byte, 100), segs: []Segment{{0, 101}}},
		"overlapping segments":     {data: make([]byte, 100), segs: []Segment{{0, 50}, {49, 10}}},
		"empty segment":            {data: make([]byte, 100), segs: []Segment{{0, 0}}},
		"negative offset":          {data: make([]byte, 100), segs: []Segment{{-1, 10}}},
		"overflowing segment":      {data: make([]byte, 100), segs: []Segment{{1, 1<<63 - 1}}},
	} {
		if _, err := f.Ingest(context.Background(), c, nil); !errors.Is(err, ErrSource) {
			t.Errorf("%s: %v", what, err)
		}
	}
	prior := []Ref{{Off: 0, Len: 100}}
	short := content{data: make([]byte, 50), segs: []Segment{{0, 100}}}
	if _, err := f.Ingest(context.Background(), short, prior); !errors.Is(err, ErrSource) {
		t.Errorf("short with prior: %v", err)
	}
}

func TestIngestCancelled(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Ingest(ctx, solid(randomBytes(1, 10_000)), nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	c := solid(randomBytes(1, 10_000))
	checkContent(t, f, c, f.ingest(c, nil).Refs())
}

func TestPut(t *testing.T) {
	f := newFixture(t)
	for _, n := range []int{0, 1, 5000} {
		data := randomBytes(int64(n), n)
		p, err := f.Put(context.Background(), data)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got, err := f.fetchAll(n, p.Refs()); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("object of %d bytes: %v", n, err)
		}
	}
}

func TestStats(t *testing.T) {
	fs := vfs.NewMem()
	f := openFixture(t, fs, "store", smallConfig())
	text := bytes.Repeat([]byte("all work and no play "), 2000)
	p := f.ingest(solid(text), nil)
	f.ingest(solid(text), p.Refs())
	st := f.Stats()
	if st.Ingested != uint64(2*len(text)) || st.Raw != uint64(p.NewBytes()) || st.Stored*2 > st.Raw || st.InFlight != 0 {
		t.Fatalf("%+v", st)
	}
	var size uint64
	names, err := fs.List("store/packs")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		fi, err := fs.Stat("store/packs/" + n)
		if err != nil {
			t.Fatal(err)
		}
		size += uint64(fi.Size())
	}
	if st.Size != size || st.Packs != uint64(len(names)) {
		t.Fatalf("stats say %d bytes in %d packs, the directory %d in %d", st.Size, st.Packs, size, len(names))
	}
	f.close()
	again := openFixture(t, fs, "store", smallConfig()).Stats()
	if again.Size != st.Size || again.Packs != st.Packs || again.Chunks != st.Chunks || again.Raw != st.Raw || again.Stored != st.Stored {
		t.Fatalf("after reopening %+v, before %+v", again, st)
	}
}

func TestValidate(t *testing.T) {
	if err := smallConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Polynomial = 0 },
		func(c *Config) { c.MinSize = 63 },
		func(c *Config) { c.MaxSize = c.MinSize - 1 },
		func(c *Config) { c.MaxSize = 17 << 20 },
		func(c *Config) { c.AverageBits = 40 },
		func(c *Config) { c.PackSize = -1 },
		func(c *Config) { c.Workers = -1 },
	} {
		c := smallConfig()
		change(&c)
		if err := c.Validate(); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
