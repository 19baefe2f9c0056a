package storedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/restic/chunker"
	"golang.org/x/sys/unix"
)

// Names in the store directory.
const (
	JournalDir = "journal"
	StagingDir = "staging"
	IndexDir   = "index"
	PacksDir   = "packs"
	ScratchDir = "scratch" // there when it is needed; nothing in it outlives the daemon

	SocketName = "stepfs.sock"
	LogName    = "stepfs.log"

	ConfigName = "config"
	backupName = "config.bak"
	lockName   = "lock"
	leaseName  = "lease"
	tempMark   = ".tmp-"   // every temporary file is its final name, this, and a random number
	guardMark  = ".taken-" // lease.taken-<nonce of a dead lease>; see takeOver
	freshMark  = ".new-"   // the lease that is to replace it
)

// layout is what creation makes besides the config; every one starts empty.
var layout = []string{JournalDir, StagingDir, IndexDir, PacksDir}

// Options say how Open treats the path. The zero value opens an existing store.
type Options struct {
	Create     bool   // make the store when the path is missing or an empty directory
	Command    string // what holds the store, for whoever finds it in use ("mount", "restore", …)
	Mountpoint string // where it will be mounted, likewise; "" when it will not be
	// Draw changes what is drawn for a store that is made; nil: nothing.
	Draw func(c *Config) error

	// Repair takes a config that is missing or damaged from its second copy, which
	// is refused else. Look goes without putting it back, and changes nothing but
	// the lock.
	Repair, Look bool

	env *environment // tests only
}

// environment is what the outside world says about this process; tests give
// another one to play a second host or a later boot.
type environment struct {
	host      string
	bootID    string
	heartbeat time.Duration
	kind      func(path string) (Kind, error)
	flock     func(fd int) error
}

// Dir is an open, locked store directory.
type Dir struct {
	path   string
	mu     sync.Mutex // guards config
	config Config
	kind   Kind
	lock   *lock
	fresh  bool
	broken error // why the config could not be used, with Options.Repair
}

// Open checks the path, locks the store and reads its config; with Create it
// makes the store first when nothing is there. Nothing is written to a foreign
// directory, and nothing but a lock file to a store that is not won.
func Open(path string, o Options) (*Dir, error) {
	env := o.env
	if env == nil {
		env = hostEnvironment()
	}
	abs, found, err := look(path)
	if err != nil {
		return nil, err
	}
	if found != foundStore && !o.Create {
		return nil, fmt.Errorf("%s: %w (stepfs mount creates one)", abs, ErrNoStore)
	}
	if found == foundMissing {
		if abs, err = makeDir(abs); err != nil {
			return nil, err
		}
	}
	if err := checkWritable(abs); err != nil {
		return nil, err
	}
	kind, err := env.kind(abs)
	if err != nil {
		return nil, fmt.Errorf("asking for the filesystem of %s: %w", abs, err)
	}
	// A newer stepfs may lock in another way: look at the version before locking.
	if found == foundStore {
		if _, err := readConfig(abs); errors.Is(err, ErrNewerFormat) {
			return nil, err
		}
	}
	l, err := acquire(abs, o, env, kind)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: abs, kind: kind, lock: l}
	if !o.Look {
		removeTemps(abs)
	}
	if found != foundStore || kind.Shared {
		err = probe(abs, kind)
	}
	if err == nil {
		err = d.load(o)
	}
	if err != nil {
		return nil, errors.Join(err, l.release())
	}
	return d, nil
}

