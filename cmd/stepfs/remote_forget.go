package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
)

// RemoteForgotten is a line of `stepfs remote forget --json`.
type RemoteForgotten struct {
	Ref      string `json:"ref"`
	Step     string `json:"step,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Snapshot uint64 `json:"snapshot,omitempty"`
	Writer   string `json:"writer"`
}

func remoteForgetCommand(g *global) *cobra.Command {
	var writer, scope string
	c := &cobra.Command{
		Use:   "forget URL STEP...",
		Short: "Forget published snapshots",
		Long: `Forget snapshots that were published in an object store. It can't be undone, and
changes nothing in the store that published them (stepfs forget --remote forgets
on both sides). stepfs remote prune then deletes what no other snapshot needs.

STEP is every published revision of a step, STEP@SEQ one revision. All of them
are forgotten or, if one is not there or is held, none. A ref can be given
by its key (refs/…) as well: that is for one that cannot be read any more, or
that was deleted by other means and that prune misses.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := openRemote(c.Context(), args[0])
			if err != nil {
				return err
			}
			if _, err := bucket.Read(c.Context(), b); err != nil {
				return err
			}
			f := remoteForget{writer: writer}
			if c.Flags().Changed("scope") {
				f.scope = &scope
			}
			found, err := f.find(c.Context(), b, args[1:])
			if err != nil {
				return err
			}
			for _, r := range found {
				if err := forgetRef(c, g, b, r); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&writer, "writer", "", "the store whose steps they are: the first digits of its name, as in the keys of refs (default any, if there is one alone)")
	c.Flags().StringVar(&scope, "scope", "", "the directory of the mount that the steps are of (default all)")
	return c
}

func forgetRef(c *cobra.Command, g *global, b remote.Bucket, r RemoteForgotten) error {
	w, seq, _ := bucket.ParseNumbered(bucket.RefsPrefix, r.Ref)
	if err := prune.Forget(c.Context(), b, w, seq); err != nil {
		return err
	}
	if g.json {
		return printJSON(c.OutOrStdout(), r)
	}
	what := r.Ref
	if r.Step != "" {
		what = fmt.Sprintf("%s@%d of writer %s", r.Step, r.Snapshot, r.Writer)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "forgot %s\n", what)
	return err
}

// remoteForget finds the refs that are meant.
type remoteForget struct {
	writer string // the first digits of its name
	scope  *string
}

func (f *remoteForget) find(ctx context.Context, b remote.Bucket, steps []string) (found []RemoteForgotten, err error) {
	var names []string
	for _, s := range steps {
		if w, _, ok := bucket.ParseNumbered(bucket.RefsPrefix, s); ok {
			found = append(found, RemoteForgotten{Ref: s, Writer: w.String()})
		} else {
			names = append(names, s)
		}
	}
	if names == nil {
		return found, nil
	}
	matched, writers := map[string]bool{}, map[string]bool{}
	for o, err := range b.List(ctx, bucket.RefsPrefix, "") {
		if err != nil {
			return nil, err
		}
		w, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if !ok || o.Size == bucket.GoneSize || !strings.HasPrefix(w.String(), f.writer) {
			continue
		}
		r, rec, err := publishedAs(ctx, b, w, seq)
		if errors.Is(err, bucket.ErrGone) || err == nil && f.scope != nil && *f.scope != rec.Scope {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Key, err)
		}
		for _, name := range names {
			if name != r.Step && name != r.Step+"@"+strconv.FormatUint(r.Snapshot, 10) {
				continue
			}
			if len(rec.Holds) > 0 {
				return nil, fmt.Errorf("%s was held when it was published: forget it by its key, %s", name, r.Ref)
			}
			matched[name], writers[r.Writer] = true, true
			found = append(found, r)
			break
		}
	}
	for _, name := range names {
		if !matched[name] {
			return nil, fmt.Errorf("no published step %s", name)
		}
	}
	if len(writers) > 1 {
		return nil, fmt.Errorf("several stores have published such steps: give one with --writer: %s", strings.Join(sortedKeys(writers), ", "))
	}
	return found, nil
}

func sortedKeys(m map[string]bool) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// publishedAs says what a ref publishes.
func publishedAs(ctx context.Context, b remote.Bucket, w bucket.Writer, seq uint64) (RemoteForgotten, *schema.Snapshot, error) {
	data, _, err := remote.ReadAll(ctx, b, bucket.RefKey(w, seq), bucket.MaxRef)
	if err != nil {
		return RemoteForgotten{}, nil, err
	}
	f, err := bucket.DecodeRef(data, w, seq)
	if err != nil {
		return RemoteForgotten{}, nil, err
	}
	rec, err := schema.DecodeSnapshot(f.Record)
	if err != nil {
		return RemoteForgotten{}, nil, err
	}
	return RemoteForgotten{Ref: f.Key(), Step: rec.Name, Scope: rec.Scope, Snapshot: f.Snapshot, Writer: w.String()}, rec, nil
}
