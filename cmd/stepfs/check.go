package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"stepfs/chunkstore"
	"stepfs/internal/check"
	"stepfs/snapshot"
)

// CheckRequest says what a check looks at besides the structure.
type CheckRequest struct {
	ReadData float64 `json:"read_data,omitempty"` // share of the chunks to read, 0 to 1
}

// CheckEvent is a finding, or how far a check is, or its end.
type CheckEvent struct {
	Finding  *check.Finding `json:"finding,omitempty"`
	Progress *CheckProgress `json:"progress,omitempty"`
	Summary  *CheckSummary  `json:"summary,omitempty"`
}

// CheckProgress says which part of the store is looked at, and how much of that is done.
type CheckProgress struct {
	Part string  `json:"part"`
	Done float64 `json:"done"` // 0 to 1
}

// CheckSummary is the last line of `stepfs check --json`.
type CheckSummary struct {
	Damage       uint64 `json:"damage"` // findings
	Leaks        uint64 `json:"leaks"`
	Snapshots    uint64 `json:"snapshots"`
	Inodes       uint64 `json:"inodes"`
	Generations  uint64 `json:"generations"`
	StagingFiles uint64 `json:"staging_files"`
	Packs        uint64 `json:"packs"`
	Chunks       uint64 `json:"chunks"`
	References   uint64 `json:"references"`
	Read         uint64 `json:"chunks_read"`
	ReadBytes    uint64 `json:"read_bytes"`
	AwayPacks    uint64 `json:"away_packs,omitempty"` // only in the bucket, and not read
}