// load runs under the lock: another process may have made the store since look.
func (d *Dir) load(o Options) error {
	cfg, err := readConfig(d.path)
	if errors.Is(err, fs.ErrNotExist) && o.Create {
		if cfg, err = create(d.path, o.Draw); err == nil {
			d.fresh = true
		}
	}
	if o.Repair && err != nil {
		cfg, err = d.secondCopy(err)
	}
	if err != nil {
		return err
	}
	if o.Look {
		d.config = cfg
		return nil
	}
	if d.broken != nil {
		if err := d.restoreConfig(cfg); err != nil {
			return err
		}
	}
	if cfg.Format < FormatVersion { // an older stepfs must not open it from here on
		cfg.Format = FormatVersion
		if err := writeConfig(d.path, cfg); err != nil {
			return err
		}
	}
	d.config = cfg
	if err := refreshBackup(d.path, cfg); err != nil {
		return err
	}
	for _, name := range layout {
		if err := os.Mkdir(filepath.Join(d.path, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making the store's %s directory: %w", name, err)
		}
	}
	overwriteInPlace(d.Join(JournalDir))
	return syncDir(d.path)
}

// create writes the config last: a directory without one is not a store yet,
// so that a crash at any point leaves something that the next Open completes.
func create(path string, draw func(*Config) error) (Config, error) {
	for _, name := range layout {
		if err := os.Mkdir(filepath.Join(path, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return Config{}, fmt.Errorf("making the store's %s directory: %w", name, err)
		}
	}
	cfg, err := newConfig()
	if err == nil && draw != nil {
		err = draw(&cfg)
	}
	if err != nil {
		return Config{}, err
	}
	if err := writeConfig(path, cfg); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

type finding int

const (
	foundMissing finding = iota
	foundEmpty           // or what an interrupted creation left
	foundStore
)

// look says what is at the path without changing anything, and returns it
// absolute and, as far as it exists, free of symbolic links.
func look(path string) (string, finding, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", 0, fmt.Errorf("resolving %s: %w", path, err)
	}
	resolved, err := filepath.EvalSymlinks(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return abs, foundMissing, danglingLink(abs)
	case errors.Is(err, unix.ENOTDIR):
		return abs, 0, fmt.Errorf("%s: a part of the path is %w", abs, ErrNotDir)
	case errors.Is(err, fs.ErrPermission):
		return abs, 0, fmt.Errorf("%s: %w by uid %d: %w", abs, ErrNotWritable, os.Geteuid(), err)
	case err != nil:
		return abs, 0, fmt.Errorf("looking at %s: %w", abs, err)
	}
	abs = resolved
	st, err := os.Stat(abs)
	if err != nil {
		return abs, 0, fmt.Errorf("looking at %s: %w", abs, err)
	}
	if !st.IsDir() {
		return abs, 0, fmt.Errorf("%s is a file: %w; a store is a directory", abs, ErrNotDir)
	}
	found, err := classify(abs)
	return abs, found, err
}

// danglingLink refuses a link to nowhere: creating the store at the link's
// name would fail, at its target would surprise.
func danglingLink(abs string) error {
	if st, err := os.Lstat(abs); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link to something that is missing: %w", abs, ErrNoStore)
	}
	return nil
}

// classify tells a store from an empty directory, and both from a foreign one.
func classify(abs string) (finding, error) {
	entries, err := os.ReadDir(abs)
	if errors.Is(err, fs.ErrPermission) {
		return 0, fmt.Errorf("%s: %w by uid %d: permission denied", abs, ErrNotWritable, os.Geteuid())
	}
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", abs, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if slices.Contains(names, ConfigName) {
		return classifyConfig(abs, names)
	}
	if slices.Contains(names, backupName) && hasMagic(filepath.Join(abs, backupName)) {
		return foundStore, nil // readConfig says how to bring the config back
	}
	for _, name := range names {
		if !isOurs(name) {
			return 0, fmt.Errorf("%s has other things in it (%s): %w; name an empty or a new directory", abs, name, ErrForeign)
		}
	}
	for _, name := range layout {
		sub, err := os.ReadDir(filepath.Join(abs, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("reading %s: %w", abs, err)
		}
		if len(sub) > 0 {
			return 0, fmt.Errorf("%s holds a store's data, but its config is gone: %w; put %s back from a backup",
				abs, ErrCorruptConfig, filepath.Join(abs, ConfigName))
		}
	}
	return foundEmpty, nil
}

// classifyConfig: many programs call a file "config". Without our first line
// and without our directories it is theirs (a git directory, say), not a
// damaged one of ours.
func classifyConfig(abs string, names []string) (finding, error) {
	if hasMagic(filepath.Join(abs, ConfigName)) || hasMagic(filepath.Join(abs, backupName)) {
		return foundStore, nil
	}
	for _, name := range layout {
		if !slices.Contains(names, name) {
			return 0, fmt.Errorf("%s has a config that is not of stepfs: %w; name an empty or a new directory", abs, ErrForeign)
		}
	}
	return foundStore, nil
}

// isOurs names what an interrupted creation, or mkfs, may have left.
func isOurs(name string) bool {
	switch name {
	case lockName, leaseName, SocketName, LogName, LogName + ".1", "lost+found":
		return true
	}
	return slices.Contains(layout, name) || isTemp(name) || strings.HasPrefix(name, leaseName+".")
}

func isTemp(name string) bool {
	base, _, ok := strings.Cut(name, tempMark)
	return ok && (base == ConfigName || base == backupName || base == "probe")
}

// makeDir makes the store's directory, and not those above it: a path with a
// letter wrong, or a volume that is not mounted, should not become a store.
func makeDir(abs string) (string, error) {
	if err := os.Mkdir(abs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", creationError(abs, err)
	}
	if err := syncDir(filepath.Dir(abs)); err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", abs, err)
	}
	return resolved, nil
}

