package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"stepfs/internal/storedir"
)

// client is a service behind the socket of a running daemon.
type client struct {
	http   *http.Client
	socket string
}

var _ service = (*client)(nil)

// dial connects to the daemon of the store; nil when none answers.
func dial(ctx context.Context, store string) *client {
	socket := storedir.SocketPath(store)
	if l, err := storedir.ReadLease(store); err == nil && l.Socket != "" {
		socket = l.Socket
	}
	if checkOwner(filepath.Dir(socket)) != nil {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil
	}
	_ = conn.Close() // it was only a question
	return &client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
	}}}
}

// Close drops idle connections.
func (c *client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// call sends a request and returns the answer's body if it is a good one.
func (c *client) call(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			return nil, fmt.Errorf("asking the daemon: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://stepfs/v1/"+path, &b)
	if err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	defer res.Body.Close()
	var refused apiError
	if err := json.NewDecoder(io.LimitReader(res.Body, maxRequest)).Decode(&refused); err != nil {
		return nil, fmt.Errorf("the daemon answers %s; is it of another version?", res.Status)
	}
	return nil, refused.coded()
}

// coded is the error with the exit code that the daemon would have used.
func (e *apiError) coded() error { return &codedError{code: e.Exit, err: e} }

// lost tells an interrupt from a daemon that went away.
func (c *client) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the daemon behind %s: %w", c.socket, err)
}

func fetch[T any](ctx context.Context, c *client, method, path string, body any) (v T, err error) {
	r, err := c.call(ctx, method, path, body)
	if err != nil {
		return v, err
	}
	defer r.Close()
	if err := json.NewDecoder(r).Decode(&v); err != nil {
		return v, c.lost(ctx, err)
	}
	return v, nil
}

// lines reads a stream to its last line.
func (c *client) lines(ctx context.Context, path string, body any, fn func(streamLine) error) error {
	r, err := c.call(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer r.Close()
	for dec := json.NewDecoder(r); ; {
		var l streamLine
		if err := dec.Decode(&l); err != nil {
			return c.lost(ctx, err)
		}
		if l.Error != nil {
			return l.Error.coded()
		}
		if l.End {
			return nil
		}
		if err := fn(l); err != nil {
			return err
		}
	}
}

func (c *client) Status(ctx context.Context) (Status, error) {
	return fetch[Status](ctx, c, http.MethodGet, "status", nil)
}

func (c *client) Stats(ctx context.Context) (Stats, error) {
	return fetch[Stats](ctx, c, http.MethodGet, "stats", nil)
}

// StepStats has the daemon count.
func (c *client) StepStats(ctx context.Context, r StepStatsRequest, fn func(FileStats) error) (total StepStats, err error) {
	err = c.lines(ctx, "step-stats", r, func(l streamLine) error {
		if l.Stats != nil {
			total = *l.Stats
		}
		if l.File == nil {
			return nil
		}
		return fn(*l.File)
	})
	return total, err
}

func (c *client) Find(ctx context.Context, scope, name string) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "find", RollbackRequest{Scope: scope, Step: name})
}

func (c *client) Snapshot(ctx context.Context, r SnapshotRequest) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "snapshot", r)
}

func (c *client) Rollback(ctx context.Context, r RollbackRequest) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "rollback", r)
}

func (c *client) Snapshots(ctx context.Context, q SnapshotQuery, fn func(SnapshotInfo) error) error {
	return c.lines(ctx, "snapshots", q, func(l streamLine) error {
		if l.Snapshot == nil {
			return nil
		}
		return fn(*l.Snapshot)
	})
}

func (c *client) Drain(ctx context.Context, r DrainRequest, fn func(DrainProgress) error) error {
	return c.lines(ctx, "drain", r, func(l streamLine) error {
		if l.Drain == nil {
			return nil
		}
		return fn(*l.Drain)
	})
}

// Forget forgets by name or policy.
func (c *client) Forget(ctx context.Context, r ForgetRequest) (ForgetResult, error) {
	return fetch[ForgetResult](ctx, c, http.MethodPost, "forget", r)
}

