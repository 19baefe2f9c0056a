package schema

import (
	"bytes"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"stepfs/internal/hostile"
)

// Each decoder has a fuzz target here; TestEveryDecoderIsFuzzed sees to it.

// perByte is how much a decoder may allocate for a byte of input: an empty
// string of a list is one byte, and 16 in memory, and a list grows by doubling.
const perByte = 64

// fuzzValue holds one decoder against hostile bytes. It does not panic, keeps
// its hands off its input, allocates what is there and not what a length says,
// and says ErrCorrupt; what it accepts can be encoded, and comes back as it was.
func fuzzValue[T any](f *testing.F, decode func([]byte) (T, error), encode func(T) []byte, seeds ...T) {
	for _, s := range seeds {
		b := encode(s)
		if got, err := decode(b); err != nil || !reflect.DeepEqual(got, s) {
			f.Fatalf("%+v became %+v, %v", s, got, err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
		f.Add(append(bytes.Clone(b), 0))
		// Each number is, in one seed or another, as large as can be.
		for at := range b {
			f.Add(append(binary.AppendUvarint(bytes.Clone(b[:at]), 1<<64-1), b[at+1:]...))
			f.Add(append(binary.AppendUvarint(bytes.Clone(b[:at]), 1<<40), b[at+1:]...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		var v T
		var err error
		hostile.Bounded(t, len(b), perByte, func() { v, err = decode(b) })
		if !bytes.Equal(in, b) {
			t.Fatalf("the input %x was changed to %x", in, b)
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is no ErrCorrupt", err)
			}
			return
		}
		again := encode(v)
		got, err := decode(again)
		if err != nil || !reflect.DeepEqual(got, v) {
			t.Fatalf("%x is %+v, which becomes %x, which is %+v, %v", b, v, again, got, err)
		}
		if third := encode(got); !bytes.Equal(third, again) {
			t.Fatalf("%+v is encoded as %x, then as %x", v, again, third)
		}
	})
}

var (
	someContent = Content{Gen: 9, Base: 8, Len: 1 << 33, Alloc: 4096, Mtime: -5}
	someID      = [32]byte{0: 1, 31: 0xff}
)

func FuzzInode(f *testing.F) {
	c := someContent
	fuzzValue(f, DecodeInode, (*Inode).Encode,
		&Inode{},
		&Inode{Mode: 0o100644, Nlink: 2, UID: 1000, GID: 1 << 31, Rdev: 259, Atime: 1, Ctime: 1 << 60, Btime: -1, Parent: 7, Name: "a name", Live: c},
		&Inode{Live: c, Committed: &c, Settled: &Content{}, Deleted: true, HasOlder: true, Marked: true, Reverted: true, Failed: true, Grown: true, Excluded: true},
		&Inode{Settled: &c, Name: strings.Repeat("n", 255)})
}

func FuzzDentry(f *testing.F) {
	fuzzValue(f, DecodeDentry, Dentry.Encode, Dentry{}, Dentry{Ino: 1 << 50, Type: 0o040000, HasOlder: true}, Dentry{Ino: 3, Hidden: true})
}

func FuzzXattr(f *testing.F) {
	fuzzValue(f, DecodeXattr, Xattr.Encode, Xattr{}, Xattr{Gone: true, HasOlder: true}, Xattr{Value: []byte("value\x00")})
}

func FuzzStripe(f *testing.F) {
	fuzzValue(f, DecodeStripe, EncodeStripe, nil,
		[]Fragment{{0, StripeSize, 1}},
		[]Fragment{{0, 10, 7}, {10, 90, 1 << 60}, {200, 1, 3}, {StripeSize - 1, 1, 7}})
}

func FuzzGeneration(f *testing.F) {
	fuzzValue(f, DecodeGeneration, Generation.Encode, Generation{}, Generation{Ino: 5, File: true}, Generation{Inline: true, Stored: 1 << 40})
}

func FuzzChunkMap(f *testing.F) {
	fuzzValue(f, DecodeChunkMap, EncodeChunkMap, nil,
		[]ChunkExtent{{Off: 0, Len: 10, Raw: 10, ID: someID}},
		[]ChunkExtent{{Off: 1 << 40, Len: 1 << 20, Skip: 7, Raw: 1<<20 + 8, ID: someID}, {Off: 1<<40 + 1<<20, Len: 1, Raw: 1}})
}

func FuzzUnsettled(f *testing.F) {
	fuzzValue(f, DecodeUnsettled, Unsettled.Encode, Unsettled{}, Unsettled{Settled: 1 << 40})
}

func FuzzPending(f *testing.F) {
	f.Add([]byte{7, 9, 8, 200, 1, 100, 6, 4, 10}) // of format 2
	fuzzValue(f, DecodePending, Pending.Encode, Pending{}, Pending{Ino: 7, Content: someContent, Epoch: 4, Time: 5, Until: 300})
}

func FuzzSnapshot(f *testing.F) {
	hold := Hold{Name: "eval", UID: 7, By: "ann@box", Reason: "paper", Time: 99}
	gone := &Forgotten{By: "policy", Reason: "not kept", Time: 5, Clock: 6}
	fuzzValue(f, DecodeSnapshot, (*Snapshot).Encode,
		&Snapshot{},
		&Snapshot{Clock: 1, Name: "7", Scope: "runs/a", Tags: []string{"a", ""}, Explicit: true, UID: 1 << 31, Tree: someID},
		&Snapshot{Holds: []Hold{hold, {Name: "x"}}, Spared: true, Drained: true, Forgotten: gone, Marks: []string{"m: w"}},
		&Snapshot{Judged: true, Rule: "hf-trainer", Why: []string{"w"}, Pieces: []string{"checkpoint-7"}, Pending: "complete", Again: 77},
		&Snapshot{Verified: &Verified{Time: 5, Took: 6, Bytes: 7, Problems: []string{"a: b", ""}}})
}

func FuzzCandidate(f *testing.F) {
	fuzzValue(f, DecodeCandidate, Candidate.Encode, Candidate{}, Candidate{Name: "7", Time: 5}, Candidate{Name: "7", Time: -5, Rule: "deepspeed"})
}

func FuzzChunkLoc(f *testing.F) {
	fuzzValue(f, DecodeChunkLoc, ChunkLoc.Encode, ChunkLoc{}, ChunkLoc{Pack: 1, Offset: 32, Stored: 9, Raw: 9, Type: 1, Enc: 1}, ChunkLoc{Pack: 1 << 50, Ext: []byte("base")})
}

func FuzzDeadChunk(f *testing.F) {
	fuzzValue(f, DecodeDeadChunk, DeadChunk.Encode, DeadChunk{}, DeadChunk{Pack: 7, Stored: 1 << 31})
}

func FuzzPackRecord(f *testing.F) {
	// Of versions 1 and 2.
	one := append(append([]byte{1, byte(PackLive)}, make([]byte, 32)...), 7, 100, 3, 90, 80)
	f.Add(one)
	f.Add(append(append([]byte{2}, one[1:]...), 20, 1))
	fuzzValue(f, DecodePackRecord, PackRecord.Encode, PackRecord{State: PackLive}, PackRecord{Name: someID, State: PackRetiring, Domain: 1, Size: 99, Chunks: 2, Raw: 80, Stored: 70, Dead: 30, DeadChunks: 1, Hasty: 9, PlanesRaw: 50, PlanesStored: 40, DeltaRaw: 20, DeltaStored: 4})
}

func FuzzScrub(f *testing.F) {
	fuzzValue(f, DecodeScrub, Scrub.Encode, Scrub{},
		Scrub{Copies: true, Pos: 7, End: 1 << 40, Now: ScrubPass{Began: -1, Took: 5, Bytes: 9}, Last: ScrubPass{Began: 1 << 60, Findings: 3, Healed: 2}})
}

func FuzzAttachment(f *testing.F) {
	fuzzValue(f, DecodeAttachment, Attachment.Encode, Attachment{}, Attachment{Bucket: [16]byte{1}, Writer: [8]byte{2}, NextPack: 3, NextIndex: 1 << 40})
}

func FuzzPackUpload(f *testing.F) {
	fuzzValue(f, DecodePackUpload, PackUpload.Encode, PackUpload{State: UploadReserved}, PackUpload{State: UploadIndexed, Writer: [8]byte{2}, Seq: 1 << 50, Size: 1 << 26})
}

func FuzzIndexUpload(f *testing.F) {
	fuzzValue(f, DecodeIndexUpload, IndexUpload.Encode, IndexUpload{}, IndexUpload{Packs: [][32]byte{someID, {1}}})
}

func FuzzRefUpload(f *testing.F) {
	fuzzValue(f, DecodeRefUpload, RefUpload.Encode, RefUpload{Seq: 1, Time: -5}, RefUpload{Writer: [8]byte{2}, Seq: 9, Time: 1 << 60, Barrier: true}, RefUpload{Seq: 7, Forgotten: true})
}

// FuzzObjects: of directory objects only the readers are here (snapshot/merkle.go
// writes them, and its tests read what it wrote).
func FuzzObjects(f *testing.F) {
	str := func(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	ref := func(b []byte) []byte { return binary.AppendUvarint(append(b, someID[:]...), 99) }
	entry := func(b []byte, name string, mode uint64) []byte {
		b = binary.AppendUvarint(append(str(b, name), 7), mode) // inode 7
		b = append(b, 0, 0, 0, 1)                               // uid, gid, rdev, nlink
		b = append(b, 2, 2, 20, 20)                             // mtime, ctime, size, data
		return str(str(append(str(b, "open"), 1), "user.a"), "v")
	}
	page := entry([]byte{ObjectDir, ObjectVersion, 4}, "dir", modeDir)
	page = str(append(entry(ref(page), "file", modeReg), 0), "")
	page = ref(append(entry(page, "large", modeReg), 1))
	page = str(entry(page, "link", modeLink), "target")
	root := str(append([]byte{ObjectRoot, ObjectVersion}, 9), string((&Snapshot{Name: "7"}).Encode()))
	extents := string(EncodeChunkMap([]ChunkExtent{{Len: 10, Raw: 10, ID: someID}}))
	decoders := []func(b []byte) error{
		func(b []byte) error { _, _, _, err := DecodeRoot(b); return err },
		func(b []byte) error { _, err := DecodePage(b); return err },
		func(b []byte) error {
			_, _, err := DecodeIndex(b)
			_, same := DecodePages(b)
			return errors.Join(err, same)
		},
		func(b []byte) error { _, err := DecodeExtents(b); return err },
	}
	for i, b := range [][]byte{
		ref(entry(root, "", modeDir)),
		page,
		ref(str([]byte{ObjectIndex, ObjectVersion, 1}, "a")),
		str([]byte{ObjectExtents, ObjectVersion}, extents),
	} {
		for at := range b {
			f.Add(b[:at])
			f.Add(append(binary.AppendUvarint(bytes.Clone(b[:at]), 1<<64-1), b[at+1:]...))
		}
		f.Add(b)
		if err := decoders[i](b); err != nil {
			f.Fatalf("%x: %v", b, err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, read := bytes.Clone(b), 0
		for _, decode := range decoders {
			var err error
			hostile.Bounded(t, len(b), 2*perByte, func() { err = decode(b) })
			if err == nil {
				read++
			} else if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is no ErrCorrupt", err)
			}
		}
		if read > 1 || !bytes.Equal(in, b) {
			t.Fatalf("%x is an object of %d kinds, and is %x now", in, read, b)
		}
	})
}

func FuzzNameFlags(f *testing.F) {
	for _, s := range []Snapshot{{}, {Explicit: true, Again: 1 << 40}, {Verdict: "unverified", Judged: true, Pending: "complete"}} {
		f.Add(s.NameFlags())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		flags, again := ParseNameFlags(b)
		if again != 0 && flags&NameAgain == 0 || len(b) == 0 && flags != 0 {
			t.Fatalf("%x: flags %d, again %d", b, flags, again)
		}
	})
}

// FuzzKeys: a key that parses is exactly the one that its parts make.
func FuzzKeys(f *testing.F) {
	for _, k := range [][]byte{
		Counter(7), Numbered(PrefixGen, 7), DentryKey(1, "name", 7), XattrKey(1, "user.a", 7), StripeKey(1, 2, 3), UnsettledKey(1, 2),
		NameKey("scope", "12000", 7), NameKey("", "", 1), ChunkKey(1, someID), ChunkRefKey(1, someID, TreeHolder(3)), ChunkDeadKey(1, someID), ChunkBaseKey(1, someID, [32]byte{7}), PackKey(5), {},
	} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, k []byte) {
		check := func(what string, err error, again func() []byte) {
			if err == nil {
				if got := again(); !bytes.Equal(got, k) {
					t.Fatalf("%s: %x is made of the parts of %x", what, got, k)
				}
			} else if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: %v is no ErrCorrupt", what, err)
			}
		}
		number := func() uint64 { return binary.BigEndian.Uint64(k[1:]) }
		n, err := ParseCounter(k)
		check("counter", err, func() []byte { return Counter(n) })
		n, err = ParseNumbered(k)
		check("numbered", err, func() []byte { return Numbered(k[0], n) })
		name, seq, err := ParseDentryKey(k)
		check("dentry", err, func() []byte { return prefixed(k[0], DentryKey(number(), name, seq)) })
		name, seq, err = ParseXattrKey(k)
		check("xattr", err, func() []byte { return prefixed(k[0], XattrKey(number(), name, seq)) })
		stripe, gen, err := ParseStripeKey(k)
		check("stripe", err, func() []byte { return prefixed(k[0], StripeKey(number(), stripe, gen)) })
		ino, gen, err := ParseUnsettledKey(k)
		check("unsettled", err, func() []byte { return prefixed(k[0], UnsettledKey(ino, gen)) })
		scope, name, seq, err := ParseNameKey(k)
		check("name", err, func() []byte { return prefixed(k[0], NameKey(scope, name, seq)) })
		domain, id, err := ParseChunkKey(k)
		check("chunk", err, func() []byte { return ChunkKey(domain, id) })
		domain, id, holder, err := ParseChunkRefKey(k)
		check("chunk reference", err, func() []byte { return ChunkRefKey(domain, id, holder) })
		domain, id, err = ParseChunkDeadKey(k)
		check("dead chunk", err, func() []byte { return ChunkDeadKey(domain, id) })
		domain, base, id, err := ParseChunkBaseKey(k)
		check("base of a chunk", err, func() []byte { return ChunkBaseKey(domain, base, id) })
		n, err = ParsePackKey(k)
		check("pack", err, func() []byte { return PackKey(n) })
	})
}

