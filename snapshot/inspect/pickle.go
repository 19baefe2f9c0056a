package inspect

import "strings"

// A reader of pickles that only reads: what a pickle would import, call and
// build stays a node that carries names and arguments. The format is that of
// CPython's Lib/pickletools.py, protocols 0 to 5. nlpodyssey/gopickle builds
// whole objects, of sizes that the input dictates; here little is kept: short
// strings, whole numbers, tuples, the first fields of a dict. The rest is
// walked over, so that a pickle of many gigabytes costs no memory.
//
// Nothing is ever expanded: a value that is used a thousand times is one node.

const (
	maxKept  = 4096      // bytes of a string that is kept; of a longer one, nothing
	maxPairs = 16        // of a dict
	maxStack = 1 << 22   // values on the stack or in the memo
	maxHeld  = 256 << 20 // bytes of all that was kept
)

// What a value can be, beside an int64, a string, and nil for all that is not
// kept.
type (
	tuple  []any
	global struct{ module, name string }
	// object is what calling something would give: a class, mostly.
	object struct {
		class *global
		args  any
	}
	// dict has its first pairs whose keys are strings.
	dict struct {
		keys   []string
		values []any
	}
	list struct{ items []any }
	long string // a number of more than eight bytes, as it stands
)

// get gives a value of a dict.
func (d *dict) get(key string) any {
	for i, k := range d.keys {
		if k == key {
			return d.values[i]
		}
	}
	return nil
}

// A pickle is one being read.
type pickle struct {
	in     *stream
	stack  []any
	marks  []int // heights of the stack
	memo   []any
	sparse map[uint64]any // memo entries out of order
	held   int64
	value  any // of all, after STOP
	done   bool

	lists      bool                             // keep the items of lists
	persistent func(id any) error               // called for each persistent id
	built      func(o *object, state any) error // called for each object that gets a state
}

// read walks over one pickle, up to its STOP.
func (p *pickle) read() error {
	for !p.done {
		c, err := p.in.byte()
		if err != nil {
			return err
		}
		op := ops[c]
		if op == nil {
			return flawf("pickle: unknown opcode %#x at %d", c, p.in.at()-1)
		}
		if err := op(p); err != nil {
			return err
		}
		if len(p.stack)+len(p.marks) > maxStack || len(p.memo)+len(p.sparse) > maxStack || p.held > maxHeld {
			return errTooLarge
		}
	}
	return nil
}

// keep counts what a value takes.
func (p *pickle) keep(bytes int) { p.held += int64(bytes) }

func (p *pickle) push(v any) error {
	p.stack = append(p.stack, v)
	return nil
}

// bottom is below what may be popped.
func (p *pickle) bottom() int {
	if len(p.marks) == 0 {
		return 0
	}
	return p.marks[len(p.marks)-1]
}

func (p *pickle) underflow() error {
	return flawf("pickle: nothing on the stack at %d", p.in.at()-1)
}

func (p *pickle) pop() (any, error) {
	last := len(p.stack) - 1
	if last < p.bottom() {
		return nil, p.underflow()
	}
	v := p.stack[last]
	p.stack[last] = nil
	p.stack = p.stack[:last]
	return v, nil
}

func (p *pickle) top() (any, error) {
	if len(p.stack) <= p.bottom() {
		return nil, p.underflow()
	}
	return p.stack[len(p.stack)-1], nil
}

// popMark gives what was pushed since the last mark; valid until the next push.
func (p *pickle) popMark() ([]any, error) {
	last := len(p.marks) - 1
	if last < 0 {
		return nil, flawf("pickle: no mark at %d", p.in.at()-1)
	}
	from := p.marks[last]
	items := p.stack[from:]
	p.marks, p.stack = p.marks[:last], p.stack[:from]
	return items, nil
}

// popN gives the last n values; valid until the next push.
func (p *pickle) popN(n int) ([]any, error) {
	from := len(p.stack) - n
	if from < p.bottom() {
		return nil, p.underflow()
	}
	items := p.stack[from:]
	p.stack = p.stack[:from]
	return items, nil
}

