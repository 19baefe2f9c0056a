package main

import (
	"time"

	"github.com/spf13/cobra"
)

func snapshotCommand(g *global) *cobra.Command {
	var r SnapshotRequest
	const usage = "snapshot [flags] STORE [NAME]"
	c := &cobra.Command{
		Use:   usage,
		Short: "Take and seal a snapshot now",
		Long: `Take a snapshot of the live tree now and keep it under NAME, or under the time.

It is durable once the command returns. mkdir MOUNTPOINT/snapshots/NAME does the
same. With --store or STEPFS_STORE set, the only argument is NAME.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 0, 1)
			if err != nil {
				return err
			}
			r.Name = time.Now().UTC().Format("20060102T150405Z")
			if len(rest) > 0 {
				r.Name = rest[0]
			}
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			info, err := s.Snapshot(c.Context(), r)
			if err != nil {
				return err
			}
			p := newSnapshotPrinter(c.OutOrStdout(), g.json, true)
			if err := p.print(info); err != nil {
				return err
			}
			return p.flush()
		},
	}
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount to take it of (default all of it)")
	c.Flags().StringSliceVar(&r.Tags, "tag", nil, "a tag to put on it; may be repeated")
	return c
}
