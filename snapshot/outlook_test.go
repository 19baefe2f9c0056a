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
	time.Sleep(1100 * time.Millisecond)
	o, err = w.m.Outlook(w.ctx())
	w.ok(err)
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
// report has it afterwards.
func TestPruneSaysWhatItFreed(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	for k := range 4 {
		w.put("f", noise(int64(k), 2<<20))
		w.step(fmt.Sprint(k))
	}
	w.drain()
	w.ok(w.m.Drain(w.ctx(), nil))
	staged, err := w.tree.Usage()
	w.ok(err)
	packs := int64(w.chunks.Stats().Size)
	w.forget("0", "1")
	r, err := w.m.PruneReport()
	if err != nil || r.Forgotten != 2 {
		t.Errorf("before: %+v, %v", r, err)
	}
	var told []snapshot.Pruned
	p, err := w.m.PruneNow(w.ctx(), func(p snapshot.Pruned) { told = append(told, p) })
	w.ok(err)
	now, err := w.tree.Usage()
	w.ok(err)
	if got := packs - int64(w.chunks.Stats().Size); p.Done != 2 || p.Packs != got || got < 3<<20 {
		t.Errorf("said %+v, packs are %d bytes smaller", p, got)
	}
	if got := staged.Staged - now.Staged; p.Staged != got || got < 4<<20 {
		t.Errorf("said %+v, staging is %d bytes smaller", p, got)
	}
	if n := len(told); n < 2 || told[n-1].Packs != p.Packs || told[0].Done != 2 {
		t.Errorf("told %+v", told)
	}
	r, err = w.m.PruneReport()
	if err != nil || r.LastDone.Packs != p.Packs || r.LastDone.Done != 2 || r.Packs < p.Packs || r.Staged < p.Staged || r.Forgotten+r.Queue != 0 || r.Last.IsZero() {
		t.Errorf("after: %+v, %v", r, err)
	}
	w.noFaults()
}
