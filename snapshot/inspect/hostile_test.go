package inspect

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"runtime"
	"strings"
	"testing"
)

func u64(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
func u32(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }

// end64 is the end of an archive that says such things of its directory.
func end64(entries, size, offset, at uint64) string {
	return sigEnd64 + u64(44) + u32(0) + u64(0) + u64(entries) + u64(entries) + u64(size) + u64(offset) +
		sigLocator + u32(0) + u64(at) + u32(1) +
		sigEnd + u32(0) + u64(math.MaxUint64) + u32(math.MaxUint32) + "\x00\x00"
}

// header is a safetensors file of that header.
func header(text string, data int) string {
	return u64(uint64(len(text))) + text + strings.Repeat("\x00", data)
}

func pickled(ops ...string) string { return "\x80\x04" + strings.Join(ops, "") + "." }

const million = 1_000_000

// What was made to attack a reader is found unsound, or let be where it is
// only large, and never costs memory that it has not paid for.
func TestHostile(t *testing.T) {
	pickles := map[string]string{
		"LONG1 too short":    "\x80\x02\x8a\xff.",
		"LONG4 of 2 GB":      "\x80\x02\x8b\xff\xff\xff\x7f.",
		"BINUNICODE of 4 GB": "\x80\x02X\xff\xff\xff\xff.",
		"BINUNICODE8":        pickled("\x8d", u64(math.MaxUint64)),
		"BINBYTES8":          pickled("\x8e", u64(1<<63)),
		"BYTEARRAY8":         pickled("\x96", u64(1<<62)),
		"FRAME":              pickled("\x95", u64(1<<63), "N"),
		"no memo entry":      pickled("h\x05"),
		"no memo entry, far": pickled("j", u32(math.MaxUint32)),
		"empty stack":        pickled(),
		"pop below a mark":   pickled("N(0R"),
		"no mark":            pickled("t"),
		"unknown opcode":     pickled("\xff"),
		"odd items":          pickled("}(Nu"),
		"protocol 77":        "\x80\x02\x80\x4dN.",
		"no end":             "\x80\x04" + strings.Repeat("N0", million),
		"GET of no number":   "\x80\x02gabc\n.",
		"endless line":       "\x80\x02c" + strings.Repeat("a", million),
		"GET of -1":          "\x80\x02Np-1\n.",
	}
	for name, p := range pickles {
		hostile(t, "pickle: "+name, memTree{"a.pkl": []byte(p)}, false, 1<<20)
	}

	for name, end := range map[string]string{
		"2^32 entries":          end64(1<<32, 46, 0, 46),
		"2^63 entries":          end64(1<<63, 1<<63, 0, 1<<63),
		"a directory at 2^64-1": end64(0, 1, math.MaxUint64, 0),
		"a size of 2^64-1":      end64(0, math.MaxUint64, 1, 0),
		"65535 entries":         sigEnd + u32(0) + "\xfe\xff\xfe\xff" + u32(0) + u32(0) + "\x00\x00",
		"no zip64":              sigEnd + u32(0) + "\xff\xff\xff\xff" + u32(0) + u32(0) + "\x00\x00",
		"ends everywhere":       strings.Repeat(sigEnd, 30_000),
	} {
		hostile(t, "zip: "+name, memTree{"a.pt": []byte(sigLocal + strings.Repeat("x", 100) + end)}, false, 1<<20)
	}

	for name, text := range map[string]string{
		"2^62":                u64(1<<62) + "{}",
		"2^64-1":              u64(math.MaxUint64) + "{}",
		"0":                   u64(0) + "{}",
		"a length alone":      u64(8),
		"a shape of 2^66":     header(`{"a":{"dtype":"F32","shape":[9223372036854775808,4],"data_offsets":[0,0]}}`, 0),
		"a shape of 2^64":     header(`{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0),
		"a range of 2^64-1":   header(`{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}`, 0),
		"backwards":           header(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}`, 2),
		"below zero":          header(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1),
		"a million axes":      header(`{"a":{"dtype":"U8","shape":[1`+strings.Repeat(",1", million)+`],"data_offsets":[0,1]}}`, 1),
		"no range":            header(`{"a":{"dtype":"U8","shape":[1]}}`, 1),
		"twice":               header(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2),
		"a list":              header(`[]`, 0),
		"deeply nested":       header(`{"a":{"x":`+strings.Repeat("[", million), 0),
		"overlap":             header(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3),
		"a gap":               header(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3),
		"a hole at the start": header(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2),
	} {
		hostile(t, "safetensors: "+name, memTree{"a.safetensors": []byte(text)}, false, 1<<20)
	}

	for name, text := range map[string]string{
		"nested lists":   strings.Repeat("[", 50*million),
		"nested objects": strings.Repeat(`{"a":`, 5*million),
		"a long number":  strings.Repeat("1", million),
		"two values":     "{} {}", "no value": " ", "a comma": "[1,]", "two commas": "[1,,2]", "no comma": "[1 2]",
		"no colon": `{"a" 1}`, "no key": `{1:2}`, "a lone key": `{"a"}`, "a trailing comma": `{"a":1,}`,
		"closed by another": "[}", "closed too often": "[]]", "01": "01", "a word": "[nil]", "+1": "+1", "a tab in a string": "\"\t\"",
		"a bad escape": `"\x"`, "half an escape": `"\u12`, "zeros": "{}\x00\x00", "a quote": `"`,
	} {
		hostile(t, "JSON: "+name, memTree{"a.json": []byte(text)}, false, 1<<20)
	}
}

// What is only very large is let be, with a remark, at a bounded cost.
func TestTooLarge(t *testing.T) {
	for name, p := range map[string]string{
		"a deep stack":  "\x80\x04" + strings.Repeat("N", 5*million),
		"many marks":    "\x80\x04" + strings.Repeat("(", 5*million),
		"a large memo":  "\x80\x04N" + strings.Repeat("\x94", 5*million),
		"a sparse memo": "\x80\x04N" + sparse(5*million),
		"many nodes":    "\x80\x04Nq\x00" + strings.Repeat("("+strings.Repeat("h\x00", 1000)+"t0", 20_000),
	} {
		r := hostile(t, "pickle: "+name, memTree{"a.pkl": []byte(p)}, true, 1<<30)
		if len(r.Problems) != 1 || r.Problems[0].Why != errTooLarge.Error() {
			t.Errorf("%s: %+v", name, r.Problems)
		}
	}
	var tensors strings.Builder
	for i := range maxTensors + 1 {
		fmt.Fprintf(&tensors, `,"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, i)
	}
	r := hostile(t, "safetensors: a million tensors", memTree{"a.safetensors": []byte(header("{"+tensors.String()[1:]+"}", 0))}, true, 1<<30)
	if len(r.Problems) != 1 || r.Problems[0].Why != errTooLarge.Error() {
		t.Errorf("a million tensors: %+v", r.Problems)
	}

	// A value that is used again and again is one value.
	laughs := "\x80\x04)" + strings.Repeat("\x942\x86", 10_000) + "."
	if r := hostile(t, "pickle: a memo bomb", memTree{"a.pkl": []byte(laughs)}, true, 16<<20); len(r.Problems) > 0 {
		t.Errorf("a memo bomb: %+v", r.Problems)
	}
	hostile(t, "JSON: a long string", memTree{"a.json": []byte(`"` + strings.Repeat("x", 100*million) + `"`)}, true, 1<<20)
	hostile(t, "JSON: a long key", memTree{"model.bin.index.json": []byte(`{"` + strings.Repeat("x", 10*million) + `":1}`)}, false, 1<<20)
	hostile(t, "index: one shard a million times",
		memTree{"model.bin.index.json": []byte(`{"weight_map":{` + strings.Repeat(`"a":"b",`, million) + `"a":"b"}}`)}, false, 200<<20)
}

// sparse puts into the memo from its far end.
func sparse(n int) string {
	var b []byte
	for i := range n {
		b = binary.LittleEndian.AppendUint32(append(b, 'r'), math.MaxUint32-uint32(i))
	}
	return string(b)
}

// Archives that lie about their records.
func TestHostileRecords(t *testing.T) {
	object := record{name: "a/data.pkl"}
	version := record{name: "a/version"}
	three := []byte("3\n")
	storage := func(key, numel string) []byte {
		return []byte("\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nU\x01" + key + "U\x03cpuL" + numel + "L\ntQ.")
	}
	for name, b := range map[string][]byte{
		"no data.pkl":         makeZip(version, three),
		"no version":          makeZip(object, []byte("\x80\x02N.")),
		"nothing":             makeZip(),
		"a storage missing":   makeZip(object, storage("7", "1"), version, three),
		"a storage too short": makeZip(object, storage("0", "3"), record{name: "a/data/0"}, make([]byte, 11), version, three),
		"2^62 elements":       makeZip(object, storage("0", "4611686018427387904"), record{name: "a/data/0"}, none, version, three),
		"2^63-1 elements":     makeZip(object, storage("0", "9223372036854775807"), record{name: "a/data/0"}, none, version, three),
		"-1 elements":         makeZip(object, storage("0", "-1"), record{name: "a/data/0"}, none, version, three),
		"trailing":            makeZip(object, []byte("\x80\x02N.x"), version, three),
		"all the same place":  overlapping(10_000),
		"one in another":      longer(makeZip(object, []byte("\x80\x02N."), version, three)),
		"more than it packs":  larger(makeZip(object, []byte("\x80\x02N."), version, three)),
		"an entry too many":   fewer(makeZip(object, []byte("\x80\x02N."), version, three, version, three)),
		"inflates to 1 GB":    bomb(1 << 30),
		"inflates too far":    bomb(1 << 20),
	} {
		r := hostile(t, "zip: "+name, memTree{"a.pt": b}, name == "inflates to 1 GB", 100<<20)
		if len(r.Problems) == 0 {
			t.Errorf("%s: no problem", name)
		}
	}
	if whole := makeZip(object, storage("0", "3"), record{name: "a/data/0"}, make([]byte, 12), version, three); !check(t, memTree{"a.pt": whole}, Options{}).Sound() {
		t.Error("the whole archive is not sound")
	}
}

// An archive that would begin before its file does.
func TestHostileStart(t *testing.T) {
	b := makeZip(record{name: "a/data.pkl"}, []byte("\x80\x02N."), record{name: "a/version"}, []byte("3\n"))
	hostile(t, "whole", memTree{"__0_0.distcp": b}, true, 2<<20)
	for at := 0; ; at += 4 {
		i := bytes.Index(b[at:], []byte(sigEntry))
		if i < 0 {
			break
		}
		at += i
		b[at+42] += 10
	}
	b[len(b)-6] += 10
	hostile(t, "zip: shifted", memTree{"__0_0.distcp": b}, false, 1<<20)
}

var none = []byte{}

// longer makes the first record run into the second.
func longer(b []byte) []byte {
	for _, at := range []int{18, bytes.Index(b, []byte(sigEntry)) + 20} {
		b[at] += 5
		b[at+4] += 5
	}
	return b
}

// larger makes the first record, which is not packed, larger than its bytes.
func larger(b []byte) []byte {
	b[22]++
	b[bytes.Index(b, []byte(sigEntry))+24]++
	return b
}

// fewer says one record less than the directory has.
func fewer(b []byte) []byte {
	b[len(b)-14]--
	b[len(b)-12]--
	return b
}

// overlapping is an archive whose n entries are all one record.
func overlapping(n int) []byte {
	one := makeZip(record{name: "a/data.pkl"}, []byte("\x80\x02N."))
	at := bytes.Index(one, []byte(sigEntry))
	end := bytes.Index(one, []byte(sigEnd))
	entry := one[at:end]
	out := append(bytes.Clone(one[:at]), bytes.Repeat(entry, n)...)
	tail := bytes.Clone(one[end:])
	binary.LittleEndian.PutUint16(tail[8:], uint16(n))
	binary.LittleEndian.PutUint16(tail[10:], uint16(n))
	binary.LittleEndian.PutUint32(tail[12:], uint32(n*len(entry)))
	return append(out, tail...)
}

// bomb is an archive whose data.pkl says that it is of that size, and is 50 MB
// of zeros.
func bomb(size uint64) []byte {
	var packed bytes.Buffer
	inner := zip.NewWriter(&packed)
	w, _ := inner.CreateHeader(&zip.FileHeader{Name: "x", Method: zip.Deflate})
	w.Write(make([]byte, 50<<20))
	inner.Close()
	r, _ := zip.NewReader(bytes.NewReader(packed.Bytes()), int64(packed.Len()))
	at, _ := r.File[0].DataOffset()
	raw := packed.Bytes()[at:][:r.File[0].CompressedSize64]

	var out bytes.Buffer
	z := zip.NewWriter(&out)
	w, _ = z.CreateRaw(&zip.FileHeader{Name: "a/data.pkl", Method: zip.Deflate, CompressedSize64: uint64(len(raw)), UncompressedSize64: size})
	w.Write(raw)
	w, _ = z.CreateRaw(&zip.FileHeader{Name: "a/version", CRC32: crc32.ChecksumIEEE([]byte("3")), CompressedSize64: 1, UncompressedSize64: 1})
	w.Write([]byte("3"))
	z.Close()
	return out.Bytes()
}

// hostile checks a tree and what that costs.
func hostile(t *testing.T, name string, tree memTree, sound bool, limit uint64) *Report {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := check(t, tree, Options{Deep: true, NaN: true})
	runtime.ReadMemStats(&after)
	if r.Sound() != sound {
		t.Errorf("%s: sound %v: %+v", name, r.Sound(), r.Problems)
	}
	if cost := after.TotalAlloc - before.TotalAlloc; cost > limit {
		t.Errorf("%s: %d bytes were allocated", name, cost)
	}
	if !sound && len(r.Problems) > 0 {
		t.Logf("%s: %s", name, r.Problems[0].Why)
	}
	return r
}
