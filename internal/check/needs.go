package check

import "slices"

// Needs says who needs what a finding is about. It is bounded, however much
// that is.
type Needs struct {
	List []Need `json:"needed_by,omitempty"`
	More int    `json:"needed_by_more,omitempty"` // files that are not in List

	counted map[string]struct{} // paths of More
}

// Need is a path that needs it, from the mount's root on, and what shows it.
type Need struct {
	Path      string   `json:"path"`
	Live      bool     `json:"live"`                // the live tree
	Snapshots []string `json:"snapshots,omitempty"` // those with names first, each kind the newest first
	More      int      `json:"snapshots_more,omitempty"`
}

const (
	// MaxNeeds is how many files a finding names.
	MaxNeeds = 8
	// MaxSnapshots is how many snapshots each of them names.
	MaxSnapshots = 8
	// MaxCounted bounds the files that are counted: each costs look-ups.
	MaxCounted = 1000
)

// Add adds a path. One that is there already needs more than one part of what
// is damaged.
func (n *Needs) Add(need Need) {
	if k := slices.IndexFunc(n.List, func(m Need) bool { return m.Path == need.Path }); k >= 0 {
		n.List[k].join(need)
		return
	}
	if len(n.List) < MaxNeeds {
		n.List = append(n.List, need)
		return
	}
	if n.counted == nil {
		n.counted = map[string]struct{}{}
	}
	n.counted[need.Path] = struct{}{}
	n.More = len(n.counted)
}

// join adds what shows the same path.
func (n *Need) join(m Need) {
	n.Live = n.Live || m.Live
	n.More = max(n.More, m.More)
	for _, s := range m.Snapshots {
		switch {
		case slices.Contains(n.Snapshots, s):
		case len(n.Snapshots) < MaxSnapshots:
			n.Snapshots = append(n.Snapshots, s)
		default:
			n.More = max(n.More, 1)
		}
	}
}

// Place is where a holder has a chunk: a range of a file. Of a tree it says nothing.
type Place struct{ Off, End int64 }

// Places are places, of one holder each.
type Places map[uint64][]Place

// Lists says whether a path is, or will be, in List, and so whether what shows it
// matters.
func (n *Needs) Lists(path string) bool {
	return len(n.List) < MaxNeeds || slices.ContainsFunc(n.List, func(m Need) bool { return m.Path == path })
}

// Full says that no more files are counted.
func (n *Needs) Full() bool { return n.More >= MaxCounted }
