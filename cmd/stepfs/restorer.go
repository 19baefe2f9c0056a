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
	dir  *os.Root
	opts restoreOptions
	bar  *progress

	files, skipped, others, bytes, failed atomic.Int64

	total int64
	first map[uint64]string // of files with several names: inode to the name restored first
	links []hardLink
	dirs  []dirMeta // parents before children

	printMu sync.Mutex
}

type hardLink struct{ name, to string }

// dirMeta is a directory whose mode and times are set when all is in it.
type dirMeta struct {
	name string
	n    node
}

func newRestorer(src source, dir *os.Root, o restoreOptions) *restorer {
	return &restorer{src: src, dir: dir, opts: o, bar: newProgress(os.Stderr, "restoring"), first: map[uint64]string{}}
}

// errFull ends a restore: what comes after a full disk would fail, too.
var errFull = errors.New("the target's disk is full; make room, then the same command goes on where this one was")

// run restores top under name.
func (r *restorer) run(ctx context.Context, top node, name string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opts.workers + 1) // the walk is one
	g.Go(func() error { return r.walk(gctx, g, top, name) })
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	for _, l := range r.links {
		if err := r.check(l.name, r.link(l)); err != nil {
			return err
		}
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
		err := r.dir.Mkdir(name, 0o700)
		if errors.Is(err, os.ErrExist) {
			err = r.existingDir(name)
		}
		if err != nil {
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

// existingDir lets this run write into a directory that an earlier one, or
// somebody, made.
func (r *restorer) existingDir(name string) error {
	st, err := r.dir.Lstat(name)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return errors.New("something that is not a directory is in the way")
	}
	if st.Mode().Perm()&0o700 != 0o700 {
		return r.dir.Chmod(name, st.Mode().Perm()|0o700)
	}
	return nil
}

// fatal says which errors end the whole restore.
func fatal(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, errFull)
}

// check counts and prints the failure of one entry, and passes on what ends it all.
func (r *restorer) check(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errFull
	case fatal(err):
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
	to, err := r.dir.Lstat(l.to)
	if err != nil {
		return fmt.Errorf("its first name, %s, was not restored", l.to)
	}
	if st, err := r.dir.Lstat(l.name); err == nil {
		if os.SameFile(st, to) {
			r.skipped.Add(1)
			return nil
		}
		if err := r.dir.Remove(l.name); err != nil {
			return err
		}
	}
	if err := r.dir.Link(l.to, l.name); err != nil {
		return err
	}
	r.others.Add(1)
	return nil
}

// sync makes the restored files durable, all at once.
func (r *restorer) sync() error {
	d, err := r.dir.Open(".")
	if err != nil {
		return fmt.Errorf("syncing the target: %w", err)
	}
	defer d.Close()
	r.bar.note("syncing")
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing the target: %w", err)
	}
	return nil
}
