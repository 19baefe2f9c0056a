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

// bulkPos is the journal position at which an index stands that was made in bulk.
// It is not that of a new store: a journal that goes on from such an index does
// not hold what is in it, and must never be taken for one from the beginning, of
// which an index that is lost can be made again.
const bulkPos = 8

// JournalOfBulk makes the journal in dir, in the place of what is there, that goes
// with an index which was made in bulk.
func JournalOfBulk(fs vfs.FS, dir, boot string) error {
	if err := fs.RemoveAll(dir); err != nil {
		return err
	}
	return FreshJournal(fs, dir, bulkPos, boot)
}
