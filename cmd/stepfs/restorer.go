package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// restorer writes a source into a directory. One goroutine walks: it makes
// directories and what has no content, and hands files to workers. Hard links
// and the directories' own times come last, when all files are in place.
type restorer struct {
	src  source
	to   sink
	opts restoreOptions
	bar  *progress

	files, skipped, others, bytes, failed atomic.Int64

	what  string // is restored, as a note of it says
	doubt bool   // the machine has gone down since, so that what is there may not be whole
	total int64
	first map[uint64]string // of files with several names: inode to the name restored first
	links []hardLink
	dirs  []dirMeta // parents before children

	large   sync.Mutex // of the one large file that is fetched
	printMu sync.Mutex
}

type hardLink struct{ name, to string }

// dirMeta is a directory whose mode and times are set when all is in it.
type dirMeta struct {
	name string
	n    node
}

func newRestorer(src source, to sink, o restoreOptions) *restorer {
	return &restorer{src: src, to: to, opts: o, bar: newProgress(os.Stderr, "restoring"), first: map[uint64]string{}}
}

// These end a restore: what comes after would fail, too.
var (
	errFull     = errors.New("the target's disk is full; make room, then the same command goes on where this one was")
	errReadOnly = errors.New("the target is read-only")
)

// errInTheWay: a name that a directory has to have is taken.
var errInTheWay = errors.New("something that is not a directory is in the way")

// run restores top under name.
func (r *restorer) run(ctx context.Context, top node, name string) error {
	note, err := r.beginNote(name)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opts.workers + 1) // the walk is one
	g.Go(func() error { return r.walk(gctx, g, top, name) })
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return errors.Join(err, note.leave(r))
	}
	for _, l := range r.links {
		if err := r.check(l.name, r.link(l)); err != nil {
			return err
		}
	}
	if err := r.sync(); err != nil {
		return err
	}
	if err := note.end(r); err != nil { // its going changes a directory's time
		return err
	}
	for i := len(r.dirs) - 1; i >= 0; i-- {
		d := r.dirs[i]
		if err := r.check(d.name, r.finishDir(d)); err != nil {
			return err
		}
	}
	return r.sync()
}

// walk restores n as name and, for a directory, what is in it.
func (r *restorer) walk(ctx context.Context, g *errgroup.Group, n node, name string) error {
	switch n.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return r.walkDir(ctx, g, n, name)
	case unix.S_IFREG:
		if n.nlink > 1 {
			if to, again := r.first[n.ino]; again {
				r.links = append(r.links, hardLink{name, to})
				return nil
			}
			r.first[n.ino] = name
		}
		r.total += n.size
		r.bar.total(r.total)
		g.Go(func() error { return r.check(name, r.file(ctx, n, name)) })
		return nil
	default:
		return r.check(name, r.special(n, name))
	}
}

func (r *restorer) walkDir(ctx context.Context, g *errgroup.Group, n node, name string) error {
	if name != "." {
		if err := r.to.Mkdir(name); err != nil {
			return r.check(name, err) // and nothing of what is below it
		}
	}
	r.dirs = append(r.dirs, dirMeta{name, n})
	r.others.Add(1)
	err := r.src.Children(ctx, n, func(c node) error {
		return r.walk(ctx, g, c, filepath.Join(name, filepath.Base(c.path)))
	})
	if fatal(err) {
		return err
	}
	return r.check(name, err)
}

// fatal says which errors end the whole restore.
func fatal(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, errFull) || errors.Is(err, errReadOnly)
}

// ending says as what an error ends it; nil if it does not.
func ending(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errFull
	case errors.Is(err, unix.EROFS):
		return errReadOnly
	}
	return nil
}

// check counts and prints the failure of one entry, and passes on what ends it all.
func (r *restorer) check(name string, err error) error {
	if err == nil || fatal(err) {
		return err
	}
	if err := ending(err); err != nil {
		return err
	}
	r.failed.Add(1)
	r.printMu.Lock()
	defer r.printMu.Unlock()
	if r.opts.json {
		return printJSON(r.opts.out, struct {
			Event string `json:"event"`
			Path  string `json:"path"`
			Error string `json:"error"`
		}{"error", name, err.Error()})
	}
	_, err = fmt.Fprintf(r.opts.errs, "stepfs: %s: %v\n", name, err)
	return err
}

// link gives a file its further names.
func (r *restorer) link(l hardLink) error {
	if _, err := r.to.Stat(l.to); err != nil {
		return fmt.Errorf("its first name, %s, was not restored", l.to)
	}
	made, err := r.to.Link(l.to, l.name)
	switch {
	case err != nil:
		return err
	case made:
		r.others.Add(1)
	default:
		r.skipped.Add(1)
	}
	return nil
}

// sync makes the restored files durable, all at once.
func (r *restorer) sync() error {
	r.bar.note("syncing")
	if err := r.to.Sync(); err != nil {
		return fmt.Errorf("syncing the target: %w", err)
	}
	return nil
}
