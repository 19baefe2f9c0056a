package snapshot

import (
	"context"
	"fmt"

	"stepfs/internal/schema"
)

// When room is scarce and the hot copies are gone, snapshots are given up:
// those that are forgotten anyhow, then barriers, then the oldest steps whose
// live files the job itself has deleted. Never what is held or read, nor the
// newest complete steps of a scope, nor what a person has named.

// spared is how many of the newest complete steps of each scope stay.
const spared = 3

const forRoom = "space: the store is nearly full"

// giveUp makes some room, and says whether anything was given up.
func (m *Manager) giveUp(ctx context.Context) (bool, error) {
	k := m.keeper
	select {
	case <-k.pass:
	case <-ctx.Done():
		return false, nil
	}
	defer func() { k.pass <- struct{}{} }()
	if err := k.load(); err != nil {
		return false, err
	}
	if freed, err := m.freeDead(ctx); freed || err != nil {
		return freed, err
	}
	seqs, soon, err := m.expendable()
	if err != nil || len(seqs) == 0 {
		if soon {
			pause(ctx, pressedGrace/8)
		}
		return soon, err
	}
	gone, err := m.Expire(forRoom, seqs...)
	if err != nil || len(gone) == 0 {
		return false, err // the storer reads it at this moment, say
	}
	k.freeing()
	return true, k.release(ctx, true, false, nil)
}

// freeDead frees what is dead already: the job deletes files that were stored.
func (m *Manager) freeDead(ctx context.Context) (freed bool, err error) {
	before, _, err := m.tree.Room()
	if err != nil {
		return false, err
	}
	m.keeper.freeing()
	if err := m.keeper.release(ctx, true, false, nil); err != nil {
		return false, err
	}
	after, _, err := m.tree.Room()
	return after > before+1<<20, err
}

// expendable gives what goes next, all of one kind; of steps, one. soon says
// that there will be something in a moment.
func (m *Manager) expendable() (seqs []uint64, soon bool, err error) {
	all, err := m.all()
	if err != nil || len(all) == 0 {
		return nil, false, err
	}
	forgotten, barriers := m.loose(all)
	switch {
	case len(forgotten) > 0:
		return numbersOf(forgotten), false, nil
	case len(barriers) > 0:
		return numbersOf(barriers[:min(len(barriers), expireBatch)]), false, nil
	case m.cfg.KeepSteps:
		return nil, false, nil
	}
	return m.oldestStep(all)
}

// loose gives what goes before any step does.
func (m *Manager) loose(all []Info) (forgotten, barriers []Info) {
	for _, i := range all {
		switch {
		case len(i.Holds) > 0 || m.inUseNow(i.Seq):
		case i.Forgotten != nil:
			forgotten = append(forgotten, i)
		case i.Name == "" && i.Seq != all[len(all)-1].Seq: // the newest is the live tree
			barriers = append(barriers, i)
		}
	}
	return forgotten, barriers
}

func numbersOf(is []Info) (seqs []uint64) {
	for _, i := range is {
		seqs = append(seqs, i.Seq)
	}
	return seqs
}

// all gives every snapshot, oldest first.
func (m *Manager) all() (all []Info, err error) {
	it, err := m.db.NewIter([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		seq, s, err := snapshotAt(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if !m.isHidden(seq) {
			all = append(all, infoOf(seq, s))
		}
	}
	return all, it.Error()
}

// oldestStep gives the oldest step that may go: one that nobody has looked
// into for a while, if there is any.
func (m *Manager) oldestStep(all []Info) (seqs []uint64, soon bool, err error) {
	spare, old := m.newestSteps(all)
	var busy []uint64
	for _, i := range all {
		if i.Name == "" || i.Explicit || len(i.Holds) > 0 || spare[i.Seq] || m.publisher.waits(i.Seq) {
			continue
		}
		live, err := m.stepIsLive(i)
		switch {
		case err != nil:
			return nil, false, fmt.Errorf("is %s still there: %w", i.ID(), err)
		case live && !old[i.Seq]:
		case m.InUse(i.Seq):
			busy = append(busy, i.Seq)
		default:
			return []uint64{i.Seq}, false, nil
		}
	}
	for _, seq := range busy {
		if !m.inUseNow(seq) {
			return []uint64{seq}, false, nil
		}
		soon = soon || m.idleSoon(seq)
	}
	return nil, soon || m.sealsSoon(), nil
}

// sealsSoon says whether a step is written and waits to be sealed: then one
// that is spared now is spared no more.
func (m *Manager) sealsSoon() bool {
	open := m.openFiles()
	for _, dir := range m.sealer.candidates() {
		writing := false
		for ino, parent := range open {
			writing = writing || ino == dir || m.below(parent, dir)
		}
		if !writing {
			return true
		}
	}
	return false
}

// newestSteps gives the newest complete steps of each scope, which are spared,
// and the revisions that a newer one of the same name has replaced.
func (m *Manager) newestSteps(all []Info) (spare, old map[uint64]bool) {
	spare, old = map[uint64]bool{}, map[uint64]bool{}
	names := map[[2]string]bool{}
	complete := map[string]int{}
	for k := len(all) - 1; k >= 0; k-- {
		i := all[k]
		if i.Name == "" || i.Forgotten != nil {
			continue
		}
		name := [2]string{i.Scope, i.Name}
		if names[name] {
			old[i.Seq] = true
			continue
		}
		names[name] = true
		if i.Complete() && complete[i.Scope] < spared {
			complete[i.Scope]++
			spare[i.Seq] = true
		}
	}
	return spare, old
}

// stepIsLive says whether the live tree still has the files of a step. What
// was not sealed for its name counts as live as long as its scope is there.
func (m *Manager) stepIsLive(i Info) (live bool, err error) {
	if len(i.Pieces) > 0 {
		return m.piecesAreLive(i)
	}
	found := false
	err = each(m.tree.At(i.Seq), i.ScopeIno, func(e Entry) error {
		step, ok := stepOf(e.Name, e.Type != modeDir)
		if !ok || step != i.Name {
			return nil
		}
		found = true
		path := e.Name
		if i.Scope != "" {
			path = i.Scope + "/" + e.Name
		}
		if ino, _, err := m.tree.Find(path); err == nil && ino == e.Ino {
			live = true
		}
		return nil
	})
	return live || !found, err
}

// piecesAreLive says whether one of the step's directories or files is still
// where it was.
func (m *Manager) piecesAreLive(i Info) (bool, error) {
	v := m.tree.At(i.Seq)
	for _, piece := range i.Pieces {
		path := join(i.Scope, piece)
		was, ok := find(v, path)
		if now, _, err := m.tree.Find(path); ok && err == nil && now == was {
			return true, nil
		}
	}
	return false, nil
}
