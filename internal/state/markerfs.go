package state

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// markerFS makes the names in a directory durable before a marker is made in it
// or removed from it. Pebble's markers name another file of the directory (its
// MANIFEST), and Pebble syncs that file, but its name only together with the
// marker's, and it removes the old marker before the new one is durable. Where
// a filesystem does not keep the order of all that, a power cut could leave a
// marker alone, or none: an index that is empty.
type markerFS struct{ vfs.FS }

// Create makes a file for writing.
func (fs markerFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.settle(name); err != nil {
		return nil, err
	}
	return fs.FS.Create(name, c)
}

// Remove removes a file.
func (fs markerFS) Remove(name string) error {
	if err := fs.settle(name); err != nil {
		return err
	}
	return fs.FS.Remove(name)
}

// settle syncs the directory of a marker.
func (fs markerFS) settle(name string) error {
	if !strings.HasPrefix(fs.PathBase(name), "marker.") {
		return nil
	}
	dir, err := fs.OpenDir(fs.PathDir(name))
	if err != nil {
		return err
	}
	err = dir.Sync()
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return err
}

// Unwrap gives the filesystem below.
func (fs markerFS) Unwrap() vfs.FS { return fs.FS }
