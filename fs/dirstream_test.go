package fs

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// fakeDir is a directory that changes while it is read.
type fakeDir struct{ names []string } // in byte order

func (d *fakeDir) list(after string, max int) ([]listed, error) {
	var out []listed
	for _, n := range d.names {
		if n > after && len(out) < max {
			out = append(out, listed{name: n, key: n})
		}
	}
	return out, nil
}

func (d *fakeDir) remove(name string) {
	d.names = slices.DeleteFunc(d.names, func(n string) bool { return n == name })
}

func (d *fakeDir) add(name string) {
	if i, found := slices.BinarySearch(d.names, name); !found {
		d.names = slices.Insert(d.names, i, name)
	}
}

type given struct {
	name string
	off  uint64
}

// readAt reads up to n entries from off.
func readAt(t rapid.TB, s *dirStream, off uint64, n int) []given {
	var got []given
	err := s.read(off, 4, func(e listed, off uint64) (bool, error) {
		if len(got) == n {
			return false, nil
		}
		got = append(got, given{e.name, off})
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func newFakeDir(n int) (*fakeDir, *dirStream) {
	d := &fakeDir{}
	for i := range n {
		d.names = append(d.names, fmt.Sprintf("%05d", i))
	}
	return d, &dirStream{list: d.list, dots: []listed{{name: ".", dot: true}, {name: "..", dot: true}}}
}

// TestDirStream: while entries come and go, and the reader, as the kernel
// does, goes back to any offset that it was given, whatever exists all the time
// is seen, and nothing is seen twice on the way forward.
func TestDirStream(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		total := rapid.IntRange(0, 300).Draw(r, "total")
		d, s := newFakeDir(total)
		stays := map[string]bool{}
		for _, n := range d.names {
			stays[n] = true
		}
		var off uint64
		var path []given // what the reader has accepted, in order
		for {
			got := readAt(r, s, off, rapid.IntRange(1, 40).Draw(r, "page"))
			if len(got) == 0 {
				break
			}
			path = append(path, got...)
			if back := rapid.IntRange(0, len(path)-1).Draw(r, "back"); rapid.IntRange(0, 3).Draw(r, "goes back") == 0 {
				path = path[:len(path)-back%40]
			}
			off = 0
			if len(path) > 0 {
				off = path[len(path)-1].off
			}
			for range rapid.IntRange(0, 5).Draw(r, "changes") {
				name := fmt.Sprintf("%05d", rapid.IntRange(0, total).Draw(r, "which"))
				if rapid.Bool().Draw(r, "remove") {
					d.remove(name)
					delete(stays, name)
				} else {
					d.add(name + "+")
				}
			}
		}
		seen := map[string]int{}
		for _, g := range path {
			seen[g.name]++
		}
		for name, n := range seen {
			if n > 1 {
				r.Fatalf("%q was given %d times", name, n)
			}
		}
		for name := range stays {
			if seen[name] == 0 {
				r.Fatalf("%q was never given", name)
			}
		}
	})
}

// TestDirStreamResumed: a stream that begins in the middle, because another
// process gave the first half, goes on there.
func TestDirStreamResumed(t *testing.T) {
	d, s := newFakeDir(2000)
	first := readAt(t, s, 0, 1002)
	_, successor := newFakeDir(0)
	successor.list = d.list
	rest := readAt(t, successor, first[len(first)-1].off, 5000)
	if len(rest) != 1000 || rest[0].name != "01000" {
		t.Fatalf("%d entries from %q", len(rest), rest[0].name)
	}
	// Back into the part that only the predecessor gave.
	if again := readAt(t, successor, first[500].off, 1); again[0] != first[501] {
		t.Fatalf("%v after %v, want %v", again, first[500], first[501])
	}
}
