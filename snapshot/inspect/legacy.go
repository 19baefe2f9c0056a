package inspect

import "math/bits"

// What torch.save wrote before 1.6, and still does on request: five pickles
// (a magic number, a version, the machine, the object, the keys of its
// storages), then each storage as a number of elements and its bytes. See
// torch/serialization.py, _legacy_save.

// legacyMagic is 0x1950a86a20f9469cfc6c.
const legacyMagic = long("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")

// checkPickles: s is what torch wrote before 1.6, or one or more pickles.
func checkPickles(c *checker, s span) error {
	in := newStream(s)
	first := pickle{in: in}
	if err := first.read(); err != nil {
		return err
	}
	for more := first.value == legacyMagic; more; {
		if err := checkLegacy(c, in); err != nil {
			return err
		}
		if in.left() == 0 {
			return nil
		}
		next := pickle{in: in} // several objects in one file
		if err := next.read(); err != nil {
			return err
		}
		more = next.value == legacyMagic
	}
	for in.left() > 0 {
		next := pickle{in: in}
		if err := next.read(); err != nil {
			return err
		}
	}
	return nil
}

// checkLegacy reads what follows the magic number.
func checkLegacy(c *checker, in *stream) error {
	for range 2 { // the version, the machine
		p := pickle{in: in}
		if err := p.read(); err != nil {
			return err
		}
	}
	storages := map[string]storage{}
	object := pickle{in: in, persistent: func(id any) error {
		st, ok, err := readStorage(id)
		if ok {
			storages[st.key] = st
		}
		return err
	}}
	if err := object.read(); err != nil {
		return err
	}
	keys := pickle{in: in, lists: true}
	if err := keys.read(); err != nil {
		return err
	}
	l, ok := keys.value.(*list)
	if !ok || len(l.items) != len(storages) {
		return flaw("torch: the list of storages is not that of the object")
	}
	for _, key := range l.items {
		key, _ := key.(string)
		st, ok := storages[key]
		if !ok {
			return flawf("torch: storage %.60q is not one of the object's", key)
		}
		if err := checkLegacyStorage(c, in, st); err != nil {
			return err
		}
	}
	return nil
}

func checkLegacyStorage(c *checker, in *stream, st storage) error {
	numel, err := in.uint(8)
	if err != nil {
		return err
	}
	over, size := bits.Mul64(numel, uint64(st.size))
	if over != 0 || st.size == 0 || int64(size) != st.bytes {
		return flawf("torch: storage %.60q has %d elements, not those that the object says", st.key, numel)
	}
	at := in.at()
	if err := in.skip(size); err != nil {
		return err
	}
	return c.scan(in.sub(at, int64(size)), nil, st.dtype, "storage "+st.key)
}
