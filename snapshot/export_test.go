package snapshot

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
