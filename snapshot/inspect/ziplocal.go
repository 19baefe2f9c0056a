package inspect

// What stands in an archive beside the data of each record: a local header
// before it and, as torch writes it, a descriptor behind it. Both repeat what
// the directory says, so a hole or a shift in the file shows.

// sizeDescriptor is the longest: signature, CRC and two sizes of eight bytes.
const sizeDescriptor = 24

// checkLocal: every local header agrees with the directory, and what belongs
// to a record ends before the next one, the last before end. It sets where the
// data of each record begins.
func (a *archive) checkLocal(end int64) error {
	w := window{span: a.sub(0, end)}
	order := a.byOffset()
	for i, r := range order {
		limit := end
		if i+1 < len(order) {
			limit = order[i+1].offset
		}
		if err := a.checkHeader(&w, r); err != nil {
			return err
		}
		if limit < r.data || r.packed > limit-r.data {
			return flawf("zip: %.60q runs into what follows it", r.name)
		}
		if err := a.checkDescriptor(&w, r, limit); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) checkHeader(w *window, r *record) error {
	h, err := w.at(r.offset, sizeLocal)
	if err != nil {
		return err
	}
	if string(h[:4]) != sigLocal {
		return flawf("zip: no header where %.60q begins, at %d", r.name, r.offset)
	}
	flags, method, crc := le.Uint16(h[6:]), le.Uint16(h[8:]), le.Uint32(h[14:])
	packed, size := uint64(le.Uint32(h[18:])), uint64(le.Uint32(h[22:]))
	nameLen, extraLen := int64(le.Uint16(h[26:])), int64(le.Uint16(h[28:]))
	text, err := w.at(r.offset+sizeLocal, nameLen+extraLen)
	if err != nil {
		return err
	}
	later := r.flags&8 != 0 // crc and sizes stand behind the data and may be 0 here
	long := extra64(text[nameLen:], &size, &packed)
	same := func(here, there uint64) bool { return here == there || (later && (here == 0 || !long)) }
	if flags != r.flags || method != r.method || string(text[:nameLen]) != r.name ||
		!same(uint64(crc), uint64(r.crc)) || !same(packed, uint64(r.packed)) || !same(size, uint64(r.size)) {
		return flawf("zip: header and directory disagree about %.60q", r.name)
	}
	r.data = r.offset + sizeLocal + nameLen + extraLen
	return nil
}

// checkDescriptor: with or without a signature, with sizes of four or of eight
// bytes.
func (a *archive) checkDescriptor(w *window, r *record, limit int64) error {
	if r.flags&8 == 0 {
		return nil
	}
	at := r.data + r.packed
	b, err := w.at(at, min(sizeDescriptor, limit-at))
	if err != nil {
		return err
	}
	if len(b) > 4 && string(b[:4]) == sigDescriptor {
		b = b[4:]
	}
	crc, packed, size := uint64(r.crc), uint64(r.packed), uint64(r.size)
	short := len(b) >= 12 && uint64(le.Uint32(b)) == crc && uint64(le.Uint32(b[4:])) == packed && uint64(le.Uint32(b[8:])) == size
	long := len(b) >= 20 && uint64(le.Uint32(b)) == crc && le.Uint64(b[4:]) == packed && le.Uint64(b[12:]) == size
	if !short && !long {
		return flawf("zip: what stands behind the data of %.60q, at %d, is not its sizes", r.name, at)
	}
	return nil
}

// A window reads small pieces in ascending order, and ahead where they are
// close together.
type window struct {
	span
	buf []byte
	off int64
}

// at gives n bytes at off, until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	if !w.has(off, n) {
		return nil, flawf("ends too early: %d bytes at %d of %d", n, off, w.size)
	}
	end := w.off + int64(len(w.buf))
	if off >= w.off && n <= end-off {
		return w.buf[off-w.off:][:n], nil
	}
	ahead := int64(256)
	if off >= w.off && off-end < streamBlock {
		ahead = streamBlock
	}
	n0 := min(max(n, ahead), w.size-off)
	if int64(cap(w.buf)) < n0 {
		w.buf = make([]byte, n0)
	}
	w.buf, w.off = w.buf[:n0], off
	if err := w.read(w.buf, off); err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:n], nil
}
