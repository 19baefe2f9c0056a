package snapshot

import (
	"path"
	"slices"
	"strings"
	"time"

	"stepfs/snapshot/rules"
)

// watcher finds the step of each event of one batch. Paths are those of now:
// what was moved since is noted where it is.
type watcher struct {
	s    *sealer
	now  time.Time
	dirs map[uint64]dirPlace // many events share a directory
}

// dirPlace is where a directory is.
type dirPlace struct {
	ok    bool
	path  string
	parts []string
}

// resolve finds the step of each event noted since the last call.
func (s *sealer) resolve() {
	s.resolving.Lock()
	defer s.resolving.Unlock()
	s.resolveLocked()
}

func (s *sealer) resolveLocked() {
	start := s.m.cfg.Now()
	events := s.takeEvents()
	w := &watcher{s: s, now: time.Now(), dirs: map[uint64]dirPlace{}}
	for _, e := range events {
		w.event(e)
	}
	if s.record() {
		s.resolved.Store(start.UnixNano())
	}
}

func (w *watcher) event(e Event) {
	if e.Op == OpRename {
		if from := w.dir(e.FromDir); from.ok {
			w.leave(e, from)
		}
	}
	p := w.dir(e.Dir)
	if !p.ok {
		return // removed meanwhile
	}
	w.enter(e, p)
	w.beside(e, p)
}

// dir finds a directory as it is now.
func (w *watcher) dir(ino uint64) dirPlace {
	p, known := w.dirs[ino]
	if known {
		return p
	}
	var err error
	if p.path, err = w.s.m.tree.PathOf(ino); err == nil {
		p.ok, p.parts = true, splitPath(p.path)
	}
	w.dirs[ino] = p
	return p
}

