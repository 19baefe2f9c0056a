package inspect

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// torch's distributed checkpoint (DCP): .metadata is a pickle whose
// storage_data maps each piece of a tensor to a _StorageInfo(relative_path,
// offset, length). The class has moved (torch.distributed._shard.checkpoint in
// 1.13, torch.distributed.checkpoint since) and so may what it lies in; it is
// known by its name, wherever it stands.

// A piece is where .metadata says that something lies.
type piece struct {
	file           int // index into dcp.files
	offset, length int64
}

// dcp is what .metadata says, and what was found of it.
type dcp struct {
	files  []string
	index  map[string]int
	pieces []piece

	zips, others int    // pieces that are archives, and that are not
	zeros        string // a file where a piece begins with zeros
}

func checkDCP(c *checker, s span) error {
	m, err := readDCP(c, s)
	if err != nil {
		return err
	}
	c.spoken[path.Dir(c.path)] = true
	slices.SortFunc(m.pieces, func(a, b piece) int {
		return cmp.Or(cmp.Compare(m.files[a.file], m.files[b.file]), cmp.Compare(a.offset, b.offset), cmp.Compare(a.length, b.length))
	})
	// Where DCP writes safetensors, all tensors of a file have one entry.
	m.pieces = slices.Compact(m.pieces)
	for rest := m.pieces; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].file == rest[0].file {
			n++
		}
		if err := c.checkPieces(m, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	// Planners and extensions may write what they like. But where others are
	// archives, or nothing is anything, what begins with zeros was not written.
	if m.zeros != "" && (m.zips > 0 || m.others == 0) {
		c.problem(m.zeros, "a piece begins with nothing but zeros")
	}
	return nil
}

func readDCP(c *checker, s span) (*dcp, error) {
	head, err := s.head(2)
	if err != nil {
		return nil, err
	}
	if !isPickle(head) {
		return nil, flaw("DCP: .metadata is not a pickle")
	}
	m := &dcp{index: map[string]int{}}
	p := pickle{in: newStream(s), built: m.add}
	if err := p.read(); err != nil {
		return nil, err
	}
	if p.in.left() > 0 {
		return nil, flawf("DCP: %d bytes follow the end of .metadata", p.in.left())
	}
	if len(m.pieces) == 0 {
		c.minor("DCP: .metadata names no files")
	}
	return m, nil
}

// add takes note of an object, if it is a _StorageInfo.
func (m *dcp) add(o *object, state any) error {
	if !o.class.is("_StorageInfo") {
		return nil
	}
	d, _ := state.(*dict)
	if d == nil {
		return flaw("DCP: .metadata has a _StorageInfo without fields")
	}
	file, ok := d.get("relative_path").(string)
	offset, ok1 := d.get("offset").(int64)
	length, ok2 := d.get("length").(int64)
	if !ok || !ok1 || !ok2 || offset < 0 || length < 0 {
		return flaw("DCP: .metadata has a _StorageInfo that names no range")
	}
	if len(m.pieces) == maxStack {
		return errTooLarge
	}
	i, ok := m.index[file]
	if !ok {
		i = len(m.files)
		m.files, m.index[file] = append(m.files, file), i
	}
	m.pieces = append(m.pieces, piece{i, offset, length})
	return nil
}

// checkPieces: the file is there, all pieces lie inside, apart from each
// other, and those that torch.save wrote are whole. The pieces are of one file
// and in order.
func (c *checker) checkPieces(m *dcp, pieces []piece) error {
	name := m.files[pieces[0].file]
	file, ok := c.beside(name)
	if !ok {
		return flawf("DCP: %.60q is no name of a file beside .metadata", name)
	}
	e, ok, err := c.lookup(file)
	if err != nil {
		return err
	}
	if !ok {
		c.problem(file, "missing, but .metadata names it")
		return nil
	}
	if e.Kind != KindFile {
		return nil
	}
	s, closing, err := c.open(file)
	if err != nil {
		return err
	}
	defer closing()
	defer c.within(file)()
	if strings.HasSuffix(file, ".distcp") {
		c.claimed[file] = true
	}
	return c.judge(m.check(c, s, pieces))
}

func (m *dcp) check(c *checker, s span, pieces []piece) error {
	var end int64
	for _, p := range pieces {
		if !s.has(p.offset, p.length) {
			return flawf("DCP: .metadata names %d bytes at %d, the file has %d", p.length, p.offset, s.size)
		}
		if p.offset < end {
			return flawf("DCP: .metadata names %d bytes at %d, which are another's", p.length, p.offset)
		}
		end = p.offset + p.length
		one := s.sub(p.offset, p.length)
		zip, err := looksZip(one)
		if err != nil {
			return err
		}
		if zip {
			m.zips++
			if err := c.pass(checkTorchZip(c, one)); err != nil {
				return err
			}
			continue
		}
		head, err := one.head(4)
		switch {
		case err != nil:
			return err
		case len(head) < 4:
		case le.Uint32(head) == 0:
			m.zeros = cmp.Or(m.zeros, c.path)
		default:
			m.others++
		}
	}
	return nil
}

// beside is the path of a name in the directory of the file that is checked.
// False when it would lead out of there.
func (c *checker) beside(name string) (string, bool) {
	if name == "" || len(name) > maxKept || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") {
		return "", false
	}
	return path.Join(path.Dir(c.path), name), true
}
