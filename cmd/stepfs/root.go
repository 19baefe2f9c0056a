package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envPrefix begins the variable of every flag: --snapdir is STEPFS_SNAPDIR.
const envPrefix = "STEPFS_"

// global is what every subcommand knows.
type global struct {
	store string // --store or STEPFS_STORE
	json  bool
	debug bool
}

func newRoot() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:   "stepfs",
		Short: "A filesystem that keeps every checkpoint",
		Long: `stepfs keeps every checkpoint that a training job writes.

  stepfs mount STORE DIR      mount; the store is created when it is not there
  ls DIR/snapshots            the checkpoints; restore one with cp -a
  stepfs umount DIR

A command takes the store or the mountpoint, wherever it says STORE; without
one it takes --store or STEPFS_STORE. Every flag can be set by an environment
variable of its name: --snapdir-name is STEPFS_SNAPDIR_NAME.

Exit codes: 0 done, 1 error, 3 partly done, 10 no store there, 11 store in use,
12 wrong key, 130 interrupted.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := flagsFromEnv(c.Flags(), os.LookupEnv); err != nil {
				return err
			}
			setUpLog(g.debug)
			return nil
		},
	}
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	root.SuggestionsMinimumDistance = 2
	f := root.PersistentFlags()
	f.StringVar(&g.store, "store", "", "store or mountpoint, when it is not the first argument")
	f.BoolVar(&g.json, "json", false, "print JSON Lines")
	f.BoolVar(&g.debug, "debug", false, "log more")
	root.AddCommand(mountCommand(g), umountCommand(g), snapshotsCommand(g), snapshotCommand(g), restoreCommand(g),
		rollbackCommand(g), diffCommand(g), logCommand(g), assessCommand(g), importCommand(g), verifyCommand(g),
		holdCommand(g), releaseCommand(g), pinCommand(g), unpinCommand(g), warmCommand(g), forgetCommand(g), unforgetCommand(g), pruneCommand(g), policyCommand(g),
		rulesCommand(g), statusCommand(g), statsCommand(g), drainCommand(g), checkCommand(g), remoteCommand(g), versionCommand(g))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) && invalid.GetFlag().Name == optionsFlag {
			err = invalid.Unwrap() // it names the option, which may be one of many
		}
		return &usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	return root
}

func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("there is no command %q", args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(msg + " (see stepfs --help)")
}

// flagsFromEnv gives every flag that was not on the command line the value of
// its environment variable.
func flagsFromEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || f.Changed || f.Name == "help" || f.Name == optionsFlag { // -o would set flags that are on the command line
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// storeAnd checks the number of arguments of a command that takes STORE and
// then at least least and at most most others. STORE may be missing when
// --store or STEPFS_STORE names one; with all arguments there, it is the first.
func (g *global) storeAnd(args []string, usage string, least, most int) (store string, rest []string, err error) {
	if g.store != "" && len(args) >= least && len(args) <= most {
		return g.store, args, nil
	}
	if len(args) >= least+1 && len(args) <= most+1 {
		if args[0] == "" {
			return "", nil, errors.New("the STORE argument is empty")
		}
		return args[0], args[1:], nil
	}
	return "", nil, fmt.Errorf("%d arguments given; usage: stepfs %s", len(args), usage)
}
