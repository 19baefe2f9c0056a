package snapshot_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"stepfs/snapshot"
)

// outlook waits for one that is not of before.
func (w *world) outlook() snapshot.Outlook {
	w.t.Helper()
	w.drain()
	w.still()
	var o snapshot.Outlook
	time.Sleep(1100 * time.Millisecond)
	var err error
	o, err = w.m.Outlook(w.ctx())
	w.ok(err)
	return o
}

func paths(is []snapshot.Info) (out []string) {
	for _, i := range is {
		out = append(out, i.Name)
	}
	return out
}

// What is said to go next is what goes, with the bytes that it brings, in the
// order in which it goes; and what can't go is named, with who holds it.
func TestOutlook(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, unpacked))
	const mib = 1 << 20
	for k := 1; k <= 7; k++ {
		if k > 1 {
			w.remove(fmt.Sprintf("checkpoint-%d", k-1))
		}
		w.put(fmt.Sprintf("checkpoint-%d/a", k), noise(int64(k), mib))
		w.step(fmt.Sprint(k))
	}
	for k := range 4 {
		w.barrier(w.put("log", fmt.Sprint("line ", k)))
	}
	held, err := w.m.Resolve("", "1")
	w.ok(err)
	_, err = w.m.Hold(held.Seq, snapshot.Hold{By: "ann@box", Reason: "figure 3"})
	w.ok(err)
	three, err := w.m.Resolve("", "3")
	w.ok(err)
	defer w.m.Pin(three.Seq)()

	o := w.outlook()
	if len(o.Forgotten.Snapshots) != 0 || len(o.Barriers.Snapshots) != 3 || o.Barriers.Bytes > 64<<10 {
		t.Errorf("forgotten %v, barriers %v, %d bytes", paths(o.Forgotten.Snapshots), paths(o.Barriers.Snapshots), o.Barriers.Bytes)
	}
	if got := paths(o.Step.Snapshots); !slices.Equal(got, []string{"2"}) || o.Step.Bytes < mib || o.Step.Bytes > mib+64<<10 {
		t.Errorf("next step %v, %d bytes, want 2", got, o.Step.Bytes)
	}
	var pins []string
	for _, p := range o.Pins {
		pins = append(pins, p.Why+" "+p.Info.Name)
		if p.Bytes < mib && p.Info.Name != "7" {
			t.Errorf("%s pins %d bytes", p.Info.Name, p.Bytes)
		}
		if p.Why == snapshot.PinReader && p.Open != 1 || p.Why == snapshot.PinHeld && p.Info.Holds[0].By != "ann@box" {
			t.Errorf("%+v", p)
		}
	}
	slices.Sort(pins)
	if got := strings.Join(pins, ", "); got != "held 1, newest 5, newest 6, newest 7, reader 3" {
		t.Errorf("pins: %s", got)
	}
	w.forget("4", "2")
	until(t, "the outlook is a new one", func() bool { // it is kept for as long as it took, many times
		o, err = w.m.Outlook(w.ctx())
		w.ok(err)
		return len(o.Forgotten.Snapshots) > 0
	})
	if got := paths(o.Forgotten.Snapshots); !slices.Equal(got, []string{"2", "4"}) || o.Forgotten.Bytes < 2*mib || len(o.Step.Snapshots) != 0 {
		t.Errorf("forgotten %v, %d bytes; next step %v", got, o.Forgotten.Bytes, paths(o.Step.Snapshots))
	}
	said := o.Forgotten.Bytes
	before := w.taken()
	w.still()
	if got := before - w.taken(); got != said {
		t.Errorf("said to free %d bytes, freed %d", said, got)
	}
	w.noFaults()
}

// What a prune says that it freed is what the packs are smaller by, and the
// report adds up all of it. (Of a file that was looked at just now the content
// goes a moment later.)
func TestPruneSaysWhatItFreed(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	for k := range 4 {
		w.put(fmt.Sprint("f", k), noise(int64(k), 2<<20))
		w.step(fmt.Sprint(k))
		w.remove(fmt.Sprint("f", k))
	}
	w.drain()
	w.still()
	size := func() (packs, staged int64) {
		u, err := w.tree.Usage()
		w.ok(err)
		return int64(w.chunks.Stats().Size), u.Staged
	}
	packs, staged := size()
	w.forget("0", "1")
	first, err := w.m.PruneReport()
	if err != nil || first.Forgotten != 2 {
		t.Errorf("before: %+v, %v", first, err)
	}
	var told []snapshot.Pruned
	p, err := w.m.PruneNow(w.ctx(), func(p snapshot.Pruned) { told = append(told, p) })
	w.ok(err)
	if n := len(told); p.Done != 2 || n == 0 || told[0].Done != 2 || told[n-1].Packs != p.Packs {
		t.Errorf("said %+v, told %+v", p, told)
	}
	nowPacks, _ := size()
	if packs-nowPacks < p.Packs || p.Packs == 0 {
		t.Errorf("said %+v, packs are %d bytes smaller", p, packs-nowPacks)
	}
	w.still()
	nowPacks, nowStaged := size()
	r, err := w.m.PruneReport()
	if err != nil || r.Packs-first.Packs != packs-nowPacks || r.Staged-first.Staged != staged-nowStaged || packs-nowPacks < 1<<20 || staged-nowStaged < 4<<20 {
		t.Errorf("the report went from %+v to %+v, %v; packs are %d bytes smaller, staging %d", first, r, err, packs-nowPacks, staged-nowStaged)
	}
	if r.LastDone == (snapshot.Pruned{}) || r.Last.IsZero() || r.Forgotten+r.Queue != 0 {
		t.Errorf("%+v", r)
	}
	w.noFaults()
}
