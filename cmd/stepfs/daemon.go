package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

const (
	logName = storedir.LogName

	// gracePoll is how often a leaving daemon looks whether files are still
	// open for writing.
	gracePoll = 50 * time.Millisecond

	// lazyPatience is how long a daemon waits for the last users of a mount
	// that it took away lazily; they lose it when the process ends.
	lazyPatience = 2 * time.Second
)

// daemon is one mount, from the first check to the last close.
type daemon struct {
	opts  *mountOptions
	point string
	dir   *storedir.Dir
	store *local
	mount *mounted
	api   *apiServer
	hook  *hook // nil without --on-event
	since time.Time

	sigs   chan os.Signal
	leave  chan leaveCall // from the socket
	served chan error     // Serve's end: somebody unmounted, or the connection failed
}

// leaveCall asks the daemon to unmount and, if that worked, to end.
type leaveCall struct {
	lazy bool
	done chan error
}

// startDaemon goes from a command line to a mount that answers. Whatever it
// has started it takes down again when a later part fails.
func startDaemon(ctx context.Context, flags *pflag.FlagSet, o *mountOptions, storeArg, pointArg string) (_ *daemon, err error) {
	d := &daemon{opts: o, since: time.Now(), sigs: make(chan os.Signal, 4), leave: make(chan leaveCall), served: make(chan error, 1)}
	d.listenToSignals()
	defer func() {
		if err != nil {
			signal.Stop(d.sigs)
			err = errors.Join(err, d.teardown())
		}
	}()
	if err := checkDescriptors(); err != nil {
		return nil, err
	}
	if err := checkFuse(o); err != nil {
		return nil, err
	}
	storePath, err := plannedPath(storeArg)
	if err != nil {
		return nil, err
	}
	if d.point, err = checkMountpoint(pointArg, storePath, func(s string) { slog.Warn(s) }); err != nil {
		return nil, err
	}
	notifyStarting(storePath)
	if err := d.openStore(ctx, storePath); err != nil {
		return nil, err
	}
	if err := d.settings(flags); err != nil {
		return nil, err
	}
	d.remarks()
	d.hook = newHook(o.onEvent, d.dir.Path(), d.point)
	o.mount, o.upload = true, true
	if d.store, err = openParts(d.dir, o, d.hook); err != nil {
		return nil, err
	}
	if err := d.keepRemote(flags); err != nil {
		return nil, err
	}
	d.store.describe, d.store.readOnly = d.describe, o.liveReadOnly()
	if err := d.store.remarkOnLimit(func(s string) { slog.Warn(s) }); err != nil {
		return nil, err
	}
	if err := d.keepBallast(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // a signal during a long replay
	}
	if err := d.adopt(ctx); err != nil {
		return nil, err
	}
	d.store.parts.manager.SealOn()
	if d.mount, err = mountParts(d.store, d.point, o); err != nil {
		return nil, err
	}
	go func() { d.served <- d.mount.serve() }()
	d.mount.tune()
	d.hook.start(func(i snapshot.Info) SnapshotInfo { return d.store.acted(context.Background(), i) })
	d.api, err = listen(d.dir.Lease().Socket, d.store, d.leave)
	return d, err
}

// listenToSignals: a terminal that is closed ends a mount in the foreground in
// order, unless it was started to outlive it (nohup), and one in the background
// not at all.
func (d *daemon) listenToSignals() {
	signal.Notify(d.sigs, syscall.SIGINT, syscall.SIGTERM)
	switch {
	case d.opts.background:
		signal.Ignore(syscall.SIGHUP)
	case !signal.Ignored(syscall.SIGHUP):
		signal.Notify(d.sigs, syscall.SIGHUP)
	}
}

// openStore opens the store, or creates it. After umount(8), which does not wait
// for the daemon, it may still be closing the store: it is waited for, also when
// its lease is gone already, and no more than its lock is left. A daemon that
// answers is not leaving.
func (d *daemon) openStore(ctx context.Context, path string) (err error) {
	how := storedir.Options{Create: d.opts.create, Command: mountVerb, Mountpoint: d.point}
	if d.opts.remote != "" {
		how.Draw = func(c *storedir.Config) error {
			_, err := d.opts.takeOver(ctx, c)
			return err
		}
	}
	for end := time.Now().Add(startPatience); ; {
		d.dir, err = storedir.Open(path, how)
		if errors.Is(err, storedir.ErrNoStore) && !d.opts.create {
			return fmt.Errorf("%w; if its disk is mounted, make it with -o create", err)
		}
		var held *storedir.InUseError
		if !errors.As(err, &held) || held.Remote || held.Holder.Command != mountVerb && held.Holder.PID != 0 || time.Now().After(end) {
			return err
		}
		if c := dial(ctx, path); c != nil {
			return errors.Join(err, c.Close())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startPoll):
		}
	}
}

