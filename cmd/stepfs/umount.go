package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
)

func umountCommand(g *global) *cobra.Command {
	var force bool
	const usage = "umount [--force] STORE"
	c := &cobra.Command{
		Use:   usage,
		Short: "Unmount, and end the daemon",
		Long: `Unmount the mountpoint or store STORE and wait until its daemon has left. Of a
mount of a bucket, which has no store, the daemon may be there a moment longer.

A mount that somebody uses is not unmounted; the message says who uses it. With
--force it goes at once and its users lose it.`,
		RunE: func(c *cobra.Command, args []string) error {
			store, _, err := g.storeAnd(args, usage, 0, 0)
			if err != nil {
				return err
			}
			return runUmount(c.Context(), store, force)
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "take the mount away from its users")
	return c
}

func runUmount(ctx context.Context, arg string, force bool) error {
	t, err := resolve(arg)
	if err != nil {
		return err
	}
	if t.Mount != "" && isDead(t.Mount) { // its store may be mounted elsewhere by now
		return clearStale(t.Mount, func(s string) { slog.Info(s) })
	}
	d := dial(ctx, t.Store)
	if d == nil {
		return umountAlone(t, arg, force)
	}
	defer d.Close()
	point := t.Mount
	if st, err := d.Status(ctx); err == nil {
		point = st.Mountpoint
	}
	if err := d.Umount(ctx, UmountRequest{Lazy: force}); err != nil {
		return busy(err, point)
	}
	return d.waitGone(ctx, t.Store)
}

// umountAlone unmounts what has a daemon that is not ours to talk to.
func umountAlone(t target, arg string, force bool) error {
	if t.Mount == "" {
		return fmt.Errorf("%s is not mounted: it is neither a stepfs mount nor the store of one", arg)
	}
	if err := stepfsfs.Unmount(t.Mount, force); err != nil {
		return busy(err, t.Mount)
	}
	return nil
}

// busy adds to an EBUSY who it is.
func busy(err error, point string) error {
	var told *apiError
	if !errors.Is(err, unix.EBUSY) && !(errors.As(err, &told) && told.Busy) {
		return err
	}
	return fmt.Errorf("%s is busy%s\nend these, or take the mount away from them with: stepfs umount --force %s",
		point, describeHolders(point), shellQuote(point))
}
