package stage

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// treeFindings is what Check has to say.
func treeFindings(t *Tree) []check.Finding { return treeFindingsIn(t, batchRoom) }

// treeFindingsIn is treeFindings with batches of a size.
func treeFindingsIn(t *Tree, room int) (out []check.Finding) {
	v := t.db.View()
	defer v.Close()
	r := &check.Run{View: v, Report: func(f check.Finding) { out = append(out, f) }}
	if _, err := t.check(context.Background(), r, room); err != nil {
		out = append(out, check.Finding{Kind: check.Damage, What: "error", Detail: fmt.Sprint(err)})
	}
	return out
}

// checked is a tree with one file of each kind of content, and what is needed
// to harm it.
type checked struct {
	*world
	disk                       *memDisk
	staged, inline, stored     uint64 // inodes
	gStaged, gInline, gStored  uint64
	first, second, epoch, link uint64
}

func checkedTree(t *testing.T) *checked {
	t.Helper()
	w, disk := memWorld(t)
	c := &checked{world: w, disk: disk}
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	file := func(name string, n int) uint64 {
		ino, fh := w.create(name)
		w.mustWrite(ino, fh, 'x', n, 0)
		w.shut(ino, fh)
		return ino
	}
	c.stored = file("stored", 400000)
	w.store(chunks)
	w.evictAll()
	c.staged, c.inline = file("staged", 300000), file("inline", 9000)
	if err := w.tree.SetXattr(c.staged, "user.k", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	a, err := w.tree.Symlink(RootIno, "link", "target", Cred{})
	if err != nil {
		t.Fatal(err)
	}
	c.link = a.Ino
	c.first, _ = w.barrier()
	if err := w.tree.Rename(RootIno, "inline", RootIno, "moved", 0); err != nil {
		t.Fatal(err)
	}
	c.second, _ = w.barrier()
	w.tree.settler.wait()
	if err := w.tree.reapAll(); err != nil {
		t.Fatal(err)
	}
	gen := func(ino uint64) uint64 {
		rec, _, err := w.tree.readInode(ino, newest)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Live.Gen
	}
	c.gStaged, c.gInline, c.gStored, c.epoch = gen(c.staged), gen(c.inline), gen(c.stored), w.eng.Epoch()
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Fatalf("a healthy tree: %+v", fs)
	}
	return c
}