// keepBallast has room on the disk ready that no other program can take: the
// next segment of the journal, taken of what opening the store gave up, and
// enough for another and a flush of the index.
func (d *daemon) keepBallast() error {
	const share, most = 16, 32 << 20
	u, err := d.store.parts.tree.Usage()
	if err != nil || d.opts.liveReadOnly() {
		return err
	}
	_ = d.store.parts.engine.Prepare() // without room, who has to write says so
	d.dir.KeepBallast(min(u.Limit/share, most))
	return nil
}

// plannedPath is where the store is or will be, as far as links can be resolved.
func plannedPath(arg string) (string, error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return "", fmt.Errorf("resolving the store: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(abs); err == nil {
		return resolved, nil
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		return filepath.Join(parent, filepath.Base(abs)), nil
	}
	return abs, nil // storedir says what is wrong with it
}

// settings completes the options from the store's config, and saves them there.
func (d *daemon) settings(flags *pflag.FlagSet) error {
	if err := applySettings(flags, d.dir.Config().Settings); err != nil {
		return err
	}
	if err := d.opts.validate(); err != nil {
		return err
	}
	d.distrust(flags)
	if err := d.includes(flags); err != nil {
		return err
	}
	space, err := d.dir.Space()
	if err != nil {
		return err
	}
	if err := d.opts.storeLimit.check(space.Total); err != nil {
		return err
	}
	if !d.opts.save {
		return nil
	}
	return d.dir.SaveSettings(changedSettings(flags, d.dir.Config().Settings))
}

// distrust does not run a command, nor read files, nor upload to a place, that
// somebody else has put into the store's config: whoever mounts a store would.
func (d *daemon) distrust(flags *pflag.FlagSet) {
	runs := d.opts.onEvent != "" && !flags.Changed(onEventFlag)
	reads := len(d.opts.include) > 0 && !flags.Changed(includeFlag)
	sends := d.opts.remote != "" && !flags.Changed(remoteFlag)
	if !runs && !reads && !sends {
		return
	}
	err := checkConfigOwner(d.dir.Join(storedir.ConfigName))
	if err != nil && runs {
		slog.Warn("the store's --on-event is not run", "error", err)
		d.opts.onEvent = ""
	}
	if err != nil && reads {
		slog.Warn("the store's --include is not followed", "error", err)
		d.opts.include = nil
	}
	if err != nil && sends {
		slog.Warn("nothing is uploaded to the store's --remote", "error", err)
		d.opts.remote = ""
	}
}

// checkConfigOwner trusts what nobody else but root can have written.
func checkConfigOwner(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("whose is %s: %w", path, err)
	}
	if st.Uid != uint32(os.Geteuid()) && st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s belongs to uid %d, or others can write to it", path, st.Uid)
	}
	return nil
}

// remarks says what a person may want to know about the store that was opened.
func (d *daemon) remarks() {
	if d.dir.Created() {
		slog.Info("created a store", "store", d.dir.Path(), "id", d.dir.Config().ID)
	}
	if l := d.dir.TookOver(); l != nil {
		slog.Warn("the last stepfs on this store did not close it", "holder", l.String(), "since", l.Since)
	}
	if a := d.dir.Advice(); a != "" {
		slog.Warn("the store is on "+d.dir.Kind().Name+": "+a, "store", d.dir.Path())
	}
}

// snapshotsPath is where people find the snapshots.
func (d *daemon) snapshotsPath() string {
	if d.opts.snapshotsOnly {
		return d.point
	}
	return filepath.Join(d.point, d.opts.snapDirName)
}

func (d *daemon) readyLine() readyLine {
	return readyLine{Event: "ready", Store: d.dir.Path(), Mountpoint: d.point, Snapshots: d.snapshotsPath(), PID: os.Getpid()}
}

// describe adds to a status what only the daemon knows.
func (d *daemon) describe(s *Status) {
	s.Running, s.PID, s.Since = true, os.Getpid(), d.since.UTC().Truncate(time.Second)
	s.Mountpoint, s.SnapDir = d.point, d.snapshotsPath()
}

