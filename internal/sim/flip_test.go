package sim

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/fs/stage"
	"stepfs/internal/check"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/simdisk"
	"stepfs/internal/state"
)

// TestFlippedBits flips bits of a store that is at rest: in the header and the
// payload of each kind of journal record, in each section of a pack (by the type
// and the encoding of the chunk) and in the index until each kind of value was
// hit. What is read then is right or an error, and a check finds it; of what is
// in packs it names path and snapshot. It fails when a kind was never hit.
// STEPFS_FLIPS says how many more bits are flipped anywhere.
func TestFlippedBits(t *testing.T) {
	f := newFlips(t)
	begin := time.Now()
	for _, part := range []func(){f.journal, f.packs, f.index} {
		part()
		t.Logf("%d flips after %v", f.total, time.Since(begin).Round(time.Millisecond))
	}
	packs, index := f.packPlaces(), f.indexPlaces()
	for range envInt("STEPFS_FLIPS", 0) / 3 {
		f.flipRecord(f.records[f.rng.IntN(len(f.records))])
		f.flipPack(packs[f.rng.IntN(len(packs))])
		f.flipIndex(index[f.rng.IntN(len(index))])
	}
	for _, class := range slices.Sorted(maps.Keys(f.hits)) {
		t.Logf("%-32s %5d flips", class, f.hits[class])
	}
	t.Logf("%d flips: %d refused at the start, %d found by a check (%d with path and snapshot); %d files read right, %d refused", f.total, f.refused, f.found, f.named, f.right, f.failed)
	if f.refused == 0 || f.found == 0 || f.named == 0 || f.right == 0 || f.failed == 0 {
		t.Error("this proved nothing")
	}
}

// flips is two stores of which bits are flipped, and what came of it.
type flips struct {
	t   *testing.T
	rng *rand.Rand

	killed  *simdisk.Disk // its journal holds everything
	records []place       // of the journal, but for the newest

	stored *simdisk.Disk              // its index holds everything durably
	want   map[uint64]map[string]seen // what each snapshot shows; 0: the live tree
	values map[string]string          // of the index
	count  map[byte]int               // of its keys, by their first byte

	hits                                        map[string]int
	total, refused, found, named, right, failed int
}

// place is a range of a file, all of one class.
type place struct {
	class    string
	file     string
	from, to int64
}

func newFlips(t *testing.T) *flips {
	f := &flips{t: t, rng: rand.New(rand.NewPCG(7, 7)), hits: map[string]int{}, want: map[uint64]map[string]seen{}, values: map[string]string{}, count: map[byte]int{}}
	f.killed, f.stored = everyKind(t)
	s, err := open(f.stored.Kill(), storeConf{boot: "boot", passive: true, roomy: true, segment: flipSegment})
	f.ok(err)
	defer func() { f.ok(s.close(false)) }()
	if found := f.findings(s); len(found) > 0 {
		t.Fatalf("before anything was flipped, a check finds %+v", found)
	}
	f.want[0], err = s.live()
	f.ok(err)
	infos, err := s.m.Barriers(0, 1<<20)
	f.ok(err)
	for _, i := range infos {
		f.want[i.Seq], err = s.view(i.Seq)
		f.ok(err)
	}
	db, err := index(f.stored.Kill())
	f.ok(err)
	for _, kind := range []byte(allPrefixes) {
		f.ok(eachKey(db, kind, func(key, value string) {
			f.values[key] = value
			f.count[kind]++
		}))
	}
	f.ok(db.Close())
	return f
}

// index opens the index alone, which changes nothing.
func index(disk *simdisk.Disk) (*pebble.DB, error) {
	return pebble.Open("s/index", &pebble.Options{FS: disk.FS(), ReadOnly: true, Logger: quiet{},
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}})
}

// metadata opens index and journal alone, which changes next to nothing.
func metadata(disk *simdisk.Disk) (*state.Engine, error) {
	return state.Open(state.Config{Dir: "s", FS: disk.FS(), BootID: "boot", SegmentSize: flipSegment})
}

func eachKey(db *pebble.DB, kind byte, fn func(key, value string)) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		fn(string(it.Key()), string(it.Value()))
	}
	return errors.Join(it.Error(), it.Close())
}

