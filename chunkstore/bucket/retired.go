package bucket

// Retired is a list of packs that nobody may name in a ref that is still to be
// put. The newest of them counts.
type Retired struct {
	Epoch     uint64  // lists are numbered from 1 on, without gaps
	Condemned PackSet // no ref named them when the list was made; the next one says what became of them
	Dead      PackSet // no ref names them, or ever will: they are deleted, whenever they are seen
}

// MaxRetired bounds a list that a reader is willing to load.
const MaxRetired = 64 << 20

// Key is where the list is.
func (t *Retired) Key() string { return RetiredKey(t.Epoch) }

// Has says whether the list forbids a pack.
func (t *Retired) Has(id PackID) bool { return t.Condemned.Has(id) || t.Dead.Has(id) }

// Encode gives the object. Body: the set of the condemned, the set of the dead.
func (t *Retired) Encode() []byte {
	return Seal(Head{Kind: KindRetired, Seq: t.Epoch}, t.Dead.appendTo(t.Condemned.appendTo(nil)))
}

// DecodeRetired reads the list that lies under RetiredKey(epoch), or gives
// ErrGone: there is a newer one.
func DecodeRetired(b []byte, epoch uint64) (*Retired, error) {
	if isGone(b, Writer{}, epoch) {
		return nil, ErrGone
	}
	_, body, err := Open(b, Head{Kind: KindRetired, Seq: epoch})
	if err != nil {
		return nil, err
	}
	r := &reader{b: body}
	t := &Retired{Epoch: epoch, Condemned: r.packSet(), Dead: r.packSet()}
	return t, r.done()
}
