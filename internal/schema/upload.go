package schema

import (
	"encoding/binary"
	"math"
)

// What a store has in a bucket, and is putting there. The numbers of objects are
// recorded before the first request that has them, so that each is given out
// once, and that a daemon which was killed finds again what it was sending. Packs
// go by their names, which outlive the chunk index.
//
//	'M' "bucket"             -> Attachment
//	'M' "named"              -> a mark
//	'u' name(32)             -> PackUpload; goes with the pack's record
//	'i' number of index(8)   -> IndexUpload; until it has arrived
//	'r' snapshot(8)          -> RefUpload; when it has arrived, until it is forgotten

// MetaBucket is not a counter: the bucket that the store belongs to.
const MetaBucket = "bucket"

// MetaNamed says that every pack which a published step's ref names is known to be
// (UploadNamed). A store from before that state has no such mark.
const MetaNamed = "named"

const uploadVersion = 1

// Attachment is a store's place in a bucket.
type Attachment struct {
	Bucket              [16]byte // its ID
	Writer              [8]byte  // the name under which the store uploads there
	NextPack, NextIndex uint64   // numbers that are not given out; from 1 on
}

// Encode gives the value of MetaBucket.
func (a Attachment) Encode() []byte {
	b := append([]byte{uploadVersion}, a.Bucket[:]...)
	b = append(b, a.Writer[:]...)
	return binary.AppendUvarint(binary.AppendUvarint(b, a.NextPack), a.NextIndex)
}

// upload begins to read a value.
func upload(b []byte) *reader {
	r := &reader{b: b}
	if r.fixed(1)[0] != uploadVersion {
		r.fail("unknown version")
	}
	return r
}

// DecodeAttachment is the inverse of Encode.
func DecodeAttachment(b []byte) (a Attachment, err error) {
	r := upload(b)
	copy(a.Bucket[:], r.fixed(16))
	copy(a.Writer[:], r.fixed(8))
	a.NextPack, a.NextIndex = r.uint(), r.uint()
	return a, r.done("attachment to a bucket")
}

// UploadState says how far the upload of a pack is.
type UploadState uint8

// The states, in their order. The values are for ever.
const (
	UploadReserved UploadState = 1 // it has a number; whether it has arrived is not known
	UploadArrived  UploadState = 2
	UploadIndexed  UploadState = 3 // and it is in an index object that has arrived
	UploadNamed    UploadState = 4 // and a ref that has arrived names it
	UploadOnly     UploadState = 5 // and the local file may be gone: the bucket's is relied on
)

// PackUpload is a pack of the store in the bucket.
type PackUpload struct {
	State  UploadState
	Writer [8]byte
	Seq    uint64
	Size   uint64 // bytes
}

// PackUploadKey is the key of a pack's upload.
func PackUploadKey(name [32]byte) []byte { return append([]byte{PrefixPackUpload}, name[:]...) }

// Encode gives the value.
func (p PackUpload) Encode() []byte {
	b := append([]byte{uploadVersion, byte(p.State)}, p.Writer[:]...)
	return binary.AppendUvarint(binary.AppendUvarint(b, p.Seq), p.Size)
}

// DecodePackUpload is the inverse of Encode.
func DecodePackUpload(b []byte) (p PackUpload, err error) {
	r := upload(b)
	p.State = r.state()
	copy(p.Writer[:], r.fixed(8))
	p.Seq, p.Size = r.uint(), r.upTo(math.MaxInt64)
	return p, r.done("upload of a pack")
}

func (r *reader) state() UploadState {
	s := UploadState(r.fixed(1)[0])
	if s < UploadReserved || s > UploadOnly {
		r.fail("state of an upload")
	}
	return s
}

// IndexUpload is an index object that is being put: the names of its packs.
type IndexUpload struct{ Packs [][32]byte }

// Encode gives the value.
func (x IndexUpload) Encode() []byte {
	b := []byte{uploadVersion}
	for _, name := range x.Packs {
		b = append(b, name[:]...)
	}
	return b
}

// DecodeIndexUpload is the inverse of Encode.
func DecodeIndexUpload(b []byte) (x IndexUpload, err error) {
	r := upload(b)
	for len(r.b) > 0 && r.err == nil {
		x.Packs = append(x.Packs, [32]byte(r.fixed(32)))
	}
	return x, r.done("upload of an index")
}

// RefUpload is a snapshot's ref in the bucket, which has arrived. Whether one has
// that was begun is known by the store's lease.
type RefUpload struct {
	Writer  [8]byte
	Seq     uint64
	Time    int64 // ns, when it had arrived
	Barrier bool  // it goes when that of the next barrier is there
	// Forgotten: the snapshot is gone here, and the bucket has yet to forget it. A
	// Seq of 0 then says that it is not known whether it has a ref.
	Forgotten bool
}

// Encode gives the value.
func (u RefUpload) Encode() []byte {
	b := append([]byte{uploadVersion}, u.Writer[:]...)
	b = binary.AppendVarint(binary.AppendUvarint(b, u.Seq), u.Time)
	switch {
	case u.Forgotten:
		return append(b, 2)
	case u.Barrier:
		return append(b, 1)
	}
	return append(b, 0)
}

// DecodeRefUpload is the inverse of Encode.
func DecodeRefUpload(b []byte) (u RefUpload, err error) {
	r := upload(b)
	copy(u.Writer[:], r.fixed(8))
	u.Seq, u.Time = r.uint(), r.int()
	switch r.fixed(1)[0] {
	case 0:
	case 1:
		u.Barrier = true
	case 2:
		u.Forgotten = true
	default:
		r.fail("a ref that is neither a step's nor a barrier's, nor forgotten")
	}
	return u, r.done("upload of a ref")
}
