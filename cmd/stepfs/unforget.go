package main

import "github.com/spf13/cobra"

func unforgetCommand(g *global) *cobra.Command {
	var r ForgetRequest
	var scope string
	const usage = "unforget [flags] STORE STEP..."
	c := &cobra.Command{
		Use:   usage,
		Short: "Bring forgotten snapshots back",
		Long: `Bring back what was forgotten, unless prune has removed it for good. STEP is
every forgotten revision of a step, STEP@SEQ one; stepfs snapshots --forgotten
lists them. No policy forgets them again.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 1, maxSteps)
			if err != nil {
				return err
			}
			r.Scope, r.Steps = &scope, rest
			return g.decide(c, store, func(s service) (ForgetResult, error) { return s.Unforget(c.Context(), r) })
		},
	}
	c.Flags().StringVar(&scope, "scope", "", "the directory of the mount that the steps are of")
	return c
}
