package snapshot

import (
	"context"

	"stepfs/snapshot/inspect"
)

// Notice resolves the changes noted so far, as the sealer does once in a while.
func (m *Manager) Notice() { m.sealer.resolve() }

var (
	StepOf      = stepOf
	MaskNumbers = maskNumbers
)

// Wants is what the policy says of a step.
func (p Publish) Wants(i Info, done bool, since map[string]int) (wanted, known bool) {
	return p.wants(i, done, since)
}

// Hurry has what failed tried again at once.
func (m *Manager) Hurry() {
	m.store.retryAll()
	m.store.wake()
}

// Keep is one pass of the keeper.
func (m *Manager) Keep(ctx context.Context) (int, error) { return m.keeper.once(ctx, false, nil) }

// Sealing says whether a step is about to be sealed.
func (m *Manager) Sealing() bool { return len(m.sealer.slots) > 0 && m.sealer.atReady.Load() > 0 }

// Events is how many events wait to be looked at.
func (m *Manager) Events() int {
	m.sealer.mu.Lock()
	defer m.sealer.mu.Unlock()
	return len(m.sealer.events)
}

// Inspect has fn check the files of steps.
func (c *Config) Inspect(fn func(ctx context.Context, scope string) ([]inspect.Problem, error)) {
	c.inspect = func(ctx context.Context, _ View, scope string, _ []string) ([]inspect.Problem, error) {
		return fn(ctx, scope)
	}
}

// Unseen has nobody see what fn does, as after a crash, or too much at once.
func (m *Manager) Unseen(fn func()) {
	s := m.sealer
	s.resolving.Lock()
	fn()
	s.mu.Lock()
	s.events, s.missed = nil, true
	s.mu.Unlock()
	s.resolving.Unlock()
	s.wake()
}
