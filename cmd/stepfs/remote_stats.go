package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"stepfs/snapshot/published"
)

func remoteStatsCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "stats URL",
		Short: "Say what is published in an object store, and what it takes",
		Long: `Say what is published in an object store, and what it takes there. Packs that no
snapshot needs are on their way to be published, or left for prune.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, _, err := openBucket(c.Context(), args[0])
			if err != nil {
				return err
			}
			s, err := published.Count(c.Context(), b)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), s)
			}
			t := table(c.OutOrStdout())
			fmt.Fprintf(t, "snapshots\t%d\tof %d writers, %s of files\n", s.Snapshots, s.Writers, humanBytes(s.Logical))
			fmt.Fprintf(t, "packs\t%d\t%s\n", s.Packs, humanBytes(s.PackBytes))
			fmt.Fprintf(t, "  that snapshots need\t%d\t%s\n", s.Needed, humanBytes(s.NeededBytes))
			fmt.Fprintf(t, "other objects\t%d\t%s\n", s.Others, humanBytes(s.OtherBytes))
			if s.Unreadable > 0 {
				fmt.Fprintf(t, "refs that can't be read\t%d\t\n", s.Unreadable)
			}
			return t.Flush()
		},
	}
}
