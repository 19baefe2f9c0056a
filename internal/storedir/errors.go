package storedir

import "errors"

// Every refusal of Open is one of these, wrapped with the path and the way out.
var (
	// ErrNoStore: the path is missing, or an empty directory, and Create was not asked for.
	ErrNoStore = errors.New("no store there")

	// ErrNotDir: the path, or a parent of it, is something else than a directory.
	ErrNotDir = errors.New("not a directory")

	// ErrForeign: a directory with something in it that is not a store.
	ErrForeign = errors.New("not a stepfs store")

	// ErrNotWritable: this user may not write there, or the filesystem is read-only.
	ErrNotWritable = errors.New("store is not writable")

	// ErrNewerFormat: a newer stepfs wrote the store.
	ErrNewerFormat = errors.New("store has a newer format")

	// ErrCorruptConfig: the config file is missing from a store, or its checksum or content is wrong.
	ErrCorruptConfig = errors.New("store config is damaged")

	// ErrInUse: another process has the store open. The error is an *InUseError.
	ErrInUse = errors.New("store is in use")

	// ErrUnsuitable: the filesystem below cannot keep what stepfs promises.
	ErrUnsuitable = errors.New("filesystem cannot hold a store")
)
