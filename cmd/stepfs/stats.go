package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func statsCommand(g *global) *cobra.Command {
	var r StepStatsRequest
	const usage = "stats [flags] STORE [STEP]"
	c := &cobra.Command{
		Use:   usage,
		Short: "Count what the store holds, or what a step brought",
		Long: `Count what the store holds and what its encodings save, or, of one STEP, what
became of its bytes: those in chunks that the step before it has too, or that are
there twice, and of the others, as what they are kept now: deltas from earlier
versions, planes of floats, zstd, or as they are.

STEP is a step (its newest revision), a revision like 12000@77, a barrier like
@77, or the name of a snapshot. Files of several names count once.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 0, 1)
			if err != nil {
				return err
			}
			if len(rest) == 0 && (r.Files || r.Scope != "") {
				return &usageError{errors.New("--files and --scope are of a STEP")}
			}
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			if len(rest) == 1 {
				r.Step = rest[0]
				return stepStats(c.Context(), s, r, c.OutOrStdout(), g.json)
			}
			st, err := s.Stats(c.Context())
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), st)
			}
			return st.print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&r.Files, "files", false, "say it of each file of STEP, too")
	c.Flags().StringVar(&r.Scope, "scope", "", "the directory of the mount that STEP is of")
	return c
}

func (s *Stats) print(w io.Writer) error {
	t := table(w)
	size := func(name string, n uint64) { fmt.Fprintf(t, "%s\t%s\n", name, humanBytes(int64(n))) }
	fmt.Fprintf(t, "packs\t%d\n", s.Packs)
	fmt.Fprintf(t, "chunks\t%d\n", s.Chunks)
	size("in chunks, plain", s.Raw)
	size("in chunks, encoded", s.Stored)
	size("  saved by zstd", s.SavedZstd)
	size("  saved by float planes", s.SavedPlanes)
	size("  saved by deltas", s.SavedDeltas)
	if s.AwayPacks > 0 {
		fmt.Fprintf(t, "packs only in the bucket\t%d (%s)\n", s.AwayPacks, humanBytes(int64(s.AwayBytes)))
	}
	size("on the disk", uint64(s.Total))
	size("  data", uint64(s.Data))
	size("  dead", uint64(s.Dead))
	fmt.Fprintf(t, "  staging\t%s (hot copies: %s)\n", humanBytes(s.Staging), humanBytes(s.Hot))
	size("  index", uint64(s.Index))
	size("  journal", uint64(s.Journal))
	size("  other", uint64(s.Other))
	fmt.Fprintln(t, "since the store was opened\t")
	size("  ingested", s.Ingested)
	size("  of that, there already", s.Duplicate)
	size("  of that, cut as before", s.Inherited)
	size("  of that, without deltas for want of time", s.Hurried)
	size("  written to packs", s.Written)
	size("  read from chunks", s.Read)
	fmt.Fprintf(t, "  chunks loaded\t%d (and %d from cache)\n", s.Loads, s.CacheHits)
	if s.LostPacks+s.BadPacks+s.DamagedChunks > 0 {
		fmt.Fprintf(t, "DAMAGE\t%d packs lost, %d packs unreadable, %d chunks damaged\n", s.LostPacks, s.BadPacks, s.DamagedChunks)
	}
	return t.Flush()
}
