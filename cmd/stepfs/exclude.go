package main

import (
	"fmt"
	"strings"

	"stepfs/fs/stage"
)

// excludes is the flag for patterns of paths that no snapshot shows. It can be
// given several times; in settings and in the environment, one is on a line.
type excludes struct {
	patterns []string
	parsed   stage.Excludes
}

func (e *excludes) String() string { return strings.Join(e.patterns, "\n") }

// Type names the flag's value in help texts.
func (e *excludes) Type() string { return "glob" }

// Set adds patterns.
func (e *excludes) Set(s string) error {
	all := e.patterns
	for line := range strings.Lines(s) {
		all = append(all, strings.TrimSuffix(line, "\n"))
	}
	if s == "" {
		return fmt.Errorf("an empty pattern excludes nothing")
	}
	parsed, err := stage.ParseExcludes(all)
	if err != nil {
		return err
	}
	e.patterns, e.parsed = all, parsed
	return nil
}
