package inspect

import (
	"bytes"
	"math/bits"
	"strings"
)

// What torch.save writes: since 1.6 a zip whose data.pkl is the object and
// whose data/<key> are the storages that it names (caffe2/serialize/
// inline_container.h), before that a row of pickles (legacy.go).

// A storageType is how torch calls an array of one type, and its NaN-carrying
// type, if any, as safetensors calls it.
type storageType struct {
	size  uint64
	dtype string
}

var storageTypes = map[string]storageType{
	"DoubleStorage": {8, "F64"}, "FloatStorage": {4, "F32"}, "HalfStorage": {2, "F16"}, "BFloat16Storage": {2, "BF16"},
	"LongStorage": {8, ""}, "IntStorage": {4, ""}, "ShortStorage": {2, ""}, "CharStorage": {1, ""}, "ByteStorage": {1, ""},
	"BoolStorage": {1, ""}, "UntypedStorage": {1, ""}, "ComplexFloatStorage": {8, "F32"}, "ComplexDoubleStorage": {16, "F64"},
	"QInt8Storage": {1, ""}, "QInt32Storage": {4, ""}, "QUInt8Storage": {1, ""}, "QUInt4x2Storage": {1, ""}, "QUInt2x4Storage": {1, ""},
}

// A storage is what a persistent id names. Of a type that is not known, size
// is 0: it has to be there, of whatever length.
type storage struct {
	key   string
	bytes int64
	size  int64 // of an element
	dtype string
}

// readStorage takes a persistent id apart:
// ('storage', type, key, device, number of elements, ...).
func readStorage(id any) (storage, bool, error) {
	t, _ := id.(tuple)
	if len(t) < 5 || t[0] != "storage" {
		return storage{}, false, nil
	}
	class, _ := t[1].(*global)
	key, isKey := t[2].(string)
	numel, isInt := t[4].(int64)
	if !isKey || !isInt || numel < 0 || class == nil {
		return storage{}, false, flaw("torch: a storage is not named as it should be")
	}
	kind := storageTypes[class.name]
	over, size := bits.Mul64(uint64(numel), kind.size)
	if over != 0 || size > 1<<62 {
		return storage{}, false, flawf("torch: storage %.60q of %d elements", key, numel)
	}
	return storage{key, int64(size), int64(kind.size), kind.dtype}, true, nil
}

// checkTorch looks at what torch.save has written into all of s.
func checkTorch(c *checker, s span) error {
	zip, err := looksZip(s)
	if err != nil {
		return err
	}
	if zip {
		return checkTorchZip(c, s)
	}
	head, err := s.head(64)
	if err != nil {
		return err
	}
	switch {
	case isPickle(head):
		return checkPickles(c, s)
	case len(bytes.Trim(head, "\x00")) == 0:
		return errZeros
	}
	return errUnknown
}

// checkTorchZip: s is one archive.
func checkTorchZip(c *checker, s span) error {
	a, err := readZip(s)
	if err != nil {
		return err
	}
	if a.start != 0 {
		return flawf("zip: %d bytes before its beginning", a.start)
	}
	return checkRecords(c, a)
}

// checkTorchZips: s is several archives, one after the other, as DCP writes
// them. It goes from the last to the first.
func checkTorchZips(c *checker, s span) error {
	for s.size > 0 {
		a, err := readZip(s)
		if err == nil {
			err = checkRecords(c, a)
		}
		if err != nil {
			return err
		}
		s = s.sub(0, a.start)
	}
	return nil
}

// checkRecords: an archive has what torch looks for. The records' names begin
// with that of the archive.
func checkRecords(c *checker, a *archive) error {
	if len(a.records) == 0 {
		return flaw("torch: an archive without records")
	}
	prefix, _, _ := strings.Cut(a.records[0].name, "/")
	prefix += "/"
	dtypes := map[*record]string{}
	// A torch.package keeps its pickles elsewhere.
	if a.byName[prefix+".data/extern_modules"] == nil {
		version, data := a.byName[prefix+"version"], a.byName[prefix+"data.pkl"]
		if version == nil || version.size == 0 || data == nil {
			return flaw("torch: the archive lacks its data.pkl or version")
		}
		if err := checkStorages(a, data, prefix+"data/", dtypes); err != nil {
			return err
		}
	}
	return c.scanRecords(a, dtypes)
}

// checkStorages: each storage that the object names is a record long enough.
func checkStorages(a *archive, data *record, prefix string, dtypes map[*record]string) error {
	content, err := a.open(data)
	if err != nil {
		return err
	}
	p := pickle{in: newStream(content), persistent: func(id any) error {
		st, ok, err := readStorage(id)
		if err != nil || !ok {
			return err
		}
		r := a.byName[prefix+st.key]
		if r == nil {
			return flawf("torch: storage %.60q is missing", st.key)
		}
		if r.size < st.bytes {
			return flawf("torch: storage %.60q has %d bytes of %d", st.key, r.size, st.bytes)
		}
		if st.dtype != "" {
			dtypes[r] = st.dtype
		}
		return nil
	}}
	if err := p.read(); err != nil {
		return err
	}
	if p.in.left() > 0 {
		return flawf("torch: %d bytes follow the end of data.pkl", p.in.left())
	}
	return nil
}
