package bucket

import "errors"

// ErrGone: a tombstone lies where the object was, or was to be.
var ErrGone = errors.New("the object was removed")

// GoneSize is the size of a tombstone, and of nothing else under its keys: a
// list alone tells it.
const GoneSize = headSize + sumSize

// Gone is the tombstone of a ref, or (of the zero writer) of a retired list. What
// decides something is never just deleted: a put-if-absent that is still on its
// way, from whoever gave it up, would bring it back.
func Gone(w Writer, seq uint64) []byte {
	return Seal(Head{Kind: KindGone, Writer: w, Seq: seq}, nil)
}

func isGone(b []byte, w Writer, seq uint64) bool {
	_, body, err := Open(b, Head{Kind: KindGone, Writer: w, Seq: seq})
	return err == nil && len(body) == 0
}
