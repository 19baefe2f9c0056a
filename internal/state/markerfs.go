package state

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// markerFS makes the names in a directory durable before it makes a marker in
// it. Pebble's markers name another file of the directory (its MANIFEST), and
// Pebble syncs that file, but its name only together with the marker's: where
// a filesystem does not keep the order of the two, a power cut could leave the
// marker alone.
type markerFS struct{ vfs.FS }

// Create makes a file for writing.
func (fs markerFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(fs.PathBase(name), "marker.") {
		dir, err := fs.OpenDir(fs.PathDir(name))
		if err != nil {
			return nil, err
		}
		err = dir.Sync()
		if cerr := dir.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
	}
	return fs.FS.Create(name, c)
}

// Unwrap gives the filesystem below.
func (fs markerFS) Unwrap() vfs.FS { return fs.FS }
