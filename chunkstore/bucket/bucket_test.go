package bucket

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"iter"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
)

var (
	testWriter = Writer{0xa1, 2, 3, 4, 5, 6, 7, 8}
	otherOne   = Writer{0xb1, 2, 3, 4, 5, 6, 7, 8}
)

func testConfig() *Config {
	return &Config{ID: strings.Repeat("0a", 16), Created: time.Unix(1e9, 0).UTC(), Writer: testWriter,
		Polynomial: chunker.Pol(0x3DA3358B4DC173), Key: [32]byte{1, 2}, Domain: 0}
}

func testRef() *Ref {
	return &Ref{Writer: testWriter, Seq: 5, Snapshot: 77, Record: []byte("record"), Root: pack.ID{9}, RootLen: 100,
		Packs: []Pack{{pack.Name{1}, testWriter, 3, 1 << 26}, {pack.Name{2}, otherOne, 1, 500}, {pack.Name{3}, testWriter, 4, 7}}}
}

// footer is the bytes of the footer of a pack with some chunks.
func footer(n int) []byte {
	f := pack.Footer{Info: pack.Info{Hash: pack.HashBLAKE3}, Body: pack.HeaderSize}
	for k := range n {
		e := pack.Entry{ID: blake3.Sum256([]byte{byte(k)}), Type: pack.TypeData, Enc: pack.EncRaw, Offset: f.Body, Stored: 10, Raw: 10}
		f.Entries = append(f.Entries, e)
		f.Body = e.End()
	}
	return pack.AppendFooter(nil, f)
}

func testIndex() *Index {
	return &Index{Writer: testWriter, Seq: 2, Packs: []Indexed{{3, 1 << 20, footer(3)}, {4, 1 << 10, footer(0)}}}
}

func TestKeys(t *testing.T) {
	p := Pack{Name: pack.Name{0xab, 1}, Writer: testWriter, Seq: 0x1f}
	want := "packs/ab/ab01" + strings.Repeat("00", 30) + ".a102030405060708.000000000000001f"
	if p.Key() != want {
		t.Fatal(p.Key())
	}
	if got, ok := ParsePackKey(want); !ok || got != p {
		t.Fatal(got, ok)
	}
	if w, seq, ok := ParseNumbered(RefsPrefix, RefKey(testWriter, 1<<40)); !ok || w != testWriter || seq != 1<<40 {
		t.Fatal(w, seq, ok)
	}
	for _, key := range []string{want, RefKey(testWriter, 1), IndexKey(testWriter, 2), WriterKey(testWriter), ConfigKey} {
		if err := remote.CheckKey("put", key); err != nil {
			t.Error(err)
		}
	}
	for _, key := range []string{"", "packs/", want + "0", want[1:], strings.ToUpper(want), strings.Replace(want, "/ab/", "/ac/", 1),
		strings.Replace(want, "/ab/", "//", 1), "packs/ab", "refs/a102030405060708/1", "refs/a102030405060708/000000000000001F", "refs/xx/0000000000000001"} {
		if p, ok := ParsePackKey(key); ok {
			t.Errorf("%q is %v", key, p)
		}
		if _, _, ok := ParseNumbered(RefsPrefix, key); ok {
			t.Errorf("%q is a ref", key)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	f := testRef()
	if got, err := DecodeRef(f.Encode(), f.Writer, f.Seq); err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v %v", got, err)
	}
	x := testIndex()
	got, err := DecodeIndex(x.Encode(), x.Writer, x.Seq)
	if err != nil || !reflect.DeepEqual(got, x) {
		t.Errorf("%+v %v", got, err)
	}
	if es, err := got.Packs[0].Entries(); err != nil || len(es) != 3 || got.Pack(got.Packs[0]).Name != pack.NameOf(footer(3)) {
		t.Error(es, err)
	}
	c := testConfig()
	if got, err := DecodeConfig(c.Encode()); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v %v", got, err)
	}
}

// TestSmallIndex: what a writer makes of few and small packs is read again.
func TestSmallIndex(t *testing.T) {
	for _, packs := range [][]Indexed{nil, {{1, 1, footer(0)}}, {{1, 1, footer(1)}}, {{1, 1, footer(1)}, {2, 1, footer(2)}}} {
		x := &Index{Writer: testWriter, Seq: 1, Packs: packs}
		if got, err := DecodeIndex(x.Encode(), x.Writer, x.Seq); err != nil || len(got.Packs) != len(packs) {
			t.Errorf("%d packs: %v", len(packs), err)
		}
	}
}

