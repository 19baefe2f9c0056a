package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/probe"
	"stepfs/snapshot/published"
)

// RemoteSummary is the last line of `stepfs remote check --json`.
type RemoteSummary struct {
	Address string `json:"address"`
	Usable  bool   `json:"usable"` // as far as was tried
	// Published is nil where nothing is.
	Published *published.CheckSummary `json:"published,omitempty"`
}

func remoteCheckCommand(g *global) *cobra.Command {
	var tryIt, readData bool
	c := &cobra.Command{
		Use:   "check [flags] URL",
		Short: "Find out what an object store can do, and hold what is published against its packs",
		Long: `Find out what an object store can do, by trying: whether of several who put the
same object at the same time one wins, whether it refuses bytes that do not match
their checksum, whether it holds Object Lock. What it says of itself proves
nothing. All that is made lies below probe/ in the prefix, and is removed.
--probe=false leaves that out, for credentials that may only read.

Then hold every published snapshot against the packs that it needs: that they
are there, have the right size, and at their end a table of contents that has
the pack's name; and what catalogs say of snapshots against their refs.
--read-data also reads every chunk and holds it against its hash, and looks
whether all that the trees name is in the packs of their refs.

With --json each finding is a line, and the last line sums up.

Exit codes: 0 stepfs can use it and nothing is wrong, 1 it cannot be reached,
lacks something that is needed, or something that is published is damaged.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := openRemote(c.Context(), args[0])
			if err != nil {
				return err
			}
			sum := RemoteSummary{Address: b.String(), Usable: true}
			if tryIt {
				findings, err := probe.Run(c.Context(), b)
				if err != nil {
					return err
				}
				sum.Usable = probe.Usable(findings)
				if err := printProbe(c.OutOrStdout(), g.json, findings); err != nil {
					return err
				}
			}
			if sum.Published, err = checkPublished(c.Context(), g, c.OutOrStdout(), b, readData); err != nil {
				return err
			}
			return sum.print(c.OutOrStdout(), g.json)
		},
	}
	c.Flags().BoolVar(&tryIt, "probe", true, "find out what the object store can do")
	c.Flags().BoolVar(&readData, "read-data", false, "read all chunks that are published and hold them against their hashes")
	return c
}

func printProbe(out io.Writer, json bool, findings []probe.Finding) error {
	t := table(out)
	for _, f := range findings {
		if json {
			if err := printJSON(out, f); err != nil {
				return err
			}
			continue
		}
		needed := ""
		if f.Needed && f.Verdict != probe.Yes {
			needed = "NEEDED"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, f.Verdict, needed, f.Detail)
	}
	return t.Flush()
}

// checkPublished checks what is published, if anything is.
func checkPublished(ctx context.Context, g *global, out io.Writer, b remote.Bucket, readData bool) (*published.CheckSummary, error) {
	cfg, err := bucket.Read(ctx, b)
	if errors.Is(err, remote.ErrNotExist) || errors.Is(err, bucket.ErrForeign) {
		return nil, withoutConfig(ctx, b, err)
	}
	if err != nil {
		return nil, err
	}
	bar := newProgress(os.Stderr, "reading")
	defer bar.finish()
	var printing error
	sum, err := published.Check(ctx, b, cfg, published.CheckOptions{ReadData: readData, Progress: func(done, total int64) {
		bar.total(total)
		bar.set(done)
	}}, func(f published.Finding) {
		if printing == nil {
			printing = printRemoteFinding(out, g.json, f)
		}
	})
	return &sum, errors.Join(err, printing)
}

// withoutConfig gives err, which says that there is no config, if there are refs.
func withoutConfig(ctx context.Context, b remote.Bucket, err error) error {
	for o, lerr := range b.List(ctx, bucket.RefsPrefix, "") {
		if lerr != nil {
			return lerr
		}
		if _, _, ours := bucket.ParseNumbered(bucket.RefsPrefix, o.Key); ours {
			return err
		}
	}
	return nil
}

func printRemoteFinding(out io.Writer, json bool, f published.Finding) error {
	if json {
		return printJSON(out, f)
	}
	by := ""
	if len(f.Snapshots) > 0 {
		by = "\n  needed by " + strings.Join(f.Snapshots, ", ")
	}
	if f.More > 0 {
		by += fmt.Sprintf(" and %d more", f.More)
	}
	_, err := fmt.Fprintf(out, "damage: %s: %s (%s)%s\n", f.Object, f.Detail, f.What, by)
	return err
}

// print says how it went, and gives the exit code.
func (s RemoteSummary) print(out io.Writer, json bool) error {
	var err error
	p := s.Published
	switch {
	case json:
		err = printJSON(out, s)
	case p == nil:
		_, err = fmt.Fprintln(out, "no snapshots are published there")
	default:
		found := "nothing is wrong"
		if p.Damage > 0 {
			found = fmt.Sprintf("%d findings of damage", p.Damage)
		}
		read := ""
		if p.Chunks > 0 {
			read = fmt.Sprintf("; %d chunks read, %s", p.Chunks, humanBytes(p.Bytes))
		}
		_, err = fmt.Fprintf(out, "%s: %d snapshots, %d packs of %s%s\n", found, p.Snapshots, p.Packs, humanBytes(p.PackBytes), read)
	}
	if err == nil && !s.Usable {
		err = errors.New("stepfs can't use this object store: it lacks what is needed")
	}
	if err == nil && p != nil && p.Damage > 0 {
		err = errReported
	}
	return err
}
