package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// drainVerb is, besides import, the one command on a store without a mount that
// ingests.
const drainVerb = "drain"

func drainCommand(g *global) *cobra.Command {
	const usage = "drain STORE"
	return &cobra.Command{
		Use:   usage,
		Short: "Wait until everything staged is stored",
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
			bar := newProgress(os.Stderr, "storing")
			defer bar.finish()
			last := DrainProgress{}
			err = s.Drain(c.Context(), func(p DrainProgress) error {
				last = p
				bar.total(p.Total)
				bar.set(p.Total - p.Remaining)
				return nil
			})
			bar.finish()
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), last)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "everything is stored")
			return err
		},
	}
}
