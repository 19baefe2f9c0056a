package snapshot

import (
	"regexp"
	"strings"
)

// rule says which names are steps. The first capture is the step's number.
type rule struct {
	name string
	re   *regexp.Regexp
	file bool // matches files, not directories
}

// rules are the names that training code gives to checkpoints. The sequences
// by which each framework commits one are a later matter: here a step is
// complete when it has been quiet for a while.
var rules = []rule{
	{"checkpoint-N", regexp.MustCompile(`^checkpoint[-_]?0*(\d{1,18})$`), false},
	{"step-N", regexp.MustCompile(`^(?:global_?)?step[-_=]?0*(\d{1,18})$`), false},
	{"iter_N", regexp.MustCompile(`^iter(?:ation)?[-_]?0*(\d{1,18})$`), false},
	{"epoch-step", regexp.MustCompile(`^epoch=\d+-step=0*(\d{1,18})(?:\.ckpt)?$`), false},
	{"number", regexp.MustCompile(`^0*(\d{1,18})$`), false},
	{"epoch-step.ckpt", regexp.MustCompile(`^epoch=\d+-step=0*(\d{1,18})\.ckpt$`), true},
	{"checkpoint-N.pt", regexp.MustCompile(`^(?:checkpoint|(?:global_?)?step|iter)[-_]?0*(\d{1,18})\.(?:pt|pth|ckpt|bin|safetensors)$`), true},
}

// stepOf gives the step that a name stands for.
func stepOf(name string, file bool) (step string, ok bool) {
	for _, r := range rules {
		if r.file != file {
			continue
		}
		if m := r.re.FindStringSubmatch(name); m != nil {
			return m[1], true
		}
	}
	return "", false
}

var digits = regexp.MustCompile(`\d+`)

// maskNumbers makes paths of successive steps equal: the content last stored
// under a masked path is the earlier version that cut points are inherited from.
func maskNumbers(path string) string {
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i+1], path[i+1:]
	}
	if _, ok := stepOf(base, true); ok {
		base = digits.ReplaceAllString(base, "#")
	}
	parts := strings.Split(dir, "/")
	for i, p := range parts {
		if _, ok := stepOf(p, false); ok {
			parts[i] = digits.ReplaceAllString(p, "#")
		}
	}
	return strings.Join(parts, "/") + base
}
