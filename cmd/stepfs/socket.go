package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The API is HTTP with JSON over a unix socket: one path a call, parameters in
// the body, lists and progress as JSON Lines. Whoever can open the socket may
// use it; it is its owner's alone.
const (
	maxRequest   = 1 << 20 // of a body; the longest is a list of steps to be forgotten
	maxHeader    = 16 << 10
	headTimeout  = 10 * time.Second
	leaveTimeout = 10 * time.Second // for answers under way when the daemon ends
)

// apiError is the body of every answer but 200, and of a failed stream's last line.
type apiError struct {
	Message string `json:"error"`
	Exit    int    `json:"exit"` // what the command should exit with
	Busy    bool   `json:"busy,omitempty"`
}

func (e *apiError) Error() string { return e.Message }

type apiServer struct {
	path string
	http *http.Server
	done chan struct{}
}

// listen serves the API of s on a socket at path.
func listen(path string, s service, leave chan<- leaveCall) (*apiServer, error) {
	l, err := listenAt(path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	a := &apiServer{path: path, done: make(chan struct{}), http: &http.Server{
		Handler: newAPI(s, leave), ReadHeaderTimeout: headTimeout, MaxHeaderBytes: maxHeader,
	}}
	go func() {
		defer close(a.done)
		_ = a.http.Serve(l) // ends by close, or with the process
	}()
	return a, nil
}

// listenAt makes the socket. The store's lock is ours, so one that is there
// belongs to nobody.
func listenAt(path string) (net.Listener, error) {
	if err := prepareRunDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	old := unix.Umask(0o177) // no moment at which others can connect
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	return l, err
}

// prepareRunDir makes the run directory of a store whose own path is too long,
// and does not use one that somebody else has made at a public place.
func prepareRunDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkOwner(dir)
}

// checkOwner trusts a directory that is ours, or root's.
func checkOwner(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || !ok || sys.Uid != uint32(os.Geteuid()) && sys.Uid != 0 {
		return fmt.Errorf("%s is not a directory of uid %d", dir, os.Geteuid())
	}
	return nil
}

// close lets answers under way finish and removes the socket.
func (a *apiServer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	err := a.http.Shutdown(ctx) // the listener removes the socket
	if errors.Is(err, context.DeadlineExceeded) {
		err = a.http.Close()
	}
	<-a.done
	return err
}

func newAPI(s service, leave chan<- leaveCall) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answer(w)(s.Status(r.Context())) })
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, r *http.Request) { answer(w)(s.Stats(r.Context())) })
	handle(mux, "/v1/step-stats", func(ctx context.Context, w http.ResponseWriter, q StepStatsRequest) {
		st := newStream(w)
		total, err := s.StepStats(ctx, q, func(f FileStats) error { return st.send(streamLine{File: &f}) })
		if err == nil {
			err = st.send(streamLine{Stats: &total})
		}
		st.end(err)
	})
	handle(mux, "/v1/find", func(ctx context.Context, w http.ResponseWriter, q RollbackRequest) {
		answer(w)(s.Find(ctx, q.Scope, q.Step))
	})
	handle(mux, "/v1/snapshot", func(ctx context.Context, w http.ResponseWriter, q SnapshotRequest) {
		answer(w)(s.Snapshot(ctx, q))
	})
	handle(mux, "/v1/rollback", func(ctx context.Context, w http.ResponseWriter, q RollbackRequest) {
		answer(w)(s.Rollback(ctx, q))
	})
	handle(mux, "/v1/snapshots", func(ctx context.Context, w http.ResponseWriter, q SnapshotQuery) {
		st := newStream(w)
		st.end(s.Snapshots(ctx, q, func(i SnapshotInfo) error { return st.send(streamLine{Snapshot: &i}) }))
	})
	handle(mux, "/v1/drain", func(ctx context.Context, w http.ResponseWriter, q DrainRequest) {
		st := newStream(w)
		st.end(s.Drain(ctx, q, func(p DrainProgress) error { return st.send(streamLine{Drain: &p}) }))
	})
	handle(mux, "/v1/forget", func(ctx context.Context, w http.ResponseWriter, q ForgetRequest) {
		answer(w)(s.Forget(ctx, q))
	})
	handle(mux, "/v1/unforget", func(ctx context.Context, w http.ResponseWriter, q ForgetRequest) {
		answer(w)(s.Unforget(ctx, q))
	})
	handle(mux, "/v1/hold", func(ctx context.Context, w http.ResponseWriter, q HoldRequest) {
		answer(w)(s.Hold(ctx, q))
	})
	handle(mux, "/v1/pin", func(ctx context.Context, w http.ResponseWriter, q HoldRequest) {
		answer(w)(s.Pin(ctx, q))
	})
	handle(mux, "/v1/warm", func(ctx context.Context, w http.ResponseWriter, q HoldRequest) {
		answer(w)(s.Warm(ctx, q))
	})
	handle(mux, "/v1/release", func(ctx context.Context, w http.ResponseWriter, q HoldRequest) {
		answer(w)(s.Release(ctx, q))
	})
	handle(mux, "/v1/policy", func(ctx context.Context, w http.ResponseWriter, q PolicyRequest) {
		answer(w)(s.Policy(ctx, q))
	})
	handle(mux, "/v1/explain", func(ctx context.Context, w http.ResponseWriter, q ExplainRequest) {
		answer(w)(s.Explain(ctx, q))
	})
	handle(mux, "/v1/prune", func(ctx context.Context, w http.ResponseWriter, q PruneRequest) {
		st := newStream(w)
		st.end(s.Prune(ctx, q, func(p PruneProgress) error { return st.send(streamLine{Prune: &p}) }))
	})
	handle(mux, "/v1/check", func(ctx context.Context, w http.ResponseWriter, q CheckRequest) {
		st := newStream(w)
		st.end(s.Check(ctx, q, func(e CheckEvent) error { return st.send(streamLine{Check: &e}) }))
	})
	handle(mux, "/v1/verify", func(ctx context.Context, w http.ResponseWriter, q VerifyRequest) {
		st := newStream(w)
		st.end(s.Verify(ctx, q, func(p VerifyProgress) error { return st.send(streamLine{Verify: &p}) }))
	})
	handle(mux, "/v1/diff", func(ctx context.Context, w http.ResponseWriter, q DiffRequest) {
		st := newStream(w)
		total, err := s.Diff(ctx, q, func(c DiffChange) error { return st.send(streamLine{Change: &c}) })
		if err == nil {
			err = st.send(streamLine{Diff: &total})
		}
		st.end(err)
	})
	handle(mux, "/v1/history", func(ctx context.Context, w http.ResponseWriter, q HistoryRequest) {
		st := newStream(w)
		st.end(s.History(ctx, q, func(l HistoryLine) error { return st.send(streamLine{History: &l}) }))
	})
	handle(mux, "/v1/umount", func(ctx context.Context, w http.ResponseWriter, q UmountRequest) {
		call := leaveCall{lazy: q.Lazy, done: make(chan error, 1)}
		select {
		case leave <- call:
			answer(w)(struct{}{}, <-call.done)
		case <-ctx.Done():
		}
	})
	return mux
}

