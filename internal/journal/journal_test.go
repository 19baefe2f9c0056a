package journal

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestRoundTrip(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	if r := l.Recovered(); r != (Recovery{}) {
		t.Fatalf("empty log: %+v", r)
	}
	checkReplay(t, l, 0, nil)
	var all []entry
	for i, n := range []int{0, 1, 7, 8, 9, 100, 2000, 4000, 0, 50_000, 3, 1500, 3000, 3001, 16} {
		all = append(all, mustAppend(t, l, payload(i, n)))
	}
	mustSync(t, l, l.End())
	if l.Synced() != l.End() || l.End() != all[len(all)-1].end {
		t.Fatalf("synced %d, end %d", l.Synced(), l.End())
	}
	mustClose(t, l, true)

	l = mustOpen(t, fs, testOptions)
	r := l.Recovered()
	if !r.Clean || r.LastBoot != "boot-1" || r.First != 0 || r.TornBytes != 0 || r.End <= all[len(all)-1].end {
		t.Fatalf("recovered %+v", r)
	}
	checkReplay(t, l, 0, all)
	for _, e := range all { // from every record on
		checkReplay(t, l, e.end, all)
	}
	mustClose(t, l, false)
}

func TestPartsAreJoined(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	end, err := l.Append([]byte("one"), nil, []byte("two"), []byte("three"))
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l, true)
	checkReplay(t, mustOpen(t, fs, testOptions), 0, []entry{{end, []byte("onetwothree")}})
}

// Several runs, cleanly and uncleanly ended, with and without records.
func TestRunsFollowEachOther(t *testing.T) {
	fs := vfs.NewMem()
	var all []entry
	wrote, clean := "", false
	for run := range 12 {
		o := testOptions
		o.BootID = strings.Repeat("b", run+1)
		l := mustOpen(t, fs, o)
		checkReplay(t, l, 0, all)
		if got := l.Recovered().LastBoot; got != wrote {
			t.Errorf("run %d: last boot %q, want %q", run, got, wrote)
		}
		if got := l.Recovered().Clean; got != clean {
			t.Errorf("run %d: clean = %v, want %v", run, got, clean)
		}
		if run%3 != 2 {
			for i := range 5 {
				all = append(all, mustAppend(t, l, payload(run*100+i, 300*i)))
			}
			wrote, clean = o.BootID, false
		}
		if run%2 == 0 && !clean { // this writes a record too
			wrote, clean = o.BootID, true
		}
		mustClose(t, l, run%2 == 0)
	}
	checkReplay(t, mustOpen(t, fs, testOptions), 0, all)
}

func TestCleanIsGoneAfterUncleanEnd(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	mustAppend(t, l, []byte("a"))
	mustClose(t, l, true)
	l = mustOpen(t, fs, testOptions)
	if !l.Recovered().Clean {
		t.Fatal("not clean")
	}
	mustClose(t, l, false) // nothing appended: still as it was
	l = mustOpen(t, fs, testOptions)
	if !l.Recovered().Clean {
		t.Fatal("a run without records made it unclean")
	}
	mustAppend(t, l, []byte("b"))
	mustClose(t, l, false)
	l = mustOpen(t, fs, testOptions)
	if l.Recovered().Clean {
		t.Fatal("clean after a crash")
	}
	mustClose(t, l, true) // nothing appended, but now it is clean again
	if l = mustOpen(t, fs, testOptions); !l.Recovered().Clean {
		t.Fatal("not clean after a clean run without records")
	}
}

func TestOneSegmentPerRunAndNoFileLeak(t *testing.T) {
	fs := vfs.NewMem()
	for run := range 20 {
		l := mustOpen(t, fs, testOptions)
		mustAppend(t, l, payload(run, 100))
		mustClose(t, l, run%2 == 0)
		l = mustOpen(t, fs, testOptions)
		if got := l.Recovered().Segments; got != run+1 {
			t.Fatalf("run %d: %d segments", run, got)
		}
		mustClose(t, l, false)
		if got := len(snapshotOf(t, fs)); got > run+1+maxSpares {
			t.Fatalf("run %d: %d files", run, got)
		}
	}
}

func TestTrimRecyclesAndKeepsThePosition(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	var all []entry
	for i := range 400 {
		all = append(all, mustAppend(t, l, payload(i, 500)))
		if i%50 == 49 {
			if err := l.Trim(all[i-10].end); err != nil {
				t.Fatal(err)
			}
			if first := l.First(); first > all[i-10].end || first+3*4096 < all[i-10].end {
				t.Fatalf("trimmed to %d, asked for %d", first, all[i-10].end)
			}
			if n := len(snapshotOf(t, fs)); n > 12 {
				t.Fatalf("%d files", n)
			}
		}
	}
	if err := l.Trim(l.End()); err != nil {
		t.Fatal(err)
	}
	end := l.End()
	mustClose(t, l, false)

	l = mustOpen(t, fs, testOptions)
	r := l.Recovered()
	if r.Segments != 1 || r.End != end || r.First == 0 {
		t.Fatalf("%+v, want one segment that ends at %d", r, end)
	}
	checkReplay(t, l, r.First, all)
	checkReplay(t, l, r.End, nil)
	if _, err := replay(l, 0); !errors.Is(err, ErrTrimmed) {
		t.Fatalf("replay of what is gone: %v", err)
	}
	// A log whose every record is dead still keeps its position.
	if err := l.Trim(l.End()); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l, true)
	if l = mustOpen(t, fs, testOptions); l.Recovered().End < end {
		t.Fatalf("position went back: %+v", l.Recovered())
	}
}

