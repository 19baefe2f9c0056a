package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/spf13/cobra"

	"stepfs/snapshot"
)

func verifyCommand(g *global) *cobra.Command {
	var scope string
	const usage = "verify [flags] STORE STEP..."
	c := &cobra.Command{
		Use:   usage,
		Short: "Read steps back and say whether they are whole",
		Long: `Read each STEP back from where it lies, and say whether it is whole. Every chunk
is read from its pack, past the caches, and checked against its hash; copies
outside of packs are compared with it; then the structure of the files is
checked: safetensors, torch archives with their checksums, DCP metadata, JSON.

Of a step its own directories and files are read; of a snapshot to which a person
gave a name, all that it shows, without its structure. The result stays with the
snapshot (stepfs snapshots --json, verified), and counts in stepfs status. It is
done with low priority; a mount with --verify-on-seal does it by itself.

Exit code 0: all are sound; 1: something is damaged, and the output says what.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, steps, err := g.storeAnd(args, usage, 1, max(1, len(args)))
			if err != nil {
				return err
			}
			s, err := openService(c.Context(), store, c.Name())
			if err != nil {
				return err
			}
			defer s.Close()
			return verifyAll(c.Context(), s, scope, steps, newVerifyPrinter(c.OutOrStdout(), g.json))
		},
	}
	c.Flags().StringVar(&scope, "scope", "", "the directory of the mount that STEP is of")
	return c
}

func verifyAll(ctx context.Context, s service, scope string, steps []string, print func(SnapshotInfo) error) error {
	damaged := 0
	for _, step := range steps {
		found, err := findStep(ctx, s, scope, step)
		if err != nil {
			return err
		}
		info, err := verifyOne(ctx, s, found)
		if err != nil {
			return err
		}
		if err := print(info); err != nil {
			return err
		}
		if !info.Verified.OK {
			damaged++
		}
	}
	if damaged > 0 {
		return fmt.Errorf("%d of %d snapshots are damaged; see above", damaged, len(steps))
	}
	return nil
}

// verifyOne verifies a snapshot and shows how far it is.
func verifyOne(ctx context.Context, s service, which SnapshotInfo) (info SnapshotInfo, err error) {
	bar := newProgress(os.Stderr, "verifying "+which.ID)
	defer bar.finish()
	name := which.ID // it may be a barrier: "@77"
	err = s.Verify(ctx, VerifyRequest{Scope: which.Scope, Step: name}, func(p VerifyProgress) error {
		bar.total(p.Total)
		bar.set(p.Done)
		if p.Snapshot != nil {
			info = *p.Snapshot
		}
		return nil
	})
	if err == nil && info.Verified == nil {
		err = errors.New("the answer says nothing; is the daemon of another version?")
	}
	return info, err
}

func newVerifyPrinter(out io.Writer, json bool) func(SnapshotInfo) error {
	return func(s SnapshotInfo) error {
		if json {
			return printJSON(out, s)
		}
		v := s.Verified
		for _, p := range v.Problems {
			if _, err := fmt.Fprintf(out, "%s: %s\n", snapshotDir(s), p); err != nil {
				return err
			}
		}
		word := "sound"
		if !v.OK {
			word = "DAMAGED"
		}
		_, err := fmt.Fprintf(out, "%s is %s: %s read in %.1f s\n", snapshotDir(s), word, humanBytes(v.Bytes), v.Seconds)
		return err
	}
}

// Verify reads a snapshot back.
func (l *local) Verify(ctx context.Context, r VerifyRequest, fn func(VerifyProgress) error) error {
	found, err := l.Find(ctx, r.Scope, r.Step)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	i, err := l.parts.manager.Verify(ctx, found.Sequence, func(done, total int64) {
		if err := fn(VerifyProgress{Done: done, Total: total}); err != nil {
			cancel(err) // nobody listens any more
		}
	})
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	s := l.acted(ctx, i)
	return fn(VerifyProgress{Done: i.Verified.Bytes, Total: i.Verified.Bytes, Snapshot: &s})
}

const (
	// defaultRate is what a restore is taken for when nothing was verified yet.
	defaultRate = 200 << 20
	// ratedBytes is how much a verification must have read to say how fast it was.
	ratedBytes = 1 << 20
)

// recoveryOf sums up what is known of steps: the last verification of each, nil
// where there was none.
func recoveryOf(all iter.Seq[*snapshot.Verified], steps int, last *SnapshotInfo) RecoveryInfo {
	r := RecoveryInfo{Rate: defaultRate}
	var newest time.Time
	for v := range all {
		if v == nil {
			continue
		}
		if v.OK() {
			r.Sound++
		} else {
			r.Damaged++
		}
		if v.Bytes >= ratedBytes && v.Took > 0 && v.Time.After(newest) {
			newest, r.Rate = v.Time, max(1, int64(float64(v.Bytes)/v.Took.Seconds()))
		}
	}
	if steps > 0 {
		r.Integrity = 100 * float64(r.Sound) / float64(steps)
	}
	if last != nil && last.Logical > 0 {
		r.Seconds = max(1, last.Logical/r.Rate)
	}
	return r
}

func (r *RecoveryInfo) words(steps int) string {
	s := fmt.Sprintf("%d of %d steps read back and whole (%.0f%%)", r.Sound, steps, r.Integrity)
	if r.Damaged > 0 {
		s += fmt.Sprintf("; %d DAMAGED (stepfs snapshots --json says what)", r.Damaged)
	}
	if r.Seconds > 0 {
		span := fmt.Sprintf("%d s", r.Seconds)
		if r.Seconds > 120 {
			span = humanSpan(time.Duration(r.Seconds) * time.Second)
		}
		s += "; a restore of the last step takes about " + span
	}
	return s
}
