package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// oneSegment writes records a and b, syncs, then writes c and d, which know that
// a and b are durable. All lengths are whole words, so that every byte up to the
// end is under a checksum.
func oneSegment(t *testing.T) (im image, name string, all []entry) {
	t.Helper()
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	for i, n := range []int{104, 48} {
		all = append(all, mustAppend(t, l, payload(i, n)))
	}
	mustSync(t, l, l.End())
	for i, n := range []int{72, 200} {
		all = append(all, mustAppend(t, l, payload(i+2, n)))
	}
	mustClose(t, l, false)
	im = snapshotOf(t, fs)
	return im, im.only(t), all
}

func fileOff(e Pos) int64 { return segmentHeaderLen + int64(e) }

// A tail torn at any byte, into zeros or into garbage, costs the records that it
// hits and no other, unless something there was known durable.
func TestTornAtEveryByte(t *testing.T) {
	im, name, all := oneSegment(t)
	end := fileOff(all[3].end)
	for _, fill := range []byte{0, 0xff, 1} {
		for cut := int64(0); cut < end; cut++ {
			b := bytes.Clone(im[name])
			for i := cut; i < end; i++ {
				b[i] = fill
			}
			if bytes.Equal(b, im[name]) {
				continue
			}
			damaged := cut
			for b[damaged] == im[name][damaged] {
				damaged++ // the filler may agree with what was there
			}
			l, err := Open(im.with(t, name, b), testDir, testOptions)
			if fill != 0 && cut >= shVersion && cut < shFlags && errors.Is(err, ErrNewerFormat) {
				continue // cannot be told from a later version, so it is refused
			}
			if err != nil { // nothing behind the cut is left that knew more
				t.Fatalf("fill %#x from %d: %v", fill, cut, err)
			}
			want := Pos(0)
			for _, e := range all {
				if fileOff(e.end) <= damaged {
					want = e.end
				}
			}
			if got := l.Recovered().End; got != want {
				t.Fatalf("fill %#x from %d: the log ends at %d, want %d", fill, cut, got, want)
			}
			checkReplay(t, l, 0, all)
			goesOn(t, l, all)
		}
	}
}

// goesOn checks that a recovered log can be written, and read again.
func goesOn(t *testing.T, l *Log, before []entry) {
	t.Helper()
	var all []entry
	for _, e := range before {
		if e.end <= l.Recovered().End {
			all = append(all, e)
		}
	}
	for i := range 3 {
		all = append(all, mustAppend(t, l, payload(1000+i, 88)))
	}
	mustSync(t, l, l.End())
	mustClose(t, l, false)
	again := mustOpen(t, l.fs, testOptions)
	if again.Recovered().End != all[len(all)-1].end {
		t.Fatalf("ends at %d, want %d", again.Recovered().End, all[len(all)-1].end)
	}
	checkReplay(t, again, 0, all)
	mustClose(t, again, false)
}

// Any flipped bit below what is known durable is refused, by file and offset.
func TestFlippedBitBelowSynced(t *testing.T) {
	im, name, all := oneSegment(t)
	for at := int64(0); at < fileOff(all[1].end); at++ {
		for bit := range 8 {
			b := bytes.Clone(im[name])
			b[at] ^= 1 << bit
			_, err := Open(im.with(t, name, b), testDir, testOptions)
			if at >= shVersion && at < shFlags && errors.Is(err, ErrNewerFormat) {
				continue // a version that cannot be told from a later one
			}
			c := wantCorrupt(t, err, name)
			want := int64(0)
			if at >= segmentHeaderLen {
				want = segmentHeaderLen
			}
			if at >= fileOff(all[0].end) {
				want = fileOff(all[0].end)
			}
			if c.Offset != want {
				t.Fatalf("bit %d of byte %d: blames offset %d, want %d", bit, at, c.Offset, want)
			}
		}
	}
}

// Above what is known durable a flipped bit cannot be told from a torn tail; it
// must cost the records from there on, and never come back as different bytes.
func TestFlippedBitAboveSynced(t *testing.T) {
	im, name, all := oneSegment(t)
	for at := fileOff(all[2].end); at < fileOff(all[3].end); at++ {
		b := bytes.Clone(im[name])
		b[at] ^= 0x10
		l := mustOpen(t, im.with(t, name, b), testOptions)
		if l.Recovered().End != all[2].end {
			t.Fatalf("byte %d: ends at %d", at, l.Recovered().End)
		}
		checkReplay(t, l, 0, all)
	}
}

// manySegments is a log over several segments, everything but the last two
// records known durable.
func manySegments(t *testing.T) (im image, all []entry, names []string) {
	t.Helper()
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	for i := range 40 {
		all = append(all, mustAppend(t, l, payload(i, 504)))
		if i == 37 {
			mustSync(t, l, l.End())
		}
	}
	mustClose(t, l, false)
	l = mustOpen(t, fs, testOptions)
	for _, s := range l.mu.live {
		names = append(names, segmentName(s.number))
	}
	mustClose(t, l, false)
	return snapshotOf(t, fs), all, names
}

func TestMissingSegment(t *testing.T) {
	im, all, names := manySegments(t)
	for i, name := range names {
		l, err := Open(im.with(t, name, nil), testDir, testOptions)
		switch {
		case i == 0: // as if it had been trimmed, but somebody wants it
			if err != nil {
				t.Fatal(err)
			}
			if _, err := replay(l, 0); !errors.Is(err, ErrTrimmed) {
				t.Fatalf("first segment missing: %v", err)
			}
			checkReplay(t, l, l.Recovered().First, all)
		case i < len(names)-1:
			wantCorrupt(t, err, names[i+1])
		default: // nothing in the journal tells; its user's position does
			if err != nil {
				t.Fatal(err)
			}
			if _, err := replay(l, all[39].end); !errors.Is(err, ErrBeyondEnd) {
				t.Fatalf("last segment missing: %v", err)
			}
		}
	}
}

