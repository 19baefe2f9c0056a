package stage

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// Copy is a range of a file that is to be copied to a live file.
type Copy struct {
	From   *View // the snapshot that Src is in; nil: the live tree
	Src    uint64
	SrcOff int64
	Dst    uint64
	Fh     uint64 // the handle that writes Dst
	DstOff int64
	Len    int64
	Stop   <-chan struct{} // closed: what is done by then is enough; may be nil
}

// copying is a Copy under way.
type copying struct {
	Copy
	t        *Tree
	src, dst *inode // src is nil for a snapshot's
	ver      uint64 // of a snapshot's: the version that is shown
}

const (
	// copyPiece is how much is read and written at a time where it can't be
	// shared, and copyMost how much of that one call does: the rest is for the next.
	copyPiece = 1 << 20
	copyMost  = 64 << 20
)

// CopyRange is copy_file_range(2): it copies what the source holds of the
// range, and gives how many bytes that was, 0 at its end. What can be shared is
// shared (clone.go) and takes no space, now or later, but where one of the two
// is overwritten.
func (t *Tree) CopyRange(c Copy) (int64, error) {
	x := &copying{Copy: c, t: t}
	err := x.begin()
	defer x.end()
	if err != nil || x.Len == 0 {
		return 0, err
	}
	done := int64(0)
	if err = errUnshared; x.SrcOff == x.DstOff {
		done, err = x.share()
	}
	if errors.Is(err, errUnshared) {
		var n int64
		n, err = x.plain(done)
		done += n
	}
	if done > 0 {
		return done, nil
	}
	if err == nil && x.stopped() {
		err = context.Canceled
	}
	return 0, err
}

// begin finds the two files and cuts the range off at the source's end.
func (x *copying) begin() (err error) {
	if x.SrcOff < 0 || x.DstOff < 0 || x.Len < 0 {
		return ErrInvalid
	}
	if x.dst, err = x.t.get(x.Dst); err != nil {
		return ErrStale
	}
	if x.From == nil {
		if x.src, err = x.t.get(x.Src); err != nil {
			return ErrStale
		}
	}
	unlock := lockAll(x.src, x.dst)
	defer unlock()
	if err := x.mayWrite(); err != nil {
		return err
	}
	_, from, err := x.source()
	if err != nil {
		return err
	}
	x.Len = min(x.Len, max(0, from.Len-x.SrcOff))
	apart := x.SrcOff - x.DstOff
	switch {
	case x.src == x.dst && apart < x.Len && -apart < x.Len && x.Len > 0:
		return ErrInvalid // they overlap
	case x.DstOff > maxSize-x.Len:
		return ErrTooBig
	}
	return nil
}

func (x *copying) end() {
	for _, n := range [...]*inode{x.src, x.dst} {
		if n != nil {
			x.t.put(n)
		}
	}
}

func (x *copying) stopped() bool {
	select {
	case <-x.Stop:
		return true
	default:
		return false
	}
}

// mayWrite says whether the destination, whose lock is held, can be written
// through the handle.
func (x *copying) mayWrite() error {
	n := x.dst
	if n.dead || !isReg(n.rec) {
		return ErrStale
	}
	if h := n.handles[x.Fh]; h != nil && (h.append || !h.writable) {
		return ErrBadHandle
	}
	if n.rec.Failed && n.rec.Live.Len > 0 {
		return ErrIO // as a write to what could not be synced
	}
	return nil
}

// source gives what the source is now. The lock of a live one is held; of a
// snapshot that is being removed there is none any more.
func (x *copying) source() (*schema.Inode, *schema.Content, error) {
	if n := x.src; n != nil {
		if n.dead || !isReg(n.rec) {
			return nil, nil, ErrStale
		}
		return n.rec, &n.rec.Live, nil
	}
	rec, ver, err := x.t.readInode(x.Src, x.From.seq)
	if err != nil {
		return nil, nil, err
	}
	if x.ver == 0 {
		x.ver = ver
	}
	if ver != x.ver || rec.Deleted || !isReg(rec) || rec.Committed == nil {
		return nil, nil, ErrStale
	}
	return rec, rec.Committed, nil
}

// plain copies the bytes, from done on. Holes become holes.
func (x *copying) plain(done int64) (n int64, err error) {
	buf := make([]byte, min(copyPiece, x.Len-done))
	for most := min(x.Len-done, copyMost); n < most && (n == 0 || !x.stopped()); {
		from, to := x.SrcOff+done+n, x.DstOff+done+n
		data, k, err := x.next(from, x.SrcOff+x.Len)
		switch {
		case err != nil:
			return n, err
		case !data:
			if err := x.t.Fallocate(x.Dst, x.Fh, to, k, unix.FALLOC_FL_ZERO_RANGE); err != nil {
				return n, err
			}
		default:
			got, err := x.read(buf[:min(int64(len(buf)), most-n, k)], from)
			if err == nil && got > 0 {
				got, err = x.t.Write(x.Dst, x.Fh, buf[:got], to)
			}
			if k = int64(got); err != nil || k == 0 {
				return n, err
			}
		}
		n += k
	}
	return n, nil
}

func (x *copying) read(dst []byte, off int64) (int, error) {
	if x.From != nil {
		return x.From.Read(x.Src, dst, off)
	}
	return x.t.Read(x.Src, x.Fh, dst, off)
}

// next says whether the source has data at off, and how far it goes on like
// that, up to end.
func (x *copying) next(off, end int64) (data bool, n int64, err error) {
	seek := x.t.Lseek
	if x.From != nil {
		seek = x.From.Lseek
	}
	at, err := seek(x.Src, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, ErrNXIO):
		return false, end - off, nil
	case err != nil || at > off:
		return false, min(at, end) - off, err
	}
	at, err = seek(x.Src, off, unix.SEEK_HOLE)
	if errors.Is(err, ErrNXIO) {
		return true, 1, nil // cut off since: there is nothing to be read
	}
	return true, min(at, end) - off, err
}
