package stage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// versionsTree is a tree whose files have many versions, each a stored
// generation of its own, so that those of one file lie far apart. It gives the
// files, and their generations in order.
func versionsTree(t *testing.T) (w *world, files, gens []uint64) {
	t.Helper()
	w, _ = memWorld(t)
	for round := range 15 {
		for k := range 12 {
			var ino, fh uint64
			var err error
			if round == 0 {
				ino, fh = w.create(fmt.Sprint(k))
				files = append(files, ino)
			} else if fh, err = w.tree.Open(files[k], unix.O_RDWR|unix.O_TRUNC, Cred{}); err != nil {
				t.Fatal(err)
			}
			w.mustWrite(files[k], fh, 'x', 100+k, 0)
			w.shut(files[k], fh)
		}
		w.barrier()
	}
	w.tree.settler.wait()
	w.store(newMemChunks())
	w.reapAll()
	gens, err := w.tree.numbered(schema.PrefixGen)
	if err != nil || len(gens) != 12*15 {
		t.Fatalf("%d generations, %v", len(gens), err)
	}
	return w, files, gens
}

var generationIn = regexp.MustCompile(`generation (\d+)`)

// TestCheckFindsOneSided: what inodes say and what generations say are held
// against each other in batches, side by side. Whatever only one side has is
// found, wherever it stands and however small the batches are, and nothing else.
func TestCheckFindsOneSided(t *testing.T) {
	w, files, gens := versionsTree(t)
	defer w.close()
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Fatalf("a healthy tree: %+v", fs)
	}
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 1))
		var want []string
		var undo []func(tx *state.Tx)
		_, err := w.eng.Update(schema.KindReap, func(tx *state.Tx) error {
			some := random.Perm(len(gens))[:1+random.IntN(40)]
			some = append(some, 0, len(gens)-1) // the ends, too
			slices.Sort(some)
			for _, k := range slices.Compact(some) {
				gen := gens[k]
				was, err := w.tree.generation(gen)
				if err != nil {
					return err
				}
				del := func(key []byte) error {
					v, err := w.eng.Get(key)
					undo = append(undo, func(tx *state.Tx) { tx.Put(key, v) })
					tx.Delete(key)
					return err
				}
				saw := func(what string) { want = append(want, fmt.Sprint(what, " ", gen)) }
				switch random.IntN(4) {
				case 0: // an inode names what is not there
					err = del(schema.Numbered(schema.PrefixGen, gen))
					saw("content-missing")
				case 1: // an inode has a hold on what it does not name
					key := schema.GenRefKey(gen, files[(slices.Index(files, was.Ino)+1)%len(files)])
					undo = append(undo, func(tx *state.Tx) { tx.Delete(key) })
					tx.Put(key, nil)
					saw("generation-unnamed")
				case 2:
					err = del(schema.InlineKey(gen, 0))
					saw("content-missing")
				case 3:
					err = del(schema.ChunkMapKey(gen, 0))
					saw("stored-short")
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		for _, room := range []int{1, 7, 64, batchRoom} {
			var got []string
			for _, f := range treeFindingsIn(w.tree, room) {
				switch f.What {
				case "content-missing", "stored-short", "generation-unnamed":
					got = append(got, f.What+" "+generationIn.FindStringSubmatch(f.Object + f.Detail)[1])
				case "generation-missing", "generation-remains": // of what has no record
				default:
					t.Errorf("%+v", f)
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("seed %d, batches of %d: %v, want %v", seed, room, got, want)
			}
		}
		if _, err := w.eng.Update(schema.KindReap, func(tx *state.Tx) error {
			for _, u := range undo {
				u(tx)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckYieldsHoldsOnce: a walk over inodes yields each hold on what is named
// once, though the claims on a generation come in different batches. Otherwise
// the comparison of two sets that are equal would find them different at first,
// and go on and on.
func TestCheckYieldsHoldsOnce(t *testing.T) {
	w, _, gens := versionsTree(t)
	defer w.close()
	v := w.eng.View()
	defer v.Close()
	for _, room := range []int{1, 7, 64, batchRoom} {
		r := &check.Run{View: v, Report: func(f check.Finding) { t.Errorf("%+v", f) }}
		c := &treeCheck{Tree: w.tree, r: r, ctx: context.Background(), room: room, unsure: map[uint64]bool{}}
		times := map[string]int{}
		if err := c.inodeHolds(r, func(m []byte) error { times[string(m)]++; return nil }); err != nil {
			t.Fatal(err)
		}
		if len(times) != len(gens) {
			t.Errorf("batches of %d: %d holds on %d generations", room, len(times), len(gens))
		}
		for m, n := range times {
			if n != 1 {
				t.Errorf("batches of %d: hold %x came %d times", room, m, n)
			}
		}
	}
}

// TestCheckFindsDanglingEntries: names that lead nowhere are found, wherever the
// inodes would stand.
func TestCheckFindsDanglingEntries(t *testing.T) {
	w, files, _ := versionsTree(t)
	defer w.close()
	_, err := w.eng.Update(schema.KindReap, func(tx *state.Tx) error {
		for _, k := range []int{0, 5, 6, 11} {
			p := schema.InodePrefix(files[k])
			tx.DeleteRange(p, schema.After(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{1, 2, batchRoom} {
		var got []string
		for _, f := range treeFindingsIn(w.tree, room) {
			if f.What == "entry-dangling" {
				got = append(got, f.Detail)
			}
		}
		var want []string
		for _, k := range []int{0, 5, 6, 11} {
			want = append(want, fmt.Sprintf("the entry %q leads to inode %d, which is not there", fmt.Sprint(k), files[k]))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("batches of %d: %q, want %q", room, got, want)
		}
	}
}
