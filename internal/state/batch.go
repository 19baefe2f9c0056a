package state

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
)

// checkBatch says whether b is a batch of puts and deletes, to the last byte.
// Pebble believes what it is given: a count that is wrong ends the process, and
// a length at the end of a batch is read from what lies behind it in memory.
func checkBatch(b []byte) error {
	const header = 12 // sequence number (8), count (4)
	if len(b) < header {
		return badBatch("it has no header")
	}
	count := binary.LittleEndian.Uint32(b[8:])
	n := uint32(0)
	for b = b[header:]; len(b) > 0; n++ {
		kind := pebble.InternalKeyKind(b[0])
		var key, val []byte
		ok := true
		if key, b, ok = str(b[1:]); !ok {
			return badBatch("a key goes past its end")
		}
		switch kind {
		case pebble.InternalKeyKindDelete:
			continue
		case pebble.InternalKeyKindSet, pebble.InternalKeyKindRangeDelete:
		default:
			return badBatch(fmt.Sprintf("it has an entry of kind %d", kind))
		}
		if val, b, ok = str(b); !ok {
			return badBatch("a value goes past its end")
		}
		if kind == pebble.InternalKeyKindRangeDelete && string(key) >= string(val) {
			return badBatch(fmt.Sprintf("it deletes from %x to %x", key, val))
		}
	}
	if n != count {
		return badBatch(fmt.Sprintf("it has %d entries, and says %d", n, count))
	}
	return nil
}

func badBatch(why string) error { return fmt.Errorf("%w: journal record: %s", schema.ErrCorrupt, why) }

// str takes a length and as many bytes. Lengths are of 32 bits.
func str(b []byte) (s, rest []byte, ok bool) {
	v, n := binary.Uvarint(b[:min(len(b), binary.MaxVarintLen32)])
	if n <= 0 || v > uint64(len(b)-n) {
		return nil, nil, false
	}
	return b[n : n+int(v)], b[n+int(v):], true
}
