package fs

import (
	"slices"
	"strconv"
	"strings"

	"stepfs/fs/stage"
)

// nameLister lists a synthetic directory. .barriers is not listed, only
// reachable: whatever walks through snapshots/ would walk through the whole
// tree once for every barrier. Nodes of snapshots are not given (see
// ReadDirPlus), so a listing records nothing.
func (f *FileSystem) nameLister(n nodeID) lister {
	return func(after string, max int) ([]listed, error) {
		of, err := f.nameOf(n)
		if err != nil {
			return nil, err
		}
		switch of.kind {
		case barriersName:
			return f.listBarriers(after, max)
		case dirName:
			return f.listScope(of.scope, after, max)
		}
		return nil, stage.ErrNotDir
	}
}

func (f *FileSystem) listBarriers(after string, max int) ([]listed, error) {
	var seq uint64
	if after != "" {
		var err error
		if seq, err = strconv.ParseUint(after, 10, 64); err != nil {
			return nil, err
		}
	}
	infos, err := f.registry.Barriers(seq, max)
	var out []listed
	for _, i := range infos {
		name := strconv.FormatUint(i.Seq, 10)
		out = append(out, listed{name: name, key: name, mode: stage.ModeDir})
	}
	return out, err
}

// The parts of a scope's directory, in the order in which they are listed. A
// key is the part and the name in it.
const (
	partFixed  = "0"
	partScopes = "1"
	partSteps  = "2"
)

func (f *FileSystem) listScope(scope, after string, max int) ([]listed, error) {
	part, name := partFixed, ""
	if after != "" {
		part, name = after[:1], after[1:]
	}
	if part == partFixed {
		if out := behind(f.fixedNames(scope), partFixed, name, max); len(out) > 0 {
			return out, nil
		}
		part, name = partScopes, ""
	}
	if part == partScopes {
		if out := behind(f.scopeNames(scope), partScopes, name, max); len(out) > 0 {
			return out, nil
		}
		name = ""
	}
	steps, err := f.registry.Steps(scope, name, max)
	var out []listed
	for _, i := range steps {
		out = append(out, listed{name: i.Name, key: partSteps + i.Name, mode: stage.ModeDir})
	}
	return out, err
}

// behind gives the names, which are in byte order, that come after name.
func behind(all []listed, part, name string, max int) []listed {
	var out []listed
	for _, e := range all {
		if e.name > name && len(out) < max {
			e.key = part + e.name
			out = append(out, e)
		}
	}
	return out
}

func (f *FileSystem) fixedNames(scope string) []listed {
	var out []listed
	if scope == "" {
		out = append(out,
			listed{name: textFileName, mode: stage.ModeReg, node: textNode},
			listed{name: jsonFileName, mode: stage.ModeReg, node: jsonNode})
	}
	if _, ok := f.registry.Latest(scope); ok {
		out = append(out, listed{name: latestName, mode: stage.ModeLink, node: f.names.id(nameOf{latestOf, scope})})
	}
	return out
}

// scopeNames are the directories of the scopes below one; a step of the same
// name hides such a directory.
func (f *FileSystem) scopeNames(scope string) []listed {
	var out []listed
	for _, name := range slices.Sorted(slices.Values(f.registry.Scopes(scope))) {
		if _, err := f.registry.Resolve(scope, name); err == nil || strings.Contains(name, "@") {
			continue
		}
		out = append(out, listed{name: name, mode: stage.ModeDir, node: f.names.id(nameOf{dirName, joinScope(scope, name)})})
	}
	return out
}
