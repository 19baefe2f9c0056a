package journal

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// scanWindow is how much of a segment is read at a time.
const scanWindow = 256 << 10

// segmentReader reads records of one segment file through a window, so that
// memory does not grow with the segment. An error is always an I/O error; bytes
// that are no record are not an error here, what they mean is recover.go's to say.
type segmentReader struct {
	f      vfs.File
	number uint64
	size   int64
	seal   sealer

	buf    []byte
	bufOff int64
}

func openSegmentReader(fs vfs.FS, path string, number uint64) (*segmentReader, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("journal: open %s: %w", path, err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("journal: stat %s: %w", path, err)
	}
	return &segmentReader{f: f, number: number, size: st.Size()}, nil
}

func (r *segmentReader) close() { _ = r.f.Close() } // read-only: nothing to lose

// at returns the n bytes at off, which must lie within the file. They are valid
// until the next call.
func (r *segmentReader) at(off int64, n int) ([]byte, error) {
	if i := off - r.bufOff; i >= 0 && i+int64(n) <= int64(len(r.buf)) {
		return r.buf[i : i+int64(n)], nil
	}
	want := int(min(max(int64(n), scanWindow), r.size-off))
	if cap(r.buf) < want || cap(r.buf) > 2*max(want, scanWindow) {
		r.buf = make([]byte, want)
	}
	r.buf, r.bufOff = r.buf[:want], off
	if got, err := r.f.ReadAt(r.buf, off); got < want {
		r.buf = r.buf[:0]
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("journal: read segment %d at %d: %w", r.number, off, err)
	}
	return r.buf[:n], nil
}

// segmentHeader reads the file's header; ok=false if there is no valid one.
func (r *segmentReader) segmentHeader() (h segmentHeader, ok bool, err error) {
	if r.size < segmentHeaderLen {
		return h, false, nil
	}
	b, err := r.at(0, segmentHeaderLen)
	if err != nil {
		return h, false, err
	}
	return decodeSegmentHeader(b)
}

// header reads the record header at off; ok=false if none is there.
func (r *segmentReader) header(off int64) (h recordHeader, ok bool, err error) {
	if off+recordHeaderLen > r.size {
		return h, false, nil
	}
	b, err := r.at(off, recordHeaderLen)
	if err != nil {
		return h, false, err
	}
	h, ok = r.seal.decode(b, r.number, off)
	return h, ok && off+recordSize(int64(h.length)) <= r.size, nil
}

// record reads the whole record at off; ok=false if it is not there in full. The
// payload is valid until the next call.
func (r *segmentReader) record(off int64) (h recordHeader, payload []byte, ok bool, err error) {
	if h, ok, err = r.header(off); err != nil || !ok {
		return h, nil, false, err
	}
	if payload, err = r.at(off+recordHeaderLen, int(h.length)); err != nil {
		return h, nil, false, err
	}
	return h, payload, crc32.Checksum(payload, castagnoli) == h.payloadCRC, nil
}

// remains is what was found behind the end of the log.
type remains struct {
	synced Pos   // greatest position that a record there knew to be durable
	bytes  int64 // size of the records begun there
}

// rest looks for records at every place from off on where one could start. A
// record's header is believed by itself: it has its own checksum, and it was
// written by us if that holds, whether or not its payload arrived.
func (r *segmentReader) rest(off int64, found *remains) error {
	for off+recordHeaderLen <= r.size {
		h, ok, err := r.header(off)
		if err != nil {
			return err
		}
		if !ok {
			off += recordAlign
			continue
		}
		n := recordSize(int64(h.length))
		found.synced = max(found.synced, h.synced)
		found.bytes += n
		off += n
	}
	return nil
}
