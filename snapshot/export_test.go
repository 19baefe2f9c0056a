package snapshot

import "context"

// Notice resolves the changes noted so far, as the sealer does once in a while.
func (m *Manager) Notice() { m.sealer.resolve() }

var (
	StepOf      = stepOf
	MaskNumbers = maskNumbers
)

// Hurry has what failed tried again at once.
func (m *Manager) Hurry() {
	m.store.retryAll()
	m.store.wake()
}

// Keep is one pass of the keeper.
func (m *Manager) Keep(ctx context.Context) (int, error) { return m.keeper.once(ctx, false, nil) }