func splitPath(p string) []string {
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// enter notes an event at the step of the entry that it is of.
func (w *watcher) enter(e Event, p dirPlace) {
	parts := append(slices.Clone(p.parts), e.Name)
	dir := e.Op == OpMkdir || e.Op == OpRmdir
	if e.Op == OpRename || e.Op == OpAttr {
		_, dir, _ = w.s.m.tree.Find(strings.Join(parts, "/"))
	}
	m, ok := w.s.rules.Match(parts, dir)
	if !ok {
		return
	}
	file := rel(&m, parts)
	ino := e.Ino
	if file != "." {
		if ino, ok = w.piece(&m, parts); !ok {
			return
		}
	}
	// A removal makes no step, a change of attributes none either; a new
	// directory is none before there is something in it.
	starts := e.Op != OpUnlink && e.Op != OpRmdir && e.Op != OpAttr && e.Op != OpAbandon
	w.note(&m, parts, ino, starts, func(c *candidate) {
		c.touch(e, false, w.now)
		c.wrote = c.wrote || starts
		c.adopted = c.adopted || e.Op == OpRename && file == "." && strings.HasPrefix(e.FromName, ImportPrefix)
		for _, r := range c.rules {
			for k := range r.Commits {
				if kind := kindOf(e.Op); kind != "" && r.Commits[k].Is(kind, file, e.FromName) {
					c.commit(commitPoint{r, k}, w.now)
				}
			}
		}
	})
}

// kindOf gives the commit that an operation on a step's own file can be.
func kindOf(op Op) string {
	switch op {
	case OpClose:
		return rules.Close
	case OpRename:
		return rules.Rename
	case OpUnlink:
		return rules.Unlink
	}
	return ""
}

// leave notes at a step that an entry was moved out of it.
func (w *watcher) leave(e Event, from dirPlace) {
	parts := append(slices.Clone(from.parts), e.FromName)
	m, ok := w.s.rules.Match(parts, false)
	if !ok || rel(&m, parts) == "." {
		return // the step itself is followed by its inode
	}
	if to := w.dir(e.Dir); to.ok {
		now := append(slices.Clone(to.parts), e.Name)
		if n := m.Scope + m.Parts; len(now) > n && slices.Equal(parts[:n], now[:n]) {
			return // within the step
		}
	}
	if ino, ok := w.piece(&m, parts); ok {
		w.note(&m, parts, ino, false, func(c *candidate) { c.touch(e, true, w.now) })
	}
}

// rel gives the name of a path within its step, "." for the step itself.
func rel(m *rules.Match, parts []string) string {
	if len(parts) <= m.Scope+m.Parts {
		return "."
	}
	return strings.Join(parts[m.Scope+m.Parts:], "/")
}

// piece gives the inode of the step that a path lies in.
func (w *watcher) piece(m *rules.Match, parts []string) (uint64, bool) {
	ino, _, err := w.s.m.tree.Find(strings.Join(parts[:m.Scope+m.Parts], "/"))
	return ino, err == nil
}

// note has fn change the candidate of a step; one is made if the event starts
// one.
func (w *watcher) note(m *rules.Match, parts []string, ino uint64, starts bool, fn func(*candidate)) {
	key := stepKey{ino: ino}
	if m.Parts > 1 {
		scope, _, err := w.s.m.tree.Find(strings.Join(parts[:m.Scope], "/"))
		if err != nil {
			return
		}
		key = stepKey{scope, m.Step}
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	c := w.s.waiting[key]
	if c == nil {
		if !starts {
			return
		}
		c = &candidate{key: key, id: ino, recorded: notRecorded, last: w.now}
		w.s.waiting[key] = c
	}
	c.step, c.rules = m.Step, m.Rules // as it is called now
	fn(c)
}

// beside notes commit points that lie beside their step: trackers, markers.
func (w *watcher) beside(e Event, p dirPlace) {
	kind := kindOf(e.Op)
	if kind == "" {
		return
	}
	for _, r := range w.s.rules.All() {
		for k := range r.Commits {
			file, out := strings.CutPrefix(r.Commits[k].File, "../")
			if !out {
				continue
			}
			point := commitPoint{r, k}
			switch c := &r.Commits[k]; {
			case c.Kind == rules.Tracker:
				if kind != rules.Unlink && file == e.Name {
					w.tracker(p, e.Name, point)
				}
			case c.Kind == kind || c.Kind == rules.Close && kind == rules.Rename:
				if name, ok := rules.NameOf(file, e.Name); ok {
					w.commitNamed(p, name, point)
				}
			}
		}
	}
}

// tracker reads a tracker, and notes the commit of the step that it names.
func (w *watcher) tracker(p dirPlace, file string, point commitPoint) {
	text, err := readTracker(w.s.m.tree.Now(), join(p.path, file))
	if err != nil {
		w.s.refuse(join(p.path, file), err)
		return
	}
	if point.rule.Commits[point.k].Want == "{name}" {
		w.commitNamed(p, text, point)
		return
	}
	step, ok := rules.Number(text)
	if !ok {
		w.s.refuse(join(p.path, file), errNoStep)
		return
	}
	w.commitStep(p, step, point)
}

// commitNamed notes a commit of the step that is called so, there being one.
func (w *watcher) commitNamed(p dirPlace, name string, point commitPoint) {
	for _, name := range []string{name, name + ".ckpt"} {
		ino, dir, err := w.s.m.tree.Find(join(p.path, name))
		if err != nil || path.Base(name) != name {
			continue
		}
		parts := append(slices.Clone(p.parts), name)
		m, ok := w.s.rules.Match(parts, dir)
		if ok && rel(&m, parts) == "." && slices.Contains(m.Rules, point.rule) {
			w.committed(&m, parts, ino, point)
		}
	}
}

// commitStep likewise, of the step of that number.
func (w *watcher) commitStep(p dirPlace, step string, point commitPoint) {
	dir, _ := find(w.s.m.tree.Now(), p.path)
	err := each(w.s.m.tree.Now(), dir, func(e Entry) error {
		parts := append(slices.Clone(p.parts), e.Name)
		m, ok := w.s.rules.Match(parts, e.Type == modeDir)
		if ok && m.Step == step && rel(&m, parts) == "." && slices.Contains(m.Rules, point.rule) {
			w.committed(&m, parts, e.Ino, point)
		}
		return nil
	})
	w.s.m.fault("look for the step of a tracker", err)
}

func (w *watcher) committed(m *rules.Match, parts []string, ino uint64, point commitPoint) {
	w.note(m, parts, ino, true, func(c *candidate) {
		c.version++
		c.last, c.wrote = w.now, true
		c.commit(point, w.now)
	})
}
