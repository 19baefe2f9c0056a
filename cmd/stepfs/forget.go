package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// maxSteps bounds the arguments of one forget; a request has its limit, too.
const maxSteps = 10_000

func forgetCommand(g *global) *cobra.Command {
	var r ForgetRequest
	var scope string
	const usage = "forget [flags] STORE STEP..."
	c := &cobra.Command{
		Use:   usage,
		Short: "Forget snapshots, by name or by policy",
		Long: `Forget snapshots: they are not listed any more, latest is another one, and prune
will remove them for good. Until it has, stepfs unforget brings them back. The
daemon prunes by itself what was forgotten ten minutes ago; who reads a
snapshot at that time goes on doing so.

STEP is every revision of a step, STEP@SEQ one revision. All of them are
forgotten or, if one is held or not there, none.

The bucket of a store that has one keeps what is published there: how much is
kept here and there are two things. With --remote it forgets them, too, for
good, but not before prune removes them here; stepfs status says what it has yet
to forget. Afterwards, and for what others have published, there is stepfs remote
forget. What their packs take, stepfs remote prune gives back.

With --policy, forget what the store's policy does not keep. A running daemon
does that by itself (see stepfs policy).`,
		RunE: func(c *cobra.Command, args []string) error {
			least, most := 1, maxSteps
			if r.Policy {
				least, most = 0, 0
			}
			store, rest, err := g.storeAnd(args, usage, least, most)
			if err != nil {
				return err
			}
			if r.Policy && r.Reason != "" {
				return errors.New("--reason is for steps that are named: the policy has its own reasons")
			}
			r.Steps, r.By = rest, whoami()
			if c.Flags().Changed("scope") {
				r.Scope = &scope
			}
			return g.decide(c, store, func(s service) (ForgetResult, error) { return s.Forget(c.Context(), r) })
		},
	}
	f := c.Flags()
	f.StringVar(&scope, "scope", "", "the directory of the mount that the steps are of; with --policy the only one to look at (default all)")
	f.BoolVar(&r.Policy, "policy", false, "forget what the store's policy does not keep")
	f.BoolVar(&r.Remote, "remote", false, "forget them in the store's bucket, too")
	f.BoolVarP(&r.DryRun, "dry-run", "n", false, "only say what would be forgotten")
	f.StringVar(&r.Reason, "reason", "", "why, for the record")
	return c
}

// decide runs forget or unforget and prints what was decided.
func (g *global) decide(c *cobra.Command, store string, do func(service) (ForgetResult, error)) error {
	s, err := openService(c.Context(), store, c.Name())
	if err != nil {
		return err
	}
	defer s.Close()
	res, err := do(s)
	if err != nil {
		return err
	}
	return res.print(c.OutOrStdout(), g.json)
}

func (r *ForgetResult) print(w io.Writer, json bool) error {
	if json {
		for _, d := range r.Decisions {
			if err := printJSON(w, d); err != nil {
				return err
			}
		}
		return nil
	}
	words := map[string]string{"forget": "forgotten", "unforget": "brought back"}
	n, kept := 0, 0
	there := map[string][]string{}
	for _, d := range r.Decisions {
		did := words[d.Action]
		if did == "" {
			kept++
			continue
		}
		n++
		there[d.Bucket] = append(there[d.Bucket], d.Snapshot.ID)
		if d.DryRun {
			did = "would be " + did
		}
		line := fmt.Sprintf("%s %s", snapshotDir(d.Snapshot), did)
		if d.Why != "" {
			line += " (" + d.Why + ")"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if n == 0 || kept > 0 {
		if _, err := fmt.Fprintf(w, "%d forgotten, %d kept\n", n, kept); err != nil {
			return err
		}
	}
	return r.printBucket(w, there)
}

// printBucket says what becomes of published snapshots in the bucket.
func (r *ForgetResult) printBucket(w io.Writer, there map[string][]string) error {
	if n := len(there[bucketForgets]); n > 0 {
		_, err := fmt.Fprintf(w, "the bucket forgets %d of them, too, once prune removes them here\n", n)
		return err
	}
	keeps := there[bucketKeeps]
	if len(keeps) == 0 {
		return nil
	}
	url := r.URL
	if url == "" {
		url = "URL"
	}
	them := "them"
	if len(keeps) == 1 {
		them = "it"
	}
	few, more := keeps[:min(len(keeps), 8)], ""
	if len(few) < len(keeps) {
		more = " …"
	}
	_, err := fmt.Fprintf(w, "the bucket keeps %d of them; to forget %s there, too: stepfs remote forget --writer %s %s %s%s\n",
		len(keeps), them, r.Writer, shellQuote(url), strings.Join(few, " "), more)
	return err
}
