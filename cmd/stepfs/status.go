package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

func statusCommand(g *global) *cobra.Command {
	const usage = "status STORE"
	return &cobra.Command{
		Use:   usage,
		Short: "Say what is saved and what is not yet",
		Long: `Say what is saved and what is not yet, where the space goes, what would be given
up next if it ran out, what can't be given up and who holds it, what pruning
did, and how far the scrub is. The same is in snapshots/.status and snapshots/.status.json.`,
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
			st, err := s.Status(c.Context())
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), st)
			}
			return st.print(c.OutOrStdout())
		},
	}
}

// print is also what snapshots/.status shows.
func (s *Status) print(w io.Writer) error {
	t := table(w)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("store", "%s (%s)", s.Store, s.ID)
	if s.Running {
		row("mounted", "on %s by pid %d since %s, stepfs %s", s.Mountpoint, s.PID, humanTime(s.Since), s.Version)
	} else {
		row("mounted", "no")
	}
	if s.Fault != "" {
		row("FAULT", "%s; the store is read-only until it is mounted again", s.Fault)
	}
	if l := s.Last; l != nil {
		row("last step", "%s, %s, %s, %s", l.ID, humanTime(l.Time), humanBytes(l.Logical), l.State)
	} else {
		row("last step", "none yet")
	}
	row("steps", "%d", s.Steps)
	row("verified", "%s", s.Recovery.words(s.Steps))
	row("scrubbed", "%s", s.Scrub.words())
	row("barriers kept", "%d", s.Barriers)
	row("open for writing", "%d files", s.OpenFiles)
	row("not yet stored", "%s", humanBytes(s.Unstored))
	row("limit", "%s, %s used, %s free (%s of that kept for deletes and barriers)",
		humanBytes(s.Limit), humanBytes(s.Used), humanBytes(s.Free), humanBytes(s.Reserve))
	if s.Lasts > 0 {
		row("lasts", "about %s at the present rate, %s an hour", humanSpan(time.Duration(s.Lasts)*time.Second), humanBytes(s.Growth))
	}
	row("space goes to", "packs %s, staged and not stored %s, hot copies %s (they go when room is needed)",
		humanBytes(s.PackBytes), humanBytes(s.Unstored), humanBytes(s.Hot))
	if s.Away > 0 {
		row("only in the bucket", "packs of %s, which are fetched when they are read", humanBytes(s.Away))
	}
	if s.Remote != nil {
		s.Remote.print(t)
	}
	s.printOutlook(row)
	row("disk", "%s free of %s (%s)", humanBytes(s.SpaceFree), humanBytes(s.SpaceTotal), s.Filesystem)
	if s.Advice != "" {
		row("advice", "%s", s.Advice)
	}
	for _, f := range s.RecentFault {
		row("fault", "%s", f)
	}
	return t.Flush()
}
