package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"stepfs/snapshot"
)

func pinCommand(g *global) *cobra.Command {
	r := HoldRequest{UID: uint32(os.Geteuid())}
	const usage = "pin [flags] STORE STEP"
	c := &cobra.Command{
		Use:   usage,
		Short: "Keep a step on this disk",
		Long: `Keep STEP on this disk, whatever --cache-size says, until stepfs unpin: what it
needs and is only in the bucket is fetched, and stays. It returns once all of it
is here; what could not be fetched by then the mount fetches later.

A pinned step is held, too (stepfs hold): no policy, no full disk and no forget
removes it.`,
		RunE: func(c *cobra.Command, args []string) error {
			r.By = whoami()
			return g.onStep(c, args, usage, &r, service.Pin, "pinned")
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "why it is kept")
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that STEP is of")
	return c
}

func unpinCommand(g *global) *cobra.Command {
	r := HoldRequest{Name: snapshot.PinHold}
	const usage = "unpin [flags] STORE STEP"
	c := &cobra.Command{
		Use:   usage,
		Short: "Let a pinned step go from this disk",
		Long:  `End what stepfs pin began: what is in the bucket, too, may go from this disk again.`,
		RunE: func(c *cobra.Command, args []string) error {
			return g.onStep(c, args, usage, &r, service.Release, "not pinned any more")
		},
	}
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that STEP is of")
	return c
}

// Pin keeps a snapshot on this disk.
func (l *local) Pin(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	s, err := l.Find(ctx, strings.Trim(r.Scope, "/"), r.Step)
	if err != nil {
		return s, err
	}
	i, err := l.parts.manager.PinStep(ctx, s.Sequence, snapshot.Hold{UID: r.UID, By: r.By, Reason: r.Reason})
	if err != nil {
		return s, fmt.Errorf("pinning %s: %w", r.Step, err)
	}
	return l.acted(ctx, i), nil
}
