package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// restoreOptions are the flags of restore.
type restoreOptions struct {
	scope   string
	writer  string // of a bucket
	workers int
	json    bool
	out     io.Writer
	errs    io.Writer
}

func restoreCommand(g *global) *cobra.Command {
	var o restoreOptions
	const usage = "restore [flags] STORE|URL STEP[:PATH] TARGET"
	c := &cobra.Command{
		Use:   usage,
		Short: "Write a snapshot, or a part of it, to a directory",
		Long: `Write the snapshot STEP to the directory TARGET, or only PATH of it: a directory's
content goes into TARGET, a file becomes TARGET.

STEP is a step (its newest revision), a revision like 12000@77, the name of a
snapshot, or latest. With a URL (see stepfs remote --help) it is read out of the
bucket alone: no store and no mount are needed. Every byte is checked against its hash while it is read. Files that
are complete in TARGET already are skipped, so that an interrupted restore goes
on where it was (after a power cut none is taken for complete that an interrupted
restore has left); other files in TARGET are left alone.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 2, 2)
			if err != nil {
				return err
			}
			if o.workers < 0 || o.workers > 256 {
				return fmt.Errorf("--workers: %d is not between 1 and 256", o.workers)
			}
			o.json, o.out, o.errs = g.json, c.OutOrStdout(), c.ErrOrStderr()
			return runRestore(c.Context(), store, rest[0], rest[1], o)
		},
	}
	c.Flags().StringVar(&o.scope, "scope", "", "the directory of the mount that STEP is of")
	c.Flags().StringVar(&o.writer, "writer", "", "the writer whose snapshot it is, by the first digits of its name, where a bucket has several (see remote ls)")
	c.Flags().IntVar(&o.workers, "workers", 0, "how many files are written at the same time (default the cores, 8 at most)")
	return c
}

func runRestore(ctx context.Context, store, what, to string, o restoreOptions) error {
	from, err := openRestore(ctx, store, what, &o)
	if err != nil {
		return err
	}
	defer from.close()
	top, err := from.src.Stat(from.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s in %s", from.path, from.info.ID)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", from.info.ID, err)
	}
	dir, name, err := prepareTarget(top, to, from.store)
	if err != nil {
		return err
	}
	defer dir.Close()
	if o.workers == 0 {
		o.workers = min(8, runtime.GOMAXPROCS(0))
	}
	r := newRestorer(from.src, dirSink{dir}, o)
	r.what = from.info.ID + ":" + from.path
	err = r.run(ctx, top, name)
	return r.finish(from.info, to, err)
}

// restorable is what a restore reads.
type restorable struct {
	src   source
	info  SnapshotInfo
	path  string // in the snapshot
	store string // the directory in which all of it lies; "": none
	close func()
}

func openRestore(ctx context.Context, store, what string, o *restoreOptions) (restorable, error) {
	if isURL(store) {
		return restoreFromBucket(ctx, store, what, o)
	}
	return restoreFromStore(ctx, store, what, o)
}

func restoreFromStore(ctx context.Context, store, what string, o *restoreOptions) (f restorable, err error) {
	if o.writer != "" {
		return f, errors.New("--writer is for buckets")
	}
	s, err := openService(ctx, store, "restore")
	if err != nil {
		return f, err
	}
	f.close = func() { _ = s.Close() } // nothing was changed
	f.info, f.path, err = findPart(o.scope, what, func(scope, step string) (SnapshotInfo, error) { return s.Find(ctx, scope, step) })
	if err == nil {
		f.src, err = s.Source(ctx, f.info)
	}
	if err == nil {
		f.close = func() { _, _ = f.src.Close(), s.Close() }
		var st Status
		st, err = s.Status(ctx)
		f.store = st.Store
	}
	if err != nil {
		f.close()
	}
	return f, err
}

// findPart takes "STEP:PATH" apart. A name may hold a colon itself, so the
// whole is tried as a name first.
func findPart(scope, what string, find func(scope, step string) (SnapshotInfo, error)) (SnapshotInfo, string, error) {
	info, err := find(splitStep(scope, what))
	step, path, split := strings.Cut(what, ":")
	if err == nil || !split {
		return info, ".", err
	}
	path = filepath.Clean(path)
	if !filepath.IsLocal(path) {
		return SnapshotInfo{}, "", fmt.Errorf("%q is not a path inside a snapshot", path)
	}
	info, err = find(splitStep(scope, step))
	return info, path, err
}

// findStep finds "12000", "12000@77" and "scope/12000".
func findStep(ctx context.Context, s service, scope, step string) (SnapshotInfo, error) {
	scope, step = splitStep(scope, step)
	return s.Find(ctx, scope, step)
}

// splitStep takes "scope/12000" apart, unless the scope is given.
func splitStep(scope, step string) (string, string) {
	if i := strings.LastIndexByte(step, '/'); i >= 0 && scope == "" {
		return step[:i], step[i+1:]
	}
	return scope, step
}

// prepareTarget opens the directory that is written to. name is what the
// restored entry is called in it: "." for a directory, whose content goes
// there. Everything below is done through the os.Root, so that a symbolic link
// in the target leads nowhere outside of it.
func prepareTarget(top node, to, store string) (dir *os.Root, name string, err error) {
	abs, err := filepath.Abs(to)
	if err != nil {
		return nil, "", fmt.Errorf("resolving the target: %w", err)
	}
	name = "."
	if top.mode&unix.S_IFMT != unix.S_IFDIR {
		if st, err := os.Stat(abs); err == nil && st.IsDir() {
			name = filepath.Base(top.path)
		} else {
			abs, name = filepath.Dir(abs), filepath.Base(abs)
		}
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err == nil {
		abs = resolved
	}
	if store != "" && isWithin(abs, store) {
		return nil, "", fmt.Errorf("the target %s is inside the store", abs)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, "", fmt.Errorf("making the target: %w", err)
	}
	dir, err = os.OpenRoot(abs)
	if err != nil {
		return nil, "", fmt.Errorf("opening the target: %w", err)
	}
	return dir, name, nil
}

// restoreSummary is the last line of `restore --json`.
type restoreSummary struct {
	Event    string `json:"event"`
	Snapshot string `json:"snapshot"`
	Target   string `json:"target"`
	Files    int64  `json:"files"`   // written
	Skipped  int64  `json:"skipped"` // complete already
	Others   int64  `json:"others"`  // directories, links, …
	Bytes    int64  `json:"bytes"`   // of the files written
	Failed   int64  `json:"failed"`
}

// finish prints what was done and turns failures of single files into exit code 3.
func (r *restorer) finish(info SnapshotInfo, to string, err error) error {
	r.bar.finish()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			fmt.Fprintln(r.opts.errs, "stepfs: interrupted; the same command goes on where this one was")
		}
		return err
	}
	s := restoreSummary{"restored", info.ID, to, r.files.Load(), r.skipped.Load(), r.others.Load(), r.bytes.Load(), r.failed.Load()}
	if r.opts.json {
		err = printJSON(r.opts.out, s)
	} else {
		_, err = fmt.Fprintf(r.opts.out, "restored %s to %s: %d files, %s; %d were there already\n",
			info.ID, to, s.Files, humanBytes(s.Bytes), s.Skipped)
	}
	if err == nil && s.Failed > 0 {
		return &codedError{exitPartly, fmt.Errorf("%d entries could not be restored as they were; see above", s.Failed)}
	}
	return err
}