// store puts the top into the memo. Picklers number their memo one by one;
// others are taken, too.
func (p *pickle) store(i uint64) error {
	v, err := p.top()
	if err != nil {
		return err
	}
	switch n := uint64(len(p.memo)); {
	case i < n:
		p.memo[i] = v
	case i == n:
		p.memo = append(p.memo, v)
		delete(p.sparse, i)
	default:
		if p.sparse == nil {
			p.sparse = map[uint64]any{}
		}
		p.sparse[i] = v
		p.keep(64)
	}
	return nil
}

func (p *pickle) load(i uint64) error {
	if v, ok := p.sparse[i]; ok {
		return p.push(v)
	}
	if i >= uint64(len(p.memo)) {
		return flawf("pickle: nothing is remembered as %d, at %d", i, p.in.at()-1)
	}
	return p.push(p.memo[i])
}

// text pushes a string of n bytes, or nothing for one too long to be kept.
func (p *pickle) text(n uint64) error {
	if n > maxKept {
		if err := p.in.skip(n); err != nil {
			return err
		}
		return p.push(nil)
	}
	b, err := p.in.take(int(n))
	if err != nil {
		return err
	}
	p.keep(16 + len(b))
	return p.push(string(b))
}

// tupleOf makes one of the last n values.
func (p *pickle) tupleOf(n int) error {
	items, err := p.popN(n)
	if err != nil {
		return err
	}
	return p.tuple(items)
}

// tuple pushes one of the given items, which are copied.
func (p *pickle) tuple(items []any) error {
	p.keep(24 + 16*len(items))
	return p.push(tuple(append([]any(nil), items...)))
}

// call replaces a callable and its arguments by what they would give.
func (p *pickle) call(class, args any) error {
	g, _ := class.(*global)
	p.keep(64)
	return p.push(&object{g, args})
}

func (p *pickle) global(module, name any) error {
	m, _ := module.(string)
	n, _ := name.(string)
	p.keep(48)
	return p.push(&global{m, n})
}

// set adds pairs of key and value to a dict that is on top.
func (p *pickle) set(items []any) error {
	if len(items)%2 != 0 {
		return flawf("pickle: a key without a value before %d", p.in.at())
	}
	into, err := p.top()
	if err != nil {
		return err
	}
	d, ok := into.(*dict)
	for i := 0; ok && i < len(items) && len(d.keys) < maxPairs; i += 2 {
		if key, ok := items[i].(string); ok {
			d.keys, d.values = append(d.keys, key), append(d.values, items[i+1])
			p.keep(64)
		}
	}
	return nil
}

// add appends to a list that is on top.
func (p *pickle) add(items []any) error {
	into, err := p.top()
	if err != nil {
		return err
	}
	if l, ok := into.(*list); ok && p.lists {
		l.items = append(l.items, items...)
		p.keep(32 * len(items))
	}
	return nil
}

// build gives the state on top to the object below it. A state is used once,
// so what was held of it is free again.
func (p *pickle) build() error {
	state, err := p.pop()
	if err != nil {
		return err
	}
	into, err := p.top()
	if err != nil {
		return err
	}
	if o, ok := into.(*object); ok && p.built != nil {
		err = p.built(o, state)
	}
	if d, ok := state.(*dict); ok {
		p.keep(-64 * len(d.keys))
		d.keys, d.values = nil, nil
	}
	return err
}

func (p *pickle) persist(id any) error {
	if p.persistent != nil {
		if err := p.persistent(id); err != nil {
			return err
		}
	}
	return p.push(nil)
}

// isPickle: what a pickle of protocol 2 and later begins with, as far as it is
// there.
func isPickle(head []byte) bool {
	return len(head) > 0 && head[0] == 0x80 && (len(head) == 1 || head[1] >= 2 && head[1] <= 5)
}

// is: a class of that name, wherever it has moved to.
func (g *global) is(name string) bool { return g != nil && strings.HasSuffix(g.name, name) }
