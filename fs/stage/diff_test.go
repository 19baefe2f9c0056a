package stage

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// shownEntry is all that a view shows of an entry.
type shownEntry struct {
	ino    uint64
	attr   Attr
	xattrs string
	link   string
	data   []byte
}

// listing reads all of a view's directory: path below it -> entry.
func (w *world) listing(seq, dir uint64) map[string]shownEntry {
	w.t.Helper()
	v, all := w.tree.At(seq), map[string]shownEntry{}
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var walk func(at string, ino uint64)
	walk = func(at string, ino uint64) {
		a, err := v.GetAttr(ino)
		must(err)
		e := shownEntry{ino: ino, attr: a}
		names, err := v.ListXattr(ino)
		must(err)
		for _, name := range names {
			val, err := v.GetXattr(ino, name)
			must(err)
			e.xattrs += name + "=" + string(val) + ";"
		}
		switch a.Mode & ModeType {
		case ModeLink:
			e.link, err = v.Readlink(ino)
			must(err)
		case ModeReg:
			e.data = make([]byte, a.Size)
			_, err = v.Read(ino, e.data, 0)
			must(err)
		case ModeDir:
			es, err := v.ReadDir(ino, "", 1000)
			must(err)
			for _, d := range es {
				walk(path.Join(at, d.Name), d.Ino)
			}
		}
		all[at] = e
	}
	walk("", dir)
	return all
}

// differs compares two entries as Change.Attrs does, but for AttrName; of
// content it says for certain only that it differs.
func (e shownEntry) differs(o shownEntry, names bool) (a Attrs) {
	set := func(on bool, bit Attrs) {
		if on {
			a |= bit
		}
	}
	other := (e.attr.Mode^o.attr.Mode)&ModeType != 0
	set(other, AttrType)
	set(!other && (!bytes.Equal(e.data, o.data) || e.link != o.link), AttrContent)
	set((e.attr.Mode^o.attr.Mode)&modePerm != 0, AttrMode)
	set(e.attr.UID != o.attr.UID || e.attr.GID != o.attr.GID, AttrOwner)
	set(e.attr.Mtime != o.attr.Mtime && !names, AttrMtime)
	set(e.xattrs != o.xattrs, AttrXattr)
	return a
}

// entriesOf gives name and inode of what lies in a directory of a listing.
func entriesOf(all map[string]shownEntry, dir string) map[string]uint64 {
	out := map[string]uint64{}
	for p, e := range all {
		if d, name := path.Split(p); p != "" && strings.TrimSuffix(d, "/") == dir {
			out[name] = e.ino
		}
	}
	return out
}

// checkDiff compares a diff with full walks of both trees: applied to the first
// it gives the second, and it names nothing that is the same.
func (w *world) checkDiff(old, oldDir, new, newDir uint64) *Diff {
	w.t.Helper()
	d, err := w.tree.Diff(w.t.Context(), old, oldDir, new, newDir)
	if err != nil {
		w.t.Fatal(err)
	}
	a, b := w.listing(old, oldDir), w.listing(new, newDir)
	fail := func(format string, args ...any) {
		w.t.Helper()
		w.t.Fatalf("diff %d %d: %s\n%+v", old, new, fmt.Sprintf(format, args...), d.Changes)
	}
	from := map[string]string{} // path in b -> path in a, of what both have
	moved, gone, come, listed := [][2]string{}, map[string]bool{}, map[string]bool{}, map[string]Change{}
	for _, c := range d.Changes {
		switch {
		case c.NewMode == 0:
			if _, ok := a[c.Old]; !ok || gone[c.Old] {
				fail("removed: %q", c.Old)
			}
			gone[c.Old] = true
		case c.OldMode == 0:
			if _, ok := b[c.New]; !ok || come[c.New] {
				fail("added: %q", c.New)
			}
			come[c.New] = true
		default:
			if _, twice := listed[c.New]; twice {
				fail("twice: %q", c.New)
			}
			listed[c.New] = c
			if c.Attrs&AttrName != 0 {
				moved = append(moved, [2]string{c.Old, c.New})
			}
		}
	}
	slices.SortFunc(moved, func(x, y [2]string) int { return len(y[1]) - len(x[1]) })
	for p := range b {
		if come[p] {
			continue
		}
		was := p
		if k := slices.IndexFunc(moved, func(m [2]string) bool { return p == m[1] || strings.HasPrefix(p, m[1]+"/") }); k >= 0 {
			was = moved[k][0] + strings.TrimPrefix(p, moved[k][1]) // by the nearest that was renamed
		}
		from[p] = was
	}
	back := map[string]bool{}
	for p, was := range from {
		x, ok := a[was]
		if !ok || gone[was] || back[was] {
			fail("%q was %q: there %v, removed %v, twice %v", p, was, ok, gone[was], back[was])
		}
		back[was] = true
		y, c := b[p], listed[p]
		other := x.attr.Mode&ModeType == ModeDir && y.attr.Mode&ModeType == ModeDir && !maps.Equal(entriesOf(a, was), entriesOf(b, p))
		want, got := x.differs(y, other), c.Attrs&^AttrName
		if got&(AttrContent|AttrType) != 0 {
			want &^= AttrMtime
		}
		if want|AttrContent != got|AttrContent || want&AttrContent != 0 && got&AttrContent == 0 {
			fail("%q, was %q: %b, want %b", p, was, got, want)
		}
		if c.Attrs&AttrName != 0 && x.ino != y.ino {
			fail("%q -> %q is not a rename", was, p)
		}
		if c.Attrs != 0 && c.Old != was {
			fail("%q was %q, not %q", p, was, c.Old)
		}
		if n := unequal(x.data, y.data); c.Bytes < n {
			fail("%q: %d bytes changed, said %d", p, n, c.Bytes)
		}
	}
	for p := range a {
		if !back[p] && !gone[p] {
			fail("%q is gone, and not listed", p)
		}
	}
	return d
}

