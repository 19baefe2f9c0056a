package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"stepfs/chunkstore/bucket"
	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/snapshot/published"
)

const (
	adoptFlag = "adopt"

	// adoptingSetting is kept in the store's config while its live tree is being
	// made of a published step, which it names: a tree that is half of it must not
	// be taken for one.
	adoptingSetting = "adopting"
	// adoptingWriterSetting is whose it is: others may have one of that name.
	adoptingWriterSetting = "adopting-writer"
)

// adopt has the live tree of a store that has no files start as a step that is
// published in its bucket. One that has files is left alone, so that a unit or a
// line of fstab can say it each time.
func (d *daemon) adopt(ctx context.Context) error {
	settings := d.dir.Config().Settings
	begun, whose := settings[adoptingSetting], settings[adoptingWriterSetting]
	writer, want := splitWriter(d.opts.adopt)
	switch {
	case begun == "" && want == "":
		return nil
	case begun != "" && (!meansStep(want, begun) || writer != "" && writer != whose):
		return fmt.Errorf("the live tree is what there was of %s when a mount with --%s ended; go on with --%s %s, or make another store",
			begun, adoptFlag, adoptFlag, shellQuote(begun))
	case d.opts.remote == "":
		return &usageError{fmt.Errorf("--%s needs --%s: there is no bucket to take %s from", adoptFlag, remoteFlag, want)}
	case d.opts.liveReadOnly():
		return &usageError{fmt.Errorf("--%s needs a live tree that can be written", adoptFlag)}
	}
	names, err := d.store.parts.tree.ReadDir(stage.RootIno, "", 1)
	if err != nil {
		return err
	}
	if begun == "" && len(names) > 0 {
		slog.Info("nothing is adopted: the live tree has files", "step", want)
		return nil
	}
	if begun != "" {
		writer, want = whose, begun // there may be others that are called so
	}
	err = d.fetchAdopted(ctx, writer, want)
	if errors.Is(err, published.ErrAmbiguous) {
		err = fmt.Errorf("%w; here as --%s WRITER/%s", err, adoptFlag, want)
	}
	if err != nil {
		return fmt.Errorf("adopting %s: %w", want, err)
	}
	return d.noteAdopting(nil)
}

// splitWriter splits WRITER/STEP, as a step of several writers is called on a mount
// of the bucket; writer is "" in any other name.
func splitWriter(name string) (writer, step string) {
	first, rest, _ := strings.Cut(name, "/")
	if _, ok := bucket.ParseWriter(first); ok && rest != "" {
		return first, rest
	}
	return "", name
}

// meansStep says whether a name may have meant a revision, "scope/name@seq".
func meansStep(name, revision string) bool {
	scope, last := splitStep("", name)
	of, _ := splitStep("", revision)
	return name == revision || name != "" && strings.HasPrefix(revision, name+"@") || last == "latest" && scope == of
}

// noteAdopting records what is being adopted; nil: nothing.
func (d *daemon) noteAdopting(what map[string]string) error {
	all := maps.Clone(d.dir.Config().Settings)
	for _, name := range []string{adoptingSetting, adoptingWriterSetting} {
		delete(all, name)
	}
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, what)
	return d.dir.SaveSettings(all)
}

// fetchAdopted restores the step into the live tree, as stepfs restore would into
// a directory: what was whole when an earlier mount ended is not fetched again,
// unless the machine has gone down since.
func (d *daemon) fetchAdopted(ctx context.Context, writer, want string) error {
	b, cfg, err := openBucket(ctx, d.opts.remote)
	if err != nil {
		return err
	}
	scope, name := splitStep("", want)
	s, err := choosePublished(ctx, b, cfg, func(all *published.Listing) (published.Step, error) {
		return findPublished(all, published.Query{Scope: scope, Name: name, Writer: writer})
	})
	if err != nil {
		return err
	}
	defer s.chunks.Close()
	step := s.step
	what := map[string]string{adoptingSetting: filepath.Join(scope, step.ID()), adoptingWriterSetting: step.Writer.String()}
	if err := d.noteAdopting(what); err != nil {
		return err
	}
	slog.Info("the live tree is made of a published step", "snapshot", step.ID(), "writer", step.Writer.String(), "bytes", step.Record.Logical)
	to, err := newTreeSink(d.store, scope)
	if err != nil {
		return err
	}
	defer to.Close()
	src := &bucketSource{ctx, s.tree}
	top, err := src.Stat(".")
	if err != nil {
		return err
	}
	r := newRestorer(src, to, restoreOptions{workers: max(4, min(8, runtime.GOMAXPROCS(0))), out: os.Stderr, errs: os.Stderr})
	err = r.run(ctx, top, ".")
	r.bar.finish()
	if n := r.failed.Load(); err == nil && n > 0 {
		err = errors.New("something of it could not be had; see above")
	}
	if err == nil {
		err = d.knowCuts(ctx, s.tree, to)
	}
	return ends(err)
}

// knowCuts has what was fetched be cut as it is in the bucket: then it is found
// there, and not sent once more.
func (d *daemon) knowCuts(ctx context.Context, t *published.Tree, to *treeSink) error {
	return t.EachFile(ctx, func(path string, es []schema.ChunkExtent) error {
		if n, err := to.Stat(path); err == nil { // else the file is gone by now
			d.store.parts.manager.KnowCuts(n.ino, es)
		}
		return nil
	})
}
