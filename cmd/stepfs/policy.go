package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func policyCommand(g *global) *cobra.Command {
	const usage = "policy STORE [set RULE=VALUE... | unset RULE...]"
	return &cobra.Command{
		Use:   usage,
		Short: "Say or change what is kept",
		Long: `Print what the store keeps, or change it; a mounted store does so at once. What
is wrong is refused, and nothing changed.

Steps are all kept as long as there is no rule for them; else those that at
least one rule names, the newest complete step, what is held, what somebody
gave a name, and what unforget brought back:

  keep-last=N        the N newest complete steps
  keep-every=N       complete steps whose number is a multiple of N
  keep-within=TIME   steps no older than that (36h, 7d, 2w), compared with the newest
  keep-daily=N       the newest complete step of each of N days, in UTC;
                     the same with keep-weekly and keep-monthly
  keep-tag=TAG       steps with that tag; several with commas

Only the newest revision of a step counts; older ones are kept by keep-within
and keep-tag.

  scope:PATTERN=RULE=VALUE,…   other rules for the scopes that the pattern matches
                               (runA, runs/*, / is the root); scope:runA=keep-all
                               keeps every step there

Barriers that are no steps:

  keep-barriers=TIME     how long each is kept (default 1h)
  keep-barriers-last=N   beyond that, the N newest (default 100)

Example: stepfs policy STORE set keep-last=5 keep-every=10000 keep-daily=14
and then stepfs forget --policy --dry-run STORE to see what that means.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.policyArgs(args, usage)
			if err != nil {
				return err
			}
			var r PolicyRequest
			switch {
			case len(rest) > 1 && rest[0] == "set":
				r.Set = rest[1:]
			case len(rest) > 1 && rest[0] == "unset":
				r.Unset = rest[1:]
			case len(rest) > 0:
				return fmt.Errorf("usage: stepfs %s", usage)
			}
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			p, err := s.Policy(c.Context(), r)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), p)
			}
			return p.print(c.OutOrStdout())
		},
	}
}

// policyArgs tells the store from the verb: with --store or STEPFS_STORE the
// verb comes first.
func (g *global) policyArgs(args []string, usage string) (store string, rest []string, err error) {
	if g.store != "" && (len(args) == 0 || args[0] == "set" || args[0] == "unset") {
		return g.store, args, nil
	}
	if len(args) == 0 || args[0] == "" {
		return "", nil, fmt.Errorf("%d arguments given; usage: stepfs %s", len(args), usage)
	}
	return args[0], args[1:], nil
}

func (p *PolicyInfo) print(w io.Writer) error {
	var b strings.Builder
	steps := false
	for _, key := range slices.Sorted(maps.Keys(p.Rules)) {
		fmt.Fprintf(&b, "%s=%s", key, p.Rules[key])
		if slices.Contains(p.Defaults, key) {
			b.WriteString("  (default)")
		}
		b.WriteByte('\n')
		steps = steps || !strings.HasPrefix(key, "keep-barriers") && !strings.HasPrefix(key, "scope:")
	}
	switch {
	case p.Fault != "":
		fmt.Fprintf(&b, "these can't be used, so everything is kept: %s\n", p.Fault)
	case !steps:
		b.WriteString("every step is kept, but where a scope has its own rules\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
