package chunkstore

import (
	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
)

// How far in front of what is verified the disk is asked to read, and how much
// at a time: more than that the kernel drops.
const (
	aheadBytes = 8 << 20
	aheadStep  = 1 << 20
)

// readAhead has the disk read a pack while what it has read is verified. That is
// a hint: when it is not taken, reads wait. It may be nil.
type readAhead struct {
	files *fileCache
	f     *packFile
	asked int64 // up to here
	end   int64
}

// readAhead begins to read the body of a pack, if all of it will be.
func (c *checker) readAhead(rec schema.PackRecord, body int64) *readAhead {
	if c.opts.ReadData < 1 {
		return nil
	}
	f, err := c.files.acquire(c.fs.PathJoin(c.dir, pack.Name(rec.Name).FileName()))
	if err != nil {
		return nil // whoever reads it says so
	}
	return &readAhead{files: c.files, f: f, end: body}
}

// of says that the part at off is read next.
func (a *readAhead) of(off int64) {
	for a != nil && a.asked < min(off+aheadBytes, a.end) {
		n := min(aheadStep, a.end-a.asked)
		_ = a.f.Prefetch(a.asked, n)
		a.asked += n
	}
}

func (a *readAhead) close() {
	if a != nil {
		a.files.release(a.f)
	}
}
