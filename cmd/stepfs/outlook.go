package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"stepfs/snapshot"
)

// NextInfo is what would go under pressure at a time. Status lists them in the
// order in which they would.
type NextInfo struct {
	What      string   `json:"what"`                // hot copies, forgotten, barriers, step
	Count     int      `json:"count,omitempty"`     // snapshots
	Snapshots []string `json:"snapshots,omitempty"` // the first of them
	Bytes     int64    `json:"bytes"`               // that would come back
	Later     int      `json:"later,omitempty"`     // more of the kind, after these
}

// PinInfo is what keeps space that pressure can't get back.
type PinInfo struct {
	Kind     string     `json:"kind"`               // held, reader, named, newest, unlinked
	Snapshot string     `json:"snapshot,omitempty"` // with its scope
	File     string     `json:"file,omitempty"`     // of unlinked: the last name
	Bytes    int64      `json:"bytes"`              // that it alone needs; of unlinked: of the file's data
	Open     int        `json:"open,omitempty"`     // of reader: what is open in it
	Holds    []HoldInfo `json:"holds,omitempty"`
}

// PruneInfo says what pruning did and has to do. Bytes count what came back
// meanwhile, also of what the job deleted.
type PruneInfo struct {
	Last       *time.Time `json:"last,omitempty"` // nil: nothing was removed since the store was opened
	Removed    int        `json:"last_removed"`   // snapshots and barriers, then
	Packs      int64      `json:"last_pack_bytes"`
	Staging    int64      `json:"last_staging_bytes"`
	AllPacks   int64      `json:"pack_bytes"` // since the store was opened
	AllStaging int64      `json:"staging_bytes"`

	Forgotten      int   `json:"forgotten"` // snapshots that are not removed yet
	ForgottenBytes int64 `json:"forgotten_bytes"`
	Dead           int64 `json:"dead_bytes"` // in packs; they go when half of a pack is dead
	Queue          int   `json:"queue"`      // snapshots that are gone, and what they alone saw is not freed yet
}

// listedNext is how many snapshots are named of what goes next, and listedFiles
// how many unlinked files.
const (
	listedNext  = 3
	listedFiles = 3
)

// describeSnapshots completes a status by what it says of snapshots, and of what
// becomes of them.
func (l *local) describeSnapshots(ctx context.Context, s *Status) error {
	m := l.parts.manager
	names := map[[2]string]*snapshot.Verified{} // newest revision of each
	for after := uint64(0); ; {
		page, err := m.Barriers(after, listPage)
		if err != nil {
			return err
		}
		for _, i := range page {
			after = i.Seq
			if i.Name == "" {
				s.Barriers++
			} else if i.Forgotten == nil {
				names[[2]string{i.Scope, i.Name}] = i.Verified
			}
		}
		if len(page) == 0 {
			break
		}
	}
	s.Steps = len(names)
	var last *snapshot.Info
	for _, scope := range m.AllScopes() {
		if i, ok := m.Latest(scope); ok && (last == nil || last.Seq < i.Seq) {
			last = &i
		}
	}
	if last != nil {
		s.Last = new(l.acted(ctx, *last))
	}
	s.Scrub = scrubInfo(l.parts.manager.ScrubReport())
	s.Recovery = recoveryOf(maps.Values(names), len(names), s.Last)
	if err := l.describeOutlook(ctx, s); err != nil {
		s.RecentFault = append(s.RecentFault, fmt.Sprintf("%s look at what can be freed: %v", time.Now().UTC().Format(time.RFC3339), err))
	}
	return nil
}

// describeOutlook says what would go, what can't, and what pruning does.
func (l *local) describeOutlook(ctx context.Context, s *Status) error {
	o, err := l.parts.manager.Outlook(ctx)
	if err != nil {
		return err
	}
	s.Next = []NextInfo{}
	if s.Hot > 0 {
		s.Next = append(s.Next, NextInfo{What: "hot copies", Bytes: s.Hot})
	}
	for _, g := range []struct {
		what string
		snapshot.Group
	}{{"forgotten", o.Forgotten}, {"barriers", o.Barriers}, {"step", o.Step}} {
		if len(g.Snapshots) == 0 {
			continue
		}
		n := NextInfo{What: g.what, Count: len(g.Snapshots), Bytes: g.Bytes, Later: g.Waits}
		for _, i := range g.Snapshots[:min(listedNext, len(g.Snapshots))] {
			n.Snapshots = append(n.Snapshots, i.Path())
		}
		s.Next = append(s.Next, n)
	}
	s.KeepSteps = o.KeepSteps
	s.Pins = []PinInfo{}
	for _, p := range o.Pins {
		s.Pins = append(s.Pins, PinInfo{Kind: p.Why, Snapshot: p.Info.Path(), Bytes: p.Bytes, Open: p.Open, Holds: describeSnapshot(p.Info).Holds})
	}
	files, err := l.unlinked()
	if err != nil {
		return err
	}
	s.Pins = append(s.Pins, files...)
	s.Prune.ForgottenBytes = o.Forgotten.Bytes
	return l.describePrune(&s.Prune)
}