func TestWriterInfo(t *testing.T) {
	i := &WriterInfo{Domain: 3, Writer: testWriter, Store: strings.Repeat("0b", 16), Host: "node1", Created: time.Unix(1e9, 0).UTC()}
	if got, err := DecodeWriter(i.Encode(), i.Writer); err != nil || !reflect.DeepEqual(got, i) {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := DecodeWriter(i.Encode(), otherOne); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	if _, err := DecodeWriter(Seal(Head{Kind: KindWriter, Writer: testWriter}, []byte("{")), testWriter); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

// TestEveryBit flips each bit of each kind of object: none is believed.
func TestEveryBit(t *testing.T) {
	f, x, l, r := testRef(), testIndex(), testLease(), testRetired()
	for name, o := range map[string]struct {
		b      []byte
		decode func(b []byte) error
	}{
		"ref":     {f.Encode(), func(b []byte) error { _, err := DecodeRef(b, f.Writer, f.Seq); return err }},
		"index":   {x.Encode(), func(b []byte) error { _, err := DecodeIndex(b, x.Writer, x.Seq); return err }},
		"config":  {testConfig().Encode(), func(b []byte) error { _, err := DecodeConfig(b); return err }},
		"lease":   {l.Encode(), func(b []byte) error { _, err := DecodeLease(b, l.Slot); return err }},
		"retired": {r.Encode(), func(b []byte) error { _, err := DecodeRetired(b, r.Epoch); return err }},
		"tombstone": {Gone(testWriter, 1), func(b []byte) error {
			if _, err := DecodeRef(b, testWriter, 1); !errors.Is(err, ErrGone) {
				return err
			}
			return nil
		}},
	} {
		if err := o.decode(o.b); err != nil {
			t.Fatal(name, err)
		}
		for bit := range 8 * len(o.b) {
			b := bytes.Clone(o.b)
			b[bit/8] ^= 1 << (bit % 8)
			if err := o.decode(b); err == nil {
				t.Errorf("%s: bit %d: believed", name, bit)
			}
		}
		for n := range len(o.b) {
			if err := o.decode(o.b[:n]); err == nil {
				t.Errorf("%s: its first %d bytes are believed", name, n)
			}
		}
	}
}

func TestWrongPlaceAndVersion(t *testing.T) {
	f := testRef()
	if _, err := DecodeRef(f.Encode(), otherOne, f.Seq); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	if _, err := DecodeRef(f.Encode(), f.Writer, f.Seq+1); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	if _, err := DecodeIndex(f.Encode(), f.Writer, f.Seq); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	b := f.Encode()
	b[10] = Version + 1
	if _, err := DecodeRef(b, f.Writer, f.Seq); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	c := bytes.Replace(testConfig().Encode(), []byte("bucket 1"), []byte("bucket 2"), 1)
	if _, err := DecodeConfig(c); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	if _, err := DecodeConfig([]byte("<html>")); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

// TestGolden: what was written once is read for ever. The sums change only with
// a version.
func TestGolden(t *testing.T) {
	for name, o := range map[string]struct {
		b   []byte
		sum string
	}{
		"ref":    {testRef().Encode(), "6e253a253567c3ea"},
		"config": {testConfig().Encode(), "5b94c5987230f2a5"},
	} {
		sum := blake3.Sum256(o.b)
		if got := hex.EncodeToString(sum[:8]); got != o.sum {
			t.Errorf("%s: %s, was %s", name, got, o.sum)
		}
	}
}

func TestJoin(t *testing.T) {
	ctx := context.Background()
	b := mem.New()
	if _, err := Read(ctx, b); !errors.Is(err, remote.ErrNotExist) {
		t.Fatal(err)
	}
	mine := testConfig()
	got, err := Join(ctx, b, mine)
	if err != nil || !reflect.DeepEqual(got, mine) {
		t.Fatal(got, err)
	}
	other := testConfig()
	other.Key[0]++
	if got, err = Join(ctx, b, other); err != nil || !got.Same(mine) || got.Same(other) {
		t.Fatal(got, err)
	}
	foreign := mem.New()
	if err := foreign.Put(ctx, "photos/cat", remote.Bytes([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(ctx, foreign, mine); !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
}

// lateConfig is a bucket in which another store makes the config between the
// first look for it and the list.
type lateConfig struct {
	remote.Bucket
	config []byte
}

func (b *lateConfig) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	if err := b.Put(ctx, ConfigKey, remote.Bytes(b.config)); err != nil {
		panic(err)
	}
	return b.Bucket.List(ctx, prefix, after)
}

func TestJoinMeanwhile(t *testing.T) {
	theirs, mine := testConfig(), testConfig()
	mine.Key[0]++
	got, err := Join(t.Context(), &lateConfig{mem.New(), theirs.Encode()}, mine)
	if err != nil || !got.Same(theirs) {
		t.Fatal(got, err)
	}
}

func FuzzObjects(f *testing.F) {
	r, x, c := testRef(), testIndex(), testConfig()
	f.Add(r.Encode())
	f.Add(x.Encode())
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		// With a right checksum, or nothing behind it is ever reached.
		if len(b) >= headSize+sumSize {
			b = bytes.Clone(b)
			sum := blake3.Sum256(b[:len(b)-sumSize])
			copy(b[len(b)-sumSize:], sum[:])
		}
		if got, err := DecodeRef(b, r.Writer, r.Seq); err == nil {
			if again, err := DecodeRef(got.Encode(), r.Writer, r.Seq); err != nil || len(again.Packs) != len(got.Packs) {
				t.Fatal(again, err)
			}
		}
		if got, err := DecodeIndex(b, x.Writer, x.Seq); err == nil {
			for _, p := range got.Packs {
				_, _ = p.Entries()
			}
		}
		_, _ = DecodeWriter(b, x.Writer)
		_, _ = DecodeConfig(b)
		_, _ = ParsePackKey(string(b))
	})
}
