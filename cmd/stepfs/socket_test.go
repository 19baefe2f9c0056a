package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/internal/check"
)

// scripted is a service that answers what a test wants.
type scripted struct{ fail error }

func (s scripted) Status(context.Context) (Status, error) {
	return Status{Store: "/s", Steps: 3}, s.fail
}
func (s scripted) Stats(context.Context) (Stats, error) { return Stats{Packs: 7}, s.fail }
func (s scripted) Find(_ context.Context, scope, name string) (SnapshotInfo, error) {
	return SnapshotInfo{Scope: scope, Step: name}, s.fail
}
func (s scripted) Snapshot(_ context.Context, r SnapshotRequest) (SnapshotInfo, error) {
	return SnapshotInfo{Scope: r.Scope, Step: r.Name, Tags: r.Tags}, s.fail
}
func (s scripted) Rollback(_ context.Context, r RollbackRequest) (SnapshotInfo, error) {
	return SnapshotInfo{Step: "before-" + r.Step}, s.fail
}
func (s scripted) Snapshots(_ context.Context, q SnapshotQuery, fn func(SnapshotInfo) error) error {
	scope := ""
	if q.Scope != nil {
		scope = *q.Scope
	}
	for i := range 2500 {
		if err := fn(SnapshotInfo{Step: fmt.Sprint(i), Scope: scope}); err != nil {
			return err
		}
	}
	return s.fail
}
func (s scripted) Drain(_ context.Context, r DrainRequest, fn func(DrainProgress) error) error {
	if r.Remote {
		_ = fn(DrainProgress{Unpublished: 3, Waiting: "w"})
	}
	return errors.Join(fn(DrainProgress{Remaining: 1, Total: 2}), fn(DrainProgress{Total: 2, Done: s.fail == nil}), s.fail)
}
func (s scripted) Forget(_ context.Context, r ForgetRequest) (ForgetResult, error) {
	return ForgetResult{Decisions: []ForgetDecision{{Action: "forget", Why: fmt.Sprint(r.Steps), DryRun: r.DryRun}}}, s.fail
}
func (s scripted) Unforget(_ context.Context, r ForgetRequest) (ForgetResult, error) {
	return ForgetResult{Decisions: []ForgetDecision{{Action: "unforget", Why: fmt.Sprint(r.Steps)}}}, s.fail
}
func (s scripted) Hold(_ context.Context, r HoldRequest) (SnapshotInfo, error) {
	return SnapshotInfo{Step: r.Step, Holds: []HoldInfo{{Name: r.Name}}}, s.fail
}
func (s scripted) Verify(_ context.Context, r VerifyRequest, fn func(VerifyProgress) error) error {
	if err := fn(VerifyProgress{Done: 1, Total: 2}); err != nil {
		return err
	}
	return errors.Join(s.fail, fn(VerifyProgress{Snapshot: &SnapshotInfo{Step: r.Step}}))
}
func (s scripted) Pin(_ context.Context, r HoldRequest) (SnapshotInfo, error) {
	return SnapshotInfo{Step: r.Step, Pinned: true}, s.fail
}
func (s scripted) Warm(_ context.Context, r HoldRequest) (SnapshotInfo, error) {
	return SnapshotInfo{Step: r.Step}, s.fail
}
func (s scripted) Release(_ context.Context, r HoldRequest) (SnapshotInfo, error) {
	return SnapshotInfo{Step: r.Step}, s.fail
}
func (s scripted) Prune(_ context.Context, r PruneRequest, fn func(PruneProgress) error) error {
	return errors.Join(fn(PruneProgress{Left: 1}), fn(PruneProgress{Pruned: 1, Done: r.Wait}), s.fail)
}
func (s scripted) Policy(_ context.Context, r PolicyRequest) (PolicyInfo, error) {
	return PolicyInfo{Rules: map[string]string{"set": fmt.Sprint(r.Set), "unset": fmt.Sprint(r.Unset)}}, s.fail
}
func (s scripted) Check(_ context.Context, r CheckRequest, fn func(CheckEvent) error) error {
	return errors.Join(fn(CheckEvent{Progress: &CheckProgress{Part: "packs", Done: r.ReadData}}),
		fn(CheckEvent{Finding: &check.Finding{Kind: check.Leak, What: "w"}}), fn(CheckEvent{Summary: &CheckSummary{Leaks: 1}}), s.fail)
}
func (s scripted) Explain(_ context.Context, r ExplainRequest) (ExplainInfo, error) {
	return ExplainInfo{Path: r.Path, Lines: []string{"why"}}, s.fail
}
func (s scripted) StepStats(_ context.Context, r StepStatsRequest, fn func(FileStats) error) (StepStats, error) {
	return StepStats{Snapshot: r.Step}, errors.Join(fn(FileStats{Path: "f"}), s.fail)
}