func TestDamagedHeaderOfSegment(t *testing.T) {
	im, all, names := manySegments(t)
	for i, name := range names {
		for _, wipe := range []bool{false, true} {
			b := bytes.Clone(im[name])
			if wipe {
				clear(b[:segmentHeaderLen])
			} else {
				b[shFirst] ^= 1
			}
			l, err := Open(im.with(t, name, b), testDir, testOptions)
			if i > 0 {
				wantCorrupt(t, err, "")
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = replay(l, 0)
			wantCorrupt(t, err, name)
			checkReplay(t, l, l.Recovered().First, all)
		}
	}
}

// A hole in an old segment is damage, whatever comes later, and so is an old
// segment that was cut short.
func TestDamagedOldSegment(t *testing.T) {
	im, _, names := manySegments(t)
	for _, name := range names[:len(names)-1] {
		b := bytes.Clone(im[name])
		clear(b[1000:1100])
		_, err := Open(im.with(t, name, b), testDir, testOptions)
		wantCorrupt(t, err, name)
		_, err = Open(im.with(t, name, im[name][:2000]), testDir, testOptions)
		wantCorrupt(t, err, name)
	}
}

// The tail of an unsynced segment is lost while its successor arrived: the log
// ends in the older one, and what it now writes is not mixed with the rest.
func TestTornBeforeLaterSegment(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	var all []entry
	for i := range 12 { // two segments, nothing synced
		all = append(all, mustAppend(t, l, payload(i, 504)))
	}
	mustClose(t, l, false)
	im := snapshotOf(t, fs)
	name := segmentName(1)
	b := bytes.Clone(im[name])
	clear(b[fileOff(all[2].end):fileOff(all[3].end)])
	l = mustOpen(t, im.with(t, name, b), testOptions)
	if r := l.Recovered(); r.End != all[2].end || r.TornBytes == 0 || r.Segments != 1 {
		t.Fatalf("%+v, want an end at %d", r, all[2].end)
	}
	checkReplay(t, l, 0, all)
	goesOn(t, l, all)
}

// Names and contents that a crash while preparing leaves behind.
func TestHalfPreparedSegments(t *testing.T) {
	im, name, all := oneSegment(t)
	for _, extra := range []struct {
		name string
		data []byte
	}{
		{tmpName(90), []byte{}}, {tmpName(91), make([]byte, 1000)}, {tmpName(92), im[name]},
		{segmentName(93), []byte{}}, {segmentName(94), make([]byte, 100)},
		{segmentName(95), make([]byte, 4096)}, {segmentName(96), im[name]},
		{segmentName(97), im[name][:300]}, {segmentName(98), make([]byte, 9000)},
	} {
		fs := im.with(t, extra.name, extra.data)
		l := mustOpen(t, fs, testOptions)
		if l.Recovered().End != all[3].end {
			t.Fatalf("%s: %+v", extra.name, l.Recovered())
		}
		checkReplay(t, l, 0, all)
		goesOn(t, l, all)
		for n, b := range snapshotOf(t, fs) {
			if n == extra.name || len(b)%4096 != 0 || len(b) == 0 {
				t.Errorf("%s of %d bytes is still there", n, len(b))
			}
		}
	}
}

func TestNewerFormat(t *testing.T) {
	im, name, _ := oneSegment(t)
	for what, change := range map[string]func(b []byte){
		"version": func(b []byte) { binary.LittleEndian.PutUint32(b[shVersion:], FormatVersion+1) },
		"flags":   func(b []byte) { binary.LittleEndian.PutUint32(b[shFlags:], 4) },
	} {
		b := bytes.Clone(im[name])
		change(b)
		binary.LittleEndian.PutUint32(b[shCRC:], crc32.Checksum(b[:shCRC], castagnoli))
		if _, err := Open(im.with(t, name, b), testDir, testOptions); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A payload that holds a copy of the journal itself is data, not records.
func TestJournalInsideAJournal(t *testing.T) {
	im, name, _ := oneSegment(t)
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions) // its first segment has the same number
	a := mustAppend(t, l, im[name][segmentHeaderLen:2000])
	mustClose(t, l, false)
	outer := snapshotOf(t, fs)
	b := bytes.Clone(outer[outer.only(t)])
	b[segmentHeaderLen+rhHeaderCRC] ^= 1 // the outer record is torn
	l = mustOpen(t, outer.with(t, outer.only(t), b), testOptions)
	if r := l.Recovered(); r.End != 0 || r.TornBytes != 0 {
		t.Fatalf("records of the inner journal (outer ends at %d) came to life: %+v", a.end, r)
	}
}

func TestSegmentNames(t *testing.T) {
	for _, n := range []uint64{1, 255, 1 << 63} {
		if got, tmp, ok := parseName(segmentName(n)); got != n || tmp || !ok {
			t.Errorf("%d: %d %v %v", n, got, tmp, ok)
		}
		if got, tmp, ok := parseName(tmpName(n)); got != n || !tmp || !ok {
			t.Errorf("%d: %d %v %v", n, got, tmp, ok)
		}
	}
	for _, bad := range []string{"", ".seg", "1.seg", "000000000000000A.seg", "0000000000000000.seg",
		"+000000000000001.seg", fmt.Sprintf("%017x.seg", 1), "0000000000000001.sst"} {
		if _, _, ok := parseName(bad); ok {
			t.Errorf("%q accepted", bad)
		}
	}
}
