package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

func diffCommand(g *global) *cobra.Command {
	var r DiffRequest
	const usage = "diff [flags] STORE STEP STEP"
	c := &cobra.Command{
		Use:   usage,
		Short: "List what differs between two snapshots",
		Long: `List what differs between two snapshots, with the bytes that changed.

  A added    D removed    R renamed (the same file or directory)
  M content  T type       p mode  o owner  t time alone  x attributes

What lies in a renamed directory is listed only if it differs itself. Content
counts as changed unless it is the same write or the same chunk at the same
place: no data is read, so a file that was written anew with the same bytes
differs until both are stored.

STEP is a step (its newest revision), a revision like 12000@77, a barrier like
@77, or the name of a snapshot.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 2, 2)
			if err != nil {
				return err
			}
			r.Old, r.New = rest[0], rest[1]
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			return runDiff(c.Context(), s, r, c.OutOrStdout(), g.json)
		},
	}
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that both are of")
	return c
}

func runDiff(ctx context.Context, s service, r DiffRequest, out io.Writer, json bool) error {
	w := table(out)
	total, err := s.Diff(ctx, r, func(c DiffChange) error {
		if json {
			return printJSON(out, c)
		}
		what := c.Path
		if c.From != "" {
			what = c.From + " -> " + c.Path
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\n", c.Change, humanBytes(c.Bytes), what)
		return err
	})
	if err != nil {
		return err
	}
	if json {
		return printJSON(out, total)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s -> %s: %d added, %d removed, %d renamed, %d changed; %s changed\n",
		total.Old, total.New, total.Added, total.Removed, total.Renamed, total.Changed, humanBytes(total.Bytes))
	return err
}

// Diff compares two snapshots. Both are pinned meanwhile.
func (l *local) Diff(ctx context.Context, r DiffRequest, fn func(DiffChange) error) (total DiffTotal, err error) {
	var infos [2]snapshot.Info
	for k, name := range [...]string{r.Old, r.New} {
		scope, step := splitStep(r.Scope, name)
		found, err := l.Find(ctx, scope, step)
		if err != nil {
			return total, err
		}
		release := l.parts.manager.Pin(found.Sequence)
		defer release()
		if infos[k], err = l.parts.manager.Get(found.Sequence); err != nil {
			return total, fmt.Errorf("reading snapshot %s: %w", found.ID, err)
		}
	}
	total.Event, total.Old, total.New = "total", infos[0].Path(), infos[1].Path()
	d, err := l.parts.tree.Diff(ctx, infos[0].Seq, scopeOf(infos[0]), infos[1].Seq, scopeOf(infos[1]))
	if err != nil {
		return total, fmt.Errorf("comparing %s with %s: %w", total.Old, total.New, err)
	}
	total.Bytes = d.Bytes
	for _, c := range d.Changes {
		if err := fn(describeChange(c, &total)); err != nil {
			return total, err
		}
	}
	return total, nil
}

// scopeOf is the directory that a snapshot shows.
func scopeOf(i snapshot.Info) uint64 {
	if i.ScopeIno == 0 {
		return stage.RootIno
	}
	return i.ScopeIno
}

// describeChange makes a line of a change, and counts it.
func describeChange(c stage.Change, total *DiffTotal) DiffChange {
	out := DiffChange{Path: c.Path(), OldSize: c.OldSize, NewSize: c.NewSize, Bytes: c.Bytes}
	if out.Path == "" {
		out.Path = "."
	}
	switch {
	case c.OldMode == 0:
		out.Change = "A"
		total.Added++
	case c.NewMode == 0:
		out.Change = "D"
		total.Removed++
	default:
		out.Change = letters(c.Attrs)
		if c.Old != c.New {
			out.From = c.Old
		}
		if c.Attrs&stage.AttrName != 0 {
			total.Renamed++
		} else {
			total.Changed++
		}
	}
	mode := c.NewMode
	if mode == 0 {
		mode = c.OldMode
	}
	out.Type = typeName(mode)
	return out
}

// letters says in which ways an entry differs.
func letters(a stage.Attrs) (s string) {
	for _, l := range [...]struct {
		bit    stage.Attrs
		letter string
	}{
		{stage.AttrName, "R"}, {stage.AttrContent, "M"}, {stage.AttrType, "T"}, {stage.AttrMode, "p"},
		{stage.AttrOwner, "o"}, {stage.AttrMtime, "t"}, {stage.AttrXattr, "x"},
	} {
		if a&l.bit != 0 {
			s += l.letter
		}
	}
	return s
}

// typeName names a file's type in JSON.
func typeName(mode uint32) string {
	switch mode & stage.ModeType {
	case stage.ModeReg:
		return "file"
	case stage.ModeDir:
		return "dir"
	case stage.ModeLink:
		return "symlink"
	}
	return "other"
}
