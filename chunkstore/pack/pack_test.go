package pack

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"stepfs/internal/hostile"
)

func drawEntries(t *rapid.T) []Entry {
	off := int64(HeaderSize)
	var es []Entry
	for range rapid.IntRange(0, 6).Draw(t, "entries") {
		e := Entry{
			Type:   Type(rapid.Byte().Draw(t, "type")),
			Enc:    Encoding(rapid.ByteRange(1, 5).Draw(t, "enc")),
			Offset: off + int64(rapid.IntRange(0, 3).Draw(t, "gap")),
			Raw:    rapid.Uint32Max(4096).Draw(t, "raw"),
			CRC:    rapid.Uint32().Draw(t, "crc"),
		}
		copy(e.ID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		e.Stored = e.Raw
		if e.Enc != EncRaw {
			e.Stored = rapid.Uint32Max(4096).Draw(t, "stored")
			if n := rapid.IntRange(0, MaxExt).Draw(t, "ext"); n > 0 {
				e.Ext = bytes.Repeat([]byte{0xee}, n)
			}
			if e.Enc == EncDelta {
				e.Ext = Base{ID: ID{7}, Depth: rapid.ByteRange(1, MaxDepth).Draw(t, "depth"), Turn: 3}.Append(nil)
			}
		}
		es = append(es, e)
		off = e.End()
	}
	return es
}

// whole builds a pack with payloads of zeros.
func whole(info Info, es []Entry) []byte {
	b := AppendHeader(nil, info)
	for _, e := range es {
		b = append(b, make([]byte, int(e.Offset)-len(b))...)
		at := len(b)
		b = append(b, make([]byte, PartHeaderSize)...)
		PutPartHeader(b[at:], e, info.Domain)
		b = append(b, e.Ext...)
		b = append(b, make([]byte, e.Stored)...)
	}
	body := int64(len(b))
	footer := AppendFooter(nil, Footer{Info: info, Body: body, Entries: es})
	return AppendTrailer(append(b, footer...), body, len(footer))
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		info := Info{Hash: HashBLAKE3, Domain: rapid.Uint32().Draw(t, "domain")}
		es := drawEntries(t)
		b := whole(info, es)
		f, name, err := ReadFooter(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if f.Info != info || len(f.Entries) != len(es) {
			t.Fatalf("footer %+v", f)
		}
		for i, e := range es {
			if !reflect.DeepEqual(f.Entries[i], e) {
				t.Fatalf("entry %d is %+v, want %+v", i, f.Entries[i], e)
			}
			part, domain, err := ParsePartHeader(b[e.Offset:])
			part.Offset = e.Offset
			if err != nil || domain != info.Domain || !reflect.DeepEqual(part, e) {
				t.Fatalf("part %d is %+v, %d, %v, want %+v", i, part, domain, err, e)
			}
		}
		if got, ok := ParseFileName(name.FileName()); !ok || got != name {
			t.Fatalf("name %s does not parse", name.FileName())
		}
		if n := FooterSize(es); int64(n)+f.Body+TrailerSize != int64(len(b)) {
			t.Fatalf("footer size %d", n)
		}
	})
}

// TestSalt: it changes the name, nothing else, and is found again.
func TestSalt(t *testing.T) {
	f := Footer{Info: Info{Hash: HashBLAKE3}, Body: 200, Entries: []Entry{{Type: TypeData, Enc: EncRaw, Offset: HeaderSize, Raw: 3, Stored: 3}}}
	plain := AppendFooter(nil, f)
	f.Salt = 7
	salted := AppendFooter(nil, f)
	if NameOf(plain) == NameOf(salted) || len(plain) != len(salted) {
		t.Fatal("the same name")
	}
	if got, err := ParseFooter(salted); err != nil || !reflect.DeepEqual(got, f) {
		t.Fatalf("%+v, %v", got, err)
	}
}

