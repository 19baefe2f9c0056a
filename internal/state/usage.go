package state

// Usage is what the metadata takes on the disk, in bytes: the index with what
// Pebble has not deleted yet, and the journal.
func (e *Engine) Usage() (index, journal int64) {
	return int64(e.db.Metrics().DiskSpaceUsage()), e.log.Size()
}