func (f *flips) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// findings is what a check with the data finds; that it could not be done is a
// finding, too.
func (f *flips) findings(s *store) []check.Finding {
	found, err := s.findings(true)
	if err != nil {
		found = append(found, check.Finding{Kind: check.Damage, What: "check", Detail: err.Error()})
	}
	return found
}

// flip gives a copy of a disk with another bit somewhere in a place.
func (f *flips) flip(disk *simdisk.Disk, at place) (*simdisk.Disk, string) {
	f.total++
	disk = disk.Kill()
	off, bit := at.from+f.rng.Int64N(at.to-at.from), f.rng.IntN(8)
	file, err := disk.FS().OpenReadWrite(at.file, vfs.WriteCategoryUnspecified)
	f.ok(err)
	b := make([]byte, 1)
	_, err = file.ReadAt(b, off)
	f.ok(err)
	b[0] ^= 1 << bit
	_, err = file.WriteAt(b, off)
	f.ok(err)
	f.ok(file.Close())
	return disk, fmt.Sprintf("%s, %s: bit %d of byte %d (of [%d, %d))", at.class, at.file, bit, off, at.from, at.to)
}

// journal flips each kind of record.
func (f *flips) journal() {
	for _, file := range filesIn(f.t, f.killed, "s/journal", ".seg") {
		f.records = append(f.records, f.recordsOf(file)...)
	}
	f.records = f.durable(f.records)
	for _, class := range classesOf(f.records) {
		of := slices.DeleteFunc(slices.Clone(f.records), func(p place) bool { return p.class != class })
		for range 2 {
			f.flipRecord(of[f.rng.IntN(len(of))])
		}
	}
	for k := schema.KindMkfs; k <= schema.KindPrune; k++ {
		for _, part := range []string{"header", "payload"} {
			if class := fmt.Sprintf("journal %s %s", k, part); f.hits[class] == 0 && k != schema.KindSeal { // reserved
				f.t.Errorf("no bit was flipped in: %s", class)
			}
		}
	}
}

// flipRecord: a journal that is damaged where it is known durable is refused, and
// file and offset are named.
func (f *flips) flipRecord(at place) {
	disk, where := f.flip(f.killed, at)
	f.hits[at.class]++
	eng, err := metadata(disk)
	if err == nil {
		err = eng.Close(false)
		f.t.Errorf("%s: the store opens, %v", where, err)
		return
	}
	f.refused++
	var corrupt *journal.CorruptError
	named := errors.As(err, &corrupt) && corrupt.File == at.file && corrupt.Offset <= at.to
	if strings.HasSuffix(at.class, "segment header") { // it looks like a spare, and its records are missing behind the one before
		named = errors.Is(err, schema.ErrCorrupt) || errors.Is(err, journal.ErrCorrupt)
	}
	if !named {
		f.t.Errorf("%s: %v", where, err)
	}
}

// recordsOf finds the records of a segment, as docs/FORMAT.md has them.
func (f *flips) recordsOf(file string) (all []place) {
	b := bytesOf(f.t, f.killed, file)
	if string(b[:8]) != "stepfsJL" {
		return nil
	}
	all = append(all, place{"journal segment header", file, 0, 128})
	for at := int64(128); at+24 < int64(len(b)) && le.Uint32(b[at+4:]) == 1; {
		n := int64(le.Uint32(b[at:]))
		kind := schema.Kind(b[at+24])
		all = append(all, place{fmt.Sprintf("journal %s header", kind), file, at, at + 24},
			place{fmt.Sprintf("journal %s payload", kind), file, at + 24, at + 24 + n})
		at += (24 + n + 7) &^ 7
	}
	return all
}

// durable leaves out the newest records: that they were durable no other says, so
// without them the journal looks as a crash leaves it.
func (f *flips) durable(all []place) []place {
	last := all[len(all)-1]
	b := bytesOf(f.t, f.killed, last.file)
	known := le.Uint64(b[last.from-24+8:]) // what the newest record says of those before it
	first := int64(le.Uint64(b[40:]))
	end := int64(known) - first + 128
	return slices.DeleteFunc(all, func(p place) bool { return p.file == last.file && p.to > end })
}