// classes are the classes of findings, each once.
func classes(fs []check.Finding) (out []string) {
	for _, f := range fs {
		out = append(out, fmt.Sprintf("%s %s %s", f.Kind, f.What, f.Object))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestCheckFindsInTree: each kind of damage and leak, made on purpose, is
// found, and nothing else is.
func TestCheckFindsInTree(t *testing.T) {
	del := func(key func(c *checked) []byte) func(*checked, *state.Tx) {
		return func(c *checked, tx *state.Tx) { tx.Delete(key(c)) }
	}
	put := func(key func(c *checked) []byte, value []byte) func(*checked, *state.Tx) {
		return func(c *checked, tx *state.Tx) { tx.Put(key(c), value) }
	}
	amend := func(gen func(c *checked) uint64, change func(g *schema.Generation)) func(*checked, *state.Tx) {
		return func(c *checked, tx *state.Tx) {
			g, err := c.tree.generation(gen(c))
			if err != nil {
				t.Fatal(err)
			}
			change(&g)
			tx.Put(schema.Numbered(schema.PrefixGen, gen(c)), g.Encode())
		}
	}
	num := func(prefix byte, n uint64) func(*checked) []byte {
		return func(*checked) []byte { return schema.Numbered(prefix, n) }
	}
	staged := func(c *checked) uint64 { return c.gStaged }
	inline := func(c *checked) uint64 { return c.gInline }
	stored := func(c *checked) uint64 { return c.gStored }
	of := func(prefix byte, gen func(*checked) uint64) func(*checked) []byte {
		return func(c *checked) []byte { return schema.Numbered(prefix, gen(c)) }
	}
	const nobody = 1 << 40 // a number that was not given out
	bad := []byte{0xff}
	for name, tc := range map[string]struct {
		harm func(c *checked, tx *state.Tx)
		want []string
	}{
		"a generation's record":           {del(of(schema.PrefixGen, staged)), []string{"damage content-missing", "damage generation-missing", "leak generation-remains", "leak staging-unknown"}},
		"a generation that can't be read": {put(of(schema.PrefixGen, staged), bad), []string{"damage record"}},
		"a generation of another inode": {amend(staged, func(g *schema.Generation) { g.Ino = 999 }),
			[]string{"damage hold-missing", "leak generation-unnamed"}},
		"a generation of nobody":              {amend(staged, func(g *schema.Generation) { g.Ino = 0 }), []string{"damage hold-missing", "leak generation-unnamed"}},
		"a generation that is nowhere":        {amend(inline, func(g *schema.Generation) { g.Inline = false }), []string{"damage content-missing", "leak inline-blocks"}},
		"a generation that is stored shorter": {amend(stored, func(g *schema.Generation) { g.Stored = 7 }), []string{"damage content-missing"}},
		"a generation that is not stored": {amend(stored, func(g *schema.Generation) { g.Stored, g.Inline = 0, true }),
			[]string{"damage content-missing", "leak chunk-map"}},
		"a generation that nobody names": {put(num(schema.PrefixGen, nobody), schema.Generation{Ino: 2, Inline: true}.Encode()), []string{"leak generation-unnamed"}},
		"a page of a chunk map":          {del(func(c *checked) []byte { return schema.ChunkMapKey(c.gStored, 0) }), []string{"damage content-missing"}},
		"a gap in a chunk map": {put(func(c *checked) []byte { return schema.ChunkMapKey(c.gStored, 0) },
			schema.EncodeChunkMap([]schema.ChunkExtent{{Off: 0, Len: 10, Raw: 10}})), []string{"damage content-missing"}},
		"a chunk map that can't be read": {put(func(c *checked) []byte { return schema.ChunkMapKey(c.gStored, 0) }, bad), []string{"damage record"}},
		"an inline block":                {del(func(c *checked) []byte { return schema.InlineKey(c.gInline, 1) }), []string{"damage content-missing"}},
		"a short inline block":           {put(func(c *checked) []byte { return schema.InlineKey(c.gInline, 1) }, []byte("short")), []string{"damage content-missing"}},
		"a staging file":                 {func(c *checked, _ *state.Tx) { c.disk.Remove(c.gStaged) }, []string{"damage staging-missing"}},
		"a staging file of nobody": {func(c *checked, _ *state.Tx) {
			if _, err := c.disk.Create(nobody); err != nil {
				t.Fatal(err)
			}
		}, []string{"leak staging-unknown"}},
		"a doomed staging file that is needed": {put(of(schema.PrefixDoomed, staged), nil), []string{"damage generation-leaving"}},
		"chunks that are given up":             {put(of(schema.PrefixDeadHold, stored), nil), []string{"damage generation-leaving"}},
		"blocks of no generation":              {put(func(*checked) []byte { return schema.InlineKey(nobody, 0) }, bad), []string{"leak generation-remains"}},
		"a chunk map of no generation":         {put(func(*checked) []byte { return schema.ChunkMapKey(nobody, 0) }, nil), []string{"leak generation-remains"}},
		"a share of no generation":             {put(func(*checked) []byte { return schema.GenRefKey(nobody, 2) }, nil), []string{"leak generation-remains"}},
		"a hot mark of no generation":          {put(num(schema.PrefixHot, nobody), schema.Counter(1)), []string{"leak generation-remains"}},
		"pending content of no generation":     {put(num(schema.PrefixPending, nobody), schema.Pending{}.Encode()), []string{"leak generation-remains"}},
		"pending content that can't be read":   {put(of(schema.PrefixPending, staged), bad), []string{"damage record"}},
		"a hot mark without a copy":            {put(of(schema.PrefixHot, stored), schema.Counter(1)), []string{"leak hot-mark"}},
		"a copy that is not stored as it says": {amend(staged, func(g *schema.Generation) { g.Stored = 300000 }),
			[]string{"damage stored-short", "leak hot-mark"}},
		"an unsettled mark of nothing": {put(func(c *checked) []byte { return schema.UnsettledKey(c.staged, nobody) }, schema.Unsettled{}.Encode()), []string{"leak unsettled-mark"}},
		"a stripe":                     {put(func(c *checked) []byte { return schema.StripeKey(c.staged, 0, c.gStaged) }, bad), []string{"damage record"}},
		"a version that can't be read": {put(func(c *checked) []byte { return schema.InodeKey(c.staged, c.first) }, bad), []string{"damage record"}},
		"a stripe that names nothing": {put(func(c *checked) []byte { return schema.StripeKey(c.staged, 0, c.gStaged) },
			schema.EncodeStripe([]schema.Fragment{{Len: 10, Gen: nobody}})), []string{"damage content-missing"}},
		"a stripe that names generation 0": {put(func(c *checked) []byte { return schema.StripeKey(c.staged, 0, c.gStaged) },
			schema.EncodeStripe([]schema.Fragment{{Len: 10}})), []string{"damage content-missing"}},
		"stripes of no inode": {put(func(*checked) []byte { return schema.StripeKey(nobody, 0, 1) }, nil), []string{"leak stripes-unowned"}},
		"an inode": {func(c *checked, tx *state.Tx) {
			tx.DeleteRange(schema.InodePrefix(c.link), schema.After(schema.InodePrefix(c.link)))
		}, []string{"damage entry-dangling", "leak inode-remains"}},
		"an inode that can't be read": {put(func(c *checked) []byte { return schema.InodeKey(c.link, c.first) }, bad), []string{"damage record"}},
		"an old version of an inode":  {del(func(c *checked) []byte { return schema.InodeKey(c.inline, c.first) }), []string{"damage death-dangling"}},
		"a list of deaths": {func(c *checked, tx *state.Tx) {
			p := schema.Numbered(schema.PrefixDeath, c.second)
			tx.DeleteRange(p, schema.After(p))
		}, []string{"leak version-unlisted"}},
		"a death of what has no versions": {put(func(c *checked) []byte { return schema.DeathKey(c.second, schema.InlineKey(1, 2)) }, nil), []string{"damage record"}},
		"a death that is cut short":       {put(func(c *checked) []byte { return schema.DeathKey(c.second, []byte("I")) }, nil), []string{"damage record"}},
		"a snapshot":                      {del(func(c *checked) []byte { return schema.Numbered(schema.PrefixSnapshot, c.first) }), []string{"leak deaths-unqueued"}},
		"a snapshot that is queued":       {put(func(c *checked) []byte { return schema.Numbered(schema.PrefixExpired, c.first) }, nil), []string{"damage snapshot-expired"}},
		"an entry that leads nowhere":     {put(func(c *checked) []byte { return schema.DentryKey(RootIno, "lost", c.epoch) }, schema.Dentry{Ino: nobody, Type: ModeReg}.Encode()), []string{"damage entry-dangling"}},
		"an entry of no directory":        {put(func(c *checked) []byte { return schema.DentryKey(nobody, "lost", c.epoch) }, schema.Dentry{Ino: RootIno, Type: ModeDir}.Encode()), []string{"damage entry-unreachable"}},
		"an entry that can't be read":     {put(func(c *checked) []byte { return schema.DentryKey(RootIno, "lost", c.epoch) }, nil), []string{"damage record"}},
		"a tombstone of nothing":          {put(func(c *checked) []byte { return schema.DentryKey(RootIno, "lost", c.epoch) }, schema.Dentry{}.Encode()), []string{"leak tombstone"}},
		"a deleted inode of nothing":      {put(func(c *checked) []byte { return schema.InodeKey(nobody, c.epoch) }, (&schema.Inode{Deleted: true}).Encode()), []string{"leak tombstone"}},
		"attributes of no inode":          {put(func(c *checked) []byte { return schema.XattrKey(nobody, "user.k", c.epoch) }, schema.Xattr{}.Encode()), []string{"leak inode-remains"}},
		"an attribute that can't be read": {put(func(c *checked) []byte { return schema.XattrKey(c.staged, "user.z", c.epoch) }, nil), []string{"damage record"}},
		"a link's target":                 {del(func(c *checked) []byte { return schema.Numbered(schema.PrefixSymlink, c.link) }), []string{"damage symlink-target"}},
		"an orphan that is not there":     {put(num(schema.PrefixOrphan, nobody), nil), []string{"leak orphan"}},
		"a key cut short":                 {put(func(*checked) []byte { return []byte{schema.PrefixStripe, 1} }, nil), []string{"damage record"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := checkedTree(t)
			_, err := c.eng.Update(schema.KindReap, func(tx *state.Tx) error { tc.harm(c, tx); return nil })
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			found := treeFindings(c.tree)
			// In batches too small to join claims a finding may come more than once.
			if few := treeFindingsIn(c.tree, 2); !slices.Equal(classes(few), classes(found)) {
				t.Errorf("in small batches: %+v, else %+v", few, found)
			}
			for _, x := range found {
				seen[string(x.Kind)+" "+x.What] = true
				if x.Object == "" || x.Detail == "" {
					t.Errorf("%+v says too little", x)
				}
			}
			var got []string
			for x := range seen {
				got = append(got, x)
			}
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("found %v, want %v", got, tc.want)
			}
		})
	}
}

// TestHollowContentIsNotHot: a content that is nothing but a hole has no copy of
// its own, so storing it leaves no mark of one.
func TestHollowContentIsNotHot(t *testing.T) {
	w, _ := memWorld(t)
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'x', 100, 0)
	if err := w.tree.Fallocate(ino, fh, 0, 100, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE); err != nil {
		t.Fatal(err)
	}
	w.shut(ino, fh)
	if w.count(schema.PrefixPending) == 0 {
		t.Fatal("nothing waits to be stored: nothing proved")
	}
	w.store(chunks)
	if fs := treeFindings(w.tree); len(fs) > 0 || w.count(schema.PrefixHot) > 0 {
		t.Errorf("%d hot marks, %+v", w.count(schema.PrefixHot), fs)
	}
}

