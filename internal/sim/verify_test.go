package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/check"
	"stepfs/internal/simdisk"
	"stepfs/snapshot"
)

// image is what a crash has left, with what was known by then.
type image struct {
	seed  uint64
	disk  *simdisk.Disk
	at    int // after so many operations of the disk
	op    simdisk.Op
	kill  bool // the daemon died, the machine did not
	boot  string
	known *known // nil: the store was just being made
	packs *packsRead
	out   *outside

	recent []simdisk.Op
}

func (i *image) String() string {
	how := "power cut"
	if i.kill {
		how = "kill"
	}
	return fmt.Sprintf("%s before operation %d, %s %s (%d bytes at %d)", how, i.at, i.op.Kind, i.op.Path, i.op.Len, i.op.Off)
}

// found is what a verified store showed.
type found struct {
	live     map[string]seen
	at       [workers]int // the states that the live directories are in
	infos    []snapshot.Info
	newest   []snapshot.Info // as of the end
	views    map[uint64]map[string]seen
	acked    int // snapshots that were acknowledged, and are there
	older    int // files in them that show an older content
	logs     int // that show a log as it was written by then
	gone     int // snapshots of which somebody was told that they expired
	findings []check.Finding
	expired  []uint64 // since the store was opened
}

// verify holds a store that was opened after a crash against what was known.
func verify(s *store, img *image) (*found, error) {
	f := &found{views: map[uint64]map[string]seen{}}
	var err error
	if f.live, err = s.live(); err != nil {
		return f, fmt.Errorf("live tree: %w", err)
	}
	infos, err := s.m.Barriers(0, 1<<20)
	if err != nil {
		return f, err
	}
	for _, i := range infos { // what is not pinned may expire meanwhile
		defer s.m.Pin(i.Seq)()
		if _, err := s.m.Get(i.Seq); err == nil {
			f.infos = append(f.infos, i)
		}
	}
	for _, i := range f.infos {
		if img.known != nil && img.known.snaps[i.Seq].fixed != nil && (i.Seq+uint64(img.at))%3 != 0 {
			continue // it was read often, and most crashes of a life are near each other
		}
		if f.views[i.Seq], err = s.view(i.Seq); err != nil {
			return f, fmt.Errorf("snapshot %d: %w", i.Seq, err)
		}
	}
	f.expired = s.gone()
	// Recovery may have taken more since, and they count for which may expire.
	if f.newest, err = s.m.Barriers(0, 1<<20); err != nil {
		return f, err
	}
	if img.known != nil {
		if err := f.checkLive(img); err != nil {
			return f, err
		}
		if err := f.checkSnapshots(img); err != nil {
			return f, err
		}
	}
	packs := img.packs.among(img.disk)
	if f.findings, err = s.findings(len(packs) > 0); err != nil {
		return f, err
	}
	for _, x := range f.findings {
		if x.Kind == check.Damage {
			return f, fmt.Errorf("the check finds %+v", f.findings)
		}
	}
	if faults := s.faulty(); len(faults) > 0 {
		return f, fmt.Errorf("faults: %q", faults)
	}
	img.packs.add(packs)
	return f, nil
}

// packsRead are the packs that a check has read through, by what is in them: of
// the images of a life most have the packs of the one before.
type packsRead struct {
	mu   sync.Mutex
	seen map[uint64]bool
}

// among gives those on a disk that no check has read.
func (p *packsRead) among(disk *simdisk.Disk) (sums []uint64) {
	all := disk.Sums(packDir)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sum := range all {
		if !p.seen[sum] {
			sums = append(sums, sum)
		}
	}
	return sums
}

func (p *packsRead) add(sums []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[uint64]bool{}
	}
	for _, sum := range sums {
		p.seen[sum] = true
	}
}

func (f *found) checkLive(img *image) error {
	k := img.known
	for w, line := range k.lines {
		view := of(f.live, w)
		from, last := k.synced[w], len(line)-1
		if img.kill {
			from = k.done[w]
		}
		var wrongs []mismatch
		f.at[w] = -1
		for i := last; i >= from && f.at[w] < 0; i-- {
			if wrong := k.liveAs(view, line[i], line[last], img.kill); wrong != nil {
				wrongs = append(wrongs, wrong)
			} else {
				f.at[w] = i
			}
		}
		if f.at[w] < 0 {
			wrong := wrongs[0]()
			for _, other := range wrongs[1:] { // the shortest says most
				if why := other(); len(why) < len(wrong) {
					wrong = why
				}
			}
			return fmt.Errorf("w%d: the live directory is in none of the states %d to %d: %s", w, from, last, wrong)
		}
	}
	return nil
}

