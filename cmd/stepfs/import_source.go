package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"stepfs/snapshot"
)

// unit is one checkpoint in a directory that is imported.
type unit struct {
	path  string // below the directory
	step  string
	time  int64 // ns; of its newest file
	bytes int64
}

// findUnits gives the checkpoints below a directory, in the order of their
// times; the outermost names count.
func findUnits(ctx context.Context, root string) (units []unit, err error) {
	err = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || p == root {
			return err
		}
		if isUnfinished(e.Name()) {
			return skip(e)
		}
		step, ok := snapshot.StepName(e.Name(), !e.IsDir())
		if !ok || !e.IsDir() && !e.Type().IsRegular() {
			return nil
		}
		u := unit{step: step}
		if u.path, err = filepath.Rel(root, p); err == nil {
			err = u.measure(ctx, p)
		}
		units = append(units, u)
		if err == nil && e.IsDir() {
			return fs.SkipDir
		}
		return err
	})
	sortUnits(units)
	return units, err
}

// skip leaves an entry out of a walk, with all that is below it.
func skip(e fs.DirEntry) error {
	if e.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// measure finds the newest file. A directory without any has its own time.
func (u *unit) measure(ctx context.Context, root string) error {
	files := int64(0)
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err == nil && isUnfinished(e.Name()) {
			return skip(e)
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		files++
		u.bytes += st.Size()
		u.time = max(u.time, st.ModTime().UnixNano())
		return nil
	})
	if err != nil || files > 0 {
		return err
	}
	st, err := os.Lstat(root)
	if err == nil {
		u.time = st.ModTime().UnixNano()
	}
	return err
}

// importSource is a directory without some paths in it, nor what a restore or an
// import left unfinished there.
type importSource struct {
	dirSource
	but map[string]bool
}

// isUnfinished says whether an entry is what stepfs did not get done with.
func isUnfinished(name string) bool {
	return strings.HasPrefix(name, snapshot.RestorePrefix) || strings.HasPrefix(name, snapshot.ImportPrefix)
}

// Children leaves those out.
func (s *importSource) Children(ctx context.Context, dir node, fn func(node) error) error {
	return s.dirSource.Children(ctx, dir, func(n node) error {
		if s.but[filepath.Clean(n.path)] || isUnfinished(filepath.Base(n.path)) {
			return nil
		}
		return fn(n)
	})
}

// comparing remembers which files were read, to compare them with what was
// written.
type comparing struct {
	source
	to   sink
	mu   sync.Mutex
	read []node
}

// Open notes a file that is about to be copied.
func (c *comparing) Open(n node) (content, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = append(c.read, n)
	return c.source.Open(n)
}

// compare reads back what was copied.
func (c *comparing) compare(ctx context.Context, r *restorer) error {
	for _, n := range c.read {
		if err := r.check(n.path, c.same(ctx, n)); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparing) same(ctx context.Context, n node) error {
	src, err := c.source.Open(n)
	if err != nil {
		return err
	}
	defer src.Close()
	f, err := c.to.Open(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it could not be copied, which was said
	}
	if err != nil {
		return err
	}
	defer f.Close()
	a, b := copyBuffers.Get().(*[]byte), copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(a)
	defer copyBuffers.Put(b)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		x, err := src.ReadAt(*a, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		y, err2 := f.ReadAt(*b, off)
		if err2 != nil && !errors.Is(err2, io.EOF) {
			return err2
		}
		if !bytes.Equal((*a)[:x], (*b)[:y]) {
			return fmt.Errorf("read back, it differs behind byte %d; did somebody write to it?", off)
		}
		if off += int64(x); err != nil {
			return nil
		}
	}
}
