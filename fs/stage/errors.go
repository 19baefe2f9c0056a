package stage

import "errors"

// What an operation on a tree can answer. fs has the one table that maps them
// to errno.
var (
	ErrNotExist     = errors.New("no such file or directory")
	ErrExist        = errors.New("file exists")
	ErrNotEmpty     = errors.New("directory not empty")
	ErrNotDir       = errors.New("not a directory")
	ErrIsDir        = errors.New("is a directory")
	ErrInvalid      = errors.New("invalid argument")
	ErrNameTooLong  = errors.New("file name too long")
	ErrTooManyLinks = errors.New("too many links")
	ErrLoop         = errors.New("too many levels of symbolic links")
	ErrTooBig       = errors.New("file too large")
	ErrPerm         = errors.New("operation not permitted")
	ErrStale        = errors.New("stale file handle")
	ErrBadHandle    = errors.New("bad file descriptor")
	ErrNotSupported = errors.New("operation not supported")
)

// Extended attributes and seeking.
var (
	ErrNoAttr = errors.New("no such attribute")
	ErrRange  = errors.New("result too large for the buffer")
	ErrNXIO   = errors.New("no data or hole behind this offset")
)

// The disk below.
var (
	// ErrNoSpace: the store's disk, less its reserve, is full. Nothing of the
	// operation happened.
	ErrNoSpace = errors.New("no space left for the store")
	// ErrTooManyFiles: as many staging files are open as may be, and all of them
	// hold bytes that are not synced yet.
	ErrTooManyFiles = errors.New("too many open files")
	// ErrReadOnly: the tree takes no changes (a snapshot, or a failed journal).
	ErrReadOnly = errors.New("read-only")
	// ErrIO: the disk failed, or bytes did not match their hash.
	ErrIO = errors.New("input/output error")
)