// unlinked gives the largest files that are only there because they are open.
func (l *local) unlinked() (files []PinInfo, err error) {
	err = l.parts.tree.Unlinked(func(name string, bytes int64) {
		files = append(files, PinInfo{Kind: "unlinked", File: name, Bytes: bytes})
	})
	slices.SortStableFunc(files, func(a, b PinInfo) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return files[:min(listedFiles, len(files))], err
}

func (l *local) describePrune(p *PruneInfo) error {
	r, err := l.parts.manager.PruneReport()
	if err != nil {
		return err
	}
	if !r.Last.IsZero() {
		p.Last = new(r.Last.UTC())
	}
	p.Removed, p.Packs, p.Staging = r.LastDone.Done, r.LastDone.Packs, r.LastDone.Staged
	p.AllPacks, p.AllStaging, p.Forgotten, p.Queue = r.Packs, r.Staged, r.Forgotten, r.Queue
	p.Dead, _ = l.parts.chunks.Dead()
	return nil
}

// printOutlook adds the rows of a status that say what becomes of snapshots.
func (s *Status) printOutlook(row func(name, format string, args ...any)) {
	name := "next to go"
	for _, n := range s.Next {
		row(name, "%s", n.words())
		name = ""
	}
	if s.KeepSteps {
		row(name, "no step: --on-full=stop")
	} else if len(s.Next) == 0 {
		row(name, "nothing that could: a full store would refuse writes")
	}
	name = "can't go"
	for _, p := range s.Pins {
		row(name, "%s", p.words())
		name = ""
	}
	p := &s.Prune
	if p.Last != nil {
		row("pruned", "%s: %d snapshots, %s; %s since the store was opened", humanTime(*p.Last), p.Removed,
			humanBytes(p.Packs+p.Staging), humanBytes(p.AllPacks+p.AllStaging))
	}
	if p.Forgotten+p.Queue > 0 || p.Dead > 0 {
		row("left to free", "%d forgotten snapshots (%s), %s dead in packs, %d gone ones to go through",
			p.Forgotten, humanBytes(p.ForgottenBytes), humanBytes(p.Dead), p.Queue)
	}
}

func (n *NextInfo) words() string {
	switch {
	case n.Count == 0:
		return fmt.Sprintf("%s, %s", n.What, humanBytes(n.Bytes))
	case n.What == "step":
		return fmt.Sprintf("step %s, %s: the job has deleted its files", n.Snapshots[0], humanBytes(n.Bytes))
	}
	list := strings.Join(n.Snapshots, " ")
	if n.Count > len(n.Snapshots) {
		list += " …"
	}
	text := fmt.Sprintf("%d %s, %s: %s", n.Count, n.What, humanBytes(n.Bytes), list)
	if n.Later > 0 {
		text += fmt.Sprintf(", and %d more after them", n.Later)
	}
	return text
}

func (p *PinInfo) words() string {
	switch p.Kind {
	case snapshot.PinHeld:
		var by []string
		for _, h := range p.Holds {
			by = append(by, fmt.Sprintf("%s: %s", h.By, h.Reason))
		}
		return fmt.Sprintf("%s, %s, held by %s", p.Snapshot, humanBytes(p.Bytes), strings.Join(by, "; "))
	case snapshot.PinReader:
		return fmt.Sprintf("%s, %s, is read (%d open)", p.Snapshot, humanBytes(p.Bytes), p.Open)
	case snapshot.PinNamed:
		return fmt.Sprintf("%s, %s, a person named it", p.Snapshot, humanBytes(p.Bytes))
	case snapshot.PinNewest:
		return fmt.Sprintf("%s, %s, of the newest complete steps", p.Snapshot, humanBytes(p.Bytes))
	}
	return fmt.Sprintf("%s, %s, deleted and still open", p.File, humanBytes(p.Bytes))
}
