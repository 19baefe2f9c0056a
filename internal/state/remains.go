package state

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"stepfs/internal/schema"
)

// maxHoles bounds how many numbers are tried one by one behind damage.
const maxHoles = 1 << 20

// Remains calls fn for the records of a kind, whose keys are numbers, that still read
// back in an index that is damaged. It changes nothing. Each is as it was when the
// index was flushed last: what a table that does not read back says of it is never
// passed over, nor is an older record given in its place. holes: numbers whose records, if
// there are any, don't. An index that does not even open has none of either.
func Remains(cfg Config, kind byte, fn func(number uint64, value []byte)) (holes int, err error) {
	tables, err := filesIn(cfg, "index", ".sst")
	if err != nil || len(tables) == 0 { // opening one that is not there leaves a file
		return 0, err
	}
	db, err := pebble.Open(cfg.FS.PathJoin(cfg.Dir, "index"), readOnly(cfg))
	if err != nil {
		return 0, nil // whatever it is, there is nothing to be had
	}
	from := uint64(0)
	for more := true; more && holes < maxHoles; {
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: schema.Numbered(kind, from), UpperBound: []byte{kind + 1}})
		if err != nil {
			return holes, errors.Join(err, db.Close())
		}
		for ok := it.First(); ok; ok = it.Next() {
			v, verr := it.ValueAndErr()
			if k := it.Key(); len(k) == 9 && verr == nil {
				n := binary.BigEndian.Uint64(k[1:])
				fn(n, v)
				from = n + 1
			}
		}
		if more = it.Error() != nil; more {
			from++
			holes++
		}
		_ = it.Close() // it says again what was met
	}
	return holes, db.Close()
}

// readOnly are the options with which an index is looked at that may be damaged.
func readOnly(cfg Config) *pebble.Options {
	opts := &pebble.Options{
		FS: cfg.FS, ReadOnly: true, ErrorIfNotExists: true, DisableWAL: true, Logger: silent{},
		FormatMajorVersion: pebble.FormatNewest,
		EventListener:      &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}, // else it ends the process
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return opts
}