func (s scripted) Diff(_ context.Context, r DiffRequest, fn func(DiffChange) error) (DiffTotal, error) {
	return DiffTotal{Old: r.Old, New: r.New}, errors.Join(fn(DiffChange{Path: "p"}), s.fail)
}
func (s scripted) History(_ context.Context, r HistoryRequest, fn func(HistoryLine) error) error {
	return errors.Join(fn(HistoryLine{Path: r.Path}), s.fail)
}
func (s scripted) Source(context.Context, SnapshotInfo) (source, error) { return nil, s.fail }
func (s scripted) Close() error                                         { return nil }

func serveScripted(t *testing.T, s service) (*client, chan leaveCall) {
	t.Helper()
	dir := t.TempDir()
	leave := make(chan leaveCall)
	a, err := listen(filepath.Join(dir, "stepfs.sock"), s, leave)
	must(t, err)
	t.Cleanup(func() { must(t, a.close()) })
	c := dial(context.Background(), dir)
	if c == nil {
		t.Fatal("nobody answers")
	}
	t.Cleanup(func() { must(t, c.Close()) })
	return c, leave
}

func TestClient(t *testing.T) {
	ctx := context.Background()
	c, leave := serveScripted(t, scripted{})
	if s, err := c.Status(ctx); err != nil || s.Steps != 3 {
		t.Errorf("status %+v, %v", s, err)
	}
	paths := ""
	stats, err := c.StepStats(ctx, StepStatsRequest{Step: "7"}, func(f FileStats) error { paths += f.Path; return nil })
	if err != nil || stats.Snapshot != "7" || paths != "f" {
		t.Errorf("step stats: %+v, %q, %v", stats, paths, err)
	}
	paths = ""
	total, err := c.Diff(ctx, DiffRequest{Old: "1", New: "2"}, func(d DiffChange) error { paths += d.Path; return nil })
	if err = errors.Join(err, c.History(ctx, HistoryRequest{Path: "q"}, func(l HistoryLine) error { paths += l.Path; return nil })); err != nil || paths != "pq" || total.New != "2" {
		t.Errorf("diff and history: %q, %+v, %v", paths, total, err)
	}
	if s, err := c.Stats(ctx); err != nil || s.Packs != 7 {
		t.Errorf("stats %+v, %v", s, err)
	}
	if i, err := c.Find(ctx, "a/b", "x"); err != nil || i.Scope != "a/b" || i.Step != "x" {
		t.Errorf("find %+v, %v", i, err)
	}
	if i, err := c.Snapshot(ctx, SnapshotRequest{Name: "ü\n", Tags: []string{"t"}}); err != nil || i.Step != "ü\n" || len(i.Tags) != 1 {
		t.Errorf("snapshot %+v, %v", i, err)
	}
	if i, err := c.Rollback(ctx, RollbackRequest{Step: "5"}); err != nil || i.Step != "before-5" {
		t.Errorf("rollback %+v, %v", i, err)
	}
	n := 0
	must(t, c.Snapshots(ctx, SnapshotQuery{Scope: new("q")}, func(i SnapshotInfo) error { n++; return nil }))
	if n != 2500 {
		t.Errorf("%d snapshots", n)
	}
	if err := c.Snapshots(ctx, SnapshotQuery{}, func(SnapshotInfo) error { return io.ErrClosedPipe }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	var heard []DrainProgress
	must(t, c.Drain(ctx, DrainRequest{Remote: true}, func(p DrainProgress) error { heard = append(heard, p); return nil }))
	if len(heard) != 3 || heard[0] != (DrainProgress{Unpublished: 3, Waiting: "w"}) || !heard[2].Done {
		t.Errorf("drain %+v", heard)
	}
	if r, err := c.Forget(ctx, ForgetRequest{Steps: []string{"1", "2"}, DryRun: true}); err != nil || r.Decisions[0].Why != "[1 2]" || !r.Decisions[0].DryRun {
		t.Errorf("forget %+v, %v", r, err)
	}
	if r, err := c.Unforget(ctx, ForgetRequest{Steps: []string{"3"}}); err != nil || r.Decisions[0].Action != "unforget" {
		t.Errorf("unforget %+v, %v", r, err)
	}
	if i, err := c.Hold(ctx, HoldRequest{Step: "1", Name: "n"}); err != nil || i.Holds[0].Name != "n" {
		t.Errorf("hold %+v, %v", i, err)
	}
	if i, err := c.Release(ctx, HoldRequest{Step: "1"}); err != nil || i.Step != "1" {
		t.Errorf("release %+v, %v", i, err)
	}
	if p, err := c.Policy(ctx, PolicyRequest{Set: []string{"a=1"}, Unset: []string{"b"}}); err != nil || p.Rules["set"] != "[a=1]" || p.Rules["unset"] != "[b]" {
		t.Errorf("policy %+v, %v", p, err)
	}
	var pruned PruneProgress
	must(t, c.Prune(ctx, PruneRequest{Wait: true}, func(p PruneProgress) error { pruned = p; return nil }))
	if !pruned.Done || pruned.Pruned != 1 {
		t.Errorf("prune %+v", pruned)
	}
	var events []CheckEvent
	must(t, c.Check(ctx, CheckRequest{ReadData: 0.5}, func(e CheckEvent) error { events = append(events, e); return nil }))
	if len(events) != 3 || events[0].Progress.Done != 0.5 || events[1].Finding.Kind != check.Leak || events[2].Summary.Leaks != 1 {
		t.Errorf("check %+v", events)
	}
	var verified []VerifyProgress
	must(t, c.Verify(ctx, VerifyRequest{Step: "7@1"}, func(p VerifyProgress) error { verified = append(verified, p); return nil }))
	if len(verified) != 2 || verified[0].Total != 2 || verified[1].Snapshot.Step != "7@1" {
		t.Errorf("verify %+v", verified)
	}
	go func() { (<-leave).done <- fmt.Errorf("unmount: %w", unix.EBUSY) }()
	var told *apiError
	if err := c.Umount(ctx, UmountRequest{}); !errors.As(err, &told) || !told.Busy {
		t.Errorf("umount of a busy mount: %v", err)
	}
	go func() { (<-leave).done <- nil }()
	must(t, c.Umount(ctx, UmountRequest{Lazy: true}))
}

// Errors keep their words and their exit code.
func TestClientErrors(t *testing.T) {
	ctx := context.Background()
	c, _ := serveScripted(t, scripted{&codedError{exitPartly, errors.New("half of it")}})
	_, status := c.Status(ctx)
	_, snap := c.Snapshot(ctx, SnapshotRequest{})
	for name, err := range map[string]error{
		"status": status, "snapshot": snap,
		"snapshots": c.Snapshots(ctx, SnapshotQuery{}, func(SnapshotInfo) error { return nil }),
		"drain":     c.Drain(ctx, DrainRequest{}, func(DrainProgress) error { return nil }),
	} {
		if exitCode(err) != exitPartly || err.Error() != "half of it" {
			t.Errorf("%s: %v, exit code %d", name, err, exitCode(err))
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Stats(gone); exitCode(err) != exitInterrupted {
		t.Errorf("interrupted: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	c, _ := serveScripted(t, scripted{})
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
	}{
		"not JSON":      {"POST", "snapshot", "hello", http.StatusBadRequest},
		"unknown field": {"POST", "snapshot", `{"colour":"red"}`, http.StatusBadRequest},
		"too large":     {"POST", "snapshot", `{"name":"` + strings.Repeat("x", maxRequest) + `"}`, http.StatusBadRequest},
		"empty":         {"POST", "rollback", "", http.StatusBadRequest},
		"no such call":  {"GET", "secrets", "", http.StatusNotFound},
		"wrong method":  {"DELETE", "status", "", http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(tc.method, "http://stepfs/v1/"+tc.path, strings.NewReader(tc.body))
			must(t, err)
			res, err := c.http.Do(req)
			must(t, err)
			defer res.Body.Close()
			if res.StatusCode != tc.status {
				t.Errorf("status %s, want %d", res.Status, tc.status)
			}
		})
	}
}

func TestSocketFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	must(t, os.WriteFile(path, []byte("left by a crash"), 0o644))
	a, err := listen(path, scripted{}, nil)
	must(t, err)
	st, err := os.Stat(path)
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	must(t, a.close())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after close: %v", err)
	}
	if dial(context.Background(), dir) != nil {
		t.Error("somebody answers")
	}
}

// A run directory at a public place that somebody else made is not used.
func TestForeignRunDir(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink(t.TempDir(), dir+"/link"))
	if err := checkOwner(dir + "/link"); err == nil {
		t.Error("a link passed")
	}
	must(t, checkOwner(dir))
}
