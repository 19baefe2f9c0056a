package state

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
)

// FreshJournal makes a journal in dir, which must not be there, for an index that
// holds everything up to a position: the first record changes nothing.
func FreshJournal(fs vfs.FS, dir string, applied journal.Pos, boot string) error {
	empty := make([]byte, 12) // a batch of no changes
	return journal.Fresh(fs, dir, applied, journal.Options{BootID: boot}, append([]byte{byte(schema.KindReserve)}, empty...))
}
