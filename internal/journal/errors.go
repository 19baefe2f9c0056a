package journal

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrCorrupt is a journal whose durable part does not read back. It comes
	// as a *CorruptError, which names file and offset.
	ErrCorrupt = errors.New("journal: corrupt")
	// ErrNewerFormat is a segment written by a later version of stepfs.
	ErrNewerFormat = errors.New("journal: written by a newer version of stepfs")
	// ErrFailed is the answer to everything after a failed write or sync. What
	// the disk holds is then unknown until the journal is opened again.
	ErrFailed = errors.New("journal: failed earlier, refusing further work")
	// ErrNoSpace means that no room was found for the next segment, or for a record
	// where the filesystem copies on write. The log is as before, and the same
	// Append may succeed later.
	ErrNoSpace = errors.New("journal: no space")
	// ErrTrimmed is a Replay from a position whose records were given up.
	ErrTrimmed = errors.New("journal: records below the oldest segment are gone")
	// ErrBeyondEnd is a position that no record has reached.
	ErrBeyondEnd = errors.New("journal: position is beyond the end")
	// ErrTooLarge is a record over MaxRecord.
	ErrTooLarge = errors.New("journal: record too large")
	// ErrClosed is the use of a closed Log.
	ErrClosed = errors.New("journal: closed")
	// ErrStarted is a call that is allowed only before the first Append.
	ErrStarted = errors.New("journal: records have already been appended")
)

// CorruptError says where a journal is damaged. errors.Is finds ErrCorrupt in it.
type CorruptError struct {
	File   string // path of the segment
	Offset int64  // in the file
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: %s", ErrCorrupt, e.File, e.Offset, e.Reason)
}

// Unwrap makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// noSpace names an error of a step that has left the log as it was.
func noSpace(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// isNoSpace tells a full disk or quota from a broken disk.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
