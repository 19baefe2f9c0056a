package posix

import "strings"

// difference is one that is wanted. docs/POSIX.md tells users of each.
type difference struct {
	kind         string
	ext4, stepfs string // what the results begin with
	why          string
}

var differences = []difference{}

// wanted says why two results may differ, or "".
func wanted(o op, results [2]string) string {
	for _, d := range differences {
		if d.kind == o.kind && strings.HasPrefix(results[peer], d.ext4) && strings.HasPrefix(results[mount], d.stepfs) {
			return d.why
		}
	}
	return ""
}
