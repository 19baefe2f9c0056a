package inspect

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// noticed: the file, changed so, makes its directory unsound. What stands
// beside it may be needed to see it.
func noticed(t *testing.T, tree memTree, name string, content []byte) bool {
	t.Helper()
	return !check(t, tree.below("x").with(name, content), Options{}).Sound()
}

// steps gives each file with what stands beside it, below "x".
func steps(t *testing.T, each func(dir memTree, name string, b []byte)) {
	tree := made(t)
	for name, b := range tree {
		if len(b) > 1<<20 {
			continue
		}
		dir := memTree{}
		if path.Dir(name) == "." {
			dir["x/"+name] = b
		} else {
			for beside, b := range tree.below(path.Dir(name)) {
				dir["x/"+beside] = b
			}
		}
		each(dir, path.Base(name), b)
	}
}

// A file that was cut off anywhere is not sound.
func TestCutOff(t *testing.T) {
	steps(t, func(dir memTree, name string, b []byte) {
		step := max(1, len(b)/1500)
		for n := 0; n < len(b); n++ {
			if n > 300 && n < len(b)-300 && n%step != 0 {
				continue
			}
			if !noticed(t, dir, name, b[:n:n]) {
				t.Errorf("%s cut off at %d of %d is sound", name, n, len(b))
			}
		}
	})
	many := made(t).only(t, "many.pt")
	for b, n := many["many.pt"], 1; n < len(b); n += len(b)/20 + 1 {
		if check(t, many.with("many.pt", b[:n]), Options{}).Sound() {
			t.Errorf("many.pt cut off at %d of %d is sound", n, len(b))
		}
	}
}

// A file that has grown, or that begins with what was never written, is not
// sound.
func TestGrownOrUnwritten(t *testing.T) {
	steps(t, func(dir memTree, name string, b []byte) {
		for _, more := range []string{"x", "\x00", strings.Repeat("\x00", 4096)} {
			if !noticed(t, dir, name, append(bytes.Clone(b), more...)) && path.Ext(name) != ".distcp" {
				t.Errorf("%s and %d bytes more is sound", name, len(more))
			}
		}
		if !noticed(t, dir, name, append([]byte("x"), b...)) && path.Ext(name) != ".pkl" && path.Ext(name) != ".distcp" { // which may be anything
			t.Errorf("%s behind something else is sound", name)
		}
		if !noticed(t, dir, name, make([]byte, len(b))) {
			t.Errorf("%s of zeros is sound", name)
		}
		hole := bytes.Clone(b)
		clear(hole[:min(len(b), 64)])
		if !noticed(t, dir, name, hole) {
			t.Errorf("%s with a hole at its beginning is sound", name)
		}
	})
}

// Whatever an index or .metadata names has to be there.
func TestMissing(t *testing.T) {
	tree := made(t)
	for _, name := range []string{
		"st/model-00001-of-00002.safetensors", "st/model-00002-of-00002.safetensors",
		"bin/pytorch_model-00001-of-00002.bin", "bin/pytorch_model-00002-of-00002.bin",
		"dcp/__0_0.distcp", "dcp_new/__0_0.distcp", "dcp_many/__0_0.distcp", "dcp_many/__0_3.distcp",
	} {
		dir := tree.below(path.Dir(name))
		if dir[path.Base(name)] == nil {
			t.Errorf("%s was not made", name)
		}
		r := check(t, dir.with(path.Base(name), nil), Options{})
		if r.Sound() || r.Problems[0].Path != path.Base(name) || !strings.Contains(r.Problems[0].Why, "missing") {
			t.Errorf("without %s: %+v", name, r.Problems)
		}
	}
}

// Shards that were swapped are whole, each for itself.
func TestWrongShard(t *testing.T) {
	st := made(t).below("st")
	one, two := "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	if check(t, st.with(one, st[two]), Options{}).Sound() {
		t.Error("a shard in the place of another is sound")
	}
}

