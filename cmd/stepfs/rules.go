package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"stepfs/internal/storedir"
	"stepfs/snapshot/rules"
)

// rulesFile is where a store has rules of its owner's.
const rulesFile = "rules"

func rulesCommand(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "rules",
		Short: "Say how checkpoints are recognised, and why one was sealed or not",
		Long: `A rule says which names are steps and what makes one whole: for each framework
there is one built in. Rules of your own stand in the file STORE/rules, in the
form that stepfs rules list prints; they are tried first, and one of the same
name takes the place of a built-in one. A mount reads them when it starts, and
refuses a file that is wrong.

  step = REGEXP       path of a step below its scope, a group captures the step;
                      a directory ends with a slash
  commit = close FILE, rename FILE [from GLOB], unlink FILE,
           tracker FILE {name} or {step}
                      what makes it whole; several lines: all of them. FILE is
                      in the step, ../ beside it, . the step itself
  sign = GLOB...      a step of that name is of this rule if it has such a file;
                      without signs, all are
  when = committed    none is before it is committed
  members = GLOB...   files that must be there
  each = DIR/FILE...  files that each such directory must have
  unfinished = GLOB...
                      files that must not be there
  number = FILE:FIELD a JSON file that says the step
  weak = yes          a directory of that name can hold other steps
  reason = REASON     commit-file, rename, tracker, explicit, quiet

Example, for a loop that makes a file DONE last:

  [mine]
  step = run_(\d+)/
  sign = *.pt
  commit = close DONE`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(rulesListCommand(g), rulesCheckCommand(g), rulesExplainCommand(g))
	return c
}

func rulesListCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list [STORE]",
		Short: "Print the rules in the order in which they are tried, with those of STORE",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			store := g.store
			if len(args) > 0 {
				store = args[0]
			}
			var own []*rules.Rule
			if store != "" {
				t, err := resolve(store)
				if err != nil {
					return err
				}
				if own, err = readRules(filepath.Join(t.Store, rulesFile)); err != nil {
					return err
				}
			}
			return printRules(c.OutOrStdout(), rules.New(own).All(), g.json)
		},
	}
}

func printRules(w io.Writer, all []*rules.Rule, json bool) error {
	for _, r := range all {
		var err error
		if json {
			err = printJSON(w, struct {
				Name string `json:"name"`
				Own  bool   `json:"own"`
				Text string `json:"text"`
			}{r.Name, r.Own, r.Text})
		} else {
			_, err = fmt.Fprintf(w, "[%s]\n%s\n", r.Name, r.Text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func rulesCheckCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|STORE",
		Short: "Say whether a file of rules, or that of a store, can be used, or which line is wrong",
		RunE: func(c *cobra.Command, args []string) error {
			path, _, err := g.storeAnd(args, "rules check FILE|STORE", 0, 0)
			if err != nil {
				return err
			}
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				t, err := resolve(path)
				if err != nil {
					return err
				}
				path = filepath.Join(t.Store, rulesFile)
			}
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("reading the rules: %w", err)
			}
			own, err := readRules(path)
			if err != nil {
				return err
			}
			if g.json {
				return printRules(c.OutOrStdout(), own, true)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %d rules, all right\n", path, len(own))
			return err
		},
	}
}

func rulesExplainCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "explain PATH",
		Short: "Say why a directory or file on a mount was sealed as a step, or not",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := resolve(args[0])
			if err != nil {
				return err
			}
			if t.Mount == "" {
				return fmt.Errorf("%s is not on a stepfs mount", args[0])
			}
			path, err := pathOnMount(args[0], t.Mount)
			if err != nil {
				return err
			}
			s, err := openService(c.Context(), args[0], c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			x, err := s.Explain(c.Context(), ExplainRequest{Path: path})
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), x)
			}
			return x.print(c.OutOrStdout())
		},
	}
}

// pathOnMount is a path relative to the mountpoint. Links above the last name
// are followed, since the mountpoint is known without them.
func pathOnMount(arg, mount string) (string, error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", arg, err)
	}
	for _, follow := range []bool{false, true} {
		if follow {
			dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
			if err != nil {
				return "", fmt.Errorf("resolving %s: %w", arg, err)
			}
			abs = filepath.Join(dir, filepath.Base(abs))
		}
		if rel, err := filepath.Rel(mount, abs); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return strings.TrimPrefix(rel, "."+string(filepath.Separator)), nil
		}
	}
	return "", fmt.Errorf("%s is not below %s", arg, mount)
}

// readRules reads a file of rules; there need be none.
func readRules(path string) ([]*rules.Rule, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, rules.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	if len(text) > rules.MaxSize {
		return nil, fmt.Errorf("%s: %w: it is over %d bytes", path, rules.ErrBad, rules.MaxSize)
	}
	return rules.Parse(path, string(text))
}

// ownRules are those of a store's owner.
func ownRules(dir *storedir.Dir) ([]*rules.Rule, error) { return readRules(dir.Join(rulesFile)) }

func (x *ExplainInfo) print(w io.Writer) error {
	var b strings.Builder
	switch {
	case x.Step == "":
		b.WriteString("no step\n")
	default:
		fmt.Fprintf(&b, "step %s%s\n", x.Step, inScope(x.Scope))
	}
	for _, line := range x.Lines {
		b.WriteString("  " + line + "\n")
	}
	if s := x.Sealed; s != nil {
		fmt.Fprintf(&b, "sealed as %s %s: %s, %s\n", s.ID, humanTime(s.Time), s.Reason, s.Verdict)
		for _, why := range s.Findings {
			b.WriteString("  " + why + "\n")
		}
	} else if x.Step != "" {
		b.WriteString("not sealed yet\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