// TestCheckSeesHolds: what generations and trees name is what Held yields, once
// for each holder.
func TestCheckSeesHolds(t *testing.T) {
	c := checkedTree(t)
	tree := schema.TreeHolder(c.first)
	_, err := c.eng.Update(schema.KindReap, func(tx *state.Tx) error {
		tx.Put(schema.TreeRefKey(tree, [32]byte{7}), nil)
		tx.Put(schema.Numbered(schema.PrefixDeadHold, tree), nil)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	v := c.eng.View()
	defer v.Close()
	got := map[string]int{}
	err = c.tree.Held(context.Background(), v, func(holder uint64, id [32]byte) error {
		got[fmt.Sprintf("%x %x", holder, id[:2])]++
		return nil
	})
	es, err2 := c.tree.chunkMap(c.gStored)
	if err != nil || err2 != nil || len(es) == 0 {
		t.Fatal(len(es), err, err2)
	}
	want := map[string]int{fmt.Sprintf("%x 0700", tree): 1}
	for _, e := range es {
		want[fmt.Sprintf("%x %x", c.gStored, e.ID[:2])] = 1
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("held %v, want %v", got, want)
	}
	for holder, want := range map[uint64]bool{tree: true, c.gStored: false} {
		if leaving, err := c.tree.Leaving(v, holder); err != nil || leaving != want {
			t.Errorf("holder %x leaves: %v, %v", holder, leaving, err)
		}
	}
}

// TestCheckOfBusyTree: what is in flight is no finding.
func TestCheckOfBusyTree(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	stop, done := make(chan struct{}), make(chan error, 4)
	loop := func(fn func(n int) error) {
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if err := fn(n); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for k := range 2 { // small ones that spill into staging files, then overwrites
		loop(func(n int) error {
			name := fmt.Sprintf("f%d-%d", k, n%5)
			_ = w.tree.Unlink(RootIno, name)
			a, fh, err := w.tree.Create(RootIno, name, 0o644, 2, Cred{})
			for off := int64(0); off < 200000 && err == nil; off += 20000 {
				_, err = w.tree.Write(a.Ino, fh, make([]byte, 20000), off)
			}
			if err == nil {
				err = w.tree.Flush(a.Ino, fh, false)
			}
			if err == nil {
				_, err = w.tree.Write(a.Ino, fh, []byte("over"), 77777)
			}
			w.tree.Release(a.Ino, fh)
			return err
		})
	}
	loop(func(int) error { return chunks.storeAll(w.tree) })
	loop(func(int) error {
		c, err := w.tree.Cut(nil, false, true)
		if err != nil {
			return err
		}
		_, err = w.eng.Update(schema.KindCommit, func(tx *state.Tx) error { publish(tx, c.Seq); return nil })
		w.tree.CutDone(c)
		if err == nil && c.Seq > 10 {
			err = expire(w.eng, c.Seq-10)
		}
		if err == nil {
			_, err = w.tree.Prune(context.Background(), true)
		}
		if err == nil {
			var gens []uint64
			err = w.tree.Hot(func(gen uint64, _ int64) bool { gens = append(gens, gen); return true })
			for _, g := range gens {
				if err == nil {
					err = w.tree.Evict(g)
				}
			}
		}
		if err == nil {
			err = w.tree.UnlinkEvicted()
		}
		return err
	})
	checks := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) || checks < 20 || w.eng.Epoch() < 30; checks++ {
		if fs := treeFindings(w.tree); len(fs) > 0 {
			t.Errorf("check %d: %+v", checks, fs[:min(len(fs), 3)])
			break
		}
	}
	close(stop)
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if w.eng.Epoch() < 30 {
		t.Errorf("only %d cuts: nothing proved", w.eng.Epoch())
	}
	t.Logf("%d checks, %d cuts", checks, w.eng.Epoch())
}
