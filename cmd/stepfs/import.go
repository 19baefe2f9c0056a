package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"stepfs/snapshot"
)

// importVerb is, besides drain, the one command on a store without a mount that
// seals and ingests.
const importVerb = "import"

func importCommand(g *global) *cobra.Command {
	var o importOptions
	const usage = "import [flags] STORE DIR"
	c := &cobra.Command{
		Use:   usage,
		Short: "Make steps of a directory of checkpoints",
		Long: `Copy the directory DIR into STORE, and seal each checkpoint in it as it comes, in
the order of their times: the newest file of each says when it was written. What
has no name of a checkpoint is copied first. What the job sees afterwards, on the
mount, is what DIR holds: modes, owners, times, extended attributes, links, holes.

STORE need not be mounted, and nothing of FUSE is needed then. If it is not there
it is created; its parent directory must be.

Each file that was written is read back and compared. A checkpoint has another
name (.stepfs-import-…) until all of it is there. Files that are there already,
of the same size and time, are passed over: an interrupted import goes on where
it was. Files that are in STORE alone stay. What stepfs left unfinished in DIR
(.stepfs-…) is left out.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 1, 1)
			if err != nil {
				return err
			}
			if !g.debug {
				logFrom(slog.LevelWarn) // each step is printed
			}
			o.json, o.out, o.errs = g.json, c.OutOrStdout(), c.ErrOrStderr()
			return runImport(c.Context(), store, rest[0], o)
		},
	}
	c.Flags().StringVar(&o.scope, "scope", "", "the directory of the mount that DIR becomes; default its root")
	c.Flags().BoolVar(&o.create, "create", false, "create the store in an empty directory that is there, too")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "list the steps that would be made, in order")
	return c
}

type importOptions struct {
	scope     string
	create    bool
	dryRun    bool
	json      bool
	out, errs io.Writer
}

// importLine is one line of `stepfs import --json`; the last one is the total.
type importLine struct {
	Event   string        `json:"event"` // step, would (--dry-run), there (sealed already), imported
	Step    string        `json:"step,omitempty"`
	Scope   string        `json:"scope,omitempty"`
	Path    string        `json:"path,omitempty"`
	Sealed  *SnapshotInfo `json:"snapshot,omitempty"`
	Steps   int           `json:"steps,omitempty"`
	Files   int64         `json:"files"` // written and compared
	Skipped int64         `json:"skipped"`
	Bytes   int64         `json:"bytes"`
	Failed  int64         `json:"failed,omitempty"`
}

func runImport(ctx context.Context, store, dir string, o importOptions) (err error) {
	from, err := checkImported(dir, store)
	if err != nil {
		return err
	}
	o.scope = strings.Trim(filepath.Clean("/"+o.scope), "/")
	units, err := findUnits(ctx, from)
	if err != nil {
		return fmt.Errorf("looking through %s: %w", from, err)
	}
	im := &importer{opts: o, from: from, units: units, first: map[uint64]string{}}
	if im.service, err = openForImport(ctx, store, o); err != nil {
		return err
	}
	if im.service != nil {
		defer func() { err = errors.Join(err, im.service.Close()) }()
	}
	if o.dryRun {
		return im.list()
	}
	if err := im.open(ctx); err != nil {
		return err
	}
	defer im.to.Close()
	im.bar = newProgress(os.Stderr, "importing")
	defer im.bar.finish()
	return im.finish(im.run(ctx))
}

// importer copies what is no checkpoint, then each checkpoint, then sets what
// copying those has changed of the directories that they are in.
type importer struct {
	service service
	opts    importOptions
	from    string
	to      sink
	units   []unit
	bar     *progress
	first   map[uint64]string // of files with several names, whichever unit they are in
	bytes   int64             // seen so far
	total   importLine
}

func (im *importer) run(ctx context.Context) error {
	rest := &importSource{dirSource{im.from}, map[string]bool{}}
	for _, u := range im.units {
		rest.but[u.path] = true
	}
	if _, err := im.copy(ctx, rest, ".", im.to); err != nil {
		return fmt.Errorf("importing what is no checkpoint: %w", ends(err))
	}
	for _, u := range im.units {
		if err := im.unit(ctx, u); err != nil {
			return fmt.Errorf("importing %s: %w", u.path, ends(err))
		}
	}
	before := im.total // these files count once
	_, err := im.copy(ctx, rest, ".", im.to)
	im.total = before
	return ends(err)
}

// ends says what an error that ends an import means for the store.
func ends(err error) error {
	switch {
	case errors.Is(err, errFull), errors.Is(err, unix.ENOSPC):
		return errors.New("the store is full (see stepfs status); make room, then the same command goes on where this one was")
	case errors.Is(err, errReadOnly), errors.Is(err, unix.EROFS):
		return errors.New("the store takes no changes: it is mounted read-only, or its journal has failed (see stepfs status)")
	}
	return err
}

// unit brings one checkpoint in and seals it, unless it was there and sealed.
func (im *importer) unit(ctx context.Context, u unit) error {
	im.bar.note(u.path)
	to, err := im.place(u)
	if err != nil {
		return err
	}
	r, err := im.copy(ctx, &importSource{dirSource{im.from}, nil}, u.path, to)
	if err != nil {
		return err
	}
	line := importLine{Event: "step", Step: u.step, Scope: filepath.Join(im.opts.scope, parentOf(u.path)), Path: u.path,
		Files: r.files.Load(), Skipped: r.skipped.Load(), Bytes: r.bytes.Load(), Failed: r.failed.Load()}
	aside, isAside := to.(*asideSink)
	switch {
	case line.Failed > 0: // it was said; a checkpoint of which something is missing is no step
		if isAside {
			_, err = fmt.Fprintf(im.opts.errs, "stepfs: %s is not whole; what there is of it waits as %s\n", u.path, aside.as)
		}
		return err
	case isAside:
		if err := im.to.Rename(aside.as, u.path); err != nil {
			return err
		}
	case line.Files == 0:
		// One that was sealed because it was quiet may be worth more than that.
		there, err := im.service.Find(ctx, line.Scope, u.step)
		if err == nil && (there.Reason == snapshot.ReasonImport || there.Verdict == snapshot.VerdictComplete) {
			line.Event, line.Sealed = "there", &there
			return im.say(line)
		}
	}
	sealed, err := im.service.Snapshot(ctx, SnapshotRequest{Path: filepath.Join(im.opts.scope, u.path)})
	if err != nil {
		return err
	}
	im.total.Steps++
	line.Sealed = &sealed
	return im.say(line)
}

// place gives the sink for a checkpoint: one in which it has another name till
// all of it is there, so that whatever ends this process, half a checkpoint is
// never taken for a step. What is there already is completed where it is.
func (im *importer) place(u unit) (sink, error) {
	_, err := im.to.Stat(u.path)
	switch {
	case err == nil:
		return im.to, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return &asideSink{im.to, u.path, tempName(snapshot.ImportPrefix, u.path)}, nil
}

// parentOf is the directory of a path, "" at the top.
func parentOf(path string) string {
	if dir := filepath.Dir(path); dir != "." {
		return dir
	}
	return ""
}

// copy copies a part of the directory to the same path of a sink, and compares
// what it wrote.
func (im *importer) copy(ctx context.Context, src source, name string, to sink) (*restorer, error) {
	top, err := src.Stat(name)
	if err != nil {
		return nil, err
	}
	checked := &comparing{source: src, to: to}
	r := &restorer{src: checked, to: to, bar: im.bar, first: im.first, total: im.bytes,
		opts: restoreOptions{workers: min(8, runtime.GOMAXPROCS(0)), json: im.opts.json, out: im.opts.out, errs: im.opts.errs}}
	if err = r.run(ctx, top, name); err == nil {
		err = checked.compare(ctx, r)
	}
	im.bytes = r.total
	im.total.Files += r.files.Load()
	im.total.Skipped += r.skipped.Load()
	im.total.Bytes += r.bytes.Load()
	im.total.Failed += r.failed.Load()
	return r, err
}

func (im *importer) say(l importLine) error {
	if im.opts.json {
		return printJSON(im.opts.out, l)
	}
	what := map[string]string{"step": "sealed as", "there": "is there as", "would": "would be"}[l.Event]
	name := l.Step
	if l.Sealed != nil {
		name = l.Sealed.ID
	}
	_, err := fmt.Fprintf(im.opts.out, "%s %s %s\n", l.Path, what, filepath.Join(l.Scope, name))
	return err
}

func (im *importer) list() error {
	for _, u := range im.units {
		line := importLine{Event: "would", Step: u.step, Scope: filepath.Join(im.opts.scope, parentOf(u.path)), Path: u.path, Bytes: u.bytes}
		if err := im.say(line); err != nil {
			return err
		}
	}
	return nil
}

func (im *importer) finish(err error) error {
	im.bar.finish()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			fmt.Fprintln(im.opts.errs, "stepfs: interrupted; the same command goes on where this one was")
		}
		return err
	}
	t := im.total
	t.Event = "imported"
	if im.opts.json {
		err = printJSON(im.opts.out, t)
	} else {
		_, err = fmt.Fprintf(im.opts.out, "imported %d steps: %d files, %s; %d were there already\n", t.Steps, t.Files, humanBytes(t.Bytes), t.Skipped)
	}
	if err == nil && t.Failed > 0 {
		return &codedError{exitPartly, fmt.Errorf("%d entries could not be imported as they were; see above", t.Failed)}
	}
	return err
}

// sortUnits puts checkpoints in the order in which they were written.
func sortUnits(units []unit) {
	slices.SortFunc(units, func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(len(a.step), len(b.step)), cmp.Compare(a.step, b.step), cmp.Compare(a.path, b.path))
	})
}
