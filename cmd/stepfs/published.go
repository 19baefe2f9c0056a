package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/location"
	"stepfs/snapshot/published"
)

// isURL says whether an argument names a bucket and not a store. (A directory of
// such a name is ./s3:…)
func isURL(arg string) bool {
	scheme, _, ok := strings.Cut(arg, ":")
	return ok && (scheme == "s3" || scheme == "dir" || scheme == "file")
}

// openBucket opens a bucket in which stores publish snapshots.
func openBucket(ctx context.Context, url string) (remote.Bucket, *bucket.Config, error) {
	b, err := openRemote(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	c, err := bucket.Read(ctx, b)
	switch {
	case errors.Is(err, remote.ErrNotExist):
		return nil, nil, &codedError{exitNoStore, fmt.Errorf("nothing is published in %s: it is empty", b)}
	case errors.Is(err, bucket.ErrForeign):
		return nil, nil, &codedError{exitNoStore, err}
	case err != nil:
		return nil, nil, err
	}
	return b, c, nil
}

// findPublished finds a snapshot of a bucket. Refs that can't be read may be what
// is looked for, so they are named if it is not found.
func findPublished(l *published.Listing, q published.Query) (published.Step, error) {
	step, err := l.Find(q)
	if errors.Is(err, published.ErrNotExist) && len(l.Unreadable) > 0 {
		err = fmt.Errorf("%w; %d refs can't be read: %w", err, len(l.Unreadable), l.Unreadable[0])
	}
	return step, err
}

// publishedSnapshot is an open snapshot of a bucket.
type publishedSnapshot struct {
	step   published.Step
	chunks *chunkstore.Published
	tree   *published.Tree
}

func openPublished(ctx context.Context, b remote.Bucket, c *bucket.Config, step published.Step) (*publishedSnapshot, error) {
	ref, err := bucket.ReadRef(ctx, b, step.Writer, step.Ref)
	if errors.Is(err, bucket.ErrGone) {
		err = fmt.Errorf("%s was forgotten in the bucket a moment ago: %w", step.ID(), err)
	}
	if err != nil {
		return nil, err
	}
	chunks, err := chunkstore.OpenPublished(ctx, b, c.Key, ref, chunkstore.PublishedOptions{})
	if err != nil {
		return nil, fmt.Errorf("finding the chunks of %s: %w", step.ID(), err)
	}
	tree, err := published.Open(ctx, chunks, ref)
	if err != nil {
		chunks.Close()
		return nil, err
	}
	return &publishedSnapshot{step, chunks, tree}, nil
}

func restoreFromBucket(ctx context.Context, url, what string, o *restoreOptions) (f restorable, err error) {
	b, c, err := openBucket(ctx, url)
	if err != nil {
		return f, err
	}
	if l, err := location.Parse(url); err == nil {
		f.store = l.Dir
	}
	all, err := published.List(ctx, b)
	if err != nil {
		return f, err
	}
	var step published.Step
	f.info, f.path, err = findPart(o.scope, what, func(scope, name string) (SnapshotInfo, error) {
		found, err := findPublished(all, published.Query{Scope: scope, Name: name, Writer: o.writer})
		if err != nil {
			return SnapshotInfo{}, err
		}
		step = found
		return describePublished(step), nil
	})
	if err != nil {
		return f, err
	}
	s, err := openPublished(ctx, b, c, step)
	if err != nil {
		return f, err
	}
	f.src = &bucketSource{ctx, s.tree}
	f.close = s.chunks.Close
	if o.workers == 0 {
		o.workers = max(4, min(8, runtime.GOMAXPROCS(0))) // some wait for the network
	}
	return f, nil
}

// describePublished is what a ref says of its snapshot, in the words of a store.
func describePublished(s published.Step) SnapshotInfo {
	r := s.Record
	return SnapshotInfo{
		ID: s.ID(), Step: r.Name, Scope: r.Scope, Revision: int(r.Revision), Sequence: s.Sequence, Time: s.Time().UTC(),
		Reason: r.Reason, Verdict: r.Verdict, Rule: r.Rule, Findings: r.Why, Marks: r.Marks, Tags: append([]string{}, r.Tags...),
		Logical: r.Logical, Stored: r.Stored, State: statePublished,
	}
}

// statePublished is where a snapshot of a bucket is.
const statePublished = "remote"