func (f *found) checkSnapshots(img *image) error {
	k := img.known
	there := map[uint64]snapshot.Info{}
	for _, i := range f.infos {
		there[i.Seq] = i
		if slices.ContainsFunc(i.Marks, func(m string) bool { return strings.HasSuffix(m, ": open, taken up to its size") }) {
			f.logs++
		}
	}
	for _, seq := range k.expired {
		if _, back := there[seq]; back {
			return fmt.Errorf("snapshot %d has expired, and is back", seq)
		}
		f.gone++
	}
	seqs := slices.Collect(func(yield func(uint64) bool) {
		for seq := range k.snaps {
			if !yield(seq) {
				return
			}
		}
		for seq := range there {
			if _, ok := k.snaps[seq]; !ok && !yield(seq) {
				return
			}
		}
	})
	slices.Sort(seqs)
	for _, seq := range slices.Backward(seqs) {
		s, known := k.snaps[seq]
		i, ok := there[seq]
		if !ok {
			newer := 0
			for _, i := range f.newest {
				if i.Name == "" && i.Seq > seq {
					newer++
				}
			}
			if s.name == "" && newer >= barriersKept || s.forgetBegun && k.pruned {
				continue
			}
			return fmt.Errorf("snapshot %d %q was acknowledged and is gone; there are %s, expired since %v, before %v", seq, s.name, list(f.infos), f.expired, k.expired)
		}
		if known {
			f.acked++
		}
		if s.forgotten && i.Forgotten == nil || known && !s.forgetBegun && i.Forgotten != nil {
			return fmt.Errorf("snapshot %d %q: forgotten is %v", seq, s.name, i.Forgotten)
		}
		if held := len(i.Holds) > 0; s.held && !held || known && !s.holdBegun && held {
			return fmt.Errorf("snapshot %d %q: held is %v", seq, s.name, held)
		}
		if s.name != i.Name && s.name != "" {
			return fmt.Errorf("snapshot %d is called %q, not %q", seq, i.Name, s.name)
		}
		if err := f.checkSnapshot(img, i, s); err != nil {
			return fmt.Errorf("snapshot %d %q (acknowledged: %v): %w", seq, i.Name, known, err)
		}
	}
	return nil
}

// checkSnapshot holds one snapshot against all that callers were told of it.
func (f *found) checkSnapshot(img *image, i snapshot.Info, s snap) error {
	if s.fixed != nil && f.views[i.Seq] == nil {
		return nil
	}
	if s.fixed != nil {
		return sameShown(s.fixed, f.views[i.Seq])
	}
	k := img.known
	acks := s.acks
	if len(acks) == 0 && i.Seq < k.from {
		return nil
	}
	if len(acks) == 0 {
		a := ack{}
		for w, line := range k.lines {
			a.hi[w] = len(line) - 1
		}
		acks = []ack{a}
	}
	for _, a := range acks {
		for w, line := range k.lines {
			view, taken := apart(of(f.views[i.Seq], w))
			ok := false
			if err := img.out.shown(i, w, a, taken); err != nil {
				return fmt.Errorf("w%d: %w", w, err)
			}
			var wrongs []mismatch
			for at := min(a.hi[w], len(line)-1); at >= a.lo[w] && !ok; at-- {
				older, wrong := k.shows(view, line[at], img.kill || i.Name != "")
				if ok = wrong == nil; ok {
					f.older += older
				}
				wrongs = append(wrongs, wrong)
			}
			if !ok {
				var wrong strings.Builder
				for n, why := range wrongs[:min(len(wrongs), 20)] {
					at := min(a.hi[w], len(line)-1) - n
					fmt.Fprintf(&wrong, "\n\tstate %d (%s): %s", at, line[at].what, why())
				}
				return fmt.Errorf("w%d: shows none of the states %d to %d:%s", w, a.lo[w], a.hi[w], wrong.String())
			}
		}
	}
	return nil
}

// goesOn writes, syncs and seals in a store that has survived a crash.
func goesOn(s *store) error {
	data := []byte("life goes on")
	a, fh, err := s.tree.Create(stage.RootIno, "after", 0o600, unix.O_RDWR, stage.Cred{})
	if err != nil {
		return err
	}
	if _, err := s.tree.Write(a.Ino, fh, data, 0); err != nil {
		return err
	}
	seq, err := s.m.Barrier(ctx, "fsync", a.Ino)
	if err != nil {
		return err
	}
	i, err := s.m.Snapshot(ctx, "", "after-it", "mkdir", nil)
	if err != nil {
		return err
	}
	for _, seq := range []uint64{seq, i.Seq} {
		v := s.tree.At(seq)
		a, err := v.Lookup(stage.RootIno, "after")
		if err != nil {
			return fmt.Errorf("snapshot %d: %w", seq, err)
		}
		b := make([]byte, 100)
		if n, err := v.Read(a.Ino, b, 0); err != nil || string(b[:n]) != string(data) {
			return fmt.Errorf("snapshot %d shows %q, %w", seq, b[:n], err)
		}
	}
	return s.tree.Flush(a.Ino, fh, false)
}

// list says which snapshots there are.
func list(infos []snapshot.Info) (out string) {
	for _, i := range infos {
		out += fmt.Sprintf(" %d%s", i.Seq, i.Name)
	}
	return out
}