// packs flips each section of packs.
func (f *flips) packs() {
	places := f.packPlaces()
	for _, class := range classesOf(places) {
		of := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return p.class != class })
		for range 2 {
			f.flipPack(of[f.rng.IntN(len(of))])
		}
	}
	for _, class := range []string{"header", "footer header", "footer sum", "trailer"} {
		f.hit("pack " + class)
	}
	for _, section := range []string{"part header", "payload", "footer entry"} {
		for _, chunk := range []string{"data raw", "data zstd", "data planes", "data delta", "object raw", "object zstd"} {
			f.hit("pack " + section + " " + chunk)
		}
	}
}

func (f *flips) hit(class string) {
	f.t.Helper()
	if f.hits[class] == 0 {
		f.t.Errorf("no bit was flipped in: %s", class)
	}
}

// packPlaces finds the sections of packs, as docs/FORMAT.md has them.
func (f *flips) packPlaces() (all []place) {
	for _, file := range filesIn(f.t, f.stored, packDir, ".pack") {
		b := bytesOf(f.t, f.stored, file)
		add := func(class string, from, n int64) { all = append(all, place{"pack " + class, file, from, from + n}) }
		end := int64(len(b))
		foot := int64(le.Uint64(b[end-24:]))
		add("header", 0, 32)
		add("footer header", foot, 32)
		at := foot + 32
		for range le.Uint32(b[foot+24:]) {
			chunk := []string{"", "data ", "object "}[b[at+32]] + []string{"", "raw", "zstd", "planes", "delta"}[b[at+33]]
			ext := int64(le.Uint16(b[at+34:]))
			part, stored := int64(le.Uint64(b[at+36:])), int64(le.Uint32(b[at+44:]))
			add("part header "+chunk, part, 64+ext)
			add("payload "+chunk, part+64+ext, stored)
			add("footer entry "+chunk, at, 64+ext)
			at += 64 + ext
		}
		add("footer sum", at, 4)
		add("trailer", end-24, 24)
	}
	return all
}

// index flips bits of the index until each kind of value was hit: it can't be read
// any more.
func (f *flips) index() {
	places := f.indexPlaces()
	left := func() (kinds []string) {
		for _, kind := range allPrefixes {
			if f.hits["index "+string(kind)] == 0 {
				kinds = append(kinds, string(kind))
			}
		}
		return kinds
	}
	for tries := 0; tries < 500 && len(left()) > 0; tries++ {
		f.flipIndex(places[f.rng.IntN(len(places))])
	}
	for _, kind := range left() {
		f.t.Errorf("no value was hit under keys that begin with %q, of %d", kind, f.count[kind[0]])
	}
}

// allPrefixes are the kinds of keys.
const allPrefixes = "MIDXLFGBCOUWHZRVYSNTtQAKPcdbomEkJ"

func (f *flips) indexPlaces() (all []place) {
	for _, file := range filesIn(f.t, f.stored, "s/index", ".sst") {
		for from, size := int64(0), int64(len(bytesOf(f.t, f.stored, file))); from < size; from += 512 {
			all = append(all, place{"index table", file, from, min(from+512, size)})
		}
	}
	return all
}

// flipPack flips a bit of a pack, has the store checked, and reads what two
// snapshots show.
func (f *flips) flipPack(at place) {
	disk, where := f.flip(f.stored, at)
	f.hits[at.class]++
	s, err := open(disk, storeConf{boot: "boot", passive: true, roomy: true, segment: flipSegment})
	if err != nil {
		f.refused++
		return
	}
	defer func() { _ = s.close(false) }() // an index that is damaged may say so once more
	found := f.findings(s)
	if f.found++; len(found) == 0 {
		f.t.Errorf("%s: a check finds nothing", where)
	}
	f.isNamed(at, found, where)
	seqs := slices.Sorted(maps.Keys(f.want))
	for _, n := range f.rng.Perm(len(seqs))[:2] {
		f.readAll(s, seqs[n], f.want[seqs[n]], where)
	}
}

