package snapshot

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Files that say which step it is are written by somebody else: they may be
// huge, binary, or lead somewhere else.

const (
	maxTracker = 4 << 10  // of a tracker, which holds one name
	maxJSON    = 64 << 20 // of a JSON file that has the step somewhere
)

var errNoStep = errors.New("it names no step")

// viewFile reads a regular file of a view.
type viewFile struct {
	v    View
	ino  uint64
	size int64
}

// openFile opens a regular file of a view. A symbolic link is not followed.
func openFile(v View, path string) (*viewFile, error) {
	ino, ok := find(v, path)
	if !ok {
		return nil, fmt.Errorf("%w: %s", errGone, path)
	}
	n, err := v.Node(ino)
	if err != nil {
		return nil, err
	}
	if n.Mode&modeType != modeReg {
		return nil, errors.New("it is no regular file")
	}
	return &viewFile{v, ino, n.Size}, nil
}

var errGone = errors.New("no such file")

// ReadAt is io.ReaderAt.
func (f *viewFile) ReadAt(dst []byte, off int64) (int, error) {
	n, err := f.v.Read(f.ino, dst, off)
	if err == nil && n < len(dst) {
		err = io.EOF
	}
	return n, err
}

// Size is the file's length.
func (f *viewFile) Size() int64 { return f.size }

// Close does nothing.
func (f *viewFile) Close() error { return nil }

// readTracker gives the one word that a tracker holds.
func readTracker(v View, path string) (string, error) {
	f, err := openFile(v, path)
	if err != nil {
		return "", err
	}
	if f.size > maxTracker {
		return "", fmt.Errorf("%w: it is %d bytes long", errNoStep, f.size)
	}
	b := make([]byte, f.size)
	if n, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	} else if n < len(b) {
		b = b[:n]
	}
	text := strings.TrimSpace(string(b))
	if checkName(text) != nil || strings.ContainsFunc(text, func(r rune) bool { return r == 0xfffd || r == ' ' }) {
		return "", errNoStep
	}
	return text, nil
}

// readStep gives the step that a field of a JSON object says. It reads as much
// as it takes to find it.
func readStep(v View, path, field string) (string, error) {
	f, err := openFile(v, path)
	if err != nil {
		return "", err
	}
	d := json.NewDecoder(bufio.NewReader(io.NewSectionReader(f, 0, min(f.size, maxJSON))))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", errors.New("it holds no JSON object")
	}
	for depth, key := 1, true; ; {
		t, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("no %s in it: %w", field, err)
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				depth++
			} else {
				depth--
			}
			key = true // within the outermost object a value has ended, or it begins
			if depth == 0 {
				return "", fmt.Errorf("no %s in it", field)
			}
			continue
		case string:
			if depth == 1 && key && t == field {
				return stepValue(d, field)
			}
		}
		if depth == 1 {
			key = !key
		}
	}
}

func stepValue(d *json.Decoder, field string) (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", fmt.Errorf("no %s in it: %w", field, err)
	}
	n, ok := t.(json.Number)
	if !ok {
		return "", fmt.Errorf("its %s is no number", field)
	}
	if f, err := n.Float64(); err == nil && f >= 0 && f == math.Trunc(f) && f < 1<<53 {
		return strconv.FormatInt(int64(f), 10), nil
	}
	return "", fmt.Errorf("its %s is %.40s, which is no step", field, n)
}
