package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

func logCommand(g *global) *cobra.Command {
	var r HistoryRequest
	const usage = "log [flags] STORE PATH"
	c := &cobra.Command{
		Use:   usage,
		Short: "List the steps in which one file or directory changed",
		Long: `List the steps in which one file or directory changed, newest first. PATH is
relative to the mountpoint; when no step has it there, it is looked for in the
scopes. CHANGE is A added, D gone, or how it differs from the snapshot before in
the letters of stepfs diff; R means that another file has its name now. Of a
directory, only its own names and attributes count, not what is in its files.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 1, 1)
			if err != nil {
				return err
			}
			r.Path = path.Clean("/" + rest[0])[1:]
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			return runLog(c.Context(), s, r, c.OutOrStdout(), g.json)
		},
	}
	c.Flags().BoolVar(&r.All, "all", false, "look at barriers too")
	return c
}

func runLog(ctx context.Context, s service, r HistoryRequest, out io.Writer, json bool) error {
	w, any := table(out), false
	err := s.History(ctx, r, func(l HistoryLine) error {
		if json {
			return printJSON(out, l)
		}
		if !any {
			any = true
			fmt.Fprintln(w, "SNAPSHOT\tTAKEN\tCHANGE\tINODE\tSIZE\tMODIFIED\tCHANGED")
		}
		if l.Change == "D" {
			_, err := fmt.Fprintf(w, "%s\t%s\tD\t-\t-\t-\t-\n", l.Snapshot, humanTime(l.Time))
			return err
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Snapshot, humanTime(l.Time), l.Change, l.Inode,
			humanBytes(l.Size), humanTime(l.Mtime), humanBytes(l.Bytes))
		return err
	})
	return errors.Join(err, w.Flush())
}

// History looks one path up in each snapshot.
func (l *local) History(ctx context.Context, r HistoryRequest, fn func(HistoryLine) error) error {
	all, err := l.everySnapshot(ctx, r.All)
	if err != nil {
		return err
	}
	paths := []string{r.Path}
	for _, scope := range l.parts.manager.AllScopes() {
		if scope != "" {
			paths = append(paths, path.Join(scope, r.Path))
		}
	}
	for _, p := range paths {
		lines, err := l.history(ctx, p, all)
		if err != nil {
			return err
		}
		for _, line := range slices.Backward(lines) {
			if err := fn(line); err != nil {
				return err
			}
		}
		if len(lines) > 0 {
			return nil
		}
	}
	return fmt.Errorf("no snapshot has %s", r.Path)
}

// everySnapshot gives the steps of all scopes, with all revisions, or also the
// barriers, in the order in which they were taken.
func (l *local) everySnapshot(ctx context.Context, barriers bool) (all []snapshot.Info, err error) {
	for after := uint64(0); barriers; {
		page, err := l.parts.manager.Barriers(after, listPage)
		if err = errors.Join(err, ctx.Err()); err != nil || len(page) == 0 {
			return all, err
		}
		after = page[len(page)-1].Seq
		all = append(all, page...)
	}
	for _, scope := range l.parts.manager.AllScopes() {
		steps, err := l.steps(ctx, scope, true)
		if err != nil {
			return nil, err
		}
		all = append(all, steps...)
	}
	slices.SortFunc(all, func(a, b snapshot.Info) int { return cmp.Compare(a.Seq, b.Seq) })
	return all, nil
}

// history gives a line for each snapshot in which the path changed, oldest first.
func (l *local) history(ctx context.Context, p string, all []snapshot.Info) (lines []HistoryLine, err error) {
	var before snapshot.Info // shows the inode, if that is not 0
	inode := uint64(0)
	release := func() {}
	defer func() { release() }()
	for _, i := range all {
		done := l.parts.manager.Pin(i.Seq)
		if _, err := l.parts.manager.Get(i.Seq); errors.Is(err, snapshot.ErrNotExist) {
			done()
			continue // pruned meanwhile
		}
		line, change, err := l.versionIn(ctx, p, before.Seq, inode, i)
		release()
		release = done
		if err != nil {
			return nil, fmt.Errorf("looking up %s in %s: %w", p, i.Path(), err)
		}
		if change {
			lines = append(lines, line)
		}
		before, inode = i, line.Inode
	}
	return lines, nil
}

// versionIn looks a path up in a snapshot, and compares it with inode was of an
// earlier one; 0: that had none.
func (l *local) versionIn(ctx context.Context, p string, before, was uint64, i snapshot.Info) (line HistoryLine, changed bool, err error) {
	line = HistoryLine{Snapshot: i.Path(), Sequence: i.Seq, Time: i.Time.UTC(), Path: p}
	a, err := l.parts.tree.At(i.Seq).Find(p)
	if errors.Is(err, stage.ErrNotExist) || errors.Is(err, stage.ErrNotDir) {
		line.Change = "D"
		return line, was != 0, nil
	}
	if err != nil {
		return line, false, err
	}
	line.Inode, line.Size, line.Mtime, line.Type = a.Ino, a.Size, time.Unix(0, a.Mtime).UTC(), typeName(a.Mode)
	if was == 0 {
		line.Change, line.Bytes = "A", a.Size
		return line, true, nil
	}
	c, err := l.parts.tree.Compare(ctx, before, was, i.Seq, a.Ino)
	line.Bytes, line.Change = c.Bytes, letters(c.Attrs)
	return line, c.Attrs != 0, err
}
