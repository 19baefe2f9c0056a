package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func holdCommand(g *global) *cobra.Command {
	r := HoldRequest{UID: uint32(os.Geteuid())}
	const usage = "hold [flags] STORE STEP --reason TEXT"
	c := &cobra.Command{
		Use:   usage,
		Short: "Keep a snapshot until it is released",
		Long: `Keep a snapshot until it is released: no policy, no full disk, no forget and no
rmdir removes it meanwhile, and whoever tries is told who holds it since when
and why. STEP is a step, STEP@SEQ one revision of it, @SEQ any barrier.

Several holds of different names (--name) can be on a snapshot; one more under
the same name replaces the reason.`,
		RunE: func(c *cobra.Command, args []string) error {
			if r.Reason == "" {
				return errNoReason
			}
			r.By = whoami()
			return g.onStep(c, args, usage, &r, service.Hold, "held")
		},
	}
	f := c.Flags()
	f.StringVar(&r.Reason, "reason", "", "why it is kept")
	holdFlags(c, &r)
	return c
}

func holdFlags(c *cobra.Command, r *HoldRequest) {
	c.Flags().StringVar(&r.Name, "name", "user", "the name of the hold")
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that STEP is of")
}

// onStep is hold or release: do one thing to one step and say so.
func (g *global) onStep(c *cobra.Command, args []string, usage string, r *HoldRequest,
	do func(service, context.Context, HoldRequest) (SnapshotInfo, error), done string) error {
	store, rest, err := g.storeAnd(args, usage, 1, 1)
	if err != nil {
		return err
	}
	r.Step = rest[0]
	s, err := openService(c.Context(), store, c.Name())
	if err != nil {
		return err
	}
	defer s.Close()
	info, err := do(s, c.Context(), *r)
	if err != nil {
		return err
	}
	if g.json {
		return printJSON(c.OutOrStdout(), info)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s is %s\n", snapshotDir(info), done)
	return err
}
