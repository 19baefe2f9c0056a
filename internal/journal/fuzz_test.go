package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// repair gives the bytes of a segment valid checksums at every place that a walk
// over them reaches, so that the fuzzer gets past them.
func repair(number uint64, b []byte) {
	if len(b) < segmentHeaderLen {
		return
	}
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[shVersion:], FormatVersion)
	binary.LittleEndian.PutUint32(b[shFlags:], 0)
	binary.LittleEndian.PutUint64(b[shNumber:], number)
	binary.LittleEndian.PutUint32(b[shCRC:], crc32.Checksum(b[:shCRC], castagnoli))
	var seal sealer
	for off := int64(segmentHeaderLen); off+recordHeaderLen <= int64(len(b)); {
		r := b[off:]
		n := recordSize(int64(binary.LittleEndian.Uint32(r)))
		if n <= int64(len(r)) {
			p := r[recordHeaderLen : recordHeaderLen+int64(binary.LittleEndian.Uint32(r))]
			binary.LittleEndian.PutUint32(r[rhPayloadCRC:], crc32.Checksum(p, castagnoli))
		}
		binary.LittleEndian.PutUint32(r[rhHeaderCRC:], seal.sum(number, off, r))
		off += n
	}
}

// FuzzReplay feeds two arbitrary segment files to Open: it may refuse them, but
// not panic; and what it accepts must replay, be written on, and be read again.
func FuzzReplay(f *testing.F) {
	mem := vfs.NewMem()
	l := mustOpen(f, mem, testOptions)
	for i := range 12 {
		mustAppend(f, l, payload(i, 500))
		if i == 4 {
			mustSync(f, l, l.End())
		}
	}
	mustClose(f, l, true)
	im := snapshotOf(f, mem)
	one, two := im[segmentName(1)], im[segmentName(2)]
	f.Add(one, two, false)
	f.Add(one, two, true)
	f.Add(one[:600], two[:200], false)
	f.Add(one[:128], []byte{}, true)
	f.Add([]byte{}, two, false)
	f.Fuzz(func(t *testing.T, one, two []byte, fix bool) {
		if fix {
			one, two = bytes.Clone(one), bytes.Clone(two)
			repair(1, one)
			repair(2, two)
		}
		fs := image{segmentName(1): one, segmentName(2): two}.with(t, "", nil)
		l, err := Open(fs, testDir, testOptions)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("Open: %v", err)
			}
			return
		}
		r := l.Recovered()
		before, err := replay(l, r.First)
		if err != nil {
			t.Fatalf("Replay of what Open accepted: %v", err)
		}
		if r.First > r.End || r.Synced > r.End {
			t.Fatalf("recovered %+v", r)
		}
		e := mustAppend(t, l, []byte("new"))
		mustSync(t, l, e.end)
		mustClose(t, l, false)
		l = mustOpen(t, fs, testOptions)
		if l.Recovered().End != e.end {
			t.Fatalf("ends at %d, want %d", l.Recovered().End, e.end)
		}
		checkReplay(t, l, r.First, append(before, e))
		mustClose(t, l, false)
	})
}
