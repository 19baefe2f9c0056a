package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"stepfs/snapshot"
)

const (
	copyPiece  = 16 << 20 // a large file is copied in pieces, several at a time
	copyBuffer = 1 << 20  // of one piece; the mount's largest read
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// file restores one file: under another name, with its attributes, and then
// renamed. So a file of the right name, size and time is a complete one, unless the
// machine has gone down before it was synced (restore_note.go).
func (r *restorer) file(ctx context.Context, n node, name string) error {
	if there, err := r.to.Stat(name); err == nil {
		kind := there.mode & unix.S_IFMT
		if kind == unix.S_IFDIR {
			return errors.New("a directory is in the way")
		}
		if !r.doubt && kind == unix.S_IFREG && there.size == n.size && there.mtime == n.mtime {
			r.skipped.Add(1)
			r.bar.add(n.size)
			return nil
		}
	}
	temp := tempName(snapshot.RestorePrefix, name)
	// A leftover is of an earlier run, cut off: its time and size are lies.
	if err := r.to.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := r.to.Create(temp)
	if err != nil {
		return err
	}
	warning, err := r.fill(ctx, f, n)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = r.to.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, r.to.Remove(temp))
	}
	r.files.Add(1)
	r.bytes.Add(n.size)
	return warning
}

// tempName is the same for every run, so that a leftover is found again.
func tempName(prefix, name string) string {
	h := fnv.New64a()
	io.WriteString(h, name) // never fails
	return filepath.Join(filepath.Dir(name), fmt.Sprintf("%s%016x", prefix, h.Sum64()))
}

// fill copies content and attributes. A warning is an attribute that could not be set.
func (r *restorer) fill(ctx context.Context, f sinkFile, n node) (warning, err error) {
	c, err := r.src.Open(n)
	if err != nil {
		return nil, err
	}
	err = errors.Join(r.copy(ctx, f, c, n.size), c.Close())
	if err == nil {
		err = f.Truncate(n.size) // a hole at the end
	}
	if err != nil {
		return nil, err
	}
	return r.attributes(f, n)
}

// copy copies the data and leaves the holes.
func (r *restorer) copy(ctx context.Context, f sinkFile, c content, size int64) error {
	if _, fetched := c.(copier); fetched && size > copyPiece {
		// One after the other: what is fetched ahead is of one place, and all of
		// the connections are for it.
		r.large.Lock()
		defer r.large.Unlock()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opts.workers)
	var covered int64
	for off := int64(0); off < size; {
		start, end, err := c.Data(off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		for end = min(end, size); start < end; start += copyPiece {
			from, to := start, min(start+copyPiece, end)
			g.Go(func() error { return r.piece(ctx, f, c, from, to) })
			covered += to - from
		}
		off = end
	}
	r.bar.add(size - covered)
	return g.Wait()
}

func (r *restorer) piece(ctx context.Context, f sinkFile, c content, from, to int64) error {
	if c, ok := c.(copier); ok {
		if err := c.CopyTo(ctx, f, from, to); err != nil {
			return err
		}
		r.bar.add(to - from)
		return nil
	}
	b := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(b)
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := (*b)[:min(int64(len(*b)), to-from)]
		n, err := c.ReadAt(part, from)
		if n < len(part) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading at %d: %w", from, err)
		}
		if _, err := f.WriteAt(part, from); err != nil {
			return err
		}
		r.bar.add(int64(n))
		from += int64(n)
	}
	return nil
}

// attributes sets what the source knows of an open file or directory.
func (r *restorer) attributes(f sinkFile, n node) (warning, err error) {
	xattrs, err := r.src.Xattrs(n)
	if err != nil {
		return nil, err
	}
	return f.SetAttributes(n, xattrs)
}

// finishDir gives a directory its attributes once all is in it.
func (r *restorer) finishDir(d dirMeta) error {
	f, err := r.to.Open(d.name)
	if err != nil {
		return err
	}
	warning, err := r.attributes(f, d.n)
	return errors.Join(warning, err, f.Close())
}

// special restores symbolic links, devices, pipes and sockets.
func (r *restorer) special(n node, name string) error {
	target := ""
	if n.mode&unix.S_IFMT == unix.S_IFLNK {
		var err error
		if target, err = r.src.Readlink(n); err != nil {
			return err
		}
	}
	if there, err := r.to.Stat(name); err == nil {
		if r.sameSpecial(there, n, name, target) {
			r.skipped.Add(1)
			return nil
		}
		if err := r.to.Remove(name); err != nil {
			return err
		}
	}
	if err := r.to.Special(name, n, target); err != nil {
		return err
	}
	r.others.Add(1)
	return nil
}

// sameSpecial says whether an earlier run has restored n already.
func (r *restorer) sameSpecial(there, n node, name, target string) bool {
	if there.mtime != n.mtime || there.mode&unix.S_IFMT != n.mode&unix.S_IFMT {
		return false
	}
	if target == "" {
		return true
	}
	to, err := r.to.Readlink(name)
	return err == nil && to == target
}
