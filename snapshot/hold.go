package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// ErrHeld: somebody holds the snapshot; errors.As gives a *HeldError.
var ErrHeld = errors.New("snapshot is held")

// HeldError says who holds a snapshot, since when and why.
type HeldError struct {
	Snapshot string
	Holds    []Hold
}

func (e *HeldError) Error() string {
	var by []string
	for _, h := range e.Holds {
		by = append(by, heldBy(h))
	}
	return fmt.Sprintf("%s is %s", e.Snapshot, strings.Join(by, ", and "))
}

// Is makes it an ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

func heldBy(h Hold) string {
	s := fmt.Sprintf("held by %s since %s", h.By, h.Time.UTC().Format("2006-01-02 15:04:05 MST"))
	if h.Name != DefaultHold {
		s += " as " + h.Name
	}
	if h.Reason != "" {
		s += ": " + h.Reason
	}
	return s
}

// DefaultHold is the name of a hold that was given none.
const DefaultHold = "user"

// maxHoldText bounds each text of a hold.
const maxHoldText = 1000

// Hold keeps a snapshot until the hold is released. A hold of that name that
// is there gets the new reason, and stays as old as it is.
func (m *Manager) Hold(seq uint64, h Hold) (Info, error) {
	if h.Name == "" {
		h.Name = DefaultHold
	}
	for _, text := range [...]string{h.Name, h.By, h.Reason} {
		if len(text) > maxHoldText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
			return Info{}, fmt.Errorf("%w: a hold's texts have up to %d bytes and no control characters", ErrBadName, maxHoldText)
		}
	}
	i, err := m.keep(seq, func(s *schema.Snapshot) error {
		if s.Forgotten != nil {
			return fmt.Errorf("%w; unforget it first", forgottenError(seq, s))
		}
		rec := schema.Hold{Name: h.Name, UID: h.UID, By: h.By, Reason: h.Reason, Time: m.cfg.Now().UnixNano()}
		if k := holdNamed(s, h.Name); k >= 0 {
			rec.Time = s.Holds[k].Time
			s.Holds[k] = rec
			return nil
		}
		s.Holds = append(s.Holds, rec)
		slices.SortFunc(s.Holds, func(a, b schema.Hold) int { return strings.Compare(a.Name, b.Name) })
		return nil
	})
	if err == nil && h.Name == PinHold {
		m.packs.pins.set(seq, true)
	}
	return i, err
}

// Release ends a hold.
func (m *Manager) Release(seq uint64, name string) (Info, error) {
	if name == "" {
		name = DefaultHold
	}
	i, err := m.keep(seq, func(s *schema.Snapshot) error {
		k := holdNamed(s, name)
		if k >= 0 {
			s.Holds = slices.Delete(s.Holds, k, k+1)
			return nil
		}
		if i := infoOf(seq, s); len(s.Holds) > 0 {
			return fmt.Errorf("%w %s, but not as %q: %w", ErrNotExist, i.Path(), name, &HeldError{i.Path(), i.Holds})
		}
		return fmt.Errorf("%s is not held", infoOf(seq, s).Path())
	})
	if err == nil {
		m.keeper.changed(i.Scope) // it may be due since long
	}
	if err == nil && name == PinHold {
		m.packs.pins.set(seq, false)
	}
	return i, err
}

func holdNamed(s *schema.Snapshot, name string) int {
	return slices.IndexFunc(s.Holds, func(h schema.Hold) bool { return h.Name == name })
}

// keep changes one snapshot's record and makes that durable.
func (m *Manager) keep(seq uint64, change func(s *schema.Snapshot) error) (i Info, err error) {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	pos, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		s, err := readSnapshot(tx, seq)
		if err != nil {
			return err
		}
		if err := change(s); err != nil {
			return err
		}
		i = infoOf(seq, s)
		putSnapshot(tx, seq, s)
		return nil
	})
	if err != nil {
		return Info{}, err
	}
	return i, m.db.Sync(pos)
}

// readSnapshot reads a record within a transaction.
func readSnapshot(tx interface{ Get([]byte) ([]byte, error) }, seq uint64) (*schema.Snapshot, error) {
	v, err := tx.Get(schema.Numbered(schema.PrefixSnapshot, seq))
	if errors.Is(err, state.ErrNotFound) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	s, err := schema.DecodeSnapshot(v)
	if err != nil {
		return nil, fmt.Errorf("snapshot %d: %w", seq, err)
	}
	return s, nil
}

// putSnapshot writes a record, and with it what its name says of it.
func putSnapshot(tx *state.Tx, seq uint64, s *schema.Snapshot) {
	tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
	if s.Name != "" {
		tx.Put(schema.NameKey(s.Scope, s.Name, seq), s.NameFlags())
	}
}

func forgottenError(seq uint64, s *schema.Snapshot) error {
	i := infoOf(seq, s)
	return fmt.Errorf("%w: %s, by %s on %s", ErrForgotten, i.Path(), i.Forgotten.By, i.Forgotten.Time.UTC().Format("2006-01-02 15:04:05 MST"))
}
