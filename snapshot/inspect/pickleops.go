package inspect

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// ops: what each opcode does, in the order of pickletools.py. An opcode that is
// not here is none.
var ops = [256]func(p *pickle) error{
	// Numbers.
	'I':  func(p *pickle) error { return p.decimal() },
	'L':  func(p *pickle) error { return p.decimal() },
	'J':  func(p *pickle) error { return p.number(4, true) },
	'K':  func(p *pickle) error { return p.number(1, false) },
	'M':  func(p *pickle) error { return p.number(2, false) },
	0x8a: func(p *pickle) error { return p.sized(1, p.long) },
	0x8b: func(p *pickle) error { return p.sized(4, p.long) },
	'F':  func(p *pickle) error { return p.opaqueLine() },
	'G':  func(p *pickle) error { return p.opaque(8) },

	// Strings and bytes.
	'S':  func(p *pickle) error { return p.opaqueLine() },
	'V':  func(p *pickle) error { return p.unicodeLine() },
	'U':  func(p *pickle) error { return p.sized(1, p.text) },
	'T':  func(p *pickle) error { return p.sized(4, p.text) },
	0x8c: func(p *pickle) error { return p.sized(1, p.text) },
	'X':  func(p *pickle) error { return p.sized(4, p.text) },
	0x8d: func(p *pickle) error { return p.sized(8, p.text) },
	'C':  func(p *pickle) error { return p.sized(1, p.opaque) },
	'B':  func(p *pickle) error { return p.sized(4, p.opaque) },
	0x8e: func(p *pickle) error { return p.sized(8, p.opaque) },
	0x96: func(p *pickle) error { return p.sized(8, p.opaque) },
	0x97: func(p *pickle) error { return p.push(nil) }, // a buffer from outside
	0x98: func(p *pickle) error { _, err := p.top(); return err },

	// None and booleans.
	'N':  func(p *pickle) error { return p.push(nil) },
	0x88: func(p *pickle) error { return p.push(nil) },
	0x89: func(p *pickle) error { return p.push(nil) },

	// Containers.
	']':  func(p *pickle) error { p.keep(32); return p.push(&list{}) },
	'l':  func(p *pickle) error { return p.listFrom() },
	'a':  func(p *pickle) error { return p.withN(1, p.add) },
	'e':  func(p *pickle) error { return p.withMark(p.add) },
	')':  func(p *pickle) error { return p.push(tuple(nil)) },
	't':  func(p *pickle) error { return p.withMark(p.tuple) },
	0x85: func(p *pickle) error { return p.tupleOf(1) },
	0x86: func(p *pickle) error { return p.tupleOf(2) },
	0x87: func(p *pickle) error { return p.tupleOf(3) },
	'}':  func(p *pickle) error { p.keep(64); return p.push(&dict{}) },
	'd':  func(p *pickle) error { return p.dictFrom() },
	's':  func(p *pickle) error { return p.withN(2, p.set) },
	'u':  func(p *pickle) error { return p.withMark(p.set) },
	0x8f: func(p *pickle) error { return p.push(nil) },
	0x90: func(p *pickle) error { return p.withMark(p.add) },
	0x91: func(p *pickle) error { return p.withMark(func([]any) error { return p.push(nil) }) },

	// The stack and the memo.
	'0':  func(p *pickle) error { return p.drop() },
	'2':  func(p *pickle) error { return p.dup() },
	'(':  func(p *pickle) error { p.marks = append(p.marks, len(p.stack)); return nil },
	'1':  func(p *pickle) error { _, err := p.popMark(); return err },
	'g':  func(p *pickle) error { return p.indexed(p.load) },
	'h':  func(p *pickle) error { return p.sized(1, p.load) },
	'j':  func(p *pickle) error { return p.sized(4, p.load) },
	'p':  func(p *pickle) error { return p.indexed(p.store) },
	'q':  func(p *pickle) error { return p.sized(1, p.store) },
	'r':  func(p *pickle) error { return p.sized(4, p.store) },
	0x94: func(p *pickle) error { return p.store(uint64(len(p.memo) + len(p.sparse))) },

	// What would import, call and build.
	0x82: func(p *pickle) error { return p.opaque(1) },
	0x83: func(p *pickle) error { return p.opaque(2) },
	0x84: func(p *pickle) error { return p.opaque(4) },
	'c':  func(p *pickle) error { return p.globalLines() },
	0x93: func(p *pickle) error { return p.with2(p.global) },
	'R':  func(p *pickle) error { return p.with2(p.call) },
	0x81: func(p *pickle) error { return p.with2(p.call) },
	0x92: func(p *pickle) error {
		return p.withN(1, func([]any) error { return p.with2(p.call) })
	},
	'b': func(p *pickle) error { return p.build() },
	'i': func(p *pickle) error { return p.inst() },
	'o': func(p *pickle) error { return p.withMark(p.obj) },
	'P': func(p *pickle) error { return p.persistLine() },
	'Q': func(p *pickle) error { return p.withN(1, func(id []any) error { return p.persist(id[0]) }) },

	// The pickle itself.
	0x80: func(p *pickle) error { return p.protocol() },
	0x95: func(p *pickle) error { return p.frame() },
	'.':  func(p *pickle) error { return p.stop() },
}

// with2, withN and withMark pop arguments for f.
func (p *pickle) with2(f func(a, b any) error) error {
	v, err := p.popN(2)
	if err != nil {
		return err
	}
	return f(v[0], v[1])
}

