package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ReasonImport is recorded of a step that was brought in from elsewhere.
const ReasonImport = "import"

// adoptPatience is how long a step that was copied in may go on changing.
const adoptPatience = 10 * time.Second

// Adopt seals the step at a path of the live tree now: it was copied in, and is
// all there. Nobody saw how it was written, so what it shows of its rule's
// commit points stands for them. It gives the revision that has these bytes if
// there is one. Of Config.DurableRemote the same is true as for SnapshotAs.
func (m *Manager) Adopt(ctx context.Context, path string) (Info, error) {
	i, err := m.adopt(ctx, path)
	if err == nil && m.cfg.DurableRemote {
		err = m.publisher.stepInBucket(ctx, i.Seq)
	}
	return i, err
}

func (m *Manager) adopt(ctx context.Context, path string) (Info, error) {
	path = strings.Trim(path, "/")
	c, err := m.sealer.adopt(ctx, path)
	if err != nil {
		return Info{}, err
	}
	defer m.sealer.wake()
	defer m.sealer.release(c)
	var a *attempt
	var i Info
	for end := time.Now().Add(adoptPatience); ; pause(ctx, poll) {
		var ok bool
		if a, ok = m.sealer.take(c); !ok {
			return Info{}, fmt.Errorf("%w: %s", ErrNotExist, path)
		}
		// What was done last may be heard of only now.
		if i, err = m.sealer.seal(ctx, a); !errors.Is(err, errChanging) || ctx.Err() != nil || time.Now().After(end) {
			break
		}
	}
	var same *sameError
	switch {
	case errors.As(err, &same):
		return same.revision, errors.Join(m.sealedAgain(same, a.wrote), m.sealer.drop(c, a))
	case err != nil:
		m.sealer.disown(c)
		return i, fmt.Errorf("seal %s: %w", path, err)
	}
	m.sealer.end(c, a)
	return i, nil
}

// adopt gives the candidate of the step at a path, made if there is none, for
// the caller alone.
func (s *sealer) adopt(ctx context.Context, path string) (*candidate, error) {
	ino, dir, err := s.m.tree.Find(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNotExist, path)
	}
	parts := splitPath(path)
	m, ok := s.rules.Match(parts, dir)
	if !ok || rel(&m, parts) != "." {
		return nil, fmt.Errorf("%w: %s is not named like a step", ErrBadName, path)
	}
	for {
		s.resolve()
		w := &watcher{s: s, now: time.Now(), dirs: map[uint64]dirPlace{}}
		var found *candidate
		w.note(&m, parts, ino, true, func(c *candidate) {
			if !c.busy { // else somebody seals what there was a moment ago
				c.adopted, c.wrote, c.busy = true, true, true
				c.id = ino
				found = c
			}
		})
		if found != nil {
			return found, nil
		}
		if pause(ctx, poll); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// disown: what becomes of the candidate now is its own.
func (s *sealer) disown(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.adopted = false
}