// handle registers a POST whose body is a Q.
func handle[Q any](mux *http.ServeMux, path string, fn func(context.Context, http.ResponseWriter, Q)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		dec.DisallowUnknownFields() // a newer client's wish that we would ignore
		if err := dec.Decode(&q); err != nil {
			writeError(w, http.StatusBadRequest, fmt.Errorf("bad request: %w", err))
			return
		}
		fn(r.Context(), w, q)
	})
}

// answer writes a value or an error.
func answer(w http.ResponseWriter) func(v any, err error) {
	return func(v any, err error) {
		if err != nil {
			writeError(w, http.StatusInternalServerError, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = printJSON(w, v) // the client is gone
	}
}

func writeError(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = printJSON(w, toAPIError(err)) // the client is gone
}

func toAPIError(err error) *apiError {
	return &apiError{Message: err.Error(), Exit: exitCode(err), Busy: errors.Is(err, unix.EBUSY)}
}

// streamLine is one line of a list or a progress; the last one ends it.
type streamLine struct {
	Snapshot *SnapshotInfo   `json:"snapshot,omitempty"`
	Drain    *DrainProgress  `json:"drain,omitempty"`
	Prune    *PruneProgress  `json:"prune,omitempty"`
	Check    *CheckEvent     `json:"check,omitempty"`
	Verify   *VerifyProgress `json:"verify,omitempty"`
	Change   *DiffChange     `json:"change,omitempty"`
	Diff     *DiffTotal      `json:"diff,omitempty"`
	History  *HistoryLine    `json:"history,omitempty"`
	File     *FileStats      `json:"file,omitempty"`
	Stats    *StepStats      `json:"stats,omitempty"`
	End      bool            `json:"end,omitempty"`
	Error    *apiError       `json:"error,omitempty"`
}

// stream sends JSON Lines. A stream without its last line was cut off.
type stream struct {
	enc   *json.Encoder
	flush func() error
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/jsonl")
	return &stream{json.NewEncoder(w), http.NewResponseController(w).Flush}
}

func (s *stream) send(l streamLine) error {
	if err := s.enc.Encode(l); err != nil {
		return err
	}
	if l.Drain != nil || l.Prune != nil || l.Check != nil || l.Verify != nil { // somebody is watching
		return s.flush()
	}
	return nil
}

func (s *stream) end(err error) {
	last := streamLine{End: true}
	if err != nil {
		last.Error = toAPIError(err)
	}
	_ = s.send(last) // the client is gone
}
