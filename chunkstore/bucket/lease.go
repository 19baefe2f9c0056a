package bucket

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Lease is what a writer has told prune. Package prune says what each field
// promises.
type Lease struct {
	Slot   uint64 // leases are numbered from 0 on, without gaps
	Writer Writer

	Count  uint64 // of its contents, each another one
	Holder Holder // who publishes as this writer; none: nobody does
	Epoch  uint64 // the retired list that the holder keeps to; 0: none
	Next   uint64 // refs below are settled, those above were never put
	Keep   uint64 // the writer's packs from this one on are for refs to come
}

// Holder is drawn by each process that publishes as a writer.
type Holder [8]byte

const (
	// KeepNone is the Keep of a writer that has nothing under way.
	KeepNone = math.MaxUint64
	// FirstRef is the number of a writer's first ref.
	FirstRef = 1
	// MaxLease bounds a lease that a reader is willing to load.
	MaxLease = 4 << 10
)

// Closed says that nobody publishes.
func (l *Lease) Closed() bool { return l.Holder == Holder{} }

// Key is where the lease is.
func (l *Lease) Key() string { return LeaseKey(l.Slot) }

// Encode gives the object. Body: uv count, holder (8), uv epoch, uv next, uv keep.
func (l *Lease) Encode() []byte {
	b := binary.AppendUvarint(nil, l.Count)
	b = append(b, l.Holder[:]...)
	b = binary.AppendUvarint(b, l.Epoch)
	b = binary.AppendUvarint(b, l.Next)
	b = binary.AppendUvarint(b, l.Keep)
	return Seal(Head{Kind: KindLease, Writer: l.Writer, Seq: l.Slot}, b)
}

// DecodeLease reads the lease that lies under LeaseKey(slot). It says itself
// whose it is.
func DecodeLease(b []byte, slot uint64) (*Lease, error) {
	want := Head{Kind: KindLease, Seq: slot}
	if len(b) >= headSize {
		copy(want.Writer[:], b[16:])
	}
	h, body, err := Open(b, want)
	if err != nil {
		return nil, err
	}
	r := &reader{b: body}
	l := &Lease{Slot: slot, Writer: h.Writer, Count: r.uvarint()}
	r.take(l.Holder[:])
	l.Epoch, l.Next, l.Keep = r.uvarint(), r.uvarint(), r.uvarint()
	if l.Next < FirstRef {
		r.fail(fmt.Sprintf("a lease whose next ref is %d", l.Next))
	}
	return l, r.done()
}
