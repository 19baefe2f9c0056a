package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	copyPiece  = 16 << 20 // a large file is copied in pieces, several at a time
	copyBuffer = 1 << 20  // of one piece; the mount's largest read
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// file restores one file: under another name, with its attributes, and then
// renamed. So a file of the right name, size and time is a complete one.
func (r *restorer) file(ctx context.Context, n node, name string) error {
	if st, err := r.dir.Lstat(name); err == nil {
		if st.IsDir() {
			return errors.New("a directory is in the way")
		}
		if st.Mode().IsRegular() && st.Size() == n.size && st.ModTime().UnixNano() == n.mtime {
			r.skipped.Add(1)
			r.bar.add(n.size)
			return nil
		}
	}
	temp := tempName(name)
	// A leftover is of an earlier run, cut off: its time and size are lies.
	if err := r.dir.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := r.dir.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	warning, err := r.fill(ctx, f, n)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = r.dir.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, r.dir.Remove(temp))
	}
	r.files.Add(1)
	r.bytes.Add(n.size)
	return warning
}

// tempName is the same for every run, so that a leftover is replaced.
func tempName(name string) string {
	h := fnv.New64a()
	io.WriteString(h, name) // never fails
	return filepath.Join(filepath.Dir(name), fmt.Sprintf(".stepfs-restore-%016x", h.Sum64()))
}

// fill copies content and attributes. A warning is an attribute that could not be set.
func (r *restorer) fill(ctx context.Context, f *os.File, n node) (warning, err error) {
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
func (r *restorer) copy(ctx context.Context, f *os.File, c content, size int64) error {
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

func (r *restorer) piece(ctx context.Context, f *os.File, c content, from, to int64) error {
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

// attributes sets owner, mode, xattrs and, last, times of an open file or
// directory. The owner only for root, as cp -a.
func (r *restorer) attributes(f *os.File, n node) (warning, err error) {
	fd := int(f.Fd())
	if os.Geteuid() == 0 {
		if err := unix.Fchown(fd, int(n.uid), int(n.gid)); err != nil {
			return nil, fmt.Errorf("owner: %w", err)
		}
	}
	if err := unix.Fchmod(fd, n.mode&0o7777); err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	xattrs, err := r.src.Xattrs(n)
	if err != nil {
		return nil, err
	}
	for name, value := range xattrs {
		err := unix.Fsetxattr(fd, name, value, 0)
		if err != nil && (strings.HasPrefix(name, "user.") || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP)) {
			warning = errors.Join(warning, fmt.Errorf("xattr %s: %w", name, err))
		}
	}
	times := []unix.Timespec{unix.NsecToTimespec(n.atime), unix.NsecToTimespec(n.mtime)}
	// A path of /proc instead of utimensat(fd, NULL), which x/sys does not give.
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0); err != nil {
		return warning, fmt.Errorf("times: %w", err)
	}
	return warning, nil
}

// finishDir gives a directory its attributes once all is in it.
func (r *restorer) finishDir(d dirMeta) error {
	f, err := r.dir.Open(d.name)
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
	if st, err := r.dir.Lstat(name); err == nil {
		if r.sameSpecial(st, n, name, target) {
			r.skipped.Add(1)
			return nil
		}
		if err := r.dir.Remove(name); err != nil {
			return err
		}
	}
	parent, err := r.dir.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	dirfd, base := int(parent.Fd()), filepath.Base(name)
	if target != "" {
		err = unix.Symlinkat(target, dirfd, base)
	} else {
		err = unix.Mknodat(dirfd, base, n.mode, int(n.rdev))
	}
	if err != nil {
		return err
	}
	r.others.Add(1)
	if os.Geteuid() == 0 {
		if err := unix.Fchownat(dirfd, base, int(n.uid), int(n.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner: %w", err)
		}
	}
	if target == "" {
		if err := unix.Fchmodat(dirfd, base, n.mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	times := []unix.Timespec{unix.NsecToTimespec(n.atime), unix.NsecToTimespec(n.mtime)}
	return unix.UtimesNanoAt(dirfd, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

// sameSpecial says whether an earlier run has restored n already.
func (r *restorer) sameSpecial(st os.FileInfo, n node, name, target string) bool {
	if !st.ModTime().Equal(time.Unix(0, n.mtime)) {
		return false
	}
	if target == "" {
		return st.Mode().Type() != 0 && !st.IsDir() && st.Mode().Type() != os.ModeSymlink
	}
	there, err := r.dir.Readlink(name)
	return err == nil && there == target
}
