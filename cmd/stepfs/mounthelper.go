package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Exit codes of mount(8) and its helpers.
const (
	helperUsage       = 1
	helperSystem      = 2
	helperInterrupted = 8
	helperFailed      = 32
)

// systemError: the machine lacks what a mount needs, whatever the store is.
type systemError struct{ err error }

func (e *systemError) Error() string { return e.err.Error() }
func (e *systemError) Unwrap() error { return e.err }

// isMountHelper: mount(8) runs /sbin/mount.TYPE, for our types mount.stepfs and
// mount.fuse.stepfs. Both are links to this program.
func isMountHelper(argv0 string) bool {
	name := filepath.Base(argv0)
	return name == "mount.stepfs" || name == "mount.fuse.stepfs"
}

// runMountHelper is the whole program when mount(8) runs it.
func runMountHelper(ctx context.Context, argv []string) int {
	err := mountHelper(ctx, argv[1:])
	if err != nil && !errors.Is(err, errReported) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(argv[0]), err)
	}
	return helperCode(err)
}

// helperCode is mount(8)'s exit code for an error.
func helperCode(err error) int {
	var usage *usageError
	var system *systemError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported) && exitCode(err) != exitInterrupted:
		return exitCode(err) // of the process in the background, which is a helper itself
	case exitCode(err) == exitInterrupted:
		return helperInterrupted
	case errors.As(err, &usage):
		return helperUsage
	case errors.As(err, &system):
		return helperSystem
	}
	return helperFailed
}

// helperCall is how mount(8) calls its helpers:
//
//	mount.TYPE SOURCE TARGET [-sfnv] [-N namespace] [-o options] [-t type]
type helperCall struct {
	source, target string
	options        []string
	sloppy         bool // unknown options are passed over
	fake           bool // only look whether all is said well
	verbose        bool
	namespace      string // a file of /proc
}

func parseHelperCall(args []string) (*helperCall, error) {
	const usage = "usage: mount.stepfs STORE MOUNTPOINT [-sfnv] [-N namespace] [-o options] [-t type]"
	var c helperCall
	var lists []string
	f := pflag.NewFlagSet("mount.stepfs", pflag.ContinueOnError)
	f.BoolVarP(&c.sloppy, "sloppy", "s", false, "")
	f.BoolVarP(&c.fake, "fake", "f", false, "")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "")
	f.BoolP("no-mtab", "n", false, "") // there is none any more
	f.StringVarP(&c.namespace, "namespace", "N", "", "")
	f.StringArrayVarP(&lists, optionsFlag, "o", nil, "")
	f.StringP("types", "t", "", "") // our name says it
	f.Usage = func() {}
	if err := f.Parse(args); err != nil {
		return nil, &usageError{fmt.Errorf("%w; %s", err, usage)}
	}
	if f.NArg() != 2 {
		return nil, &usageError{fmt.Errorf("%d arguments given; %s", f.NArg(), usage)}
	}
	c.source, c.target = f.Arg(0), f.Arg(1)
	c.options = splitOptions(strings.Join(lists, ","))
	return &c, nil
}

// mountHelper is `stepfs mount -d`, in the words of mount(8).
func mountHelper(ctx context.Context, args []string) error {
	c, err := parseHelperCall(args)
	if err != nil {
		return err
	}
	if c.namespace != "" {
		return c.enterNamespace()
	}
	if c.fake {
		if err := mountCommand(&global{}).ParseFlags(c.mountArgs()[1:]); err != nil {
			return &usageError{err}
		}
		return nil
	}
	root := newRoot()
	if !c.verbose {
		root.SetOut(io.Discard)
	}
	root.SetArgs(c.mountArgs())
	return root.ExecuteContext(ctx)
}

// mountArgs are the arguments of stepfs. mount(8) always says rw or ro, and its
// helper for FUSE says suid and dev when it is not told otherwise: these are
// nobody's wish, and must not undo the store's settings or our defaults.
func (c *helperCall) mountArgs() []string {
	known := mountCommand(&global{}).Flags()
	options := slices.DeleteFunc(slices.Clone(c.options), func(opt string) bool {
		return opt == "rw" || opt == "suid" || opt == "dev" || c.sloppy && !isOption(known, opt)
	})
	// A store is made on purpose: behind a line of fstab whose disk is missing
	// there would be an empty one, on the wrong disk.
	if !slices.ContainsFunc(options, func(opt string) bool { return opt == createFlag || strings.HasPrefix(opt, createFlag+"=") }) {
		options = append(options, createFlag+"=false")
	}
	return []string{"mount", "--daemon", "--" + optionsFlag + "=" + strings.Join(options, ","), "--", c.source, c.target}
}

// enterNamespace runs this program again in another mount namespace, as mount -N
// asks: one thread joins it, and becomes the whole process.
func (c *helperCall) enterNamespace() error {
	runtime.LockOSThread()
	ns, err := os.Open(c.namespace)
	if err != nil {
		return fmt.Errorf("the mount namespace: %w", err)
	}
	defer ns.Close()
	argv := []string{os.Args[0], c.source, c.target, "-o", strings.Join(c.options, ",")}
	if c.sloppy {
		argv = append(argv, "-s")
	}
	if c.verbose {
		argv = append(argv, "-v")
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("entering the mount namespace %s: %w", c.namespace, err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("entering the mount namespace %s: %w", c.namespace, err)
	}
	err = unix.Exec("/proc/self/exe", argv, os.Environ()) // the same file whatever is mounted there
	return fmt.Errorf("starting in the mount namespace %s: %w", c.namespace, err)
}