// unequal gives how many bytes of data two contents differ in; holes and what
// lies behind the end are zeros.
func unequal(a, b []byte) (n int64) {
	for k := range max(len(a), len(b)) {
		var x, y byte
		if k < len(a) {
			x = a[k]
		}
		if k < len(b) {
			y = b[k]
		}
		if x != y {
			n++
		}
	}
	return n
}

// TestDiffModel compares Diff with full walks after random work: renames of
// files and whole trees, hard links, overwrites, rollbacks, stored and evicted
// content, snapshots pruned between and around the two.
func TestDiffModel(t *testing.T) {
	rounds := 10
	if s := os.Getenv("STEPFS_DIFF_ROUNDS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	for seed := range rounds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) { diffRound(t, rand.New(rand.NewPCG(uint64(seed), 7))) })
	}
}

func diffRound(t *testing.T, rng *rand.Rand) {
	w := newWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	r := &diffRun{world: w, rng: rng}
	scope, err := w.tree.Mknod(RootIno, "run", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	r.exclude("f")
	var snaps []uint64
	for range 12 {
		for range 1 + rng.IntN(12) {
			r.step()
		}
		snaps = append(snaps, w.snap())
		r.checkExcluded(snaps[len(snaps)-1])
		switch rng.IntN(6) {
		case 0:
			w.store(chunks)
		case 1:
			w.store(chunks)
			w.evictAll()
		case 2: // of those that are not the last, some go
			var gone []uint64
			snaps = slices.DeleteFunc(snaps, func(s uint64) bool {
				if s == snaps[len(snaps)-1] || rng.IntN(3) > 0 {
					return false
				}
				gone = append(gone, s)
				return true
			})
			if err := expire(w.eng, gone...); err != nil {
				t.Fatal(err)
			}
			if err := prune(t, w.tree); err != nil {
				t.Fatal(err)
			}
		case 4:
			r.exclude([...]string{"f", "e", "/run/a", "d/"}[rng.IntN(4)])
		case 3:
			if _, err := w.tree.Rollback(scope.Ino, snaps[rng.IntN(len(snaps))], scope.Ino, ""); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			x, y := snaps[rng.IntN(len(snaps))], snaps[rng.IntN(len(snaps))]
			w.checkDiff(x, RootIno, y, RootIno)
			w.checkDiff(x, scope.Ino, y, scope.Ino)
			w.checkDiff(x, RootIno, y, scope.Ino) // unrelated trees
		}
	}
}

type diffRun struct {
	*world
	rng *rand.Rand
}

// dirs gives all live directories, files all other live names.
func (r *diffRun) names() (dirs []uint64, files [][2]any) {
	var walk func(dir uint64)
	walk = func(dir uint64) {
		dirs = append(dirs, dir)
		es, err := r.tree.ReadDir(dir, "", 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range es {
			files = append(files, [2]any{dir, e})
			if e.Type == ModeDir {
				walk(e.Ino)
			}
		}
	}
	walk(RootIno)
	return dirs, files
}

// step does one random thing; many fail, which is all right.
func (r *diffRun) step() {
	dirs, files := r.names()
	dir := dirs[r.rng.IntN(len(dirs))]
	name := string(rune('a' + r.rng.IntN(6)))
	if r.rng.IntN(4) == 0 || len(files) == 0 {
		_, _ = r.tree.Mknod(dir, name, ModeDir|0o755, 0, Cred{})
		return
	}
	f := files[r.rng.IntN(len(files))]
	parent, e := f[0].(uint64), f[1].(Dirent)
	if e.Name == "run" {
		return
	}
	switch r.rng.IntN(13) {
	case 0, 1, 2:
		if a, fh, err := r.tree.Create(dir, name, 0o644, unix.O_RDWR, Cred{}); err == nil {
			r.fill(a.Ino, fh)
		}
	case 3, 4:
		if e.Type == ModeReg {
			if fh, err := r.tree.Open(e.Ino, unix.O_RDWR, Cred{}); err == nil {
				r.fill(e.Ino, fh)
			}
		}
	case 5, 6:
		over, _ := r.tree.Lookup(dir, name)
		if !r.within(dir, e.Ino) && !r.within(parent, over.Ino) { // the kernel refuses that
			_ = r.tree.Rename(parent, e.Name, dir, name, 0)
		}
	case 7:
		_, _ = r.tree.Link(e.Ino, dir, name)
	case 8:
		if e.Type == ModeDir {
			_ = r.tree.empty(e.Ino)
			_ = r.tree.Rmdir(parent, e.Name)
		} else {
			_ = r.tree.Unlink(parent, e.Name)
		}
	case 9:
		_, _ = r.tree.Symlink(dir, name, strconv.Itoa(r.rng.IntN(3)), Cred{})
	case 10:
		mode, uid, mtime := uint32(0o600+r.rng.IntN(4)), uint32(r.rng.IntN(2)), int64(r.rng.IntN(3))
		sets := []SetAttr{{Mode: &mode}, {UID: &uid}, {Mtime: &mtime}}
		_, _ = r.tree.SetAttr(e.Ino, sets[r.rng.IntN(3)])
	case 12:
		if a, fh, err := r.tree.Create(dir, name, 0o644, unix.O_RDWR, Cred{}); err == nil {
			_, _ = r.tree.CopyRange(Copy{Src: e.Ino, Dst: a.Ino, Fh: fh, Len: 1 + r.rng.Int64N(1<<20)})
			r.shut(a.Ino, fh)
		}
	case 11:
		_ = r.tree.SetXattr(e.Ino, "user."+name, []byte{byte('0' + r.rng.IntN(2))}, 0)
	}
}

// within says whether a directory is another, or below it.
func (r *diffRun) within(dir, of uint64) bool {
	for ; dir != RootIno; dir, _ = r.tree.Parent(dir) {
		if dir == of {
			return true
		}
	}
	return false
}

// fill writes something somewhere, and mostly closes the file.
func (r *diffRun) fill(ino, fh uint64) {
	data := bytes.Repeat([]byte{byte('a' + r.rng.IntN(26))}, 1+r.rng.IntN(9000))
	off := int64(r.rng.IntN(3)) * (stripeSize - 4000)
	if _, err := r.tree.Write(ino, fh, data, off); err != nil {
		r.t.Fatal(err)
	}
	if r.rng.IntN(8) > 0 {
		r.shut(ino, fh)
	}
}

// TestDiffCostsTheDifference: in a tree of 20,000 files, a diff looks at what
// differs, however many snapshots lie between the two.
func TestDiffCostsTheDifference(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	var last Attr
	for k := range 20 {
		dir, err := w.tree.Mknod(RootIno, fmt.Sprintf("d%02d", k), ModeDir|0o755, 0, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 1000 {
			if last, err = w.tree.Mknod(dir.Ino, fmt.Sprintf("f%03d", n), ModeReg|0o644, 0, Cred{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := w.snap()
	for k := range 10 {
		fh, err := w.tree.Open(last.Ino, unix.O_RDWR, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		w.mustWrite(last.Ino, fh, byte(k), 3000, 0)
		w.shut(last.Ino, fh)
		w.snap(last.Ino)
	}
	d, err := w.tree.Diff(t.Context(), first, RootIno, w.tree.db.Epoch()-1, RootIno)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Changes) != 1 || d.Changes[0].New != "d19/f999" || d.Bytes != 3000 {
		t.Fatalf("%+v", d)
	}
	if d.Looked > 50 {
		t.Errorf("looked at %d names and deaths", d.Looked)
	}
}

// TestDiffSameChunks: content that was written anew, and stored as the same
// chunks, did not change.
func TestDiffSameChunks(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'x', 200000, 0)
	w.shut(ino, fh)
	a := w.snap(ino)
	fh, err := w.tree.Open(ino, unix.O_RDWR|unix.O_TRUNC, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	w.mustWrite(ino, fh, 'x', 200000, 0)
	w.shut(ino, fh)
	b := w.snap(ino)
	if d := w.checkDiff(a, RootIno, b, RootIno); d.Bytes != 200000 {
		t.Fatalf("staged: %+v", d)
	}
	w.store(chunks)
	d := w.checkDiff(a, RootIno, b, RootIno)
	if d.Bytes != 0 || len(d.Changes) != 1 || d.Changes[0].Attrs != AttrMtime {
		t.Fatalf("stored: %+v", d)
	}
}
