package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
)

// RemotePruned is what `stepfs remote prune --json` prints.
type RemotePruned struct {
	Epoch          uint64    `json:"epoch"`
	Refs           int       `json:"refs"`
	Forgotten      int       `json:"forgotten"`
	Packs          int       `json:"packs"`
	Deleted        int       `json:"deleted"`
	DeletedBytes   int64     `json:"deleted_bytes"`
	Condemned      int       `json:"condemned"`
	CondemnedBytes int64     `json:"condemned_bytes"`
	Kept           int       `json:"kept"`
	Spared         int       `json:"spared"`
	Indexes        int       `json:"indexes"`
	Due            time.Time `json:"due,omitzero"`
	Waiting        []string  `json:"waiting,omitempty"`
	Fenced         []string  `json:"fenced,omitempty"`
	DryRun         bool      `json:"dry_run"`
}

func remotePruneCommand(g *global) *cobra.Command {
	var opt prune.Options
	c := &cobra.Command{
		Use:   "prune URL",
		Short: "Delete what no published snapshot needs",
		Long: `Delete from an object store the packs that no published snapshot of any store needs.

It takes two runs. The first condemns packs: from then on no store publishes
anything that needs one. The second, when --grace has passed, deletes those of
them that nobody needs, and condemns what has become unneeded since. So it is
for a timer. Stores go on uploading meanwhile; one that was not heard of for as
long sends again what it wanted to reuse, if that was deleted. Several may prune
at the same time, and interrupting it is safe.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if opt.Grace < 0 {
				return fmt.Errorf("--grace of %v", opt.Grace)
			}
			b, err := openRemote(c.Context(), args[0])
			if err != nil {
				return err
			}
			r, err := prune.Run(c.Context(), b, opt)
			if err != nil {
				return err
			}
			p := pruned(r, opt.DryRun)
			if g.json {
				return printJSON(c.OutOrStdout(), p)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), p.words())
			return err
		},
	}
	c.Flags().BoolVarP(&opt.DryRun, "dry-run", "n", false, "only say what would be deleted and condemned")
	c.Flags().DurationVar(&opt.Grace, "grace", 24*time.Hour, "how old a pack must be before it is condemned, and how long after that it is deleted: who reads what was forgotten has so long")
	return c
}

func pruned(r prune.Report, dryRun bool) RemotePruned {
	return RemotePruned{Epoch: r.Epoch, Refs: r.Refs, Forgotten: r.Forgotten, Packs: r.Packs, Deleted: r.Deleted.Packs, DeletedBytes: r.Deleted.Bytes,
		Condemned: r.Condemned.Packs, CondemnedBytes: r.Condemned.Bytes, Kept: r.Kept.Packs, Spared: r.Spared, Indexes: r.Indexes,
		Due: r.Due, Waiting: writerNames(r.Waiting), Fenced: writerNames(r.Fenced), DryRun: dryRun}
}

func writerNames(ws []bucket.Writer) (names []string) {
	for _, w := range ws {
		names = append(names, w.String())
	}
	return names
}

func (p RemotePruned) words() string {
	var s strings.Builder
	deleted := "deleted"
	if p.DryRun {
		deleted = "would be deleted"
	}
	fmt.Fprintf(&s, "%d packs (%s) %s, %d stay\n", p.Deleted, humanBytes(p.DeletedBytes), deleted, p.Packs)
	if p.Condemned > 0 {
		fmt.Fprintf(&s, "%d packs (%s) of these are condemned: a prune after %s deletes them\n", p.Condemned, humanBytes(p.CondemnedBytes), humanTime(p.Due))
	}
	if p.Kept > 0 {
		fmt.Fprintf(&s, "%d packs are kept for uploads that are under way\n", p.Kept)
	}
	if len(p.Waiting) > 0 {
		fmt.Fprintf(&s, "not heard of since: writers %s\n", strings.Join(p.Waiting, ", "))
	}
	return s.String()
}
