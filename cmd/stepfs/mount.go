package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stepfs/chunkstore/remote/location"
	stepfsfs "stepfs/fs"
	"stepfs/snapshot/include"
)

// mountVerb is the command in the lease of a store that a daemon has.
const mountVerb = "mount"

// mountOptions are the flags of mount.
type mountOptions struct {
	background    bool
	create        bool
	snapDir       string // hidden, visible
	snapDirName   string
	snapshotsOnly bool
	readOnly      bool
	allowOther    bool
	workers       int
	sealQuiet     time.Duration
	sealGrace     time.Duration
	noSeal        bool
	grace         time.Duration
	hotLimit      byteSize
	cacheSize     byteSize
	storeLimit    storeLimit
	onFull        string // expire, stop
	onEvent       string // a command
	verifyOnSeal  bool
	scrub         scrubRate
	exclude       excludes
	include       pathList
	included      *include.Set // made of it
	adopt         string       // a published step
	remote        string       // URL of a bucket; "": nothing is uploaded
	publish       publishFlag
	uploadRate    byteSize      // a second
	remoteForget  bool          // what the policy forgets is forgotten in the bucket, too
	durability    string        // local or remote: when fsync returns
	refresh       time.Duration // of a bucket without a store
	logFile       string
	save          bool
	kernel        stepfsfs.MountFlags // of -o
	json          bool                // of global
	mount         bool                // it is a mount that opens the store
	upload        bool                // steps are published in the bucket
	passive       bool                // nothing is sealed or ingested; for commands without a mount
}

// createFlag makes stores.
const createFlag = "create"

// onEventFlag is the flag whose value is run.
const onEventFlag = "on-event"

// notSettings are the flags of mount that describe one start of it, and are
// never kept in the store's config.
var notSettings = []string{"daemon", "log-file", "save-settings", "json", "debug", "store", "help", optionsFlag, createFlag, adoptFlag}

