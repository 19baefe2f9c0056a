package faults

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The kinds of places of a store's files, as docs/FORMAT.md has them. They are
// found here by that page alone, so that both are held against each other.

var le = binary.LittleEndian

// filesOf lists files of a store, and fails when there are none.
func filesOf(t *testing.T, p *pristine, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(p.dir, pattern))
	must(t, err)
	files := map[string][]byte{}
	for _, path := range paths {
		rel, _ := filepath.Rel(p.dir, path)
		b, err := os.ReadFile(path)
		must(t, err)
		if len(b) > 0 {
			files[rel] = b
		}
	}
	if len(files) == 0 {
		t.Fatalf("no %s: nothing to flip", pattern)
	}
	return files
}

func packPlaces(t *testing.T, p *pristine) (all []place) {
	t.Helper()
	for name, b := range filesOf(t, p, "packs/*.pack") {
		add := func(class string, from, n int64) {
			if n > 0 {
				all = append(all, place{"pack " + class, name, from, from + n})
			}
		}
		end := int64(len(b))
		foot := int64(le.Uint64(b[end-24:]))
		length := int64(le.Uint32(b[end-16:]))
		add("header", 0, 32)
		add("footer header", foot, 32)
		at := foot + 32
		for range le.Uint32(b[foot+24:]) {
			ext := int64(le.Uint16(b[at+34:]))
			part, stored := int64(le.Uint64(b[at+36:])), int64(le.Uint32(b[at+44:]))
			add("part header", part, 64+ext)
			add("payload", part+64+ext, stored)
			add("footer entry", at, 64+ext)
			at += 64 + ext
		}
		add("footer sum", at, 4)
		add("trailer", end-24, 24)
		if at+4 != foot+length || foot+length+24 != end {
			t.Fatalf("%s is not what docs/FORMAT.md says", name)
		}
	}
	return all
}

func indexPlaces(t *testing.T, p *pristine) (all []place) {
	t.Helper()
	for pattern, class := range map[string]string{
		"index/*.sst": "index table", "index/MANIFEST-*": "index manifest", "index/OPTIONS-*": "index options", "index/*.log": "index log",
	} {
		for name, b := range filesOf(t, p, pattern) {
			all = append(all, place{class, name, 0, int64(len(b))})
		}
	}
	return all
}

func configPlaces(t *testing.T, p *pristine) (all []place) {
	t.Helper()
	for name, b := range filesOf(t, p, "config") {
		all = append(all, place{"config", name, 0, int64(len(b))})
	}
	return all
}

// journalPlaces: of a store that was closed, the index holds what the records
// say.
func journalPlaces(t *testing.T, p *pristine, applied bool) (all []place) {
	t.Helper()
	records := 0
	var last [2]int // the places of the last record of all
	files := filesOf(t, p, "journal/*.seg")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b := files[name]
		at := int64(0)
		add := func(class string, n int64) {
			if applied && class != "unused" {
				class = "applied"
			}
			if n > 0 {
				all = append(all, place{"journal " + class, name, at, at + n})
			}
			at += n
		}
		if string(b[:8]) == "stepfsJL" {
			add("header", 128)
			for kind := le.Uint32(b[at+4:]); kind == 1 || kind == 2; kind = le.Uint32(b[at+4:]) {
				n := int64(le.Uint32(b[at:]))
				from := len(all)
				add("record", 24)
				add("payload", n)
				last = [2]int{from, len(all)}
				at += -n & 7
				records++
			}
		}
		add("unused", int64(len(b))-at)
	}
	for k := last[0]; k < last[1] && !applied; k++ {
		all[k].class = "journal end"
	}
	if records == 0 {
		t.Fatal("the journal has no record: nothing to flip")
	}
	return all
}

func stagingPlaces(t *testing.T, p *pristine) (all []place) {
	t.Helper()
	for name, b := range filesOf(t, p, "staging/*/*") {
		if !strings.HasSuffix(name, ".tmp") {
			all = append(all, place{"hot copy", name, 0, int64(len(b))})
		}
	}
	return all
}