// Names that lead out of the step are refused, not looked up.
func TestNamesLeadNowhere(t *testing.T) {
	for _, name := range []string{"../x.safetensors", "/etc/passwd", "", "a/../../b", "a//b", ".."} {
		tree := memTree{"model.safetensors.index.json": []byte(`{"weight_map":{"w":"` + name + `"}}`)}
		if r := check(t, tree, Options{}); r.Sound() || !strings.Contains(r.Problems[0].Why, "is no name") {
			t.Errorf("a shard called %q: %+v", name, r.Problems)
		}
	}
}

// flips changes each byte of a file in two ways and gives the positions at
// which one was not noticed.
func flips(t *testing.T, dir memTree, name string, o Options) []int {
	b := bytes.Clone(dir[name])
	dir = dir.with(name, b)
	var missed []int
	for i := range b {
		for _, with := range []byte{1, 0xff} {
			b[i] ^= with
			r := check(t, dir, o)
			if r.Sound() && (!o.Deep || len(r.Problems) == 0) {
				missed = append(missed, i)
			}
			b[i] ^= with
		}
	}
	return slices.Compact(missed)
}

// Of an archive, structure alone does not notice: times, versions and
// attributes, padding, and what data itself contains. Deep notices the last.
func TestEveryByteOfAnArchive(t *testing.T) {
	tree := made(t)
	for _, name := range []string{"one.pt", "hf/scheduler.pt", "hf/optimizer.pt", "dcp_many/__0_0.distcp"} {
		dir := memTree{path.Base(name): tree[name]}
		idle, data := zipBytes(t, tree[name])
		for _, i := range flips(t, dir, path.Base(name), Options{}) {
			if !idle[i] && !data[i] {
				t.Errorf("%s: a change at %d (%#x) was not noticed", name, i, i)
			}
		}
		for _, i := range flips(t, dir, path.Base(name), Options{Deep: true}) {
			if !idle[i] {
				t.Errorf("%s: a change at %d (%#x) was not noticed by its checksum", name, i, i)
			}
		}
	}
}

// zipBytes says which bytes of an archive mean nothing to torch, and which are
// data.
func zipBytes(t *testing.T, b []byte) (idle, data map[int]bool) {
	idle, data = map[int]bool{}, map[int]bool{}
	mark := func(in map[int]bool, from, n int) {
		for i := range n {
			in[from+i] = true
		}
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		at, _ := f.DataOffset()
		mark(data, int(at), int(f.CompressedSize64))
		header := bytes.LastIndex(b[:at], []byte(sigLocal))
		mark(idle, header+4, 2)  // version
		mark(idle, header+10, 4) // time
		extra := header + 30 + len(f.Name)
		mark(idle, extra, int(at)-extra)
	}
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(sigEntry))
		if i < 0 {
			break
		}
		at += i + 4
		mark(idle, at, 4)    // versions
		mark(idle, at+8, 4)  // time
		mark(idle, at+32, 6) // attributes
	}
	mark(idle, bytes.Index(b, []byte(sigEnd64))+12, 4) // versions
	return idle, data
}

// Of a safetensors header, structure does not notice what a tensor is called,
// what the metadata says, and the shape of what has no elements. An index
// notices the first.
func TestEveryByteOfSafetensors(t *testing.T) {
	st := made(t).below("st")
	for name, free := range map[string][]string{
		"model-00001-of-00002.safetensors": {`"format"`, `"pt"`, `"__metadata__"`},
		"model-00002-of-00002.safetensors": {`,7]`},
	} {
		header := 8 + int(binary.LittleEndian.Uint64(st[name]))
		for _, i := range flips(t, st, name, Options{}) {
			if i < header && !within(st[name], i, free) {
				t.Errorf("%s: a change at %d was not noticed: %q", name, i, st[name][max(i-20, 0):i+20])
			}
		}
	}
	index := "model.safetensors.index.json"
	for _, i := range flips(t, st, index, Options{}) {
		if !within(st[index], i, []string{`"metadata"`, `"total_size"`, `50`}) {
			t.Errorf("%s: a change at %d was not noticed: %q", index, i, st[index][max(i-20, 0):i+20])
		}
	}
}

// within: position i of b lies in one of the texts.
func within(b []byte, i int, texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		at := bytes.Index(b, []byte(text))
		return at >= 0 && i >= at && i < at+len(text)
	})
}

