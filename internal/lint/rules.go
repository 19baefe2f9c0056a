package lint

import (
	"fmt"
	"slices"
	"strings"
)

// module is the path that every package of ours begins with.
const module = "stepfs/"

// mayImport says, for each layer, which of our other packages its code may
// import. A layer is a package with all that lies below it, unless something
// below is a layer of its own. Tests are free: they may wire layers together.
var mayImport = map[string][]string{
	"cmd": {"fs", "fs/attach", "fs/stage", "snapshot", "snapshot/include", "snapshot/inspect", "snapshot/published", "snapshot/rules", "chunkstore", "chunkstore/bucket", "chunkstore/codec/simulate", "chunkstore/pack", "chunkstore/remote",
		"internal/check", "internal/journal", "internal/livetree", "internal/schema", "internal/state", "internal/storedir"},
	"fs":                 {"fs/stage", "snapshot", "internal/handles"},
	"fs/attach":          {"snapshot/published", "internal/handles", "internal/schema"},
	"fs/stage":           {"internal/check", "internal/journal", "internal/pace", "internal/schema", "internal/state"},
	"snapshot":           {"snapshot/align", "snapshot/include", "snapshot/inspect", "snapshot/rules", "chunkstore", "chunkstore/bucket", "chunkstore/remote", "internal/check", "internal/journal", "internal/pace", "internal/schema", "internal/state"},
	"snapshot/align":     {"snapshot/inspect", "chunkstore", "chunkstore/pack"},
	"snapshot/include":   {},
	"snapshot/inspect":   {},
	"snapshot/rules":     {},
	"snapshot/published": {"chunkstore", "chunkstore/bucket", "chunkstore/pack", "chunkstore/remote", "internal/schema"},
	"chunkstore": {"chunkstore/bucket", "chunkstore/codec", "chunkstore/pack", "chunkstore/remote", "internal/check", "internal/journal", "internal/pace",
		"internal/schema", "internal/state"},
	"chunkstore/bucket": {"chunkstore/pack", "chunkstore/remote"},
	"chunkstore/codec":  {},
	"chunkstore/pack":   {},
	"chunkstore/remote": {},
	"internal/state":    {"internal/journal", "internal/schema"},
	"internal/check":    {"internal/schema", "internal/state"},
	"internal/handles":  {},
	"internal/journal":  {},
	"internal/pace":     {},
	"internal/hostile":  {},
	"internal/schema":   {},
	"internal/livetree": {"fs/stage", "snapshot", "snapshot/include", "chunkstore"},
	"internal/storedir": {},
	"internal/simdisk":  {}, // for tests alone, of every layer that writes to a disk
	"internal/sim":      {},
	"internal/lint":     {},
	"tools":             {},
	// What chunks would take, without a store.
	"chunkstore/codec/simulate": {"chunkstore/codec"},
	// These drive the built binary from outside and know nothing of its inside.
	"integration":         {"integration/harness"},
	"integration/harness": {},
	// But for a bucket that would take days to be filled from outside.
	"bench":                {"integration/harness", "chunkstore/bucket", "chunkstore/remote", "snapshot/published/publishtest"},
	"bench/series/compare": {"chunkstore/codec/simulate", "integration/harness"},
	"bench/series/measure": {"chunkstore/codec"},

	// The suite that tests of several packages share.
	"chunkstore/remote/remotetest":   {"chunkstore/remote"},
	"snapshot/published/publishtest": {"chunkstore/bucket", "chunkstore/pack", "chunkstore/remote", "internal/schema", "internal/state", "internal/storedir"},
}

// A ban keeps a library inside the layers that it belongs to.
type ban struct {
	library string // the import path, or what it begins with
	layers  []string
	why     string
}

var bans = []ban{
	{"github.com/spf13/", []string{"cmd"}, "flags belong to the command"},
	{"flag", []string{"cmd", "bench", "bench/series/compare", "tools"}, "flags belong to the command"},
	{"log", []string{"cmd", "tools"}, "the core reports by errors and events, it does not log"},
	{"log/slog", []string{"cmd"}, "the core reports by errors and events, it does not log"},
	{"github.com/prometheus/", []string{"cmd"}, "metrics are registered by the command"},
	{"github.com/hanwen/go-fuse/", []string{"cmd", "fs", "fs/attach", "bench"}, "only fs and fs/attach speak to the kernel; fs/stage and below know nothing of FUSE"},
	{"github.com/aws/", []string{"chunkstore/remote", "bench"}, "the object store is behind one interface"},
	{"testing", []string{"integration/harness", "chunkstore/remote/remotetest"}, "test code belongs in _test.go files, or in what they share"},
}

// layerOf gives the layer that a path inside the module belongs to: the longest
// one that it is, or lies below. Empty when nothing fits.
func layerOf(path string) string {
	best := ""
	for layer := range mayImport {
		if (path == layer || strings.HasPrefix(path, layer+"/")) && len(layer) > len(best) {
			best = layer
		}
	}
	return best
}

// violations says what is wrong with a package's imports.
func violations(pkg string, imports []string) []string {
	own := strings.TrimPrefix(pkg, module)
	layer := layerOf(own)
	if layer == "" {
		return []string{fmt.Sprintf("%s has no place in the layers: give it one in internal/lint/rules.go", pkg)}
	}
	var bad []string
	for _, imp := range imports {
		if target, ours := strings.CutPrefix(imp, module); ours {
			if !allowed(layer, layerOf(target)) {
				bad = append(bad, fmt.Sprintf("%s imports %s: the arrow %s -> %s is not allowed", pkg, imp, layer, layerOf(target)))
			}
			continue
		}
		for _, b := range bans {
			if b.covers(imp) && !slices.Contains(b.layers, layer) {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", pkg, imp, b.why))
			}
		}
	}
	return bad
}

func allowed(from, to string) bool {
	return from == to || slices.Contains(mayImport[from], to)
}

// covers: a library that ends in a slash stands for everything below it.
func (b ban) covers(imp string) bool {
	if strings.HasSuffix(b.library, "/") {
		return strings.HasPrefix(imp, b.library)
	}
	return imp == b.library
}
