package inspect

import "hash/crc32"

// scanBlock is how much data is read at once.
const scanBlock = 1 << 20

// A float says what is not a number among the values of a type. Of each, only
// the bits of the exponent and below count.
type float struct {
	width         int
	exponent, all uint64 // bits of the exponent; of exponent and mantissa
}

var floats = map[string]float{
	"F16":  {2, 0x7c00, 0x7fff},
	"BF16": {2, 0x7f80, 0x7fff},
	"F32":  {4, 0x7f800000, 0x7fffffff},
	"F64":  {8, 0x7ff << 52, 1<<63 - 1},
}

// count counts NaN and Inf in b, whose length is a multiple of the width.
func (f float) count(b []byte) (nan, inf int64) {
	tally := func(v uint64) {
		if v&f.all > f.exponent {
			nan++
		} else {
			inf++
		}
	}
	switch f.width {
	case 2:
		for e := uint16(f.exponent); len(b) >= 2; b = b[2:] {
			if v := le.Uint16(b); v&e == e {
				tally(uint64(v))
			}
		}
	case 4:
		for e := uint32(f.exponent); len(b) >= 4; b = b[4:] {
			if v := le.Uint32(b); v&e == e {
				tally(uint64(v))
			}
		}
	case 8:
		for ; len(b) >= 8; b = b[8:] {
			if v := le.Uint64(b); v&f.exponent == f.exponent {
				tally(v)
			}
		}
	}
	return nan, inf
}

// scan reads data as far as the options ask for it: against a checksum, if
// there is one, and for what is not a number, if it is of a float type.
func (c *checker) scan(data span, crc *uint32, dtype, name string) error {
	f, isFloat := floats[dtype]
	isFloat = isFloat && c.opts.NaN
	sum := crc != nil && c.opts.Deep
	if !isFloat && !sum {
		return nil
	}
	if c.block == nil {
		c.block = make([]byte, scanBlock)
	}
	var got uint32
	var nan, inf int64
	err := data.each(c.block, func(b []byte) {
		if sum {
			got = crc32.Update(got, crc32.IEEETable, b)
		}
		if isFloat {
			n, i := f.count(b)
			nan, inf = nan+n, inf+i
		}
	})
	if err != nil {
		return err
	}
	if sum && got != *crc {
		c.minor("%.60q: CRC %08x, not %08x", name, got, *crc)
	}
	if nan+inf > 0 {
		c.minor("%.60q: %d NaN, %d Inf", name, nan, inf)
	}
	return nil
}

// scanRecords scans what an archive holds. Its records do not overlap, so
// nothing is read twice.
func (c *checker) scanRecords(a *archive, dtypes map[*record]string) error {
	if !c.opts.Deep && !c.opts.NaN {
		return nil
	}
	for i := range a.records {
		r := &a.records[i]
		data, err := a.open(r)
		if err == nil {
			err = c.scan(data, &r.crc, dtypes[r], r.name)
		}
		if err := c.pass(err); err != nil {
			return err
		}
	}
	return nil
}
