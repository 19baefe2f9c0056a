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
	order := a.byOffset()
	for i, r := range order {
		limit := end
		if i+1 < len(order) {
			limit = order[i+1].offset
		}
		if err := a.checkHeader(r); err != nil {
			return err
		}
		if limit < r.data || r.packed > limit-r.data {
			return flawf("zip: %.60q runs into what follows it", r.name)
		}
		if err := a.checkDescriptor(r, limit); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) checkHeader(r *record) error {
	h, err := a.piece(r.offset, sizeLocal)
	if err != nil {
		return err
	}
	if string(h[:4]) != sigLocal {
		return flawf("zip: no header where %.60q begins, at %d", r.name, r.offset)
	}
	flags, method, crc := le.Uint16(h[6:]), le.Uint16(h[8:]), le.Uint32(h[14:])
	packed, size := uint64(le.Uint32(h[18:])), uint64(le.Uint32(h[22:]))
	nameLen, extraLen := int64(le.Uint16(h[26:])), int64(le.Uint16(h[28:]))
	text, err := a.piece(r.offset+sizeLocal, nameLen+extraLen)
	if err != nil {
		return err
	}
	later := r.flags&8 != 0 // crc and sizes stand behind the data, and may be 0 here
	extra64(text[nameLen:], &size, &packed)
	same := func(here, there uint64) bool { return here == there || later && here == 0 }
	if flags != r.flags || method != r.method || string(text[:nameLen]) != r.name ||
		!same(uint64(crc), uint64(r.crc)) || !same(packed, uint64(r.packed)) || !same(size, uint64(r.size)) {
		return flawf("zip: header and directory disagree about %.60q", r.name)
	}
	r.data = r.offset + sizeLocal + nameLen + extraLen
	return nil
}

// checkDescriptor: with or without a signature, with sizes of four or of eight
// bytes.
func (a *archive) checkDescriptor(r *record, limit int64) error {
	if r.flags&8 == 0 {
		return nil
	}
	at := r.data + r.packed
	b, err := a.piece(at, min(sizeDescriptor, limit-at))
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

// piece reads a small piece; it is good until the next one.
func (a *archive) piece(off, n int64) ([]byte, error) {
	if int64(cap(a.scratch)) < n {
		a.scratch = make([]byte, n)
	}
	b := a.scratch[:n]
	return b, a.read(b, off)
}
