package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"stepfs/snapshot/published"
)

// RemoteStep is a line of `stepfs remote ls --json`.
type RemoteStep struct {
	SnapshotInfo
	Writer    string `json:"writer"`
	Ref       uint64 `json:"ref"`
	Packs     int    `json:"packs"`
	PackBytes int64  `json:"pack_bytes"` // of the packs that it needs, whoever else needs them
}

// RemoteObject is a line of `stepfs remote ls --objects --json`.
type RemoteObject struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

func remoteListCommand(g *global) *cobra.Command {
	var objects bool
	c := &cobra.Command{
		Use:   "ls [flags] URL [PREFIX]",
		Short: "List the snapshots that are published in an object store",
		Long: `List the snapshots that are published in an object store, by writer: a store that
publishes there. LOGICAL is what the files come to, PACKS what has to be there to
read them; packs are shared.

--objects lists objects instead: those whose keys begin with PREFIX. What stepfs
can't have put there is left out.

Exit codes: 0 done, 3 some refs can't be read: they are named, 10 it is empty, or
in use by something else.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case objects:
				return listObjects(c.Context(), g, c.OutOrStdout(), args[0], append(args, "")[1])
			case len(args) > 1:
				return &usageError{fmt.Errorf("PREFIX goes with --objects; usage: stepfs remote %s", c.Use)}
			}
			return listSteps(c.Context(), g, c.OutOrStdout(), c.ErrOrStderr(), args[0])
		},
	}
	c.Flags().BoolVar(&objects, "objects", false, "list objects instead")
	return c
}

func listSteps(ctx context.Context, g *global, out, errs io.Writer, url string) error {
	b, _, err := openBucket(ctx, url)
	if err != nil {
		return err
	}
	all, err := published.List(ctx, b)
	if err != nil {
		return err
	}
	t := table(out)
	if !g.json && len(all.Steps) > 0 {
		fmt.Fprintln(t, "WRITER\tSTEP\tTIME\tVERDICT\tLOGICAL\tPACKS")
	}
	for _, s := range all.Steps {
		r := RemoteStep{describePublished(s), s.Writer.String(), s.Ref, s.Packs, s.PackBytes}
		if g.json {
			err = printJSON(out, r)
		} else {
			name := r.ID
			if r.Scope != "" {
				name = r.Scope + "/" + name
			}
			_, err = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Writer, name, humanTime(r.Time), orDash(r.Verdict), humanBytes(r.Logical), humanBytes(r.PackBytes))
		}
		if err != nil {
			return err
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, err := range all.Unreadable {
		fmt.Fprintln(errs, "stepfs:", err)
	}
	if n := len(all.Unreadable); n > 0 {
		return &codedError{exitPartly, fmt.Errorf("%d refs can't be read; see above", n)}
	}
	return nil
}

func listObjects(ctx context.Context, g *global, out io.Writer, url, prefix string) error {
	b, err := openRemote(ctx, url)
	if err != nil {
		return err
	}
	for o, err := range b.List(ctx, prefix, "") {
		if err == nil && g.json {
			err = printJSON(out, RemoteObject(o))
		} else if err == nil {
			_, err = fmt.Fprintf(out, "%10s  %s  %s\n", humanBytes(o.Size), humanTime(o.Modified), o.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
