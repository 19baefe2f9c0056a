package snapshot

import "time"

// Op says what happened to an entry of the live tree.
type Op uint8

// What can happen.
const (
	OpCreate  Op = iota + 1 // a name was added
	OpMkdir                 // a directory was made
	OpWrite                 // a file was changed, for the first time since it was closed
	OpClose                 // a file that was changed is closed: snapshots show it
	OpAbandon               // it is open no more, but its writer was killed: they do not
	OpRename                // an entry was moved
	OpUnlink                // a name was removed
	OpRmdir                 // a directory was removed
	OpAttr                  // mode, owner or times
)

// Event is one thing that happened in the live tree.
type Event struct {
	Op       Op
	Dir      uint64 // directory of the entry; of a rename, the new one
	Name     string
	Ino      uint64
	FromDir  uint64 // of a rename: where it was
	FromName string
	Over     uint64 // of a rename: the inode that lost the name; 0: none
}

// maxEvents bounds the events that wait to be looked at. When more come, they
// are forgotten and the tree is looked through instead.
const maxEvents = 1 << 18

// soon is how long events gather before they are looked at: a checkpoint of
// many files is looked at a few times, and not once a file.
const soon = 5 * time.Millisecond

// Happened notes an event. It neither blocks nor looks anything up.
func (m *Manager) Happened(e Event) {
	s := m.sealer
	if m.cfg.ReadOnly || m.cfg.NoSeal {
		return
	}
	s.mu.Lock()
	if len(s.events) < maxEvents {
		s.events = append(s.events, e)
	} else {
		s.events, s.missed = nil, true
	}
	s.mu.Unlock()
	s.wake()
}

// wake has the sealer look at what happened.
func (s *sealer) wake() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}
