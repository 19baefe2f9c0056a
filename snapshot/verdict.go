package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/inspect"
)

// inspector checks the structure of pieces of a scope, and says what is wrong.
type inspector func(ctx context.Context, v View, scope string, pieces []string) ([]inspect.Problem, error)

// inspect checks the structure of the step's files. A step that is not sound
// is partial. What takes longer than Config.CheckTime is neither: the step is
// sealed as unverified, and judged afterwards.
func (j *judgement) inspect(ctx context.Context) (sound bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.s.m.cfg.CheckTime)
	defer cancel()
	problems, err := j.s.m.cfg.inspect(ctx, j.v, j.a.scope, j.pieces)
	if errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("check the step's files: %w", err)
	}
	why, sound := words(problems)
	if j.why = append(j.why, why...); !sound {
		j.verdict = VerdictPartial
	}
	return sound, nil
}

// words says what is wrong, and whether it makes a step partial.
func words(problems []inspect.Problem) (why []string, sound bool) {
	sound = true
	for _, p := range problems {
		sound = sound && p.Minor
		why = append(why, p.Path+": "+p.Why)
	}
	return why, sound
}

// inspectStep is the inspector of package inspect.
func inspectStep(ctx context.Context, v View, scope string, pieces []string) (all []inspect.Problem, err error) {
	for _, piece := range pieces {
		path := join(scope, piece)
		ino, ok := find(v, path)
		if !ok {
			return nil, fmt.Errorf("%w: %s", errGone, path)
		}
		n, err := v.Node(ino)
		if err != nil {
			return nil, err
		}
		var r *inspect.Report
		if n.Mode&modeType == modeDir {
			r, err = inspect.Check(ctx, viewTree{v, path}, inspect.Options{MaxProblems: maxListed})
		} else {
			r, err = inspect.CheckFile(ctx, viewTree{v, scope}, piece, inspect.Options{MaxProblems: maxListed})
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r.Problems...)
	}
	return all, ctx.Err()
}

// viewTree shows a directory of a view to package inspect.
type viewTree struct {
	v    View
	root string
}

// List gives the entries of a directory.
func (t viewTree) List(dir string) (out []inspect.Entry, err error) {
	ino, ok := find(t.v, join(t.root, dir))
	if !ok {
		return nil, fmt.Errorf("%w: %s", fs.ErrNotExist, dir)
	}
	err = each(t.v, ino, func(e Entry) error {
		n, err := t.v.Node(e.Ino)
		out = append(out, inspect.Entry{Name: e.Name, Kind: kindOfType(e.Type), Size: n.Size})
		return err
	})
	return out, err
}

// Open opens a regular file.
func (t viewTree) Open(path string) (inspect.File, error) {
	f, err := openFile(t.v, join(t.root, path))
	if errors.Is(err, errGone) {
		err = fmt.Errorf("%w: %s", fs.ErrNotExist, path)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func kindOfType(typ uint32) inspect.Kind {
	switch typ {
	case modeReg:
		return inspect.KindFile
	case modeDir:
		return inspect.KindDir
	case modeLink:
		return inspect.KindSymlink
	}
	return inspect.KindOther
}

// judge gives the steps that were sealed before their check had ended their
// verdicts.
func (m *Manager) judge(ctx context.Context) {
	for ctx.Err() == nil {
		seq, ok := m.takeUnjudged()
		if !ok {
			select {
			case <-ctx.Done():
			case <-m.unjudged.nudge:
			}
			continue
		}
		if err := m.judgeOne(ctx, seq); err != nil && ctx.Err() == nil {
			m.fault("check a step", err)
			m.later(seq)
			pause(ctx, firstRetry)
		}
	}
}

func (m *Manager) judgeOne(ctx context.Context, seq uint64) error {
	defer m.Pin(seq)()
	i, err := m.Get(seq)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	problems, err := m.cfg.inspect(ctx, m.tree.At(seq), i.Scope, i.Pieces)
	if err != nil {
		return fmt.Errorf("check %s: %w", i.ID(), err)
	}
	why, sound := words(problems)
	return m.setVerdict(seq, func(s *schema.Snapshot) {
		if s.Verdict = s.Pending; !sound {
			s.Verdict = VerdictPartial
		}
		s.Pending, s.Why = "", bounded(append(slices.Clone(s.Why), why...))
	})
}

// setVerdict changes what a step is worth.
func (m *Manager) setVerdict(seq uint64, change func(s *schema.Snapshot)) error {
	i, err := m.keep(seq, func(s *schema.Snapshot) error {
		if s.Pending == "" {
			return ErrNotExist
		}
		change(s)
		return nil
	})
	if errors.Is(err, ErrNotExist) {
		return nil // expired, or judged already
	}
	if err != nil {
		return err
	}
	m.keeping.Lock()
	err = m.renamed(i.Scope)
	m.keeping.Unlock()
	if err == nil && m.cfg.Events.Judged != nil {
		m.cfg.Events.Judged(i)
	}
	return err
}

// unjudged are the steps that wait for their verdict.
type unjudged struct {
	seqs  []uint64 // under Registry.mu
	nudge chan struct{}
}

func (m *Manager) later(seq uint64) {
	m.Registry.mu.Lock()
	m.unjudged.seqs = append(m.unjudged.seqs, seq)
	m.Registry.mu.Unlock()
	select {
	case m.unjudged.nudge <- struct{}{}:
	default:
	}
}

func (m *Manager) takeUnjudged() (seq uint64, ok bool) {
	m.Registry.mu.Lock()
	defer m.Registry.mu.Unlock()
	if len(m.unjudged.seqs) == 0 {
		return 0, false
	}
	seq, m.unjudged.seqs = m.unjudged.seqs[0], m.unjudged.seqs[1:]
	return seq, true
}

// sealedAgain: the job wrote the same step once more. That makes no revision,
// but the step is the latest.
func (m *Manager) sealedAgain(same *sameError, wrote bool) error {
	if last, ok := m.Latest(same.revision.Scope); !wrote || same.again == 0 || ok && last.Seq == same.revision.Seq {
		return nil
	}
	m.keeping.Lock()
	defer m.keeping.Unlock()
	pos, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		s, err := readSnapshot(tx, same.revision.Seq)
		if err != nil {
			return err
		}
		s.Again = same.again
		putSnapshot(tx, same.revision.Seq, s)
		return nil
	})
	if errors.Is(err, ErrNotExist) {
		return nil // it expired meanwhile
	}
	if err != nil {
		return err
	}
	return errors.Join(m.renamed(same.revision.Scope), m.db.Sync(pos))
}