// Every name, offset and length in .metadata is held against the files.
func TestEveryPieceOfDCP(t *testing.T) {
	for _, name := range []string{"dcp", "dcp_new", "dcp_many"} {
		dir := made(t).below(name)
		b := dir[".metadata"]
		c := newChecker(t.Context(), dir, Options{})
		s, _, err := c.open(".metadata")
		if err != nil {
			t.Fatal(err)
		}
		m, err := readDCP(c, s)
		if err != nil || len(m.pieces) < 4 {
			t.Fatalf("%s: %+v, %v", name, m, err)
		}
		missed := flips(t, dir, ".metadata", Options{})
		expect := func(text string) {
			at := bytes.Index(b, []byte(text))
			if at < 0 {
				t.Errorf("%s: %q is not in .metadata", name, text)
			}
			for i := range len(text) {
				// One file's number may become another's, which is there, too.
				number := strings.HasPrefix(text, "__0_") && text[i] >= '0' && text[i] <= '9'
				if slices.Contains(missed, at+i) && !number {
					t.Errorf("%s: a change of %q was not noticed", name, text)
				}
			}
		}
		for _, file := range m.files {
			expect(file)
		}
		for _, p := range m.pieces {
			for _, n := range []int64{p.offset, p.length} {
				if n > 255 {
					expect("M" + string(binary.LittleEndian.AppendUint16(nil, uint16(n))))
				}
			}
		}
	}
}

// A file that is shorter than .metadata says is found so by that alone.
func TestShortOfDCP(t *testing.T) {
	dir := made(t).below("dcp")
	b := dir["__0_0.distcp"]
	r := check(t, dir.with("__0_0.distcp", b[:len(b)-1]), Options{})
	if r.Sound() || !strings.Contains(r.Problems[0].Why, "the file has") {
		t.Errorf("%+v", r.Problems)
	}
}

// What a .metadata does not speak for was left behind by an earlier save.
func TestLeftBehind(t *testing.T) {
	dir := made(t).below("dcp")
	torn := dir["__0_0.distcp"][:700]
	r := check(t, dir.with("__1_0.distcp", torn), Options{})
	if !r.Sound() || len(r.Problems) != 1 {
		t.Errorf("%+v", r.Problems)
	}
	if check(t, memTree{"__1_0.distcp": torn}, Options{}).Sound() {
		t.Error("torn and sound")
	}
	if r := check(t, dir.with("__1_0.distcp", []byte{}), Options{}); len(r.Problems) > 0 {
		t.Errorf("the file of a rank that has nothing to save: %+v", r.Problems)
	}
}

// The numbers of a legacy file are held against each other.
func TestLegacyNumbers(t *testing.T) {
	one := made(t).only(t, "legacy.pt")
	b := one["legacy.pt"]
	at := bytes.LastIndex(b, []byte("e.")) + 2 // behind the keys
	for i := range 8 {
		c := bytes.Clone(b)
		c[at+i] ^= 1
		if check(t, one.with("legacy.pt", c), Options{}).Sound() {
			t.Errorf("byte %d of a storage's size", i)
		}
	}
	seed, err := os.ReadFile("testdata/seed/legacy.pt")
	if err != nil {
		t.Fatal(err)
	}
	seed[len(seed)-12-8]++ // three floats
	if check(t, memTree{"a.pt": append(seed, 0, 0, 0, 0)}, Options{}).Sound() {
		t.Error("an element more than the object says")
	}
}

// An empty file that should have been weights.
func TestEmpty(t *testing.T) {
	for name, sound := range map[string]bool{
		"model.safetensors": false, "a.pt": false, "a.pth": false, "optimizer.bin": false, "x.bin": false, "a.ckpt": false,
		"trainer_state.json": false, "a.npz": false, "optimizer": false, ".metadata": false,
		"__3_0.distcp": true, "log.txt": true, "__init__.py": true, "README.md": true,
	} {
		if got := check(t, memTree{name: {}}, Options{}).Sound(); got != sound {
			t.Errorf("an empty %s: sound %v", name, got)
		}
	}
	if !check(t, memTree{"vocab.bin": []byte("what"), "tf.ckpt": []byte("ever")}, Options{}).Sound() {
		t.Error("a file of an unknown format is unsound")
	}
}
