package stage

import "slices"

// batch holds questions until there are enough of them to be worth a walk over
// the index that answers all in its order. What it holds is bounded by room,
// unless an answer leaves more.
type batch[T any] struct {
	all     []T
	room    int // when all has so many, they are compacted, or answered
	compare func(a, b T) int
	// join makes one of two questions that follow each other, in a, if it can.
	join func(a *T, b T) bool
	// answer is given them in order, and leaves what is still needed of them.
	answer func(all []T) (left []T, err error)
}

// batchRoom is how many questions are held: about 20 MB of them.
const batchRoom = 1 << 19

func (b *batch[T]) add(q T) error {
	if k := len(b.all) - 1; k >= 0 && b.join(&b.all[k], q) {
		return nil
	}
	if b.all = append(b.all, q); len(b.all) < b.room {
		return nil
	}
	// Many questions are asked again and again. A quarter of the room is to be
	// free afterwards, or compacting would go on and on.
	if b.compact(); len(b.all) <= b.room/4*3 {
		return nil
	}
	return b.end()
}

// compact sorts what is held, and joins what can be.
func (b *batch[T]) compact() {
	slices.SortFunc(b.all, b.compare)
	kept := b.all[:0]
	for _, q := range b.all {
		if k := len(kept) - 1; k < 0 || !b.join(&kept[k], q) {
			kept = append(kept, q)
		}
	}
	b.all = kept
}

// end has all that is held answered.
func (b *batch[T]) end() (err error) {
	b.compact()
	b.all, err = b.answer(b.all)
	b.room = max(b.room, 2*len(b.all))
	return err
}
