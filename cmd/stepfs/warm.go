package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func warmCommand(g *global) *cobra.Command {
	var r HoldRequest
	const usage = "warm [flags] STORE STEP"
	c := &cobra.Command{
		Use:   usage,
		Short: "Fetch what is only in the bucket of a step",
		Long: `Fetch the packs that STEP needs and that are only in the bucket, so that it is
read from this disk. It returns once they are here. With --cache-size they count
as read just now: they go again when others are read instead.`,
		RunE: func(c *cobra.Command, args []string) error {
			return g.onStep(c, args, usage, &r, service.Warm, "here")
		},
	}
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that STEP is of")
	return c
}

// Warm fetches what a snapshot needs and is only in the bucket.
func (l *local) Warm(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	s, err := l.Find(ctx, strings.Trim(r.Scope, "/"), r.Step)
	if err != nil {
		return s, err
	}
	if err := l.parts.manager.Warm(ctx, s.Sequence); err != nil {
		return s, fmt.Errorf("fetching %s: %w", r.Step, err)
	}
	return s, nil
}
