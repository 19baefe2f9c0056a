// Package include takes files from outside the mount into the steps that are
// sealed: configs, the manifest of a data set, a database.
//
// A Set keeps copies of them in a directory that no name leads to (Tree), which
// package snapshot has a cut show as `.stepfs` in the directory of the step.
// Refresh brings it up to date before each cut: what is unchanged since the last
// time is not read again, let alone written.
//
// Read set.go first, then scan.go (what there is to take), take.go (how a file
// is taken), sqlite.go, manifest.go.
package include

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of what is taken for one step.
const (
	MaxFiles = 10_000
	MaxBytes = 1 << 30
	MaxTime  = 10 * time.Second // that a seal waits for it
)

// Tree is where the copies are kept, with its directories known by number. What
// it is told to remove stays in the snapshots that show it.
type Tree interface {
	// Hidden makes a directory that no name leads to.
	Hidden() (dir uint64, err error)
	Mkdir(dir uint64, name string, a Attr) (ino uint64, err error)
	Symlink(dir uint64, name, target string, a Attr) error
	// File makes a file of what fill writes, or, when that fails, none.
	File(dir uint64, name string, a Attr, fill func(w io.Writer) error) error
	SetAttr(ino uint64, a Attr) error
	// Remove removes an entry with all below it.
	Remove(dir uint64, name string) error
}

// Attr are the attributes that a copy has of its original. Mode has no type.
type Attr struct {
	Mode, UID, GID uint32
	Mtime          int64 // ns
}

// Config says what is taken.
type Config struct {
	// Paths are files, directories or patterns (filepath.Match), all absolute.
	Paths []string
	// Mountpoint and Store are where nothing is taken from.
	Mountpoint, Store string
	// Scratch is a directory for backups on their way; it need not exist.
	Scratch string
	// SQLite is the program; default "sqlite3".
	SQLite string

	MaxFiles int   // default MaxFiles
	MaxBytes int64 // default MaxBytes

	// Fresh is how old a change must be to be told by its time from one that comes
	// next; default Fresh.
	Fresh time.Duration
}

// New checks what can be known beforehand.
func New(cfg Config) (*Set, error) {
	if cfg.SQLite == "" {
		cfg.SQLite = "sqlite3"
	}
	if cfg.MaxFiles == 0 {
		cfg.MaxFiles = MaxFiles
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = MaxBytes
	}
	if cfg.Fresh == 0 {
		cfg.Fresh = Fresh
	}
	s := &Set{cfg: cfg, have: map[string]*node{}}
	var errs []error
	for _, path := range cfg.Paths {
		if err := s.admissible(path); err != nil {
			errs = append(errs, fmt.Errorf("include %s: %w", path, err))
		}
	}
	return s, errors.Join(errs...)
}

// admissible says why a path can't be included.
func (s *Set) admissible(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("it is not an absolute path")
	}
	if isPattern(path) {
		if _, err := filepath.Match(path, "/"); err != nil {
			return fmt.Errorf("as a pattern: %w", err)
		}
		return s.allowed(fixed(path))
	}
	if err := s.allowed(path); err != nil { // before the mount is looked at
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return plain(err)
	}
	if err := s.allowed(real); err != nil {
		return err
	}
	f, err := openIncluded(real)
	if err != nil {
		return plain(err)
	}
	return f.Close()
}

var (
	errOnMount = errors.New("it is on the mount, where every step has it anyhow")
	errInStore = errors.New("it is in the store")
	errSpecial = errors.New("it is neither a file nor a directory")
)

// allowed refuses what lies on the mount or in the store.
func (s *Set) allowed(path string) error {
	switch {
	case below(path, s.cfg.Mountpoint):
		return errOnMount
	case below(path, s.cfg.Store):
		return errInStore
	}
	return nil
}

func below(path, dir string) bool {
	return dir != "" && (path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/"))
}

// isPattern says whether a path is a pattern. A file that is called like one is
// that file.
func isPattern(path string) bool {
	if !strings.ContainsAny(path, `*?[\`) {
		return false
	}
	_, err := os.Lstat(path)
	return err != nil
}

// fixed is the part of a pattern before the first element that is one.
func fixed(pattern string) string {
	at := strings.IndexAny(pattern, `*?[\`)
	return filepath.Clean(pattern[:strings.LastIndexByte(pattern[:at], '/')+1])
}

// plain is an error without the path, which is said anyhow.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
