package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func pruneCommand(g *global) *cobra.Command {
	var r PruneRequest
	const usage = "prune [flags] STORE"
	c := &cobra.Command{
		Use:   usage,
		Short: "Remove for good what is forgotten, and free its space",
		Long: `Remove for good what is forgotten and what the policy does not keep, and free the
space that nothing else needs. A running daemon does that by itself, some time
after the forget; this asks it to do it now, and with --wait returns once it is
done and says how much came back: bytes of packs, less what is written anew for
it, and of staging files. What somebody reads or holds stays.

Interrupting it is safe: what is not removed yet is removed later.`,
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
			bar := newCounter(os.Stderr, "pruning")
			defer bar.finish()
			var last PruneProgress
			err = s.Prune(c.Context(), r, func(p PruneProgress) error {
				last = p
				bar.total(int64(p.Pruned + p.Left))
				bar.set(int64(p.Pruned))
				bar.note(humanBytes(p.Packs+p.Staging) + " freed")
				return nil
			})
			bar.finish()
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), last)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), last.words())
			return err
		},
	}
	c.Flags().BoolVar(&r.Wait, "wait", false, "return only once everything is removed and freed")
	return c
}

func (p PruneProgress) words() string {
	switch {
	case !p.Done:
		return fmt.Sprintf("the daemon removes %d forgotten snapshots now", p.Left)
	case p.Left > 0:
		return fmt.Sprintf("%d snapshots removed, %s freed; %d are in use and go later", p.Pruned, humanBytes(p.Packs+p.Staging), p.Left)
	}
	return fmt.Sprintf("%d snapshots removed, %s freed", p.Pruned, humanBytes(p.Packs+p.Staging))
}
