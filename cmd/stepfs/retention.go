package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"

	"stepfs/chunkstore/bucket"
	"stepfs/snapshot"
)

// What retention has a store do: the part of local that hold, release, forget,
// unforget, prune and policy need.

// whoami is who a hold or a forget is recorded for.
func whoami() string {
	name := fmt.Sprint(os.Geteuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

// Forget forgets by name or by policy.
func (l *local) Forget(ctx context.Context, r ForgetRequest) (out ForgetResult, err error) {
	out.Decisions = []ForgetDecision{}
	at, err := l.parts.chunks.Attachment()
	if err != nil {
		return out, err
	}
	if at != nil {
		out.URL, out.Writer = l.dir.Config().Settings[remoteFlag], bucket.Writer(at.Writer).String()
	} else if r.Remote {
		return out, errors.New("nothing is forgotten: the store belongs to no bucket")
	}
	if r.Policy {
		all, err := l.parts.manager.ForgetByPolicy(r.Scope, r.Remote, r.DryRun)
		if err != nil {
			return out, fmt.Errorf("forgetting by policy: %w", err)
		}
		for _, d := range all {
			action := "forget"
			if d.Keep {
				action = "keep"
			}
			out.Decisions = append(out.Decisions, ForgetDecision{action, d.Why, r.DryRun, l.inBucket(action, d.Info, r.Remote || l.parts.manager.ForgetsInBucket()), l.acted(ctx, d.Info)})
		}
		return out, nil
	}
	is, err := l.parts.manager.Forget(snapshot.Forget{
		Scope: scopeOr(r.Scope), Names: r.Steps, By: r.By, Reason: r.Reason, Bucket: r.Remote, DryRun: r.DryRun,
	})
	if err != nil {
		return out, fmt.Errorf("nothing is forgotten: %w", err)
	}
	for _, i := range is {
		out.Decisions = append(out.Decisions, ForgetDecision{"forget", r.Reason, r.DryRun, l.inBucket("forget", i, r.Remote), l.acted(ctx, i)})
	}
	return out, nil
}

const (
	bucketKeeps   = "keeps"
	bucketForgets = "forgets"
)

// inBucket says what becomes of a snapshot in the bucket; "": it is not there.
func (l *local) inBucket(action string, i snapshot.Info, remote bool) string {
	_, published, err := l.parts.manager.Published(i.Seq)
	switch {
	case err != nil || !published || action != "forget":
		return ""
	case remote:
		return bucketForgets
	}
	return bucketKeeps
}

// Unforget brings back.
func (l *local) Unforget(ctx context.Context, r ForgetRequest) (out ForgetResult, err error) {
	is, err := l.parts.manager.Unforget(scopeOr(r.Scope), r.Steps)
	if err != nil {
		return out, fmt.Errorf("nothing is brought back: %w", err)
	}
	for _, i := range is {
		out.Decisions = append(out.Decisions, ForgetDecision{"unforget", "", false, "", l.acted(ctx, i)})
	}
	return out, nil
}

func scopeOr(scope *string) string {
	if scope == nil {
		return ""
	}
	return strings.Trim(*scope, "/")
}

// Hold keeps a snapshot.
func (l *local) Hold(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	s, err := l.Find(ctx, strings.Trim(r.Scope, "/"), r.Step)
	if err != nil {
		return s, err
	}
	i, err := l.parts.manager.Hold(s.Sequence, snapshot.Hold{Name: r.Name, UID: r.UID, By: r.By, Reason: r.Reason})
	if err != nil {
		return s, fmt.Errorf("holding %s: %w", r.Step, err)
	}
	return l.acted(ctx, i), nil
}

// Release ends a hold.
func (l *local) Release(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	s, err := l.Find(ctx, strings.Trim(r.Scope, "/"), r.Step)
	if err != nil {
		return s, err
	}
	i, err := l.parts.manager.Release(s.Sequence, r.Name)
	if err != nil {
		return s, fmt.Errorf("releasing %s: %w", r.Step, err)
	}
	return l.acted(ctx, i), nil
}

// Prune removes what is forgotten. Without a daemon somebody has to wait.
func (l *local) Prune(ctx context.Context, r PruneRequest, fn func(PruneProgress) error) error {
	if !r.Wait && !l.owned {
		return fn(PruneProgress{Left: l.parts.manager.StartPrune()})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := l.parts.manager.PruneNow(ctx, func(p snapshot.Pruned) {
		if err := fn(pruneProgress(p)); err != nil {
			cancel(err) // nobody listens any more
		}
	})
	if err != nil {
		return fmt.Errorf("pruning: %w", err)
	}
	end := pruneProgress(p)
	end.Done = true
	return fn(end)
}

func pruneProgress(p snapshot.Pruned) PruneProgress {
	return PruneProgress{Pruned: p.Done, Left: p.Left, Packs: p.Packs, Staging: p.Staged}
}

// policyOf is the policy among a store's settings. One that can't be used
// keeps everything: it may be of a newer version, and says more than we know.
func policyOf(settings map[string]string) (snapshot.Policy, error) {
	p, err := snapshot.ParsePolicy(settings)
	if err != nil {
		return snapshot.KeepAll(), err
	}
	return p, nil
}

// Policy changes the policy in the store's config and puts it in force.
func (l *local) Policy(_ context.Context, r PolicyRequest) (PolicyInfo, error) {
	l.policyMu.Lock()
	defer l.policyMu.Unlock()
	settings := l.dir.Config().Settings
	if len(r.Set)+len(r.Unset) > 0 {
		next, err := snapshot.EditPolicy(settings, r.Set, r.Unset)
		if err != nil {
			return PolicyInfo{}, fmt.Errorf("the policy stays as it was: %w", err)
		}
		if err := l.dir.SaveSettings(next); err != nil {
			return PolicyInfo{}, err
		}
		settings = next
	}
	p, err := policyOf(settings)
	if len(r.Set)+len(r.Unset) > 0 {
		l.parts.manager.SetPolicy(p)
	}
	return describePolicy(settings, p, err), nil
}

func describePolicy(settings map[string]string, p snapshot.Policy, err error) PolicyInfo {
	out := PolicyInfo{Rules: map[string]string{}}
	if err != nil {
		out.Fault = err.Error()
	} else {
		maps.Copy(out.Rules, p.Settings())
	}
	for key, value := range settings {
		if snapshot.IsPolicyKey(key) {
			out.Rules[key] = value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(out.Rules)) {
		if _, set := settings[key]; !set {
			out.Defaults = append(out.Defaults, key)
		}
	}
	return out
}

var errNoReason = errors.New("--reason is missing: say why, for whoever wants to remove the snapshot one day")
