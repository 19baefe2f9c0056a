package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// RepairEvent is a line of `stepfs check --repair --json`: something that was
// done (or would be), a step that is back, a path that is lost, or the end.
type RepairEvent struct {
	Action  *RepairAction  `json:"action,omitempty"`
	Step    *RepairStep    `json:"step,omitempty"`
	Lost    *RepairLost    `json:"lost,omitempty"`
	Summary *RepairSummary `json:"summary,omitempty"`
}

// RepairAction is one thing that is done.
type RepairAction struct {
	What   string `json:"what"`   // the class, a word for programs: "pack-salvaged"
	Object string `json:"object"` // a path in the store
	Detail string `json:"detail"` // a sentence for people
}

// RepairStep is a step that was found in packs.
type RepairStep struct {
	ID      string `json:"id"`
	Scope   string `json:"scope,omitempty"`
	Verdict string `json:"verdict,omitempty"`
	Lost    int    `json:"lost"` // paths of it that are not whole
}

// RepairLost is a path of a snapshot that is not whole.
type RepairLost struct {
	ID    string `json:"id"`
	Scope string `json:"scope,omitempty"`
	Path  string `json:"path"`
	Why   string `json:"why"`
}

// RepairSummary is the last line.
type RepairSummary struct {
	DryRun  bool   `json:"dry_run"`
	Actions int    `json:"actions"`
	Steps   int    `json:"steps"`   // that are back
	Lost    int    `json:"lost"`    // paths
	Unknown int    `json:"unknown"` // actions of which nobody knows whether they cost something
	Aside   string `json:"aside,omitempty"`
}

func (e RepairEvent) print(w io.Writer) (err error) {
	switch {
	case e.Action != nil:
		_, err = fmt.Fprintf(w, "%s: %s (%s)\n", e.Action.Object, e.Action.Detail, e.Action.What)
	case e.Step != nil:
		lost := ""
		if e.Step.Lost > 0 {
			lost = fmt.Sprintf(", %d paths of it are not whole", e.Step.Lost)
		}
		_, err = fmt.Fprintf(w, "step %s: found in packs, %s%s\n", scoped(e.Step.Scope, e.Step.ID), orDash(e.Step.Verdict), lost)
	case e.Lost != nil:
		_, err = fmt.Fprintf(w, "lost: %s:%s: %s\n", scoped(e.Lost.Scope, e.Lost.ID), e.Lost.Path, e.Lost.Why)
	case e.Summary != nil:
		_, err = fmt.Fprintln(w, e.Summary.words())
	}
	return err
}

func scoped(scope, id string) string {
	if scope == "" {
		return id
	}
	return scope + "/" + id
}

func (s *RepairSummary) words() string {
	switch {
	case s.Actions+s.Lost == 0:
		return "there is nothing to repair"
	case s.DryRun:
		return fmt.Sprintf("this was a dry run: nothing is changed; %d things would be done, %d steps would be back, %d paths are lost", s.Actions, s.Steps, s.Lost)
	}
	words := fmt.Sprintf("%d things done, %d steps are back, %d paths are lost", s.Actions, s.Steps, s.Lost)
	if s.Aside != "" {
		words += "; what was in the way is in " + s.Aside + ": delete it once you need nothing of it"
	}
	return words
}

// runRepair repairs a store that nobody else has.
func runRepair(ctx context.Context, g *global, out io.Writer, arg string, r RepairRequest) error {
	t, err := resolve(arg)
	if err != nil {
		return err
	}
	const alone = "a repair needs the store for itself: end that first (stepfs umount)"
	if c := dial(ctx, t.Store); c != nil {
		_ = c.Close()
		return &codedError{exitInUse, fmt.Errorf("%s: a daemon has the store; %s", t.Store, alone)}
	}
	dir, err := storedir.Open(t.Store, storedir.Options{Command: "check --repair", Repair: true, Look: r.DryRun})
	if errors.Is(err, storedir.ErrInUse) {
		return fmt.Errorf("%w; %s", err, alone)
	}
	if err != nil {
		return err
	}
	var told error
	x := &repairer{ctx: ctx, dir: dir, req: r, bar: newCounter(os.Stderr, "repairing"), sum: RepairSummary{DryRun: r.DryRun}}
	x.tell = func(e RepairEvent) {
		if told == nil && g.json {
			told = printJSON(out, e)
		} else if told == nil {
			told = e.print(out)
		}
	}
	err = x.run()
	x.bar.finish()
	if err := errors.Join(err, dir.Close(), told); err != nil {
		return fmt.Errorf("repairing %s: %w", t.Store, err)
	}
	x.tell(RepairEvent{Summary: &x.sum})
	switch {
	case told != nil:
		return told
	case r.DryRun && x.sum.Actions+x.sum.Lost > 0:
		return errReported
	case x.sum.Lost+x.sum.Unknown > 0:
		return &codedError{exitPartly, errReported}
	}
	return nil
}

// RepairRequest says what a repair may do.
type RepairRequest struct {
	DryRun  bool // nothing
	Rebuild bool // the namespace is rebuilt from packs though it reads back
	Free    bool // what no step needs may go, though something may be missing
}

func (x *repairer) did(what, object, detail string, args ...any) {
	x.sum.Actions++
	x.tell(RepairEvent{Action: &RepairAction{what, object, fmt.Sprintf(detail, args...)}})
}

func (x *repairer) lost(i snapshot.Info, path, why string) {
	x.sum.Lost++
	x.tell(RepairEvent{Lost: &RepairLost{i.ID(), i.Scope, path, why}})
}

func (x *repairer) back(i snapshot.Info, lost int) {
	x.sum.Steps++
	x.tell(RepairEvent{Step: &RepairStep{i.ID(), i.Scope, i.Verdict, lost}})
}
