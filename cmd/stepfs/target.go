package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"stepfs/internal/storedir"
)

// target is what a STORE argument turned out to be.
type target struct {
	Store string // the store's directory, absolute
	Mount string // the mountpoint that was named; "" when the store was
}

// resolve finds the store of a path: the one mounted there, or around it, or
// the directory itself. It asks the mount table before it touches the path: on
// a mount whose daemon has died every touch fails.
func resolve(arg string) (target, error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return target{}, fmt.Errorf("resolving %s: %w", arg, err)
	}
	all, err := mounts()
	if err != nil {
		return target{}, err
	}
	for _, follow := range []bool{false, true} {
		if follow {
			resolved, err := realPath(abs)
			if err != nil {
				break // Open says what is wrong with it
			}
			abs = resolved
		}
		if m, ok := mountOver(all, abs); ok && m.Type == fsType {
			return target{Store: m.Source, Mount: m.Point}, nil
		}
	}
	return target{Store: abs}, nil
}

// A daemon holds the lock before it listens. Commands wait that long for it.
const (
	startPatience = 10 * time.Second
	startPoll     = 50 * time.Millisecond
)

// openService connects to the daemon that has the store, or opens the store.
func openService(ctx context.Context, arg, command string) (service, error) {
	return openServiceAs(ctx, arg, storedir.Options{Command: command})
}

// openServiceAs is openService where how the store is opened, if it is, matters.
func openServiceAs(ctx context.Context, arg string, how storedir.Options) (service, error) {
	t, err := resolve(arg)
	if err != nil {
		return nil, err
	}
	remarkOnDead(t)
	if isURL(t.Store) {
		return nil, fmt.Errorf("%s has no store: it is the bucket %s, see stepfs remote --help", t.Mount, t.Store)
	}
	for end := time.Now().Add(startPatience); ; {
		if c := dial(ctx, t.Store); c != nil {
			return c, nil
		}
		s, err := openLocal(t.Store, how)
		var held *storedir.InUseError
		if !errors.As(err, &held) || held.Remote || held.Holder.Command != mountVerb || time.Now().After(end) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(startPoll):
		}
	}
}
