package snapshot

import "stepfs/chunkstore"

// haste says how fast a pass has to store. A step that waits for the one before
// it is nothing to worry about while there is room; when it is the second that
// waits, and half of the room has gone since ingest fell behind, the job comes
// nearer to waiting for ingest with each one: then nothing is made from bases,
// which is half of the work. When somebody does wait (pressed), nothing is
// encoded at all.
func (s *storer) haste(pressed bool) (chunkstore.Haste, error) {
	if pressed {
		return chunkstore.Unencoded, nil
	}
	free, _, err := s.m.tree.Room()
	if err == nil {
		err = s.m.tree.Hot(func(_ uint64, bytes int64) bool { free += uint64(bytes); return true })
	}
	if err != nil {
		return chunkstore.Unhurried, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.steps) < 2 || s.room == 0 {
		s.room = free
	}
	if free < s.room/2 {
		return chunkstore.NoDeltas, nil
	}
	return chunkstore.Unhurried, nil
}
