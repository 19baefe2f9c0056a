package inspect

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// A safetensors file is a length (8 bytes), a JSON header of that length, and
// the tensors: github.com/huggingface/safetensors, safetensors/src/tensor.rs.

const (
	maxHeader  = 100_000_000 // as the reference has it
	maxTensors = 1 << 20
)

// dtypeBits: how many bits an element takes.
var dtypeBits = map[string]uint64{
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
	"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

// A tensor is what the header says of one. Its range is relative to the end of
// the header.
type tensor struct {
	name       string
	dtype      string
	begin, end int64
}

func checkSafetensors(c *checker, s span) error {
	tensors, data, err := readSafetensors(s)
	if err != nil {
		return err
	}
	if !c.opts.NaN {
		return nil
	}
	for _, t := range tensors {
		if err := c.scan(data.sub(t.begin, t.end-t.begin), nil, t.dtype, t.name); err != nil {
			return err
		}
	}
	return nil
}

// readSafetensors gives the tensors by name and where their data lies, when
// the ranges cover the file.
func readSafetensors(s span) ([]tensor, span, error) {
	if s.size < 8 {
		return nil, s, flawf("safetensors: %d bytes are no header", s.size)
	}
	b, err := s.head(9)
	if err != nil {
		return nil, s, err
	}
	length := binary.LittleEndian.Uint64(b)
	if length > maxHeader || int64(length) > s.size-8 {
		return nil, s, flawf("safetensors: a header of %d bytes in a file of %d", length, s.size)
	}
	if length == 0 || b[8] != '{' {
		return nil, s, flaw("safetensors: the header is not an object")
	}
	header, data := s.sub(8, int64(length)), s.sub(8+int64(length), s.size-8-int64(length))
	tensors, err := readTensors(header)
	if err != nil {
		return nil, s, err
	}
	if err := checkRanges(tensors, data.size); err != nil {
		return nil, s, err
	}
	return tensors, data, checkNames(tensors)
}

func readTensors(header span) ([]tensor, error) {
	var tensors []tensor
	j := jsonReader{in: newStream(header), keep: true}
	t, err := j.next()
	if err != nil {
		return nil, err
	}
	err = j.object(t, func(name string) error {
		t, err := j.next()
		if err != nil {
			return err
		}
		if name == "__metadata__" {
			return j.skip(t)
		}
		if len(tensors) == maxTensors {
			return errTooLarge
		}
		one, err := readTensor(&j, t, name)
		tensors = append(tensors, one)
		return err
	})
	if err == nil {
		_, err = j.next() // nothing but spaces may follow
	}
	return tensors, err
}

// readTensor reads what the header says of one tensor, and checks that its
// shape and its range agree.
func readTensor(j *jsonReader, t jsonToken, name string) (tensor, error) {
	one := tensor{name: name}
	var shape, offsets []uint64
	err := j.object(t, func(key string) error {
		t, err := j.next()
		if err != nil {
			return err
		}
		switch key {
		case "dtype":
			if dtypeBits[t.text] == 0 {
				return flawf("safetensors: %.60q has the unknown type %.20q", name, t.text)
			}
			one.dtype = strings.Clone(t.text)
		case "shape":
			shape, err = readNumbers(j, t)
		case "data_offsets":
			offsets, err = readNumbers(j, t)
		default:
			err = j.skip(t)
		}
		return err
	})
	if err != nil {
		return one, err
	}
	if one.dtype == "" || shape == nil || len(offsets) != 2 {
		return one, flawf("safetensors: %.60q lacks a type, a shape or a range", name)
	}
	want, ok := dtypeBits[one.dtype], true
	for _, n := range shape {
		var over uint64
		over, want = bits.Mul64(want, n)
		ok = ok && over == 0
	}
	begin, end := offsets[0], offsets[1]
	if !ok || begin > end || end > 1<<62 || want%8 != 0 || want/8 != end-begin {
		return one, flawf("safetensors: %.60q: type and shape do not agree with its range %d-%d", name, begin, end)
	}
	one.begin, one.end = int64(begin), int64(end)
	return one, nil
}

// readNumbers reads a list of numbers; of an empty one it gives one that is not
// nil.
func readNumbers(j *jsonReader, t jsonToken) ([]uint64, error) {
	if t.kind != '[' {
		return nil, flaw("safetensors: a shape or range is not a list")
	}
	numbers := []uint64{}
	for {
		t, err := j.next()
		if err != nil || t.kind == ']' {
			return numbers, err
		}
		n, err := strconv.ParseUint(t.text, 10, 64)
		if t.kind != jsonNumber || err != nil || len(numbers) == 64 {
			return nil, flaw("safetensors: a bad shape or range")
		}
		numbers = append(numbers, n)
	}
}

// checkRanges: one after the other, from the first byte to the last.
func checkRanges(tensors []tensor, size int64) error {
	slices.SortFunc(tensors, func(a, b tensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	var at int64
	for _, t := range tensors {
		if t.begin != at {
			return flawf("safetensors: %.60q begins at %d, the tensor before it ends at %d", t.name, t.begin, at)
		}
		at = t.end
	}
	if at != size {
		return flawf("safetensors: tensors of %d bytes in a file that has %d for them", at, size)
	}
	return nil
}

// checkNames sorts the tensors by name: none twice.
func checkNames(tensors []tensor) error {
	slices.SortFunc(tensors, func(a, b tensor) int { return cmp.Compare(a.name, b.name) })
	for i := 1; i < len(tensors); i++ {
		if tensors[i].name == tensors[i-1].name {
			return flawf("safetensors: %.60q is there twice", tensors[i].name)
		}
	}
	return nil
}

func hasTensor(tensors []tensor, name string) bool {
	_, ok := slices.BinarySearchFunc(tensors, name, func(t tensor, name string) int { return cmp.Compare(t.name, name) })
	return ok
}
