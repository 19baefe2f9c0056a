package storedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What a repair takes out of the way it moves, and never deletes: into a
// directory of its own in the store, called after the time.
const asidePrefix = "damaged-"

// ConfigBroken is why the config could not be used and its second copy was taken
// instead (Options.Repair); nil: it could.
func (d *Dir) ConfigBroken() error { return d.broken }

// secondCopy gives what config.bak says, where that helps against err.
func (d *Dir) secondCopy(err error) (Config, error) {
	if !errors.Is(err, ErrCorruptConfig) {
		return Config{}, err
	}
	cfg, second := readConfigFile(filepath.Join(d.path, backupName))
	if second != nil {
		return Config{}, err
	}
	d.broken = err
	return cfg, nil
}

// restoreConfig writes the config anew. The damaged one stays beside it.
func (d *Dir) restoreConfig(cfg Config) error {
	path := filepath.Join(d.path, ConfigName)
	if data, err := os.ReadFile(path); err == nil {
		aside, err := d.Aside()
		if err == nil {
			err = writeFileAtomic(aside, ConfigName, data)
		}
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return writeConfig(d.path, cfg)
}

// Aside makes a directory in the store for what is moved out of the way.
func (d *Dir) Aside() (string, error) {
	name := asidePrefix + time.Now().UTC().Format("20060102-150405")
	for n := 1; ; n++ {
		path := filepath.Join(d.path, name)
		if n > 1 {
			path = fmt.Sprintf("%s.%d", path, n)
		}
		err := os.Mkdir(path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("making a place for what is damaged: %w", err)
		}
		return path, syncDir(d.path)
	}
}

// IsAside says whether a name in the store is that of such a directory.
func IsAside(name string) bool { return strings.HasPrefix(name, asidePrefix) }

// Move renames a file or directory so that the change is durable. What is at to
// stays: another name is taken then. It gives the name.
func Move(from, to string) (string, error) {
	if err := makeDirs(filepath.Dir(to)); err != nil {
		return "", fmt.Errorf("moving %s: %w", from, err)
	}
	free := to
	for n := 2; ; n++ {
		if _, err := os.Lstat(free); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", fmt.Errorf("moving %s: %w", from, err)
		}
		free = fmt.Sprintf("%s.%d", to, n)
	}
	if err := os.Rename(from, free); err != nil {
		return "", fmt.Errorf("moving %s: %w", from, err)
	}
	return free, errors.Join(syncDir(filepath.Dir(free)), syncDir(filepath.Dir(from)))
}

// makeDirs makes a directory, and those that it is in, so that they stay.
func makeDirs(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDirs(filepath.Dir(path)); err == nil {
			err = os.Mkdir(path, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// WriteFile replaces a file: after a crash there is the old one or the new one.
func WriteFile(path string, data []byte) error {
	return writeFileAtomic(filepath.Dir(path), filepath.Base(path), data)
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error { return syncDir(path) }
