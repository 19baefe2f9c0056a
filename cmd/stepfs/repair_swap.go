package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"stepfs/internal/storedir"
)

// What a repair builds lies in STORE/repair until it is whole. Then the file
// `ready` is written there, which names the parts, and each goes to its place:
// what is there moves aside, and the new one takes its name. Before `ready` the
// store is as it was, and what is in repair/ is of no use; after it the swap is
// all that is left to do, and whoever comes next does it. In between a store can't
// be opened: openParts looks for it.

const (
	repairDir = "repair"
	readyName = "ready"
)

// readyFile is what `ready` says.
type readyFile struct {
	Parts  []string `json:"parts"`
	Aside  string   `json:"aside"`  // where what is in the way goes: a name in the store
	Strays bool     `json:"strays"` // then staging files that no record names go there, too
}

// begin makes a place to build in: in the store, or elsewhere for a dry run.
func (x *repairer) begin() (string, error) {
	if x.req.DryRun {
		return os.MkdirTemp("", "stepfs-repair-")
	}
	base := x.dir.Join(repairDir)
	if err := os.RemoveAll(base); err != nil {
		return "", err
	}
	return base, os.Mkdir(base, 0o700)
}

// drop removes what was built and is not wanted, or was put in its place.
func (x *repairer) drop(base string) {
	if _, err := os.Stat(filepath.Join(base, readyName)); errors.Is(err, fs.ErrNotExist) {
		_ = os.RemoveAll(base) // the next repair does it, too
	}
}

// swap puts parts from base into the store. With strays, staging files that no
// record names then move aside.
func (x *repairer) swap(base string, strays bool, parts ...string) error {
	aside, err := x.place()
	if err != nil {
		return err
	}
	for _, part := range parts { // their names, before ready says that they are there
		if err := storedir.SyncDir(filepath.Join(base, part)); err != nil {
			return err
		}
	}
	data, err := json.Marshal(readyFile{parts, filepath.Base(aside), strays})
	if err == nil {
		err = storedir.SyncDir(base)
	}
	if err == nil {
		err = storedir.SyncDir(x.dir.Path())
	}
	if err == nil {
		err = storedir.WriteFile(filepath.Join(base, readyName), data)
	}
	if err != nil {
		return err
	}
	return x.finish(base)
}

// finish does what is left of a swap.
func (x *repairer) finish(base string) error {
	data, err := os.ReadFile(filepath.Join(base, readyName))
	if err != nil {
		return err
	}
	var r readyFile
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(base, readyName), err)
	}
	if r.Aside != filepath.Base(r.Aside) || !storedir.IsAside(r.Aside) {
		return fmt.Errorf("%s names %q", filepath.Join(base, readyName), r.Aside)
	}
	x.aside = x.dir.Join(r.Aside)
	x.sum.Aside = x.aside
	for _, part := range r.Parts {
		if !slices.Contains([]string{storedir.IndexDir, storedir.JournalDir, storedir.StagingDir}, part) {
			return fmt.Errorf("%s names %q", filepath.Join(base, readyName), part)
		}
		if _, err := os.Stat(filepath.Join(base, part)); errors.Is(err, fs.ErrNotExist) {
			continue // it is there already
		} else if err != nil {
			return err
		}
		if _, err := os.Stat(x.dir.Join(part)); err == nil {
			if _, err := storedir.Move(x.dir.Join(part), filepath.Join(x.aside, part)); err != nil {
				return err
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := storedir.Move(filepath.Join(base, part), x.dir.Join(part)); err != nil {
			return err
		}
	}
	if r.Strays {
		if err := x.strays(); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(base, readyName)); err != nil {
		return err
	}
	if err := storedir.SyncDir(base); err != nil {
		return err
	}
	return os.RemoveAll(base)
}

// resume ends what an earlier repair has begun.
func (x *repairer) resume() error {
	base := x.dir.Join(repairDir)
	if !interrupted(x.dir) {
		if x.req.DryRun {
			return nil
		}
		return os.RemoveAll(base)
	}
	x.did("repair-resumed", repairDir, "an earlier repair was broken off: what it has built takes its place")
	if x.req.DryRun {
		return nil
	}
	return x.finish(base)
}

// interrupted says whether a repair was broken off while it put things in place.
func interrupted(dir *storedir.Dir) bool {
	_, err := os.Stat(dir.Join(repairDir, readyName))
	return err == nil
}

// place is where this repair moves things to.
func (x *repairer) place() (string, error) {
	if x.aside == "" {
		aside, err := x.dir.Aside()
		if err != nil {
			return "", err
		}
		x.aside, x.sum.Aside = aside, aside
	}
	return x.aside, nil
}

// move moves a file or directory of the store aside.
func (x *repairer) move(name string) error {
	if x.req.DryRun {
		return nil
	}
	aside, err := x.place()
	if err != nil {
		return err
	}
	_, err = storedir.Move(x.dir.Join(name), filepath.Join(aside, name))
	return err
}
