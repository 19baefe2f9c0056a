// Package inspect says whether the files of a checkpoint are structurally
// whole: that nothing of them is missing or cut off, as far as their own
// formats tell. It reads no more than it must and executes nothing.
//
// Read formats.go first (which files are checked how) and check.go (the walk),
// then source.go, span.go and stream.go (all reading), and the formats: json.go,
// safetensors.go, index.go, zip.go with ziplocal.go, pickle.go with
// pickleops.go, torch.go, legacy.go, dcp.go. scan.go reads the data itself,
// where the options ask for it.
//
// Every byte is hostile. Lengths are compared with what is there before they
// are used, nothing recurses, and what is kept of a file is bounded: what
// would need more is reported as a minor problem, "too large to be looked
// into".
package inspect

import "io"

// Kind is what an entry of a directory is.
type Kind uint8

const (
	KindFile Kind = iota
	KindDir
	KindSymlink // never followed
	KindOther
)

// Entry is one name in a directory.
type Entry struct {
	Name string
	Kind Kind
	Size int64
}

// File is one open file of a step.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Tree is read access to a step. Paths are relative and slash-separated, ""
// is its root. It must not change meanwhile. List of a directory that is not
// there is an fs.ErrNotExist.
type Tree interface {
	List(dir string) ([]Entry, error)
	Open(path string) (File, error)
}

// Problem is one thing that is wrong with one file. A minor one is reported
// but does not make the step partial.
type Problem struct {
	Path  string `json:"path"`
	Why   string `json:"why"`
	Minor bool   `json:"minor,omitempty"`
}

// Report is what was found.
type Report struct {
	Files    int       `json:"files"`   // regular files seen
	Checked  int       `json:"checked"` // of them, those of a format that is known
	Bytes    int64     `json:"bytes"`   // read
	Problems []Problem `json:"problems,omitempty"`
}

// Sound: there is no problem but minor ones.
func (r *Report) Sound() bool {
	for _, p := range r.Problems {
		if !p.Minor {
			return false
		}
	}
	return true
}

// Options say how far to look. The zero value reads structure alone.
type Options struct {
	NaN         bool // look for NaN and Inf in float tensors; they are reported as minor
	Deep        bool // read all that a checksum covers
	MaxProblems int  // of each kind, minor and not, in the report; 100 when 0
}
