package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

const (
	// drainVerb is, besides import, the one command on a store without a mount
	// that ingests; drainRemoteVerb is it with --remote, which uploads.
	drainVerb       = "drain"
	drainRemoteVerb = "drain --remote"
)

func drainCommand(g *global) *cobra.Command {
	const usage = "drain STORE"
	var r DrainRequest
	c := &cobra.Command{
		Use:   usage,
		Short: "Wait until everything staged is stored",
		Long: `Wait until everything that is written by now is stored in packs.

With --remote, wait as well until every sealed step that mount's --publish says
is to be uploaded is published in the bucket, so that the bucket alone brings it
back. What is not part of a sealed step is not uploaded. A bucket that can't be
reached is waited for; one that refuses ends the wait with an error.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, _, err := g.storeAnd(args, usage, 0, 0)
			if err != nil {
				return err
			}
			verb := drainVerb
			if r.Remote {
				verb = drainRemoteVerb
			}
			s, err := openService(c.Context(), store, verb)
			if err != nil {
				return err
			}
			defer s.Close()
			last, err := drain(c, s, r)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), last)
			}
			said := "everything is stored"
			if r.Remote {
				said += ", and every step that is to be is published"
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), said)
			return err
		},
	}
	c.Flags().BoolVar(&r.Remote, "remote", false, "wait until steps are published in the bucket, too")
	return c
}

// drain drains, and shows how far it is.
func drain(c *cobra.Command, s service, r DrainRequest) (last DrainProgress, err error) {
	bar := newProgress(os.Stderr, "storing")
	defer bar.finish()
	uploads := &progress{}
	defer func() { uploads.finish() }()
	most := 0
	err = s.Drain(c.Context(), r, func(p DrainProgress) error {
		if p.Unpublished > 0 && most == 0 {
			bar.finish()
			most = p.Unpublished
			uploads = newCounter(os.Stderr, "publishing steps")
			uploads.total(int64(most))
		}
		if p.Waiting != "" && p.Waiting != last.Waiting {
			fmt.Fprintln(c.ErrOrStderr(), "stepfs: waiting for the bucket:", p.Waiting)
		}
		last = p
		bar.total(p.Total)
		bar.set(p.Total - p.Remaining)
		uploads.set(int64(most - p.Unpublished))
		return nil
	})
	return last, err
}
