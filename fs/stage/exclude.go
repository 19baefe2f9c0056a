package stage

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Excludes are patterns of paths that no snapshot shows: caches, temporaries.
// The zero value excludes nothing.
type Excludes struct {
	patterns []pattern
	text     string // the patterns as they were given, a line each
}

type pattern struct {
	glob    string // of a path below the root
	dirOnly bool
}

// ParseExcludes reads patterns as gitignore(5) has them: * and ? match within a
// name, ** any number of directories, [a-z] and {a,b} one of several. One
// without a slash matches a name in any directory, one with a slash a path from
// the root on; one that ends with a slash directories alone. What lies in a
// directory that matches is excluded too.
func ParseExcludes(patterns []string) (Excludes, error) {
	var e Excludes
	for _, given := range patterns {
		glob, dirOnly := strings.CutSuffix(given, "/")
		anchored := strings.Contains(glob, "/")
		glob = strings.TrimPrefix(glob, "/")
		switch {
		case glob == "" || strings.ContainsAny(given, "\x00\n") || hasDots(glob):
			return Excludes{}, fmt.Errorf("%q is no pattern of a path below the root", given)
		case strings.Trim(glob, "*/") == "":
			return Excludes{}, fmt.Errorf("%q would leave nothing for snapshots to show", given)
		case !doublestar.ValidatePattern(glob):
			return Excludes{}, fmt.Errorf("%q is no pattern: a bracket or brace is not closed", given)
		}
		if !anchored {
			glob = "**/" + glob
		}
		e.patterns = append(e.patterns, pattern{glob, dirOnly})
		e.text += given + "\n"
	}
	return e, nil
}

// hasDots says whether a part of a path is empty, "." or "..", which no entry
// is called.
func hasDots(path string) bool {
	for _, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." {
			return true
		}
	}
	return false
}

// excludesOf is ParseExcludes of what text keeps of others.
func excludesOf(text string) (Excludes, error) {
	var patterns []string
	for line := range strings.Lines(text) {
		patterns = append(patterns, strings.TrimSuffix(line, "\n"))
	}
	return ParseExcludes(patterns)
}

func (e *Excludes) none() bool { return len(e.patterns) == 0 }

// match says whether the path of a file or directory, or that of a directory
// above it, is excluded.
func (e *Excludes) match(path string, dir bool) bool {
	for _, p := range e.patterns {
		for end := 0; end < len(path); {
			next := strings.IndexByte(path[end+1:], '/')
			if next < 0 {
				end = len(path)
			} else {
				end += 1 + next
			}
			if p.dirOnly && !dir && end == len(path) {
				continue
			}
			if doublestar.MatchUnvalidated(p.glob, path[:end]) {
				return true
			}
		}
	}
	return false
}
