package faults

import (
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// pristine is a small store at rest, and what has to come out of it.
type pristine struct {
	dir   string
	names []string // of its snapshots
	want  map[string]harness.Tree
	live  harness.Tree
}

// place is a range of a file of the store, all of one kind.
type place struct {
	class    string
	file     string // below the store
	from, to int64
}

// unchecked are the kinds of places of which a check does not have to say
// anything: no byte of a snapshot or of the tree depends on them, or the next
// start puts them right.
var unchecked = map[string]bool{
	"journal unused":  true, // what lies behind the last record
	"journal end":     true, // the last record: it looks torn, as a crash leaves it, and none behind says that it was synced
	"journal applied": true, // records that the index holds durably
	"index manifest":  true, // a damaged end is a torn one: the journal has what it named
	"index options":   true, // read by Pebble's tools
	"index log":       true, // Pebble's own, which is not used
}

// TestFlips: one bit of a store is another. What comes out of it afterwards is
// right or is refused, and a check finds it.
func TestFlips(t *testing.T) {
	disk := onTmpfs(t)
	rnd := seeded(t)
	n := number(t, "STEPFS_FLIPS", 200)
	stored := makeStore(t, rnd, disk+"/stored", true, false)
	killed := makeStore(t, rnd, disk+"/killed", true, true)
	hot := makeStore(t, rnd, disk+"/hot", false, false)
	places := map[*pristine][]place{
		stored: slices.Concat(packPlaces(t, stored), indexPlaces(t, stored), configPlaces(t, stored), journalPlaces(t, stored, true)),
		killed: journalPlaces(t, killed, false),
		hot:    stagingPlaces(t, hot),
	}
	f := &flips{t: t, rnd: rnd, disk: disk, counts: map[string]*flipCount{}}
	// Every kind of place, as often as the others; then anywhere.
	for done := 0; done < n/2; {
		for _, p := range []*pristine{stored, killed, hot} {
			for _, class := range classes(places[p]) {
				of := slices.DeleteFunc(slices.Clone(places[p]), func(q place) bool { return q.class != class })
				f.flip(p, of[rnd.Intn(len(of))])
				done++
			}
		}
	}
	for range n - n/2 {
		f.flip(stored, anywhere(rnd, places[stored]))
	}
	f.report()
}

// flips is what was done and what came of it.
type flips struct {
	t      *testing.T
	rnd    *rand.Rand
	disk   string
	counts map[string]*flipCount
	mounts int
}

type flipCount struct{ flips, found, named, refused, right int }

// flip changes one bit in a copy of a store, has it checked, and reads it.
func (f *flips) flip(p *pristine, at place) {
	t := f.t
	t.Helper()
	store := f.disk + "/copy"
	must(t, os.RemoveAll(store))
	must(t, copyStore(p.dir, store))
	off, bit := at.from+f.rnd.Int63n(at.to-at.from), f.rnd.Intn(8)
	must(t, flipBit(filepath.Join(store, at.file), off, bit))
	count := f.counts[at.class]
	if count == nil {
		count = &flipCount{}
		f.counts[at.class] = count
	}
	count.flips++
	where := fmt.Sprintf("%s, %s: bit %d of byte %d (of [%d, %d))", at.class, at.file, bit, off, at.from, at.to)

	findings, _, err := checked(store)
	if err != nil {
		t.Errorf("%s: %v", where, err)
	}
	if len(findings) > 0 {
		count.found++
		f.names(p, at, count, findings, where)
	} else if !unchecked[at.class] {
		t.Errorf("%s: a check finds nothing", where)
	}
	if at.class == "hot copy" {
		return
	}
	// The check may have mended what it opened.
	must(t, os.RemoveAll(store))
	must(t, copyStore(p.dir, store))
	must(t, flipBit(filepath.Join(store, at.file), off, bit))
	var right, refused bool
	if f.rnd.Intn(8) == 0 {
		right, refused = f.mount(store, p, where)
	} else {
		right, refused = f.restore(store, p, where)
	}
	if right {
		count.right++
	}
	if refused {
		count.refused++
	}
}

// names wants a check to say which paths of which snapshots need a chunk whose
// bytes are wrong.
func (f *flips) names(p *pristine, at place, count *flipCount, findings []string, where string) {
	f.t.Helper()
	for _, text := range findings {
		_, needs, ok := strings.Cut(text, "; needed by ")
		if !ok {
			continue
		}
		for _, name := range p.names {
			for path := range p.want[name] {
				if strings.Contains(needs, name+"@") && strings.Contains(needs, path+" in ") {
					count.named++
					return
				}
			}
		}
	}
	if at.class == "pack payload" && !strings.Contains(strings.Join(findings, ""), "(its tree in packs) in [") {
		f.t.Errorf("%s: nobody is named who needs it: %q", where, findings)
	}
}

// restore has a snapshot restored: right, or refused.
func (f *flips) restore(store string, p *pristine, where string) (right, refused bool) {
	f.t.Helper()
	name, to := p.names[f.rnd.Intn(len(p.names))], f.disk+"/restored"
	defer os.RemoveAll(to)
	res, err := root.Stepfs("restore", store, name, to)
	must(f.t, err)
	if panicked(res.Both()) {
		f.t.Errorf("%s: panic: %s", where, res.Both())
	}
	got, err := harness.ReadTree(to)
	if err != nil && !os.IsNotExist(err) {
		f.t.Errorf("%s: %v", where, err)
	}
	if res.Code == 0 {
		if diff := p.want[name].Diff(got); diff != "" {
			f.t.Errorf("%s: restore ended with 0, but: %s", where, diff)
		}
		return true, false
	}
	if strings.TrimSpace(res.Stderr) == "" {
		f.t.Errorf("%s: exit code %d, and no message", where, res.Code)
	}
	for path, g := range got {
		if w, ok := p.want[name][path]; ok && g != w && strings.HasPrefix(g, "file") && !strings.Contains(res.Both(), path) {
			f.t.Errorf("%s: %s is wrong, and restore says nothing of it: %s", where, path, res.Both())
		}
	}
	return false, true
}

// mount reads everything through a mount: right, or refused.
func (f *flips) mount(store string, p *pristine, where string) (right, refused bool) {
	t := f.t
	t.Helper()
	f.mounts++
	d, err := root.NewDaemon("--hot-limit", "1")
	must(t, err)
	d.Store = store
	defer func() {
		if panicked(d.Output()) {
			t.Errorf("%s: panic: %s", where, d.Output())
		}
		must(t, d.Kill())
		must(t, os.RemoveAll(filepath.Dir(d.Mnt)))
	}()
	if err := d.Start(); err != nil {
		return false, true
	}
	for _, name := range p.names {
		r, n := readAll(t, d.Mnt+"/snapshots/"+name, p.want[name], where)
		right, refused = right || r, refused || n
	}
	if p.live != nil {
		r, n := readAll(t, d.Mnt, p.live, where)
		right, refused = right || r, refused || n
	}
	return right && !refused, refused
}

// readAll reads each file of a tree by itself.
func readAll(t *testing.T, dir string, want harness.Tree, where string) (right, refused bool) {
	t.Helper()
	_, err := os.Lstat(dir)
	there := err == nil
	for name, w := range want {
		if !strings.HasPrefix(w, "file") {
			continue
		}
		path := filepath.Join(dir, name)
		sum, err := harness.SHA256(path)
		switch {
		case os.IsNotExist(err) && there:
			t.Errorf("%s: %s is gone, and nothing is said of it", where, path)
		case err != nil:
			refused = true
		case strings.HasSuffix(w, sum):
			right = true
		default:
			t.Errorf("%s: %s: wrong data", where, path)
		}
	}
	return right, refused
}

func (f *flips) report() {
	total := flipCount{}
	for _, class := range slices.Sorted(maps.Keys(f.counts)) {
		c := f.counts[class]
		f.t.Logf("%-18s %5d flips, %5d found by check (%5d named), %5d refused, %5d read right", class, c.flips, c.found, c.named, c.refused, c.right)
		total.named += c.named
		total.flips, total.found, total.refused, total.right = total.flips+c.flips, total.found+c.found, total.refused+c.refused, total.right+c.right
	}
	if total.named == 0 {
		f.t.Error("no check named a path and its snapshots")
	}
	f.t.Logf("%d flips, %d found by check, %d refused, %d read right; %d through a mount", total.flips, total.found, total.refused, total.right, f.mounts)
	if total.found == 0 || total.refused == 0 || total.right == 0 || f.mounts == 0 {
		f.t.Error("this proved nothing")
	}
}

// onTmpfs is a directory in memory: no flip costs a sync of a disk.
func onTmpfs(t *testing.T) string {
	t.Helper()
	dir, err := root.MkdirTemp("flips")
	must(t, err)
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// makeStore makes a small store with two snapshots, and a live tree that is one
// of them, all of it stored. One that was killed needs its journal.
func makeStore(t *testing.T, rnd *rand.Rand, dir string, cold, kill bool) *pristine {
	t.Helper()
	args := []string{"--no-seal"}
	if cold {
		args = append(args, "--hot-limit", "1")
	}
	d := prepare(t, args...)
	d.Store = dir
	must(t, d.Start())
	p := &pristine{dir: dir, names: []string{"one", "two"}, want: map[string]harness.Tree{}}
	must(t, os.Mkdir(d.Mnt+"/dir", 0o755))
	must(t, os.Symlink("dir/f0", d.Mnt+"/link"))
	for i, name := range p.names {
		for k := i; k < 8; k++ {
			data := random(rnd, []int{0, 700, 9000, 150_000}[k%4])
			must(t, os.WriteFile(fmt.Sprintf("%s/dir/f%d", d.Mnt, k), data, 0o644))
		}
		must(t, os.WriteFile(fmt.Sprintf("%s/text%d", d.Mnt, i), []byte(strings.Repeat("compressible ", 4000)), 0o644))
		must(t, os.Mkdir(d.Mnt+"/snapshots/"+name, 0o755))
		tree, err := harness.ReadTree(d.Mnt + "/snapshots/" + name)
		must(t, err)
		p.want[name] = tree
	}
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	if kill {
		must(t, d.Kill())
		return p
	}
	p.live = p.want["two"]
	must(t, d.Stop())
	return p
}

// copyStore copies a store that nobody has open, without the zeros that its
// journal is full of.
func copyStore(from, to string) error {
	return filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		dst := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.Mkdir(dst, 0o755)
		case !e.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := os.Create(dst)
		if err != nil {
			return err
		}
		defer f.Close()
		const block = 64 << 10
		zeros := make([]byte, block)
		for at := 0; at < len(b); at += block {
			part := b[at:min(len(b), at+block)]
			if string(part) == string(zeros[:len(part)]) {
				continue
			}
			if _, err := f.WriteAt(part, int64(at)); err != nil {
				return err
			}
		}
		return f.Truncate(int64(len(b)))
	})
}

func flipBit(path string, at int64, bit int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 1 << bit
	_, err = f.WriteAt(b, at)
	return err
}

func classes(places []place) []string {
	seen := map[string]bool{}
	for _, p := range places {
		seen[p.class] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// anywhere picks a place, the longer the more likely, but what is unused never.
func anywhere(rnd *rand.Rand, places []place) place {
	total := int64(0)
	for _, p := range places {
		if p.class != "journal unused" {
			total += p.to - p.from
		}
	}
	at := rnd.Int63n(total)
	for _, p := range places {
		if p.class == "journal unused" {
			continue
		}
		if at -= p.to - p.from; at < 0 {
			return p
		}
	}
	panic("not reached")
}