func mountCommand(g *global) *cobra.Command {
	var o mountOptions
	const usage = "mount [flags] STORE|URL MOUNTPOINT"
	c := &cobra.Command{
		Use:   usage,
		Short: "Mount a store, and create it when it is not there",
		Long: `Mount the store in the directory STORE on MOUNTPOINT, an empty directory.
STORE is created when it is not there; its parent directory must be.

With a URL (see stepfs remote --help) it attaches to a bucket, without a store:
MOUNTPOINT/snapshots/12000 is the newest revision of what is published there as
12000, read-only, and is fetched as it is read. Each byte is checked against its
hash; what can't be had or is wrong is EIO, and the log says why. What is published
meanwhile appears within --refresh; what is forgotten goes, and reads of it fail
with ESTALE. A step that several writers have published under one name is in the
directories of the writers alone, snapshots/WRITER/12000, which are listed if there
are several and can be used always; latest is the link to what restore calls so.

The command stays in the foreground until the mount ends (SIGTERM, Ctrl-C,
stepfs umount) and prints a line once it is ready. With -d it goes to the
background, and returns once the mount answers.

On SIGTERM or Ctrl-C it serves on while files are open for writing, for --grace
at most, then syncs, unmounts and leaves. A second signal ends it at once;
nothing that was acknowledged is lost by that.

What --exclude matches is live and as durable as the rest, and in no snapshot. A
pattern without a slash matches a name in any directory, one with a slash a path
from the root on, one that ends with a slash directories alone; * and ? match
within a name, ** any directories. What is renamed out of it is in the next
snapshot. A rename of a
directory changes nothing for the names in it. A mount with other patterns than the one before applies them to all
that is there; older snapshots stay as they are.

The options of -o are those of mount(8) that make sense here (ro, rw,
allow_other, [no]suid, [no]dev, [no]exec, [no]atime, [no]diratime, relatime),
those that mount(8) and systemd read (noauto, nofail, _netdev, user, x-…), and
every flag of this command: -o store-limit=100G,no-seal. nosuid and nodev are the
default. A value with commas stands between double quotes. mount(8) and fstab work
as well, with the type stepfs or fuse.stepfs, once make install has made the links.

As the service of a systemd unit with Type=notify it says when it is ready.

The command of --on-event gets one JSON object on its standard input: the fields
of stepfs snapshots --json of what it is about, and
  event       sealed (again, when the check of a large step ends later), partial
              (likewise, and not whole), forgotten, expired (with a count of
              barriers alone), verify-failed, space-low, fault
  time, reason, store, mountpoint
  taken, sealed_by: time and reason of the snapshot itself
  dropped     how many events before this one were too many for the queue (256;
              the oldest of forgotten, expired and fault go first)
One runs at a time, for a minute at most; it may use the mount, and nothing waits
for it. What it prints and how it fails is in the daemon's log. What the mount's
end finds in the queue gets 5 seconds. A command from the store's settings is run
only if nobody but you and root can write to STORE/config.

What --include names is copied into each step as it is when that is sealed, and
is never in MOUNTPOINT itself: snapshots/100/.stepfs/included/etc/train.yaml, with
mode, owner and mtime. A directory is taken with all below it on its filesystem,
at most 10000 entries and 1 GiB in all; a pattern is looked up at each seal; a link
is followed if it is named itself. A SQLite database is taken by its online backup
(needs the program sqlite3), never by a plain copy. A seal waits 10 seconds at most
for all of it. What could not be taken does not stop a step: .stepfs/included.json
says why, and a fault is reported. A path that is not there when you mount, or is
on MOUNTPOINT or in STORE, is refused. Paths from the store's settings are taken
under the condition that its command is; --include "" takes them back.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, rest, err := g.storeAnd(args, usage, 1, 1)
			if err != nil {
				return err
			}
			o.json = g.json
			if err := o.validate(); err != nil {
				return &usageError{err}
			}
			if isURL(store) {
				return runAttach(c.Context(), c.Flags(), &o, store, rest[0], c.OutOrStdout())
			}
			return mountError(runMount(c.Context(), c.Flags(), &o, store, rest[0], c.OutOrStdout()))
		},
	}
	f := c.Flags()
	f.VarP(&optionList{flags: f, kernel: &o.kernel}, optionsFlag, "o", "options as in fstab, with commas between them (see above)")
	f.BoolVarP(&o.background, "daemon", "d", false, "go to the background once the mount answers")
	f.BoolVar(&o.create, createFlag, true, "create the store when it is not there; through mount(8) and fstab only with -o create")
	f.StringVar(&o.snapDir, "snapdir", "hidden", "whether readdir of the root lists the snapshots directory: hidden or visible")
	f.StringVar(&o.snapDirName, "snapdir-name", "snapshots", "name of the snapshots directory")
	f.BoolVar(&o.snapshotsOnly, "snapshots-only", false, "mount the snapshots alone, read-only, at MOUNTPOINT/<step>")
	f.BoolVar(&o.readOnly, "read-only", false, "mount read-only")
	f.BoolVar(&o.allowOther, "allow-other", false, "let other users in")
	f.IntVar(&o.workers, "ingest-workers", 0, "how many files are ingested at the same time (default a quarter of the cores)")
	f.DurationVar(&o.sealQuiet, "seal-quiet", 30*time.Second, "how long a step that was not committed must have been quiet to be sealed as it is")
	f.DurationVar(&o.sealGrace, "seal-grace", 300*time.Millisecond, "how long files of a step may come after its commit point (see stepfs rules)")
	f.BoolVar(&o.noSeal, "no-seal", false, "seal no step by itself, only what is asked for: mkdir, stepfs snapshot, the xattr")
	f.DurationVar(&o.grace, "grace", 25*time.Second, "how long to serve on after SIGTERM while files are open for writing")
	f.Var(&o.hotLimit, "hot-limit", "evict the whole copies of stored files, oldest first, when they take more than this, like 100G (default as many as there is room for)")
	f.Var(&o.cacheSize, "cache-size", "keep no more than this of what is in the bucket as well, like 500G: hot copies go first, then packs, those read least lately; what is not published stays (default as much as there is room for; see --remote)")
	f.Var(&o.storeLimit, "store-limit", "how much of the disk the store may take, like 800G or 75% (default the disk less 10%)")
	f.StringVar(&o.onFull, "on-full", "expire", "what a store that is nearly full may give up besides hot copies and barriers: expire (the oldest steps that the job itself has deleted; never the newest three, nor what is held) or stop (no step)")
	f.StringVar(&o.onEvent, onEventFlag, "", "run this command with /bin/sh for each event, one JSON object on its standard input (see above)")
	f.BoolVar(&o.verifyOnSeal, "verify-on-seal", false, "read each step back in the background once it is stored (see stepfs verify)")
	f.Var(&o.scrub, scrubFlag, "how much a second to read of what is stored, in the background, to find damage and heal it where there is another copy, like 20M, or off (default as much as reads the store in 30 days, 1M at least)")
	f.Var(&o.exclude, "exclude", "keep what matches out of every snapshot: a name, or with a slash a path from the root on, with *, ** and ? as in gitignore; for caches and temporaries (can be given several times)")
	f.Var(&o.include, includeFlag, "take a file, directory or quoted pattern from outside the mount into .stepfs/included of each step (repeatable; see above)")
	f.StringVar(&o.remote, remoteFlag, "", "upload sealed steps to this object store (see stepfs remote); a store keeps to the one that it was first given, and its later mounts need no flag; \"\" uploads nothing while this mount lasts")
	f.StringVar(&o.adopt, adoptFlag, "", "with --remote: have the live tree of a store that has no files start as this published step, as stepfs restore names it, or WRITER/STEP where several writers have it; the mount answers once all of it is there")
	f.Var(&o.publish, publishName, "which sealed steps are uploaded: all, complete (not those that are partial), or a number, for one of so many; kept as --remote is")
	f.StringVar(&o.durability, durabilityFlag, durableHere, "when fsync, and taking a snapshot, return: once it is durable here (local), or once it is in the bucket, too (remote); kept as --remote is")
	f.Var(&o.uploadRate, "upload-rate", "upload no more than this a second, like 50M (default as fast as it goes)")
	f.BoolVar(&o.remoteForget, remoteForgetFlag, false, "what the policy forgets here is forgotten in the bucket, too, for good (default: the bucket keeps it); kept as --remote is")
	f.DurationVar(&o.refresh, refreshFlag, 30*time.Second, "with a URL: how often to look for what was published or forgotten meanwhile")
	f.StringVar(&o.logFile, "log-file", "", "where a mount in the background logs (default STORE/stepfs.log; with a URL a file named after MOUNTPOINT in /var/log/stepfs, or in ~/.local/state/stepfs if you are not root)")
	f.BoolVar(&o.save, "save-settings", false, "keep the flags given here as the store's defaults")
	return c
}

// mountError: for mount, which creates stores, a path that cannot become one
// is an error like others, not a store that is not there.
func mountError(err error) error {
	if exitCode(err) == exitNoStore {
		return &codedError{code: exitError, err: err}
	}
	return err
}

// validate refuses what no store can make sense of, before anything is touched.
func (o *mountOptions) validate() error {
	if o.remote != "" {
		if _, err := location.Parse(o.remote); err != nil {
			return fmt.Errorf("--remote: %w", err)
		}
	}
	switch {
	case o.durability != "" && o.durability != durableHere && o.durability != durableRemote:
		return fmt.Errorf("--%s is %s or %s, not %q", durabilityFlag, durableHere, durableRemote, o.durability)
	case o.snapDir != "hidden" && o.snapDir != "visible":
		return fmt.Errorf("--snapdir is hidden or visible, not %q", o.snapDir)
	case o.onFull != "expire" && o.onFull != "stop":
		return fmt.Errorf("--on-full is expire or stop, not %q", o.onFull)
	case o.snapDirName == "" || o.snapDirName == "." || o.snapDirName == ".." || strings.ContainsAny(o.snapDirName, "/\x00") || len(o.snapDirName) > 255:
		return fmt.Errorf("--snapdir-name: %q is no name for a directory", o.snapDirName)
	case o.workers < 0 || o.workers > 1024:
		return fmt.Errorf("--ingest-workers: %d is not between 1 and 1024", o.workers)
	case o.sealQuiet < 0:
		return errors.New("--seal-quiet is negative")
	case o.sealGrace < 0:
		return errors.New("--seal-grace is negative")
	case o.grace < 0:
		return errors.New("--grace is negative")
	}
	return nil
}

// ingestWorkers is how many workers ingest.
func (o *mountOptions) ingestWorkers() int {
	if o.workers > 0 {
		return o.workers
	}
	return max(1, runtime.GOMAXPROCS(0)/4)
}

// liveReadOnly says whether the mount takes no changes.
func (o *mountOptions) liveReadOnly() bool { return o.readOnly || o.snapshotsOnly }

// applySettings gives flags that neither the command line nor the environment
// set the values that the store's owner saved.
func applySettings(flags *pflag.FlagSet, settings map[string]string) error {
	for name, value := range settings {
		f := flags.Lookup(name)
		if f == nil || f.Changed || slices.Contains(notSettings, name) {
			continue // a flag of another version is no reason not to mount
		}
		if err := f.Value.Set(value); err != nil {
			return fmt.Errorf("the store's setting of --%s: %w; replace it with --%s … --save-settings", name, err, name)
		}
	}
	return nil
}

// changedSettings adds to the saved settings what was set for this mount.
func changedSettings(flags *pflag.FlagSet, saved map[string]string) map[string]string {
	all := map[string]string{}
	for k, v := range saved {
		all[k] = v
	}
	flags.Visit(func(f *pflag.Flag) {
		if !slices.Contains(notSettings, f.Name) {
			all[f.Name] = f.Value.String()
		}
	})
	return all
}

// runMount is the foreground or background mount.
func runMount(ctx context.Context, flags *pflag.FlagSet, o *mountOptions, store, point string, out io.Writer) error {
	ready := readyPipe()
	if o.background && ready == nil {
		return startBackground(ctx, o, out)
	}
	d, err := startDaemon(ctx, flags, o, store, point)
	if err != nil {
		return err
	}
	if err := announce(ready, o, d.dir.Join(logName), d.readyLine(), out); err != nil {
		return errors.Join(err, d.teardown())
	}
	return d.run()
}

// byteSize is a flag for sizes like 512M or 1.5TiB; units are powers of 1024.
type byteSize int64

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Type names the flag's value in help texts.
func (b *byteSize) Type() string { return "size" }

// Set parses a size.
func (b *byteSize) Set(s string) error {
	num := strings.TrimRight(strings.ToUpper(strings.TrimSpace(s)), "IB")
	shift := 0
	if num != "" {
		if i := strings.IndexByte("KMGTPE", num[len(num)-1]); i >= 0 {
			shift, num = 10*(i+1), num[:len(num)-1]
		}
	}
	v, err := strconv.ParseFloat(num, 64)
	if v *= math.Pow(2, float64(shift)); err != nil || !(v >= 0) || v >= math.MaxInt64 {
		return fmt.Errorf("%q is not a size like 512M or 100G", s)
	}
	*b = byteSize(v)
	return nil
}

// readyLine is what mount says once it is ready.
type readyLine struct {
	Event      string `json:"event"`
	Store      string `json:"store"`
	Mountpoint string `json:"mountpoint"`
	Snapshots  string `json:"snapshots"`
	PID        int    `json:"pid"`
}

func printReady(w io.Writer, r readyLine, json bool) error {
	if json {
		return printJSON(w, r)
	}
	_, err := fmt.Fprintf(w, "stepfs: %s is mounted on %s, snapshots are in %s\n", r.Store, r.Mountpoint, r.Snapshots)
	return err
}