// A recycled segment is full of well-formed records of its former life, at just
// the offsets where the new ones end. None may come back.
func TestRecycledRecordsAreDead(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	var all []entry
	recycled := false
	for i := range 200 {
		e := mustAppend(t, l, payload(i, 104)) // all of one size
		all = append(all, e)
		if err := l.Trim(e.end); err != nil {
			t.Fatal(err)
		}
		if i < 100 {
			continue
		}
		im := snapshotOf(t, fs)
		c := mustOpen(t, im.with(t, "", nil), testOptions)
		if got := c.Recovered().End; got != e.end {
			t.Fatalf("record %d: the log ends at %d, want %d", i, got, e.end)
		}
		checkReplay(t, c, c.Recovered().First, all)
		mustClose(t, c, false)
		name := im.only(t)
		tail := im[name][segmentHeaderLen+int64(e.end-c.Recovered().First):]
		recycled = recycled || len(bytes.Trim(tail, "\x00")) > 0
	}
	if !recycled {
		t.Fatal("no recycled segment came into use: the test shows nothing")
	}
}

func TestAdvance(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	a := mustAppend(t, l, []byte("a"))
	mustClose(t, l, false)

	l = mustOpen(t, fs, testOptions)
	if _, err := replay(l, a.end+1000); !errors.Is(err, ErrBeyondEnd) {
		t.Fatalf("replay from beyond the end: %v", err)
	}
	if err := l.Advance(a.end - 1); err == nil {
		t.Fatal("went back")
	}
	if err := l.Advance(a.end + 1000); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, a.end+1000)
	b := mustAppend(t, l, []byte("b"))
	if b.end <= a.end+1000 {
		t.Fatalf("b ends at %d", b.end)
	}
	if err := l.Advance(b.end + 1000); !errors.Is(err, ErrStarted) {
		t.Fatalf("Advance after Append: %v", err)
	}
	c := mustAppend(t, l, []byte("c"))
	mustSync(t, l, c.end)
	d := mustAppend(t, l, []byte("d"))
	mustClose(t, l, false)

	l = mustOpen(t, fs, testOptions)
	all := []entry{a, b, c, d}
	checkReplay(t, l, 0, all)
	checkReplay(t, l, a.end+1000, all)
	checkReplay(t, l, b.end, all)
}

func TestAdvanceOfAnEmptyLog(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	if err := l.Advance(5000); err != nil {
		t.Fatal(err)
	}
	e := mustAppend(t, l, []byte("x"))
	mustClose(t, l, true)
	l = mustOpen(t, fs, testOptions)
	checkReplay(t, l, 0, []entry{e})
	checkReplay(t, l, 5000, []entry{e})
}

func TestMisuse(t *testing.T) {
	fs := vfs.NewMem()
	if _, err := Open(fs, testDir, Options{BootID: strings.Repeat("x", 64)}); err == nil {
		t.Fatal("boot id of 64 bytes accepted")
	}
	l := mustOpen(t, fs, testOptions)
	e := mustAppend(t, l, []byte("x"))
	if err := l.Sync(e.end + 1); !errors.Is(err, ErrBeyondEnd) {
		t.Fatalf("sync beyond the end: %v", err)
	}
	if _, err := replay(l, 0); !errors.Is(err, ErrStarted) {
		t.Fatalf("replay of a log in use: %v", err)
	}
	stop := errors.New("stop")
	mustClose(t, l, true)
	for what, err := range map[string]error{
		"append": func() error { _, err := l.Append(nil); return err }(),
		"sync":   l.Sync(e.end), "trim": l.Trim(e.end), "close": l.Close(true),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	l = mustOpen(t, fs, testOptions)
	if err := l.Replay(0, func(Pos, []byte) error { return stop }); err != stop {
		t.Fatalf("the callback's error came back as %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(), testOptions)
	part := make([]byte, MaxRecord/8) // never touched: the check comes first
	var parts [9][]byte
	for i := range parts {
		parts[i] = part
	}
	if _, err := l.Append(parts[:]...); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	mustAppend(t, l, []byte("goes on"))
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	fs := image{"README": []byte("hello"), "1.seg": {1}, "000000000000000G.seg": {2}}.with(t, "", nil)
	l := mustOpen(t, fs, testOptions)
	mustAppend(t, l, []byte("x"))
	mustClose(t, l, true)
	im := snapshotOf(t, fs)
	if string(im["README"]) != "hello" || len(im["1.seg"]) != 1 || len(im["000000000000000G.seg"]) != 1 {
		t.Fatal("foreign files were touched")
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(), Options{SegmentSize: 1 << 20})
	data := payload(1, 120)
	mustAppend(t, l, data)
	if n := testing.AllocsPerRun(500, func() {
		if _, err := l.Append(data); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Fatalf("%v allocations per record", n)
	}
}
