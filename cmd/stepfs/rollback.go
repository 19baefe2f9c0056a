package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func rollbackCommand(g *global) *cobra.Command {
	var r RollbackRequest
	const usage = "rollback [flags] STORE STEP"
	c := &cobra.Command{
		Use:   usage,
		Short: "Make the live directory exactly what a step was",
		Long: `Make the live directory exactly what STEP was, without copying data. What was
there before is kept as a snapshot, which the command prints. Stop the job first:
a process that has files open goes on with what it has open.`,
		RunE: func(c *cobra.Command, args []string) error {
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
			before, err := s.Rollback(c.Context(), r)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), before)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "rolled back to %s; what was there before is snapshot %s\n", r.Step, before.ID)
			return err
		},
	}
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that STEP is of")
	return c
}