func checkCommand(g *global) *cobra.Command {
	var read shareFlag
	var repair bool
	var r RepairRequest
	const usage = "check [flags] STORE"
	c := &cobra.Command{
		Use:   usage,
		Short: "Look whether everything in a store is as it should be",
		Long: `Look whether everything in a store is as it should be: the index against the
packs, references to chunks against what holds them, the content of every file
in every snapshot against where it lies, and staging files against their
records. It changes nothing, but for --repair. The store may be in use: what is
under way is no finding, and nobody waits for the check.

A finding is "damage" if something that is needed is missing or wrong, or may be
removed while it is needed; it is a "leak" if something takes space for ever
that nothing needs.

Of damage it names the files that need what is damaged, and the snapshots that
show them: up to 8 of each, and how many more.

--read-data also reads the packs and hot copies and holds every chunk against its
hash; --read-data=10% does that for chunks and copies picked at random, so that a check a day
comes by all of them in time. Both read all of the index.

With --json each finding is a line, and the last line sums up.

Exit codes: 0 nothing was found, 1 damage or a leak was found, or the check
could not be done: then there is no summary, and an error says why.

--repair puts right what can be put right in a store that nobody has in use. Say
--dry-run first: it says what would be done. It is for a store that is refused,
or of which check says that something is missing.

  config            is taken from its second copy
  packs/            what reads back of a pack with a damaged footer is saved into
                    a new one
  journal/          what the index holds is kept; what only a damaged part of the
                    journal held is lost
  index/            is made again from the journal, where that goes back to the
                    beginning; else
  index/, journal/  are made again from packs: every step that was sealed and
                    stored is back under its name. The live tree is then the
                    newest complete step of each scope, as after a rollback.
                    What was not stored, and barriers, are gone; so are holds and
                    forgets of later than the step. --rebuild does that though
                    index and journal read back: of a store that is older than
                    its packs.

Of what is lost, snapshot and path are named; the snapshot keeps the file, says so
among its marks, and is partial. Nothing is deleted: what is damaged, and staging
files whose records are lost, are moved to STORE/damaged-<time>/. A repair that is
broken off is ended by the next one.

Exit codes of --repair: 0 nothing is lost, 3 something is, or may be, 1 it could
not be done, 11 somebody has the store in use. With --dry-run: 0 there is nothing
to do, 1 there is.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, _, err := g.storeAnd(args, usage, 0, 0)
			if err != nil {
				return err
			}
			if repair {
				return runRepair(c.Context(), g, c.OutOrStdout(), store, r)
			}
			if r != (RepairRequest{}) {
				return &usageError{errors.New("--dry-run, --rebuild and --free go with --repair")}
			}
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			return runCheck(c, g, s, CheckRequest{ReadData: float64(read)})
		},
	}
	f := c.Flags().VarPF(&read, "read-data", "", "read all chunks, or a share of them, and hold them against their hashes")
	f.NoOptDefVal = "100%"
	c.Flags().BoolVar(&repair, "repair", false, "repair the store, which nobody may have in use")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "with --repair: say what would be done, and do nothing")
	c.Flags().BoolVar(&r.Rebuild, "rebuild", false, "with --repair: make the namespace again from packs, though it reads back")
	c.Flags().BoolVar(&r.Free, "free", false, "with --repair: what no step needs may be freed after a rebuild, though something may be missing")
	return c
}

func runCheck(c *cobra.Command, g *global, s service, r CheckRequest) error {
	bar := newCounter(os.Stderr, "checking")
	defer bar.finish()
	bar.total(100)
	out := c.OutOrStdout()
	var sum *CheckSummary
	err := s.Check(c.Context(), r, func(e CheckEvent) error {
		switch {
		case e.Progress != nil:
			bar.set(int64(100 * e.Progress.Done))
			bar.note(e.Progress.Part)
		case e.Summary != nil:
			sum = e.Summary
		case e.Finding == nil:
		case g.json:
			return printJSON(out, e.Finding)
		default:
			return printFinding(out, e.Finding)
		}
		return nil
	})
	bar.finish()
	switch {
	case err != nil:
		return err
	case sum == nil:
		return errors.New("the check ended without a result")
	case g.json:
		err = printJSON(out, sum)
	default:
		_, err = fmt.Fprintln(out, sum.words())
	}
	if err == nil && sum.Damage+sum.Leaks > 0 {
		return errReported
	}
	return err
}

// printFinding prints a finding, and below it who needs what it is about.
func printFinding(out io.Writer, f *check.Finding) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: %s (%s)\n", f.Kind, f.Object, f.Detail, f.What)
	for _, n := range f.List {
		shown := n.Snapshots
		if n.Live {
			shown = append([]string{"the live tree"}, shown...)
		}
		in := ""
		if len(shown) > 0 {
			in = " in " + strings.Join(shown, ", ")
		}
		if n.More > 0 {
			in += fmt.Sprintf(" and %d more", n.More)
		}
		fmt.Fprintf(&b, "  needed by %s%s\n", n.Path, in)
	}
	switch {
	case f.Full():
		fmt.Fprintf(&b, "  and by more than %d more files\n", check.MaxCounted)
	case f.More > 0:
		fmt.Fprintf(&b, "  and by %d more files\n", f.More)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (s *CheckSummary) words() string {
	found := "nothing is wrong"
	if s.Damage+s.Leaks > 0 {
		found = fmt.Sprintf("%d findings of damage, %d of leaks", s.Damage, s.Leaks)
	}
	read := ""
	if s.Read > 0 {
		read = fmt.Sprintf(" (%d read, %s)", s.Read, humanBytes(int64(s.ReadBytes)))
	}
	away := ""
	if s.AwayPacks > 0 {
		away = fmt.Sprintf(" (%d only in the bucket, not read: see stepfs remote check --read-data)", s.AwayPacks)
	}
	return fmt.Sprintf("%s: %d snapshots, %d inodes, %d generations, %d staging files, %d packs%s, %d chunks%s, %d references",
		found, s.Snapshots, s.Inodes, s.Generations, s.StagingFiles, s.Packs, away, s.Chunks, read, s.References)
}

// shareFlag is a share: "10%", or all.
type shareFlag float64

func (f *shareFlag) String() string {
	if *f == 0 {
		return ""
	}
	return strconv.FormatFloat(100*float64(*f), 'g', -1, 64) + "%"
}

// Type is what --help calls it.
func (f *shareFlag) Type() string { return "N%" }

// Set takes "10%".
func (f *shareFlag) Set(s string) error {
	number, ok := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || math.IsNaN(n) || n <= 0 || n > 100 {
		return fmt.Errorf("%q is not a share such as 10%%, up to 100%%", s)
	}
	*f = shareFlag(n / 100)
	return nil
}

// Check has all layers checked, each by itself, in one view of the index.
func (l *local) Check(ctx context.Context, r CheckRequest, fn func(CheckEvent) error) error {
	if !(r.ReadData >= 0 && r.ReadData <= 1) {
		return fmt.Errorf("a share of %v of the chunks can't be read", r.ReadData)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	send := func(e CheckEvent) {
		if err := fn(e); err != nil {
			cancel(err) // nobody listens any more
		}
	}
	var sum CheckSummary
	view := l.parts.engine.View()
	defer view.Close()
	run := &check.Run{View: view, Report: func(f check.Finding) {
		if f.Kind == check.Damage {
			sum.Damage++
		} else {
			sum.Leaks++
		}
		send(CheckEvent{Finding: &f})
	}}
	for _, part := range [...]struct {
		name string
		do   func() error
	}{
		{"snapshots", func() (err error) { sum.Snapshots, err = snapshot.Check(ctx, run); return err }},
		{"files", func() error {
			s, err := l.parts.tree.Check(ctx, run)
			sum.Inodes, sum.Generations, sum.StagingFiles = s.Inodes, s.Generations, s.StagingFiles
			return err
		}},
		{"packs", func() error {
			s, err := l.parts.chunks.Check(ctx, run, chunkstore.CheckOptions{Holders: l.parts.tree, ReadData: r.ReadData})
			sum.Packs, sum.Chunks, sum.References, sum.Read, sum.ReadBytes, sum.AwayPacks = s.Packs, s.Chunks, s.References, s.Read, s.ReadBytes, s.Away
			return err
		}},
		{"copies", func() error {
			if r.ReadData == 0 {
				return nil
			}
			n, err := l.parts.tree.CheckCopies(ctx, run, r.ReadData, func(id [32]byte, plain []byte) bool {
				return l.parts.chunks.IsNamed(id, plain)
			})
			sum.ReadBytes += n
			return err
		}},
		{"index", func() error {
			if r.ReadData == 0 {
				return nil
			}
			return run.Index(ctx)
		}},
	} {
		run.Progress = stepwise(func(done float64) { send(CheckEvent{Progress: &CheckProgress{part.name, done}}) })
		run.Done(0)
		if err := part.do(); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		}
	}
	return fn(CheckEvent{Summary: &sum})
}

// stepwise passes on each whole percent.
func stepwise(fn func(done float64)) func(done float64) {
	last := -1
	return func(done float64) {
		if now := int(100 * done); now > last {
			last = now
			fn(done)
		}
	}
}

// Check has the daemon check.
func (c *client) Check(ctx context.Context, r CheckRequest, fn func(CheckEvent) error) error {
	return c.lines(ctx, "check", r, func(l streamLine) error {
		if l.Check == nil {
			return nil
		}
		return fn(*l.Check)
	})
}
