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
	most := min(x.Len, done+copyMost)
	for at := done; at < most && !x.stopped(); at = done + n {
		hole, err := x.hole(x.SrcOff+at, x.SrcOff+x.Len)
		if err != nil {
			return n, err
		}
		if hole > 0 {
			if err := x.t.Fallocate(x.Dst, x.Fh, x.DstOff+at, hole, unix.FALLOC_FL_ZERO_RANGE); err != nil {
				return n, err
			}
			n += hole
			continue
		}
		k, err := x.read(buf[:min(int64(len(buf)), most-at)], x.SrcOff+at)
		if err != nil || k == 0 {
			return n, err
		}
		if k, err = x.t.Write(x.Dst, x.Fh, buf[:k], x.DstOff+at); err != nil {
			return n, err
		}
		n += int64(k)
	}
	return n, nil
}

func (x *copying) read(dst []byte, off int64) (int, error) {
	if x.From != nil {
		return x.From.Read(x.Src, dst, off)
	}
	return x.t.Read(x.Src, x.Fh, dst, off)
}

// hole says how many bytes from off on, up to end, are in a hole of the source.
func (x *copying) hole(off, end int64) (n int64, err error) {
	var data int64
	if x.From != nil {
		data, err = x.From.Lseek(x.Src, off, unix.SEEK_DATA)
	} else {
		data, err = x.t.Lseek(x.Src, off, unix.SEEK_DATA)
	}
	if errors.Is(err, ErrNXIO) {
		data, err = end, nil
	}
	return min(data, end) - off, err
}