// TestFlips: no bit of header, part header, footer or trailer can change
// unnoticed.
func TestFlips(t *testing.T) {
	info := Info{Hash: HashBLAKE3, Domain: 9}
	e := Entry{ID: ID{5}, Type: TypeTree, Enc: EncZstd, Offset: HeaderSize, Raw: 99, Stored: 40, CRC: 77, Ext: []byte{1, 2, 3}}
	good := whole(info, []Entry{e})
	payload := int(e.PayloadOffset())
	for i := range good {
		for _, bit := range []byte{1, 0x10, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= bit
			_, _, footer := ReadFooter(bytes.NewReader(b), int64(len(b)))
			_, _, part := ParsePartHeader(b[HeaderSize:])
			inPart := i >= HeaderSize && i < payload
			inPayload := i >= payload && i < payload+40
			if errors.Is(part, ErrFormat) != inPart || errors.Is(footer, ErrFormat) == (inPart || inPayload) {
				t.Fatalf("byte %d ^ %#x: part %v, footer %v", i, bit, part, footer)
			}
		}
	}
}

func TestTruncated(t *testing.T) {
	b := whole(Info{Hash: HashBLAKE3}, []Entry{{Type: TypeData, Enc: EncRaw, Offset: HeaderSize, Raw: 3, Stored: 3}})
	for n := range len(b) {
		if _, _, err := ReadFooter(bytes.NewReader(b[:n]), int64(n)); !errors.Is(err, ErrFormat) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
}

// TestLies: footers whose checksum is right and whose content is not.
func TestLies(t *testing.T) {
	ok := Entry{Type: TypeData, Enc: EncZstd, Offset: HeaderSize, Raw: 10, Stored: 10}
	for what, f := range map[string]Footer{
		"overlap":            {Body: 1000, Entries: []Entry{ok, ok}},
		"before the body":    {Body: 1000, Entries: []Entry{{Enc: EncZstd, Offset: HeaderSize - 1}}},
		"behind the body":    {Body: HeaderSize + PartHeaderSize + 9, Entries: []Entry{ok}},
		"negative offset":    {Body: 1000, Entries: []Entry{{Enc: EncZstd, Offset: -1}}},
		"offset overflows":   {Body: 1000, Entries: []Entry{{Enc: EncZstd, Offset: 1<<63 - 10}}},
		"no base":            {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize}}},
		"a base of depth 0":  {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize, Ext: Base{}.Append(nil)}}},
		"too deep":           {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize, Ext: Base{Depth: MaxDepth + 1}.Append(nil)}}},
		"a base of no bytes": {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize, Ext: Base{Depth: 1, Window: Window{Skip: 1}}.Append(nil)}}},
		"a huge base":        {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize, Ext: Base{Depth: 1, Window: Window{Raw: MaxRaw + 1}}.Append(nil)}}},
		"neither wide nor not": {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize,
			Ext: append(Base{Depth: 1, Window: Window{Raw: 1}}.Append(nil)[:42], 2)}}},
		"half a window":    {Body: 1000, Entries: []Entry{{Enc: EncDelta, Offset: HeaderSize, Ext: Base{Depth: 1, Window: Window{Raw: 1}}.Append(nil)[:40]}}},
		"huge chunk":       {Body: 1 << 40, Entries: []Entry{{Enc: EncZstd, Offset: HeaderSize, Raw: MaxRaw + 1}}},
		"huge payload":     {Body: 1 << 40, Entries: []Entry{{Enc: EncZstd, Offset: HeaderSize, Stored: MaxRaw + 1}}},
		"raw of two sizes": {Body: 1000, Entries: []Entry{{Enc: EncRaw, Offset: HeaderSize, Raw: 10, Stored: 9}}},
		"body too short":   {Body: HeaderSize - 1},
		"negative body":    {Body: -1},
		"unknown hash":     {Info: Info{Hash: 2}, Body: 1000},
	} {
		if f.Hash == 0 {
			f.Hash = HashBLAKE3
		}
		if _, err := ParseFooter(AppendFooter(nil, f)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestGolden holds the format still: these bytes are in people's stores.
func TestGolden(t *testing.T) {
	e := Entry{ID: ID{0: 0xaa, 31: 0xbb}, Type: TypeData, Enc: EncRaw, Offset: HeaderSize, Raw: 3, Stored: 3, CRC: Checksum([]byte("abc"))}
	b := whole(Info{Hash: HashBLAKE3, Domain: 1}, []Entry{e})
	copy(b[e.PayloadOffset():], "abc")
	if got := hex.EncodeToString(b); got != golden {
		t.Fatalf("the format changed:\n%s", got)
	}
}

func FuzzReadFooter(f *testing.F) {
	f.Add(whole(Info{Hash: HashBLAKE3}, nil))
	f.Add(whole(Info{Hash: HashBLAKE3, Domain: 3}, []Entry{{Type: TypeData, Enc: EncZstd, Offset: HeaderSize, Raw: 30, Stored: 3, Ext: []byte("base")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := ReadFooter(bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		fuzzFooter(t, b)
	})
}

// fuzzFooter repairs the checksum of b as a footer, so that the fuzzer gets
// behind it.
func fuzzFooter(t *testing.T, b []byte) {
	if len(b) < 4 {
		return
	}
	b = bytes.Clone(b)
	le.PutUint32(b[len(b)-4:], Checksum(b[:len(b)-4]))
	var f Footer
	var err error
	hostile.Bounded(t, len(b), 8, func() { f, err = ParseFooter(b) })
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		return
	}
	end := int64(HeaderSize)
	for _, e := range f.Entries {
		if e.Offset < end || e.End() > f.Body {
			t.Fatalf("entry out of place: %+v", e)
		}
		end = e.End()
	}
	if again, err := ParseFooter(AppendFooter(nil, f)); err != nil || !reflect.DeepEqual(again, f) {
		t.Fatalf("%+v became %+v, %v", f, again, err)
	}
}

// FuzzTrailer: a trailer is what stands for the place that it names, or refused.
func FuzzTrailer(f *testing.F) {
	f.Add(AppendTrailer(nil, 100, 50), int64(100+50+TrailerSize))
	f.Add(AppendTrailer(nil, 1<<62, MaxFooter), int64(1<<62))
	f.Add(AppendTrailer(nil, -100, 50), int64(-1))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) == TrailerSize {
			b = bytes.Clone(b)
			le.PutUint32(b[12:], Checksum(b[:12]))
		}
		off, n, err := ParseTrailer(b, size)
		switch {
		case err == nil && (off < HeaderSize || n < 0 || n > MaxFooter || off > size-int64(n)-TrailerSize || !bytes.Equal(AppendTrailer(nil, off, n), b)):
			t.Fatalf("%x of %d bytes: footer of %d at %d", b, size, n, off)
		case err != nil && !errors.Is(err, ErrFormat):
			t.Fatal(err)
		}
	})
}

func FuzzParsePartHeader(f *testing.F) {
	f.Add(whole(Info{Hash: HashBLAKE3}, []Entry{{Enc: EncRaw, Offset: HeaderSize}})[HeaderSize:])
	f.Add(randomBytes(80))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= PartHeaderSize { // with a checksum that is right, too
			b = bytes.Clone(b)
			if ext := PartHeaderSize + int(le.Uint16(b[6:])); ext <= len(b) {
				le.PutUint32(b[60:], Checksum(append(bytes.Clone(b[:60]), b[PartHeaderSize:ext]...)))
			}
		}
		var e Entry
		var domain uint32
		var err error
		hostile.Bounded(t, len(b), 8, func() { e, domain, err = ParsePartHeader(b) })
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		again := make([]byte, PartHeaderSize)
		PutPartHeader(again, e, domain)
		got, d, err := ParsePartHeader(append(again, e.Ext...))
		if err != nil || d != domain || e.Raw > MaxRaw || !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v became %+v, %v", e, got, err)
		}
	})
}

func FuzzFooterEntries(f *testing.F) {
	f.Add(AppendFooter(nil, Footer{Info: Info{Hash: HashBLAKE3}, Body: 4000, Entries: []Entry{{Enc: EncRaw, Offset: 32}, {Enc: EncRaw, Offset: 200}}}))
	f.Fuzz(fuzzFooter)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(1)).Read(b)
	return b
}
