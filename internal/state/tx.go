package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
)

// reserve is how many inode or generation numbers are reserved at a time, so
// that giving one out does not write a counter. A crash skips the rest.
const reserve = 1024

// Tx is one transaction under construction. It is valid only inside the
// function given to Engine.Update. Reads see the state before it.
type Tx struct {
	e           *Engine
	batch       *pebble.Batch
	epoch       uint64
	inoReserved uint64
}

// Epoch is the number of the next cut: the version that keys written now carry.
func (tx *Tx) Epoch() uint64 { return tx.epoch }

// Cut ends the epoch and returns its number: keys of that version are frozen
// once this transaction is applied.
func (tx *Tx) Cut() uint64 {
	cut := tx.epoch
	tx.epoch++
	tx.Put(schema.MetaKey(schema.MetaEpoch), schema.Counter(tx.epoch))
	return cut
}

// Put sets a key. A batch in memory can't refuse it but for its size; Update
// would report that.
func (tx *Tx) Put(k, v []byte) { _ = tx.batch.Set(k, v, nil) }

// Delete removes a key.
func (tx *Tx) Delete(k []byte) { _ = tx.batch.Delete(k, nil) }

// DeleteRange removes all keys in [lower, upper). It is for what happens
// seldom: while a memtable holds range tombstones, each new one makes the next
// iterator sort them all again. See DeletePrefix.
func (tx *Tx) DeleteRange(lower, upper []byte) { _ = tx.batch.DeleteRange(lower, upper, nil) }

// DeletePrefix removes, one by one, all keys that start with prefix and were
// there before this transaction.
func (tx *Tx) DeletePrefix(prefix []byte) error {
	it, err := tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		tx.Delete(it.Key())
	}
	return errors.Join(it.Error(), it.Close())
}

// Get gives the value of key before this transaction, or ErrNotFound.
func (tx *Tx) Get(k []byte) ([]byte, error) { return tx.e.Get(k) }

// First is Engine.First before this transaction.
func (tx *Tx) First(prefix []byte) (key, val []byte, err error) { return tx.e.First(prefix) }

// NewIter is Engine.NewIter before this transaction.
func (tx *Tx) NewIter(lower, upper []byte) (*pebble.Iterator, error) {
	return tx.e.NewIter(lower, upper)
}

// PutBoot says that nothing which a power cut left in doubt is so any more.
func (tx *Tx) PutBoot() {
	tx.Put(schema.MetaKey(schema.MetaBoot), []byte(tx.e.cfg.BootID))
}

// NewIno gives an inode number that was never given out before. The
// reservation counts only once this transaction is applied, hence the second
// variable.
func (tx *Tx) NewIno() uint64 {
	mu := &tx.e.mu
	n := mu.ino
	mu.ino++
	if n >= max(mu.inoReserved, tx.inoReserved) {
		tx.inoReserved = n + reserve
		tx.Put(schema.MetaKey(schema.MetaNextIno), schema.Counter(tx.inoReserved))
	}
	return n
}

// NextIno is what NewIno will give.
func (tx *Tx) NextIno() uint64 { return tx.e.mu.ino }

// NextGen gives a generation number that was never given out before; it is
// greater than all earlier ones.
func (e *Engine) NextGen() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.gen == e.mu.genReserved {
		if err := e.Err(); err != nil {
			return 0, err
		}
		tx := &Tx{e: e, batch: e.db.NewBatch(), epoch: e.mu.epoch}
		defer tx.batch.Close()
		tx.Put(schema.MetaKey(schema.MetaNextGen), schema.Counter(e.mu.gen+reserve))
		if _, err := e.commit(schema.KindReserve, tx); err != nil {
			return 0, err
		}
		e.mu.genReserved = e.mu.gen + reserve
	}
	e.mu.gen++
	return e.mu.gen - 1, nil
}

// SkipGens makes NextGen go on behind last. A power cut may have taken the
// reservation of numbers that have already left something on the disk.
func (e *Engine) SkipGens(last uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if last >= e.mu.gen {
		e.mu.gen, e.mu.genReserved = last+1, last+1
	}
}
