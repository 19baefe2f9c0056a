package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/retry"
	stepfsfs "stepfs/fs"
	"stepfs/fs/attach"
	"stepfs/snapshot/published"
)

const (
	refreshFlag = "refresh"

	attachRequests = 64               // at a time
	readPatience   = 30 * time.Second // of a reader, while the bucket can't be reached
	attachBuffers  = 16               // reads that are answered at a time, a megabyte each
)

// attachFlags are those of mount that mean something without a store.
var attachFlags = []string{"daemon", "log-file", "json", "debug", "help", "store", optionsFlag, createFlag, "allow-other",
	"snapdir", "snapdir-name", "snapshots-only", "read-only", refreshFlag}

// checkAttachFlags refuses what is about a store. What the environment says may be
// meant for another mount.
func checkAttachFlags(flags *pflag.FlagSet, o *mountOptions) error {
	if o.refresh < time.Second {
		return &usageError{fmt.Errorf("--%s: less than a second", refreshFlag)}
	}
	var wrong []string
	flags.Visit(func(f *pflag.Flag) {
		_, fromEnv := os.LookupEnv(envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")))
		if !fromEnv && !slices.Contains(attachFlags, f.Name) {
			wrong = append(wrong, "--"+f.Name)
		}
	})
	if wrong != nil {
		return &usageError{fmt.Errorf("%s: there is no store that it could be about; a URL is mounted read-only", strings.Join(wrong, ", "))}
	}
	return nil
}

// attachment is a mount of a bucket without a store.
type attachment struct {
	opts    *mountOptions
	url     string // there is no place for secrets in it
	point   string
	catalog *published.Catalog
	open    *published.Snapshots
	server  *stepfsfs.Server
	faults  *faultLog

	unreadable []error // refs, at the last refresh

	sigs   chan os.Signal
	served chan error
	stop   context.CancelFunc // of polling
	tasks  sync.WaitGroup
}

// runAttach is the foreground or background mount of a bucket.
func runAttach(ctx context.Context, flags *pflag.FlagSet, o *mountOptions, url, point string, out io.Writer) error {
	if err := checkAttachFlags(flags, o); err != nil {
		return err
	}
	ready := readyPipe()
	if o.background && ready == nil {
		return startBackground(ctx, o, out)
	}
	b, cfg, err := openAttached(ctx, url)
	if err != nil {
		return err
	}
	a, err := startAttach(ctx, o, b, cfg, url, point)
	if err != nil {
		return err
	}
	log, err := a.logFile(ready != nil)
	if err == nil {
		err = announce(ready, o, log, a.readyLine(), out)
	}
	if err != nil {
		return errors.Join(err, a.close())
	}
	return a.run()
}

// openAttached is openBucket with the patience of a mount.
func openAttached(ctx context.Context, url string) (remote.Bucket, *bucket.Config, error) {
	if _, _, err := openBucket(ctx, url); err != nil { // in no time, if it is wrong
		return nil, nil, err
	}
	l, err := location.Parse(url)
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	b, _, err = location.Wrap(b, retry.Options{Within: readPatience}, limit.Options{Requests: attachRequests})
	if err != nil {
		return nil, nil, err
	}
	cfg, err := bucket.Read(ctx, b)
	return b, cfg, err
}

// startAttach goes from a bucket to a mount that answers. Whatever it has started
// it takes down again when a later part fails.
func startAttach(ctx context.Context, o *mountOptions, b remote.Bucket, cfg *bucket.Config, url, point string) (_ *attachment, err error) {
	if err := checkFuse(o); err != nil {
		return nil, err
	}
	a := &attachment{opts: o, url: url, faults: &faultLog{}, catalog: published.NewCatalog(b),
		sigs: make(chan os.Signal, 4), served: make(chan error, 1)}
	if a.point, err = attachPoint(point, url); err != nil {
		return nil, err
	}
	notifyStarting(a.url)
	if err := a.refresh(ctx); err != nil {
		return nil, err
	}
	a.open = published.NewSnapshots(b, cfg.Key, chunkstore.PublishedOptions{CacheBytes: 32 << 20})
	if err := a.mount(); err != nil {
		a.open.Close()
		return nil, err
	}
	signal.Notify(a.sigs, syscall.SIGINT, syscall.SIGTERM)
	switch {
	case o.background:
		signal.Ignore(syscall.SIGHUP)
	case !signal.Ignored(syscall.SIGHUP):
		signal.Notify(a.sigs, syscall.SIGHUP)
	}
	go func() { a.served <- a.server.Serve() }()
	a.server.Tune()
	ctx, a.stop = context.WithCancel(context.Background())
	a.tasks.Go(func() { a.poll(ctx) })
	return a, nil
}

// attachPoint is checkMountpoint without a store.
func attachPoint(arg, url string) (string, error) {
	point, err := cleared(arg, func(s string) { slog.Warn(s) })
	if err != nil {
		return "", err
	}
	at := "/dev/null" // on no mount of ours, and in no mountpoint
	if l, err := location.Parse(url); err == nil && l.Dir != "" {
		at = l.Dir
	}
	auto, err := checkPlaces(point, at)
	if err != nil || auto {
		return point, err
	}
	return point, checkEmpty(point, "")
}

func (a *attachment) mount() error {
	f, err := attach.New(attach.Options{
		Catalog: a.catalog, Snapshots: a.open, SnapDirName: a.opts.snapDirName, SnapshotsOnly: a.opts.snapshotsOnly,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Fault: a.faults.add,
	})
	if err != nil {
		return err
	}
	conn, err := stepfsfs.Mount(a.point, stepfsfs.MountOptions{
		Source: a.url, AllowOther: a.opts.allowOther, ReadOnly: true, Flags: a.opts.kernel,
	})
	if err != nil {
		return err
	}
	a.server, err = stepfsfs.NewServer(conn, f, stepfsfs.ServerOptions{
		Buffers: attachBuffers,
		Panic: func(v any, stack []byte) {
			a.faults.add("a request panicked", fmt.Errorf("%v\n%s", v, stack))
		},
	})
	if err != nil {
		return errors.Join(err, stepfsfs.Unmount(a.point, true), conn.Close())
	}
	return nil
}

// refresh looks for what is published now.
func (a *attachment) refresh(ctx context.Context) error {
	unreadable, err := a.catalog.Refresh(ctx)
	if err != nil {
		return err
	}
	same := func(a, b error) bool { return a.Error() == b.Error() }
	if !slices.EqualFunc(unreadable, a.unreadable, same) { // else it was said
		for _, err := range unreadable {
			a.faults.add("a snapshot is not shown", err)
		}
	}
	a.unreadable = unreadable
	return nil
}

// poll refreshes until ctx ends. That it fails is said once.
func (a *attachment) poll(ctx context.Context) {
	tick := time.NewTicker(a.opts.refresh)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := a.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			slog.Warn("the bucket can't be reached: what is new there is not shown", "error", err)
		case err == nil && failing:
			slog.Info("the bucket can be reached again")
		}
		failing = err != nil
	}
}

