package state

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
)

// ErrAbsent says that a part of the metadata is not there at all.
var ErrAbsent = errors.New("it is not there")

// Condition says in what state a store's index and journal are.
type Condition struct {
	Index   error       // nil: every block of it reads back; ErrAbsent
	Applied journal.Pos // what it holds, if it reads back
	Journal error       // nil: it reads back; ErrAbsent; a *journal.CorruptError
	Found   journal.Recovery
	Tables  int    // of the index
	BootID  string // of this boot
	booted  string // that PutBoot noted last
}

// Fits says whether a plain Open can go on from both.
func (c Condition) Fits() bool {
	switch {
	case c.Index != nil:
		return false
	case errors.Is(c.Journal, ErrAbsent):
		return c.Applied == 0 // a new store, or an index that was rebuilt
	case c.Journal != nil:
		return false
	}
	ahead := c.booted != c.BootID && c.Found.LastBoot != c.BootID // a power cut: see Engine.replay
	return c.Applied >= c.Found.First && (c.Applied <= c.Found.End || ahead)
}

// Replays says whether the journal alone holds everything.
func (c Condition) Replays() bool {
	return c.Index != nil && c.Journal == nil && c.Found.First == 0 && c.Found.End > 0
}

// Empty says whether nothing was ever recorded, or all of it is gone.
func (c Condition) Empty() bool {
	return errors.Is(c.Journal, ErrAbsent) && c.Tables == 0 && (c.Index == nil || errors.Is(c.Index, ErrAbsent))
}

// Nameless says cheaply whether all that was ever recorded below cfg.Dir is gone,
// or nothing ever was.
func Nameless(cfg Config) (bool, error) {
	segments, err := filesIn(cfg, "journal", ".seg")
	if err != nil || len(segments) > 0 {
		return false, err
	}
	tables, err := filesIn(cfg, "index", ".sst")
	return len(tables) == 0, err
}

// Inspect looks at the metadata below cfg.Dir without changing anything. It reads
// all of it. An error says that it could not look.
func Inspect(ctx context.Context, cfg Config) (Condition, error) {
	c := Condition{BootID: cfg.BootID}
	err := c.inspectJournal(cfg)
	if err == nil {
		err = c.inspectIndex(ctx, cfg)
	}
	if err != nil {
		return c, fmt.Errorf("look at index and journal: %w", err)
	}
	return c, nil
}

// filesIn lists the files of a directory with one of the endings.
func filesIn(cfg Config, name string, endings ...string) ([]string, error) {
	dir := cfg.FS.PathJoin(cfg.Dir, name)
	if _, err := cfg.FS.Stat(dir); oserror.IsNotExist(err) {
		return nil, nil
	}
	names, err := cfg.FS.List(dir)
	return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(endings, filepath.Ext(n)) }), err
}

func (c *Condition) inspectJournal(cfg Config) error {
	segments, err := filesIn(cfg, "journal", ".seg")
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		c.Journal = ErrAbsent
		return nil
	}
	log, err := journal.Open(cfg.FS, cfg.FS.PathJoin(cfg.Dir, "journal"), journal.Options{BootID: cfg.BootID})
	if errors.Is(err, journal.ErrCorrupt) {
		c.Journal = err
		return nil
	}
	if err != nil {
		return err
	}
	c.Found = log.Recovered()
	return log.Close(false)
}

func (c *Condition) inspectIndex(ctx context.Context, cfg Config) error {
	dir := cfg.FS.PathJoin(cfg.Dir, "index")
	if _, err := cfg.FS.Stat(dir); oserror.IsNotExist(err) {
		c.Index = ErrAbsent
		return nil
	}
	tables, err := filesIn(cfg, "index", ".sst")
	if err != nil {
		return err
	}
	c.Tables = len(tables)
	names, err := cfg.FS.List(dir)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }) && c.Tables == 0 {
		c.Index = ErrAbsent
		return nil
	}
	opts := readOnly(cfg)
	db, err := pebble.Open(dir, opts)
	if err != nil {
		c.Index = err // whatever it is, this index can't be used
		return nil
	}
	c.Index = validate(ctx, cfg, db, opts, false)
	if c.Index == nil {
		c.Index = c.read(db)
	}
	return errors.Join(ctx.Err(), db.Close())
}

// read reads what else is wanted of a whole index.
func (c *Condition) read(db *pebble.DB) error {
	get := func(key []byte) ([]byte, error) {
		v, closer, err := db.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer closer.Close()
		return slices.Clone(v), nil
	}
	pos, err := get(schema.PositionKey())
	if err != nil {
		return err
	}
	if pos != nil {
		n, err := schema.ParseCounter(pos)
		if err != nil {
			return err
		}
		c.Applied = journal.Pos(n)
	}
	boot, err := get(schema.MetaKey(schema.MetaBoot))
	c.booted = string(boot)
	return err
}

// Tables reads every block of every table of the index: also what no iterator
// reads, such as the filters. A table that is missing is none of its findings:
// it may have been written anew meanwhile, and who iterates meets it otherwise.
func (v *View) Tables(ctx context.Context) error {
	return validate(ctx, v.e.cfg, v.e.db, readOnly(v.e.cfg), true)
}

// validate reads every block of every table; with running, they come and go.
func validate(ctx context.Context, cfg Config, db *pebble.DB, opts *pebble.Options, running bool) error {
	levels, err := db.SSTables()
	if err != nil {
		return err
	}
	for _, tables := range levels {
		for _, table := range tables {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := fmt.Sprintf("%s.sst", table.FileNum)
			err := validateTable(ctx, cfg, cfg.FS.PathJoin(cfg.Dir, "index", name), opts)
			if err != nil && !(running && oserror.IsNotExist(err)) {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func validateTable(ctx context.Context, cfg Config, path string, opts *pebble.Options) error {
	f, err := cfg.FS.Open(path)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, opts.MakeReaderOptions())
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}
