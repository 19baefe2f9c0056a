package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/restic/chunker"
	"github.com/spf13/cobra"

	"stepfs/chunkstore"
	"stepfs/snapshot"
	"stepfs/snapshot/inspect"
)

// assessPolynomial cuts chunks where there is no store; any will do.
const assessPolynomial = chunker.Pol(0x3DA3358B4DC173)

func assessCommand(g *global) *cobra.Command {
	sample, full := "10%", false
	const usage = "assess [flags] DIR"
	c := &cobra.Command{
		Use:   usage,
		Short: "Say which checkpoints in a directory are whole, and what they would take",
		Long: `Look through the directory DIR, which needs no store: find the checkpoints in it by
the names that sealing knows, say which of them are torn and why, and estimate
what the series would take in a store. Nothing is changed and no pickle is
executed.

The estimate splits, hashes and compresses a sample of the files, the same ones of
each checkpoint, or with --full all of them: then it says what the checkpoints take
exactly, but for the headers of packs. It is given twice: each file by itself, and
with deltas from the same file of the checkpoint before, at the same offsets. Exit code 3: some checkpoints are torn.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments given; usage: stepfs %s", len(args), usage)
			}
			percent, err := strconv.ParseFloat(strings.TrimSuffix(sample, "%"), 64)
			if err != nil || !(percent >= 0 && percent <= 100) {
				return fmt.Errorf("--sample: %q is not between 0%% and 100%%", sample)
			}
			if full {
				percent = 100
			}
			return runAssess(c.Context(), args[0], percent, g.json, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&sample, "sample", sample, "share of the bytes that the estimate reads; 0 for none")
	c.Flags().BoolVar(&full, "full", false, "read everything: --sample 100%")
	return c
}

// AssessLine is one checkpoint in `stepfs assess --json`.
type AssessLine struct {
	Event    string            `json:"event"` // checkpoint
	Path     string            `json:"path"`
	Step     string            `json:"step"`
	Whole    bool              `json:"whole"`
	Files    int               `json:"files"`
	Bytes    int64             `json:"bytes"`
	Problems []inspect.Problem `json:"problems,omitempty"`
}

// AssessTotal is the last line of `stepfs assess --json`.
type AssessTotal struct {
	Event       string `json:"event"` // total
	Checkpoints int    `json:"checkpoints"`
	Torn        int    `json:"torn"`
	Bytes       int64  `json:"bytes"`
	Sampled     int64  `json:"sampled_bytes"`
	Estimate    int64  `json:"estimate_bytes"` // 0: nothing was sampled
	// With floats as planes and deltas, and what of the sample is kept how.
	Deltas         int64 `json:"estimate_delta_bytes"`
	SampledTwice   int64 `json:"sampled_duplicate_bytes"`
	SampledDeltas  int64 `json:"sampled_delta_bytes"`
	SampledPlanes  int64 `json:"sampled_planes_bytes"`
	SampledDeepest int   `json:"sampled_deepest_delta"`
}

// assessor looks through one directory. Everything is reached through an
// os.Root: a link leads nowhere outside of it.
type assessor struct {
	ctx       context.Context
	root      *os.Root
	percent   float64
	estimator *chunkstore.Estimator
	deltas    *deltaEstimate
	sampled   map[string]bool // names without their numbers: in the sample or not
	total     AssessTotal
	tell      func(AssessLine) error
	bar       *progress
}

func runAssess(ctx context.Context, dir string, percent float64, json bool, out, errs io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	defer root.Close()
	e, err := chunkstore.NewEstimator(chunkstore.Config{Polynomial: assessPolynomial})
	if err != nil {
		return err
	}
	defer e.Close()
	deltas, err := newDeltaEstimate(root)
	if err != nil {
		return err
	}
	defer deltas.store.Close()
	w, any := table(out), false
	a := &assessor{ctx: ctx, root: root, percent: percent, estimator: e, deltas: deltas, sampled: map[string]bool{}, total: AssessTotal{Event: "total"}, bar: &progress{}}
	if f, ok := errs.(*os.File); ok {
		a.bar = newCounter(f, "assessing")
	}
	defer a.bar.finish()
	a.tell = func(l AssessLine) error {
		if json {
			return printJSON(out, l)
		}
		if !any {
			any = true
			fmt.Fprintln(w, "STEP\tFOUND\tFILES\tSIZE\tPATH")
		}
		found := "whole"
		if !l.Whole {
			found = "torn"
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s%s\n", l.Step, found, l.Files, humanBytes(l.Bytes), l.Path, problems(l.Problems))
		return err
	}
	if err := a.below("."); err != nil {
		return err
	}
	a.bar.finish()
	return a.sum(w.Flush, json, out)
}

// problems lists what is wrong, a line each.
func problems(all []inspect.Problem) (s string) {
	for _, p := range all {
		s += "\n\t\t\t\t  " + p.Path + ": " + p.Why
	}
	return s
}

func (a *assessor) sum(flush func() error, json bool, out io.Writer) (err error) {
	t := &a.total
	t.Sampled = a.estimator.Raw
	if t.Sampled > 0 {
		t.Estimate = int64(float64(t.Bytes) * float64(a.estimator.Stored) / float64(t.Sampled))
		a.deltas.sum(t)
	}
	if json {
		err = printJSON(out, t)
	} else if err = flush(); err == nil {
		fmt.Fprintf(out, "%d checkpoints, %d torn; %s", t.Checkpoints, t.Torn, humanBytes(t.Bytes))
		switch {
		case t.Sampled == 0:
		case a.percent == 100:
			fmt.Fprintf(out, ", in stepfs %s, with deltas %s", humanBytes(t.Estimate), humanBytes(t.Deltas))
		default:
			fmt.Fprintf(out, ", in stepfs about %s, with deltas %s (from a sample of %s)",
				humanBytes(t.Estimate), humanBytes(t.Deltas), humanBytes(t.Sampled))
		}
		_, err = fmt.Fprintln(out)
	}
	if err == nil && t.Torn > 0 {
		return &codedError{exitPartly, errReported}
	}
	return err
}

// below finds the checkpoints in a directory: the outermost names count.
func (a *assessor) below(dir string) error {
	entries, err := fs.ReadDir(a.root.FS(), dir)
	if err = errors.Join(err, a.ctx.Err()); err != nil {
		return err
	}
	sortBySteps(entries)
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		step, ok := snapshot.StepName(e.Name(), !e.IsDir())
		switch {
		case ok && (e.IsDir() || e.Type().IsRegular()):
			err = a.checkpoint(name, step, e.IsDir())
		case e.IsDir():
			err = a.below(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkpoint looks at one.
func (a *assessor) checkpoint(name, step string, dir bool) error {
	a.bar.note(name)
	line := AssessLine{Event: "checkpoint", Path: name, Step: step}
	tree, look := rootTree{a.ctx, a.root, name}, inspect.Check
	if !dir {
		tree.dir = path.Dir(name)
		look = func(ctx context.Context, t inspect.Tree, o inspect.Options) (*inspect.Report, error) {
			return inspect.CheckFile(ctx, t, path.Base(name), o)
		}
	}
	report, err := look(a.ctx, tree, inspect.Options{})
	if err != nil {
		return fmt.Errorf("looking at %s: %w", name, err)
	}
	line.Whole, line.Problems = report.Sound(), report.Problems
	err = fs.WalkDir(a.root.FS(), name, func(p string, e fs.DirEntry, err error) error {
		if err = errors.Join(err, a.ctx.Err()); err != nil || !e.Type().IsRegular() {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		in, err := a.sample(p, a.total.Bytes+line.Bytes)
		if err == nil && in {
			err = a.deltas.add(a.ctx, versionName(p, name, step), p)
		}
		if err != nil {
			return err
		}
		line.Files++
		line.Bytes += st.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	a.total.Checkpoints++
	a.total.Bytes += line.Bytes
	if !line.Whole {
		a.total.Torn++
	}
	a.bar.add(1)
	return a.tell(line)
}

var numbers = regexp.MustCompile(`\d+`)

// sample has a file estimated if it is one of the sample: what the steps have in
// common shows only if it is the same file of each. So a name, without its
// numbers, is in or not, from when it is first seen: as long as the sample is
// smaller than it should be. seen is what came before it.
func (a *assessor) sample(name string, seen int64) (in bool, err error) {
	masked := numbers.ReplaceAllString(name, "#")
	in, known := a.sampled[masked]
	if !known {
		in = a.percent > 0 && float64(a.estimator.Raw) <= float64(seen)*a.percent/100
		a.sampled[masked] = in
	}
	if !in {
		return false, nil
	}
	f, err := a.root.Open(name)
	if err != nil {
		return true, err
	}
	defer f.Close()
	src := &fileSource{File: f}
	for off := int64(0); ; {
		start, end, err := dirContent{f}.Data(off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return true, err
		}
		src.segments = append(src.segments, chunkstore.Segment{Off: start, Len: end - start})
		off = end
	}
	return true, a.estimator.Add(a.ctx, src)
}

// fileSource is a file as the splitter reads it.
type fileSource struct {
	*os.File
	segments []chunkstore.Segment
}

func (s *fileSource) Segments() []chunkstore.Segment { return s.segments }

// rootTree shows a directory to inspect.
type rootTree struct {
	ctx  context.Context
	root *os.Root
	dir  string
}

func (t rootTree) List(dir string) ([]inspect.Entry, error) {
	entries, err := fs.ReadDir(t.root.FS(), path.Join(t.dir, dir))
	if err = errors.Join(err, t.ctx.Err()); err != nil {
		return nil, err
	}
	out := make([]inspect.Entry, 0, len(entries))
	for _, e := range entries {
		entry := inspect.Entry{Name: e.Name(), Kind: inspect.KindOther}
		switch {
		case e.Type().IsRegular():
			st, err := e.Info()
			if err != nil {
				return nil, err
			}
			entry.Kind, entry.Size = inspect.KindFile, st.Size()
		case e.IsDir():
			entry.Kind = inspect.KindDir
		case e.Type()&fs.ModeSymlink != 0:
			entry.Kind = inspect.KindSymlink
		}
		out = append(out, entry)
	}
	return out, nil
}

func (t rootTree) Open(name string) (inspect.File, error) {
	f, err := t.root.Open(path.Join(t.dir, name))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return inspectedFile{f, st.Size()}, nil
}

type inspectedFile struct {
	*os.File
	size int64
}

func (f inspectedFile) Size() int64 { return f.size }