func (a *attachment) readyLine() readyLine {
	at := a.point
	if !a.opts.snapshotsOnly {
		at = filepath.Join(a.point, a.opts.snapDirName)
	}
	return readyLine{Event: "ready", Store: a.url, Mountpoint: a.point, Snapshots: at, PID: os.Getpid()}
}

// logFile is where a mount in the background logs by default.
func (a *attachment) logFile(background bool) (string, error) {
	if !background || a.opts.logFile != "" {
		return "", nil
	}
	dir := "/var/log/stepfs"
	if os.Geteuid() != 0 {
		state := os.Getenv("XDG_STATE_HOME")
		if home, err := os.UserHomeDir(); err == nil && !filepath.IsAbs(state) {
			state = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(state, "stepfs")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("a place for the log (or say --log-file): %w", err)
	}
	return filepath.Join(dir, strings.ReplaceAll(strings.Trim(a.point, "/"), "/", "-")+".log"), nil
}

// run serves until the mount ends.
func (a *attachment) run() error {
	select {
	case err := <-a.served:
		a.served <- err
		slog.Info("unmounted", "mountpoint", a.point)
	case sig := <-a.sigs:
		slog.Info("leaving", "signal", sig.String())
	}
	notifyStopping("unmounting")
	return a.close()
}

// close takes the mount away, from its users, too, if it has to.
func (a *attachment) close() error {
	signal.Stop(a.sigs)
	a.stop()
	a.tasks.Wait()
	select {
	case err := <-a.served:
		a.open.Close()
		return err
	default:
	}
	err := stepfsfs.Unmount(a.point, false)
	if errors.Is(err, unix.EBUSY) {
		slog.Warn("the mount is busy, taking it away lazily" + describeHolders(a.point))
		err = stepfsfs.Unmount(a.point, true)
	}
	if err != nil {
		return err
	}
	select {
	case err = <-a.served:
		a.open.Close()
	case <-time.After(lazyPatience): // its users lose it when the process ends
	}
	return err
}