func creationError(abs string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf("creating %s: %w: %w", abs, ErrNotWritable, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("creating the store %s: its parent directory does not exist", abs)
	}
	return fmt.Errorf("creating %s: %w", abs, err)
}

func checkWritable(abs string) error {
	err := unix.Faccessat(unix.AT_FDCWD, abs, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s: %w: the filesystem is mounted read-only", abs, ErrNotWritable)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w by uid %d: permission denied", abs, ErrNotWritable, os.Geteuid())
	}
	return fmt.Errorf("asking for access to %s: %w", abs, err)
}

// Close ends the lease and the lock.
func (d *Dir) Close() error { return d.lock.release() }

// Path is the store's directory, absolute and without symbolic links.
func (d *Dir) Path() string { return d.path }

// Join names something inside the store.
func (d *Dir) Join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// Config is what the config file says.
func (d *Dir) Config() Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config
}

// Created says whether this Open made the store.
func (d *Dir) Created() bool { return d.fresh }

// Kind is the filesystem below.
func (d *Dir) Kind() Kind { return d.kind }

// Advice is what a person should know about the filesystem below; "" when all is well.
func (d *Dir) Advice() string { return d.kind.Advice }

// TookOver describes the lease of a dead holder that this Open replaced; nil
// when the last holder closed the store.
func (d *Dir) TookOver() *Lease { return d.lock.tookOver }

// Lost is closed when the lease turns out to belong to somebody else: the
// process was stopped for so long that another host took the store over.
// Whoever holds the Dir must write nothing more.
func (d *Dir) Lost() <-chan struct{} { return d.lock.lost }

// Lease is what other processes are told about this holder.
func (d *Dir) Lease() Lease { return d.lock.lease }

// SaveSettings replaces the settings in the config file.
func (d *Dir) SaveSettings(s map[string]string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	cfg := d.config
	cfg.Settings = s
	if err := writeConfig(d.path, cfg); err != nil {
		return err
	}
	d.config = cfg
	return nil
}

// SaveNaming replaces what decides the names of chunks, of which there are none.
func (d *Dir) SaveNaming(pol chunker.Pol, key [32]byte, domain uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	cfg := d.config
	cfg.Polynomial, cfg.Key, cfg.Domain = pol, key, domain
	if err := writeConfig(d.path, cfg); err != nil {
		return err
	}
	d.config = cfg
	return nil
}

// Rename has content cut and named by n from now on. What it was by until now is kept:
// that is what the chunks are named by which are there.
func (d *Dir) Rename(n Naming) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	cfg := d.config
	if len(cfg.Older) >= MaxOlder {
		return fmt.Errorf("the store has joined %d buckets before: make a new one", MaxOlder)
	}
	cfg.Older = append(slices.Clone(cfg.Older), cfg.naming())
	cfg.Polynomial, cfg.Key = n.Polynomial, n.Key
	if err := writeConfig(d.path, cfg); err != nil {
		return err
	}
	d.config = cfg
	return nil
}

// Space is what statfs says about the filesystem below, in bytes. Avail is
// what this user may still write.
type Space struct{ Total, Free, Avail int64 }

// Space asks for the room on the store's filesystem.
func (d *Dir) Space() (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return Space{}, fmt.Errorf("statfs %s: %w", d.path, err)
	}
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	return Space{Total: int64(st.Blocks) * unit, Free: int64(st.Bfree) * unit, Avail: int64(st.Bavail) * unit}, nil
}
