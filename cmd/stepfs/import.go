package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func importCommand(g *global) *cobra.Command {
	var o importOptions
	const usage = "import [flags] STORE DIR"
	c := &cobra.Command{
		Use:   usage,
		Short: "Make steps of a directory of checkpoints",
		Long: `Copy the directory DIR into the mount of STORE, and seal each checkpoint in it as
it comes, in the order of their times: the newest file of each says when it was
written. What has no name of a checkpoint is copied first. The mount afterwards
holds what DIR does: modes, owners, times, extended attributes, links, holes.

Each file that was written is read back and compared. Files that are there
already, of the same size and time, are passed over: an interrupted import goes
on where it was. Files that are in the mount alone stay.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 1, 1)
			if err != nil {
				return err
			}
			o.json, o.out, o.errs = g.json, c.OutOrStdout(), c.ErrOrStderr()
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			return runImport(c.Context(), s, rest[0], o)
		},
	}
	c.Flags().StringVar(&o.scope, "scope", "", "the directory of the mount that DIR becomes; default its root")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "list the steps that would be made, in order")
	return c
}

type importOptions struct {
	scope     string
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

func runImport(ctx context.Context, s service, dir string, o importOptions) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	if st.Mountpoint == "" && !o.dryRun {
		return fmt.Errorf("the store is not mounted; mount it with: stepfs mount -d %s DIR", shellQuote(st.Store))
	}
	from, err := filepath.Abs(dir)
	if err == nil {
		from, err = filepath.EvalSymlinks(from)
	}
	if err != nil {
		return fmt.Errorf("opening what is to be imported: %w", err)
	}
	o.scope = strings.Trim(filepath.Clean("/"+o.scope), "/")
	units, err := findUnits(ctx, from)
	if err != nil {
		return fmt.Errorf("looking through %s: %w", from, err)
	}
	im := &importer{service: s, opts: o, from: from, units: units, first: map[uint64]string{}}
	if o.dryRun {
		return im.list()
	}
	for _, pair := range [...][2]string{{from, st.Mountpoint}, {st.Mountpoint, from}, {from, st.Store}, {st.Store, from}} {
		if isWithin(pair[0], pair[1]) {
			return fmt.Errorf("%s is inside %s", pair[0], pair[1])
		}
	}
	target := filepath.Join(st.Mountpoint, o.scope)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making the scope: %w", err)
	}
	if im.to, err = os.OpenRoot(target); err != nil {
		return fmt.Errorf("opening the mount: %w", err)
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
	to      *os.Root
	units   []unit
	bar     *progress
	first   map[uint64]string // of files with several names, whichever unit they are in
	bytes   int64             // seen so far
	total   importLine
}

func (im *importer) run(ctx context.Context) error {
	rest := &restSource{dirSource{im.from}, map[string]bool{}}
	for _, u := range im.units {
		rest.but[u.path] = true
	}
	if _, err := im.copy(ctx, rest, "."); err != nil {
		return err
	}
	for _, u := range im.units {
		if err := im.unit(ctx, u); err != nil {
			return fmt.Errorf("importing %s: %w", u.path, err)
		}
	}
	before := im.total // these files count once
	_, err := im.copy(ctx, rest, ".")
	im.total = before
	return err
}

// unit brings one checkpoint in and seals it, unless it was there and sealed.
func (im *importer) unit(ctx context.Context, u unit) error {
	im.bar.note(u.path)
	r, err := im.copy(ctx, &dirSource{im.from}, u.path)
	if err != nil {
		return err
	}
	line := importLine{Event: "step", Step: u.step, Scope: filepath.Join(im.opts.scope, parentOf(u.path)), Path: u.path,
		Files: r.files.Load(), Skipped: r.skipped.Load(), Bytes: r.bytes.Load(), Failed: r.failed.Load()}
	if line.Failed > 0 {
		return nil // it was said; a checkpoint of which something is missing is no step
	}
	if line.Files == 0 {
		if there, err := im.service.Find(ctx, line.Scope, u.step); err == nil {
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

// parentOf is the directory of a path, "" at the top.
func parentOf(path string) string {
	if dir := filepath.Dir(path); dir != "." {
		return dir
	}
	return ""
}

// copy copies a part of the directory to the same path of the mount, and
// compares what it wrote.
func (im *importer) copy(ctx context.Context, src source, name string) (*restorer, error) {
	top, err := src.Stat(name)
	if err != nil {
		return nil, err
	}
	if parent := filepath.Dir(name); parent != "." {
		if err := im.to.MkdirAll(parent, 0o755); err != nil {
			return nil, err
		}
	}
	checked := &comparing{source: src, to: im.to}
	r := &restorer{src: checked, dir: im.to, bar: im.bar, first: im.first, total: im.bytes,
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