func (p *pickle) withN(n int, f func([]any) error) error {
	items, err := p.popN(n)
	if err != nil {
		return err
	}
	return f(items)
}

func (p *pickle) withMark(f func([]any) error) error {
	items, err := p.popMark()
	if err != nil {
		return err
	}
	return f(items)
}

// sized reads a length or an index of n bytes for f.
func (p *pickle) sized(n int, f func(uint64) error) error {
	v, err := p.in.uint(n)
	if err != nil {
		return err
	}
	return f(v)
}

func (p *pickle) number(n int, signed bool) error {
	v, err := p.in.uint(n)
	if err != nil {
		return err
	}
	if signed {
		return p.push(int64(int32(v)))
	}
	return p.push(int64(v))
}

// long pushes a number of n bytes, little-endian, in two's complement.
func (p *pickle) long(n uint64) error {
	if n > 16 {
		return p.opaque(n)
	}
	b, err := p.in.take(int(n))
	if err != nil {
		return err
	}
	if n > 8 {
		p.keep(32)
		return p.push(long(b))
	}
	var all [8]byte
	if n > 0 && b[n-1] >= 0x80 {
		all = [8]byte{255, 255, 255, 255, 255, 255, 255, 255}
	}
	copy(all[:], b)
	return p.push(int64(binary.LittleEndian.Uint64(all[:])))
}

func (p *pickle) decimal() error {
	line, err := p.in.line(maxKept)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(line, "L"), 10, 64)
	if err != nil {
		return p.push(nil)
	}
	return p.push(n)
}

// opaque pushes nothing for n bytes.
func (p *pickle) opaque(n uint64) error {
	if err := p.in.skip(n); err != nil {
		return err
	}
	return p.push(nil)
}

func (p *pickle) opaqueLine() error {
	if _, err := p.in.line(0); err != nil {
		return err
	}
	return p.push(nil)
}

func (p *pickle) unicodeLine() error {
	line, err := p.in.line(maxKept)
	if err != nil {
		return err
	}
	p.keep(16 + len(line))
	return p.push(line)
}

func (p *pickle) listFrom() error {
	items, err := p.popMark()
	if err != nil {
		return err
	}
	l := &list{}
	p.keep(32)
	if p.lists {
		l.items = append(l.items, items...)
		p.keep(32 * len(items))
	}
	return p.push(l)
}

func (p *pickle) dictFrom() error {
	items, err := p.popMark()
	if err != nil {
		return err
	}
	items = append([]any(nil), items...)
	p.keep(64)
	if err := p.push(&dict{}); err != nil {
		return err
	}
	return p.set(items)
}

// drop pops a value, or a mark when that is on top.
func (p *pickle) drop() error {
	if n := len(p.marks); n > 0 && p.marks[n-1] == len(p.stack) {
		p.marks = p.marks[:n-1]
		return nil
	}
	_, err := p.pop()
	return err
}

func (p *pickle) dup() error {
	v, err := p.top()
	if err != nil {
		return err
	}
	return p.push(v)
}

// indexed reads an index that is written out in a line.
func (p *pickle) indexed(f func(uint64) error) error {
	line, err := p.in.line(32)
	if err != nil {
		return err
	}
	i, err := strconv.ParseUint(line, 10, 63)
	if err != nil {
		return flawf("pickle: %q before %d is no index", line, p.in.at())
	}
	return f(i)
}

func (p *pickle) twoLines() (module, name string, err error) {
	if module, err = p.in.line(maxKept); err == nil {
		name, err = p.in.line(maxKept)
	}
	p.keep(32 + len(module) + len(name))
	return module, name, err
}

func (p *pickle) globalLines() error {
	module, name, err := p.twoLines()
	if err != nil {
		return err
	}
	return p.global(module, name)
}

// inst: a class named in two lines, with the arguments since the mark.
func (p *pickle) inst() error {
	module, name, err := p.twoLines()
	if err != nil {
		return err
	}
	return p.withMark(func(args []any) error {
		p.keep(24 + 16*len(args))
		return p.call(&global{module, name}, tuple(append([]any(nil), args...)))
	})
}

// obj: the class comes first after the mark.
func (p *pickle) obj(items []any) error {
	if len(items) == 0 {
		return p.underflow()
	}
	p.keep(24 + 16*len(items))
	return p.call(items[0], tuple(append([]any(nil), items[1:]...)))
}

func (p *pickle) persistLine() error {
	line, err := p.in.line(maxKept)
	if err != nil {
		return err
	}
	return p.persist(line)
}

func (p *pickle) protocol() error {
	version, err := p.in.byte()
	if err == nil && version > 5 {
		err = flawf("pickle: protocol %d is not known", version)
	}
	return err
}

// frame: a hint for reading ahead. What it covers has to be there.
func (p *pickle) frame() error {
	n, err := p.in.uint(8)
	if err == nil && n > uint64(p.in.left()) {
		err = flawf("pickle: a frame of %d bytes runs past the end", n)
	}
	return err
}

func (p *pickle) stop() (err error) {
	p.value, err = p.pop()
	if err == nil && (len(p.stack) > 0 || len(p.marks) > 0) {
		err = flawf("pickle: something is left over at its end, %d", p.in.at())
	}
	p.done = true
	return err
}