// flipIndex flips a bit of the index and reads all values; now and then it has the
// store checked, too, and reads files.
func (f *flips) flipIndex(at place) {
	disk, where := f.flip(f.stored, at)
	f.hits[at.class]++
	lost, err := f.compare(disk.Kill(), where)
	if err != nil {
		f.refused++
		return
	}
	if !lost || f.hits[at.class]%4 != 1 {
		return
	}
	s, err := open(disk, storeConf{boot: "boot", passive: true, roomy: true, segment: flipSegment})
	if err != nil {
		f.refused++
		return
	}
	defer func() { _ = s.close(false) }() // an index that is damaged may say so once more
	if len(f.findings(s)) == 0 {
		f.t.Errorf("%s: a check finds nothing", where)
	}
	f.found++
	seqs := slices.Sorted(maps.Keys(f.want))
	seq := seqs[f.rng.IntN(len(seqs))]
	f.readAll(s, seq, f.want[seq], where)
}

// compare holds what is in the index against what should be, as far as it can be
// read, and says whether some of it can't be.
func (f *flips) compare(disk *simdisk.Disk, where string) (lost bool, err error) {
	db, err := index(disk)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }()
	for _, kind := range []byte(allPrefixes) {
		n := 0
		err := eachKey(db, kind, func(key, value string) {
			if n++; value != f.values[key] {
				f.t.Errorf("%s: under %q is %q and should be %q", where, key, value, f.values[key])
			}
		})
		if err != nil {
			f.hits["index "+string(kind)]++
			lost = true
		} else if n != f.count[kind] {
			f.t.Errorf("%s: %d keys begin with %q, and should be %d", where, n, kind, f.count[kind])
		}
	}
	return lost, nil
}

// isNamed: of a payload, the check names who needs it.
func (f *flips) isNamed(at place, found []check.Finding, where string) {
	if !strings.HasPrefix(at.class, "pack payload ") {
		return
	}
	for _, x := range found {
		for _, n := range x.List {
			for _, shows := range n.Snapshots {
				for seq, want := range f.want {
					_, there := want[n.Path]
					if strings.HasSuffix(shows, fmt.Sprintf("@%d", seq)) && (there || strings.Contains(at.class, "object")) {
						f.named++
						return
					}
				}
			}
		}
	}
	f.t.Errorf("%s: nobody is named who needs it: %+v", where, found)
}

// readAll reads each file by itself: it is right, or an error says that it is not.
func (f *flips) readAll(s *store, seq uint64, want map[string]seen, where string) {
	v := s.tree.At(seq)
	find := v.Find
	read := func(ino uint64, b []byte) (int, error) { return v.Read(ino, b, 0) }
	if seq == 0 {
		find = s.tree.Find
		read = func(ino uint64, b []byte) (int, error) { return s.tree.Read(ino, 0, b, 0) }
	}
	failed := f.failed
	for p, w := range want {
		if !w.isFile || f.failed >= failed+5 {
			continue
		}
		a, err := find(p)
		b := make([]byte, len(w.data)+1)
		n := 0
		if err == nil {
			n, err = read(a.Ino, b)
		}
		switch {
		case errors.Is(err, stage.ErrNotExist):
			f.t.Errorf("%s: snapshot %d: %s is gone", where, seq, p)
		case err != nil && !errors.Is(err, io.EOF):
			f.failed++
		case string(b[:n]) != w.data:
			f.t.Errorf("%s: snapshot %d: %s: %s read, %s written", where, seq, p, brief(string(b[:n])), brief(w.data))
		default:
			f.right++
		}
	}
}

func classesOf(places []place) []string {
	seen := map[string]bool{}
	for _, p := range places {
		seen[p.class] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// filesIn gives the paths of files of a directory, in order.
func filesIn(t *testing.T, disk *simdisk.Disk, dir, ext string) (files []string) {
	names, err := disk.FS().List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ext) {
			files = append(files, path.Join(dir, name))
		}
	}
	if len(files) == 0 {
		t.Fatalf("no file %s in %s: nothing to flip", ext, dir)
	}
	slices.Sort(files)
	return files
}

// bytesOf is what is in a file.
func bytesOf(t *testing.T, disk *simdisk.Disk, file string) []byte {
	f, err := disk.FS().Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
