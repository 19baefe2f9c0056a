package main

import "github.com/spf13/cobra"

func releaseCommand(g *global) *cobra.Command {
	var r HoldRequest
	const usage = "release [flags] STORE STEP"
	c := &cobra.Command{
		Use:   usage,
		Short: "End a hold",
		Long: `End the hold that stepfs hold put on a snapshot, that of the name given by
--name. Once nobody holds it any more, it goes when the policy says so.`,
		RunE: func(c *cobra.Command, args []string) error {
			return g.onStep(c, args, usage, &r, service.Release, "released")
		},
	}
	holdFlags(c, &r)
	return c
}