// prefixed gives a key the prefix that was found: these parsers are told by
// their callers what they look at.
func prefixed(prefix byte, k []byte) []byte {
	k[0] = prefix
	return k
}

// TestEveryDecoderIsFuzzed reads this package's source: a function that
// decodes is named in a fuzz target.
func TestEveryDecoderIsFuzzed(t *testing.T) {
	fuzzed, decoders := map[string]bool{}, 0
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	each := func(fn func(*ast.FuncDecl)) {
		for _, file := range files {
			for _, d := range file.Decls {
				if d, ok := d.(*ast.FuncDecl); ok {
					fn(d)
				}
			}
		}
	}
	each(func(d *ast.FuncDecl) {
		if strings.HasPrefix(d.Name.Name, "Fuzz") {
			ast.Inspect(d, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					fuzzed[id.Name] = true
				}
				return true
			})
		}
	})
	each(func(d *ast.FuncDecl) {
		if n := d.Name.Name; strings.HasPrefix(n, "Decode") || strings.HasPrefix(n, "Parse") {
			if decoders++; !fuzzed[n] {
				t.Errorf("%s decodes what lies on the disk, and no fuzz target has it", n)
			}
		}
	})
	if decoders < 20 {
		t.Errorf("only %d decoders found: this proves nothing", decoders)
	}
}