// Unforget brings back.
func (c *client) Unforget(ctx context.Context, r ForgetRequest) (ForgetResult, error) {
	return fetch[ForgetResult](ctx, c, http.MethodPost, "unforget", r)
}

// Hold keeps a snapshot.
func (c *client) Hold(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "hold", r)
}

// Pin has the daemon keep a snapshot on its disk.
func (c *client) Pin(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "pin", r)
}

// Warm has the daemon fetch what is only in the bucket.
func (c *client) Warm(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "warm", r)
}

// Release ends a hold.
func (c *client) Release(ctx context.Context, r HoldRequest) (SnapshotInfo, error) {
	return fetch[SnapshotInfo](ctx, c, http.MethodPost, "release", r)
}

// Policy gives and changes what is kept.
func (c *client) Policy(ctx context.Context, r PolicyRequest) (PolicyInfo, error) {
	return fetch[PolicyInfo](ctx, c, http.MethodPost, "policy", r)
}

// Prune has the daemon remove what is forgotten.
func (c *client) Prune(ctx context.Context, r PruneRequest, fn func(PruneProgress) error) error {
	return c.lines(ctx, "prune", r, func(l streamLine) error {
		if l.Prune == nil {
			return nil
		}
		return fn(*l.Prune)
	})
}

// Explain explains a path.
func (c *client) Explain(ctx context.Context, r ExplainRequest) (ExplainInfo, error) {
	return fetch[ExplainInfo](ctx, c, http.MethodPost, "explain", r)
}

// Verify has the daemon read a snapshot back.
func (c *client) Verify(ctx context.Context, r VerifyRequest, fn func(VerifyProgress) error) error {
	return c.lines(ctx, "verify", r, func(l streamLine) error {
		if l.Verify == nil {
			return nil
		}
		return fn(*l.Verify)
	})
}

// Diff has the daemon compare.
func (c *client) Diff(ctx context.Context, r DiffRequest, fn func(DiffChange) error) (total DiffTotal, err error) {
	err = c.lines(ctx, "diff", r, func(l streamLine) error {
		if l.Diff != nil {
			total = *l.Diff
		}
		if l.Change == nil {
			return nil
		}
		return fn(*l.Change)
	})
	return total, err
}

// History has the daemon look a path up.
func (c *client) History(ctx context.Context, r HistoryRequest, fn func(HistoryLine) error) error {
	return c.lines(ctx, "history", r, func(l streamLine) error {
		if l.History == nil {
			return nil
		}
		return fn(*l.History)
	})
}

// Umount asks the daemon to unmount and end.
func (c *client) Umount(ctx context.Context, r UmountRequest) error {
	_, err := fetch[struct{}](ctx, c, http.MethodPost, "umount", r)
	return err
}

// Source reads a snapshot through the mount: the daemon checks every chunk on
// the way, and the kernel caches what is read.
func (c *client) Source(ctx context.Context, s SnapshotInfo) (source, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	if st.SnapDir == "" {
		return nil, errors.New("the daemon has no mount")
	}
	src, err := newDirSource(filepath.Join(st.SnapDir, snapshotDir(s)))
	if err != nil {
		return nil, fmt.Errorf("reading through the mount %s of the running daemon (pid %d): %w", st.Mountpoint, st.PID, err)
	}
	return src, nil
}

// waitGone returns when the daemon has left, so that the store is free.
func (c *client) waitGone(ctx context.Context, store string) error {
	held, err := storedir.ReadLease(store)
	if err != nil {
		return nil // given back
	}
	for {
		now, err := storedir.ReadLease(store)
		if err != nil || now.Nonce != held.Nonce {
			return nil
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", held.PID)); err != nil && dial(ctx, store) == nil {
			return nil // ended without giving the lease back
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startPoll):
		}
	}
}

// snapshotDir is the path of a snapshot below the snapshots directory, the one
// that never changes its meaning.
func snapshotDir(s SnapshotInfo) string {
	if s.Step == "" {
		return filepath.Join(".barriers", fmt.Sprint(s.Sequence))
	}
	return filepath.Join(s.Scope, fmt.Sprintf("%s@%d", s.Step, s.Sequence))
}
