package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func snapshotsCommand(g *global) *cobra.Command {
	var q SnapshotQuery
	var scope string
	const usage = "snapshots [flags] STORE"
	c := &cobra.Command{
		Use:     usage,
		Aliases: []string{"list"},
		Short:   "List the snapshots, in the order in which they were taken",
		Long: `List the snapshots, in the order in which they were taken.

LOGICAL is what the files come to. NEW is what would come back if this snapshot
alone were forgotten and pruned: what it shares with another, also with one that
is forgotten and not pruned yet, is not in it. STORED is what it added to packs
when it was stored.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, _, err := g.storeAnd(args, usage, 0, 0)
			if err != nil {
				return err
			}
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			if c.Flags().Changed("scope") {
				q.Scope = &scope
			}
			p := newSnapshotPrinter(c.OutOrStdout(), g.json)
			if err := s.Snapshots(c.Context(), q, p.print); err != nil {
				return err
			}
			return p.flush()
		},
	}
	f := c.Flags()
	f.StringVar(&scope, "scope", "", "list only the steps of this directory of the mount; / is its root")
	f.BoolVar(&q.Revisions, "revisions", false, "list every revision of a step, not only the newest")
	f.BoolVar(&q.Barriers, "barriers", false, "list every barrier that is kept")
	f.BoolVar(&q.Forgotten, "forgotten", false, "list what was forgotten and can be brought back, instead")
	return c
}

// snapshotPrinter prints snapshots as JSON Lines or as a table.
type snapshotPrinter struct {
	out   io.Writer
	json  bool
	table interface {
		io.Writer
		Flush() error
	}
	any bool
}

func newSnapshotPrinter(out io.Writer, json bool) *snapshotPrinter {
	return &snapshotPrinter{out: out, json: json, table: table(out)}
}

func (p *snapshotPrinter) print(s SnapshotInfo) error {
	if p.json {
		return printJSON(p.out, s)
	}
	if !p.any {
		p.any = true
		fmt.Fprintln(p.table, "SNAPSHOT\tTIME\tREASON\tVERDICT\tSTATE\tLOGICAL\tNEW\tSTORED\tTAGS\tNOTE")
	}
	name := s.ID
	if s.Scope != "" {
		name = s.Scope + "/" + name
	}
	_, err := fmt.Fprintf(p.table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, humanTime(s.Time), s.Reason, orDash(s.Verdict),
		s.State, humanBytes(s.Logical), humanBytes(s.New), humanBytes(s.Stored), orDash(strings.Join(s.Tags, ",")), s.note())
	return err
}

// note says what is special about a snapshot.
func (s *SnapshotInfo) note() string {
	notes := slices.Clone(s.Findings[:min(len(s.Findings), 1)])
	if s.Checking {
		notes = append(notes, "being checked")
	}
	for _, h := range s.Holds {
		notes = append(notes, fmt.Sprintf("held by %s: %s", h.By, h.Reason))
	}
	if f := s.Forgotten; f != nil {
		notes = append(notes, fmt.Sprintf("forgotten %s by %s: %s", humanTime(f.Time), f.By, f.Reason))
	}
	return orDash(strings.Join(notes, "; "))
}

func (p *snapshotPrinter) flush() error { return p.table.Flush() }
