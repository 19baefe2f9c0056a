package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os/exec"
	"syscall"
	"time"
)

const (
	hookOutput = 64 << 10    // of one run that is logged
	hookLine   = 4 << 10     // of one line
	hookPipes  = time.Second // how long what it left in the background may keep its output open
)

// run runs the command with an event. What goes wrong is logged and nothing
// else: it must not become an event.
func (h *hook) run(ctx context.Context, e *hookEvent) {
	line, err := json.Marshal(e)
	if err != nil {
		slog.Error("--on-event", "event", e.Event, "error", err)
		return
	}
	out := &hookLog{event: e.Event}
	c := exec.CommandContext(ctx, "/bin/sh", "-c", h.command)
	c.Stdin = bytes.NewReader(append(line, '\n'))
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = hookPipes
	err = c.Run()
	out.flush()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		slog.Warn("--on-event took too long and was killed", "event", e.Event, "limit", h.limit)
	case ctx.Err() != nil:
		slog.Warn("--on-event was killed: the mount ends", "event", e.Event)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		slog.Warn("--on-event failed", "event", e.Event, "error", err)
	}
}

// hookLog writes what a command prints to the log, line by line, up to a limit.
type hookLog struct {
	event string
	part  []byte // of a line
	sum   int
}

// Write takes everything, so that the command never blocks on it.
func (l *hookLog) Write(p []byte) (int, error) {
	n := len(p)
	if l.sum += n; l.sum > hookOutput {
		return n, nil
	}
	for _, b := range p {
		if b == '\n' || len(l.part) == hookLine {
			l.flush()
		}
		if b != '\n' {
			l.part = append(l.part, b)
		}
	}
	return n, nil
}

func (l *hookLog) flush() {
	if len(l.part) > 0 {
		slog.Info("--on-event", "event", l.event, "output", string(l.part))
	}
	l.part = l.part[:0]
}