// run serves until the mount ends, and leaves in order.
func (d *daemon) run() error {
	for {
		select {
		case err := <-d.served:
			d.served <- err
			notifyStopping("unmounted, closing the store")
			slog.Info("unmounted", "mountpoint", d.point)
			return errors.Join(err, d.teardown())
		case sig := <-d.sigs:
			return d.onSignal(sig)
		case call := <-d.leave:
			err := d.unmount(call.lazy)
			call.done <- err
			if err == nil {
				notifyStopping("unmounted, closing the store")
				slog.Info("unmounted on request", "mountpoint", d.point)
				return d.teardown()
			}
		case <-d.dir.Lost():
			return d.onLost()
		}
	}
}

// onSignal: the job may be writing its last checkpoint; see --grace.
func (d *daemon) onSignal(sig os.Signal) error {
	slog.Info("leaving", "signal", sig.String(), "open_for_writing", d.store.openFiles())
	notifyStopping(fmt.Sprintf("waiting %v at most for files that are open for writing", d.opts.grace))
	end := time.After(d.opts.grace)
	poll := time.NewTicker(gracePoll)
	defer poll.Stop()
	for waiting := true; waiting && d.store.openFiles() > 0; {
		select {
		case <-poll.C:
		case <-end:
			slog.Warn("files are still open for writing", "count", d.store.openFiles(), "grace", d.opts.grace)
			waiting = false
		case err := <-d.served:
			d.served <- err
			waiting = false
		case call := <-d.leave:
			call.done <- errors.New("it is leaving already")
		case <-d.sigs:
			return d.atOnce()
		case <-d.dir.Lost():
			return d.onLost()
		}
	}
	done := make(chan error, 1)
	go func() { done <- d.depart() }()
	select {
	case err := <-done:
		return err
	case <-d.sigs:
		return d.atOnce()
	}
}

// depart unmounts, if need be from under whoever is still there, and closes.
func (d *daemon) depart() error {
	d.store.parts.manager.EndWaits() // an fsync that waits for the bucket would keep the mount
	err := d.unmount(false)
	if errors.Is(err, unix.EBUSY) {
		slog.Warn("the mount is busy, taking it away lazily" + describeHolders(d.point))
		err = d.unmount(true)
	}
	return errors.Join(err, d.teardown())
}

// atOnce ends without closing anything. What write(2) acknowledged is in the
// page cache and what fsync acknowledged is on the disk; the next start replays.
func (d *daemon) atOnce() error {
	slog.Warn("second signal: ending at once")
	d.hook.kill()
	_ = stepfsfs.Unmount(d.point, true) // the next mount clears what stays
	return &codedError{code: exitInterrupted, err: errReported}
}

// onLost ends without writing another byte: the store is somebody else's.
func (d *daemon) onLost() error {
	d.hook.kill()
	_ = stepfsfs.Unmount(d.point, true) // the next mount clears what stays
	return fmt.Errorf("the lease of %s went to another machine while this one was stopped; ending without touching the store", d.dir.Path())
}

// unmount makes everything durable, then unmounts. A busy mount goes on.
func (d *daemon) unmount(lazy bool) error {
	select {
	case err := <-d.served: // already gone
		d.served <- err
		return nil
	default:
	}
	if err := d.store.sync(); err != nil {
		slog.Error("syncing before the unmount", "error", err)
	}
	d.hook.leave() // what it runs may be on the mount
	err := stepfsfs.Unmount(d.point, lazy)
	if err != nil {
		d.hook.resume()
	}
	return err
}

// teardown closes what is open, in the opposite order of startDaemon.
func (d *daemon) teardown() error {
	var errs []error
	if d.api != nil {
		errs = append(errs, d.api.close())
	}
	d.hook.close()
	quiet := d.mount == nil || d.mountEnded()
	if d.store != nil {
		if quiet {
			errs = append(errs, d.store.Close())
		} else {
			// Requests may still be under way: closing the store below them
			// would be worse than leaving it to the next start's replay.
			errs = append(errs, d.store.sync())
		}
	}
	if d.dir != nil {
		errs = append(errs, d.dir.Close())
	}
	return errors.Join(errs...)
}

// mountEnded unmounts what is still mounted and waits for Serve to return.
func (d *daemon) mountEnded() bool {
	select {
	case <-d.served:
		return true
	default:
	}
	_ = stepfsfs.Unmount(d.point, true) // after a failed start; else it is gone and says so
	select {
	case <-d.served:
		return true
	case <-time.After(lazyPatience):
		return false
	}
}

// sync is bounded by nothing: the disk is as slow as it is.
func (l *local) sync() error { return l.syncAll(context.Background()) }
