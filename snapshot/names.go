package snapshot

import (
	"regexp"
	"strings"
	"sync"

	"stepfs/snapshot/rules"
)

var builtinRules = sync.OnceValue(func() *rules.Set { return rules.New(nil) })

// stepOf gives the step that a name stands for.
func stepOf(name string, file bool) (step string, ok bool) { return builtinRules().Name(name, file) }

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
