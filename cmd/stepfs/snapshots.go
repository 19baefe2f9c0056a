package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stepfs/snapshot"
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

STEP is followed by @ and its number where more than the newest revision is
listed. WHY is what it was taken for. LOGICAL is what the files come to. NEW is
what would come back if this snapshot alone were forgotten and pruned: what it
shares with another, also with one that is forgotten and not pruned yet, is not
in it. --json says more, STORED among it: what it added to packs when it was
stored.`,
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
			p := newSnapshotPrinter(c.OutOrStdout(), g.json, q.Revisions || q.Barriers || q.Forgotten)
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
	out       io.Writer
	json      bool
	revisions bool // names with the number of the revision
	table     interface {
		io.Writer
		Flush() error
	}
	any bool
}

func newSnapshotPrinter(out io.Writer, json, revisions bool) *snapshotPrinter {
	return &snapshotPrinter{out: out, json: json, revisions: revisions, table: table(out)}
}

func (p *snapshotPrinter) print(s SnapshotInfo) error {
	if p.json {
		return printJSON(p.out, s)
	}
	if !p.any {
		p.any = true
		fmt.Fprintln(p.table, "STEP\tAGE\tVERDICT\tWHY\tLOGICAL\tNEW\tHELD\tNOTE")
	}
	_, err := fmt.Fprintf(p.table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.name(s), humanAge(time.Since(s.Time)),
		orDash(s.Verdict), s.Reason, humanBytes(s.Logical), humanBytes(s.New), s.held(), s.note())
	return err
}

// name is what a person calls a snapshot: the step, where there is one of it.
func (p *snapshotPrinter) name(s SnapshotInfo) string {
	name := s.Step
	if p.revisions || name == "" {
		name = s.ID
	}
	if s.Scope != "" {
		name = s.Scope + "/" + name
	}
	return name
}

// held says who keeps a snapshot from being removed.
func (s *SnapshotInfo) held() string {
	var by []string
	for _, h := range s.Holds {
		by = append(by, h.By)
	}
	return orDash(strings.Join(by, ","))
}

// humanAge prints how long ago something was.
func humanAge(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.0f s", max(0, d.Seconds()))
	}
	return humanSpan(d)
}

// note says what is special about a snapshot.
func (s *SnapshotInfo) note() string {
	notes := slices.Clone(s.Findings[:min(len(s.Findings), 1)])
	if s.Checking {
		notes = append(notes, "being checked")
	}
	if len(s.Tags) > 0 {
		notes = append(notes, "tags "+strings.Join(s.Tags, ","))
	}
	if s.State == snapshot.StateStaged {
		notes = append(notes, "not stored yet")
	}
	if s.Pinned {
		notes = append(notes, "pinned to this disk")
	}
	for _, h := range s.Holds {
		if h.Reason != "" {
			notes = append(notes, "held: "+h.Reason)
		}
	}
	if f := s.Forgotten; f != nil {
		notes = append(notes, fmt.Sprintf("forgotten %s by %s: %s", humanTime(f.Time), f.By, f.Reason))
	}
	return orDash(strings.Join(notes, "; "))
}

func (p *snapshotPrinter) flush() error { return p.table.Flush() }
