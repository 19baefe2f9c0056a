package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"stepfs/internal/storedir"
	"stepfs/snapshot/include"
)

// includeFlag is the flag whose values are read into every step.
const includeFlag = "include"

// pathList is a flag that can be given more than once: of paths, made absolute.
// As a setting or a variable it is one path to a line.
type pathList []string

func (l *pathList) String() string { return strings.Join(*l, "\n") }

// Type names the flag's value in help texts.
func (l *pathList) Type() string { return "path" }

// Set adds paths. An empty one takes back those before it.
func (l *pathList) Set(s string) error {
	if s == "" {
		*l = nil
	}
	for _, p := range strings.Split(s, "\n") {
		if p == "" {
			continue
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		*l = append(*l, abs)
	}
	return nil
}

// includes makes what is taken from outside into each step.
func (d *daemon) includes(flags *pflag.FlagSet) (err error) {
	if len(d.opts.include) == 0 {
		return nil
	}
	d.opts.included, err = include.New(include.Config{
		Paths: d.opts.include, Mountpoint: d.point, Store: d.dir.Path(), Scratch: d.dir.Join(storedir.ScratchDir),
	})
	if err != nil && !flags.Changed(includeFlag) {
		err = fmt.Errorf("the store's setting of --%s: %w; replace it with --%[1]s … --save-settings", includeFlag, err)
	}
	return err
}
