package storedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFileAtomic replaces dir/name: after a crash there is the old file or
// the new one, whole, and after it returns there is the new one.
func writeFileAtomic(dir, name string, data []byte) error {
	tmp, err := os.CreateTemp(dir, name+tempMark+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing the store's %s: %w", name, err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the store's %s: %w", name, err), os.Remove(tmp.Name()))
	}
	return syncDir(dir)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing directory %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", path, err)
	}
	return nil
}

// removeTemps clears what a crash left half written. Only under the lock.
func removeTemps(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the next step meets the same error and reports it
	}
	for _, e := range entries {
		if isTemp(e.Name()) {
			_ = os.Remove(filepath.Join(dir, e.Name())) // harmless where it stays
		}
	}
}
