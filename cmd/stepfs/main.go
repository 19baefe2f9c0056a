// Command stepfs mounts a store of checkpoints and works on it.
//
// Read root.go (flags and environment), then wire.go (which package is given
// what) and daemon.go (the life of a mount). Every subcommand has a file of its
// own; those that look at a store do so through service (service.go), which is
// either the running daemon behind its socket (client.go, socket.go) or the
// store opened here (local.go). Under the name mount.stepfs it is a helper of
// mount(8) (mounthelper.go).
//
// This is the only package with flags, logging and exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"stepfs/internal/storedir"
)

// Exit codes, restic's.
const (
	exitDone        = 0
	exitError       = 1
	exitPartly      = 3
	exitNoStore     = 10
	exitInUse       = 11
	exitWrongKey    = 12
	exitInterrupted = 130
)

// codedError carries the exit code of an error that storedir does not know.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// usageError: the command line itself is wrong, nothing was tried.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errReported: everything was said already, only the exit code is missing.
var errReported = errors.New("reported")

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, storedir.ErrInUse):
		return exitInUse
	case errors.Is(err, storedir.ErrNoStore), errors.Is(err, storedir.ErrForeign), errors.Is(err, storedir.ErrNotDir):
		return exitNoStore
	}
	return exitError
}

func main() {
	// A mount handles signals itself (daemon.go); for everything else the first
	// one cancels and the second one, no longer caught, kills.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if isMountHelper(os.Args[0]) {
		os.Exit(runMountHelper(ctx, os.Args))
	}
	err := newRoot().ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errReported) {
		fmt.Fprintln(os.Stderr, "stepfs:", err)
	}
	os.Exit(exitCode(err))
}
