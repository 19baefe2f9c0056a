package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	stepfsfs "stepfs/fs"
	"stepfs/fs/stage"
	"stepfs/internal/livetree"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// This file is the only one that makes the parts of a store and knows what
// each is given: store directory -> state -> chunkstore -> live tree ->
// snapshots -> kernel.

// parts are an open store, in the order in which they were opened.
type parts struct {
	engine  *state.Engine
	chunks  *chunkstore.Store
	uploads *chunkstore.Uploads // nil: there is no bucket
	tree    *stage.Tree
	manager *snapshot.Manager // and registry
	use     *diskUse
	ready   atomic.Pointer[snapshot.Manager]
}

// openParts opens everything behind a locked store directory. h hears of events.
func openParts(dir *storedir.Dir, o *mountOptions, h *hook) (_ *local, err error) {
	p := &parts{}
	l := &local{dir: dir, parts: p, faults: &faultLog{told: h.fault}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the store %s: %w", dir.Path(), err), p.close())
		}
	}()
	if err := repairable(dir); err != nil {
		return nil, err
	}
	p.engine, err = state.Open(state.Config{
		Dir: dir.Path(), FS: vfs.Default, BootID: storedir.BootID(),
		Damage: func(err error) { l.faults.add("the index is damaged", err) },
		Dying: func(err error) {
			l.faults.add("the index can't be kept, so this ends; nothing that was acknowledged is lost: start again once the disk is well, and has room", err)
			os.Exit(exitError)
		},
	})
	if err != nil {
		return nil, wayOut(dir, err)
	}
	if err := o.takeOverNaming(dir, p.engine); err != nil {
		return nil, err
	}
	cfg := dir.Config()
	packs := chunkstore.Config{
		Polynomial: cfg.Polynomial, Key: cfg.Key, Domain: cfg.Domain, Older: olderKeys(cfg), Workers: o.ingestWorkers(), Background: snapshot.BeNice,
		Events: chunkstore.Events{Damage: func(err error) {
			l.faults.add("stored data is damaged", err)
			if m := p.ready.Load(); m != nil {
				m.HealSoon()
			}
		}, Fetched: func() {
			if m := p.ready.Load(); m != nil {
				m.PacksFetched()
			}
		}, Unreachable: func(err error) { l.faults.add("what is only in the bucket can't be read", err) }},
	}
	if o.durability != durableRemote { // else somebody waits for uploads, too
		packs.Busy = func() bool { return p.tree.Busy() } // there is a tree before anything is uploaded
	}
	if err := notOlder(context.Background(), dir, p.engine, packs); err != nil {
		return nil, err
	}
	p.chunks, err = chunkstore.Open(p.engine, vfs.Default, dir.Join(storedir.PacksDir), packs)
	if err != nil {
		return nil, err
	}
	if url := cmp.Or(o.remote, cfg.Settings[remoteFlag]); url != "" {
		p.chunks.ReadFrom(openReads(url))
		p.chunks.KeepFetched(int64(o.cacheSize))
	}
	space, err := dir.Space()
	if err != nil {
		return nil, err
	}
	p.use = &diskUse{dir: dir.Path(), engine: p.engine, chunks: p.chunks}
	p.tree, err = stage.Open(stage.Config{
		Engine: p.engine, Disk: stage.NewDisk(dir.Join(storedir.StagingDir)), Chunks: chunkReader{p.chunks},
		Events: p.treeEvents(l.faults),
		UID:    uint32(os.Geteuid()), GID: uint32(os.Getegid()), // whose a new store's root is
		MaxOpen: stagingFiles(),
		Limit:   o.storeLimit.of(space.Total), Rest: p.use.rest, MakeRoom: p.makeRoom, Wanted: p.wanted,
	})
	if err != nil {
		return nil, err
	}
	p.chunks.Copies(p.tree.HotChunk)
	if o.mount && !o.readOnly && !o.snapshotsOnly { // else what the last mount excluded stays excluded
		if err := p.tree.Exclude(o.exclude.parsed); err != nil {
			return nil, err
		}
	}
	own, err := ownRules(dir)
	if err != nil {
		return nil, err
	}
	policy, err := policyOf(cfg.Settings)
	if err != nil {
		l.faults.add("the store's policy can't be used, everything is kept (see stepfs policy --help)", err)
	}
	scrub := o.scrub
	if !o.mount {
		scrub = -1 // no command is held up by it, nor long enough there
	}
	if p.uploads, err = openUploads(p.chunks, cfg.ID, o); err != nil {
		return nil, err
	}
	p.manager, err = snapshot.Open(snapshot.Config{
		DB: p.engine, Tree: livetree.New(p.tree), Chunks: p.chunks,
		Rules: own, SealQuiet: o.sealQuiet, SealGrace: o.sealGrace, NoSeal: o.noSeal, HoldSeal: o.adopt != "" || cfg.Settings[adoptingSetting] != "", VerifyOnSeal: o.verifyOnSeal, ScrubRate: int64(scrub), Include: o.included,
		Workers: o.ingestWorkers(), HotLimit: int64(o.hotLimit), CacheLimit: int64(o.cacheSize), ReadOnly: o.passive,
		Uploads: p.uploads, Publish: o.publish.Publish, DurableRemote: o.durability == durableRemote, ForgetInBucket: o.remoteForget,
		Policy: &policy, KeepSteps: o.onFull == "stop", Collector: livetree.Collector(p.chunks, collectRate),
		Events: snapshot.Events{Fault: l.faults.add, Sealed: func(i snapshot.Info) {
			h.sealed(i)
			slog.Info("sealed", "snapshot", i.ID(), "scope", i.Scope, "reason", i.Reason,
				"verdict", i.Verdict, "rule", i.Rule)
		}, Judged: func(i snapshot.Info) {
			h.sealed(i) // once more: whoever waits for a whole one hears of it
			slog.Info("judged", "snapshot", i.ID(), "scope", i.Scope, "verdict", i.Verdict)
		}, Forgotten: func(i snapshot.Info) {
			h.forgotten(i)
			slog.Info("forgotten", "snapshot", i.ID(), "scope", i.Scope, "by", i.Forgotten.By, "reason", i.Forgotten.Reason)
		}, Expired: func(i snapshot.Info, reason string) {
			h.expired(i, reason)
			logExpired(i, reason)
		}, BarriersExpired: h.barriersExpired, SpaceLow: func(free, low uint64) {
			h.spaceLow(free, low)
			slog.Warn("space is low", "free", free, "low", low)
		}, Verified: func(i snapshot.Info) {
			h.verified(i)
			logVerified(i)
		}, Published: func(i snapshot.Info) {
			slog.Info("published", "snapshot", i.ID(), "scope", i.Scope)
		}, Renaming: func(bytes int64) {
			slog.Info("what was stored before the store joined its bucket is stored anew before it is published", "bytes", bytes)
		}, RolledBack: func(dir uint64, names []string) {
			if l.changed != nil {
				l.changed(dir, names)
			}
		}},
	})
	if err != nil {
		return nil, err
	}
	p.ready.Store(p.manager)
	return l, nil
}

// collectRate is how many bytes a second are written again to get the space of
// dead chunks back, while nobody waits for it.
const collectRate = 64 << 20

// logVerified logs how it went when a snapshot was read back.
func logVerified(i snapshot.Info) {
	if v := i.Verified; v.OK() {
		slog.Info("verified", "snapshot", i.ID(), "scope", i.Scope, "bytes", v.Bytes, "took", v.Took)
		return
	}
	slog.Error("verify failed", "snapshot", i.ID(), "scope", i.Scope, "problems", i.Verified.Problems)
}

// logExpired logs what is gone for good. Barriers go by the thousand.
func logExpired(i snapshot.Info, reason string) {
	level := slog.LevelInfo
	if i.Name == "" {
		level = slog.LevelDebug
	}
	slog.Log(context.Background(), level, "expired", "snapshot", i.ID(), "scope", i.Scope, "reason", reason)
}

// treeEvents tells the manager what happens in the tree, which is opened
// before it. What happens until then (recovery's own work) it finds by itself.
func (p *parts) treeEvents(faults *faultLog) stage.Events {
	return stage.Events{
		Happened: func(e stage.Event) {
			if m := p.ready.Load(); m != nil {
				m.Happened(livetree.Event(e))
			}
		},
		Tight: func() {
			if m := p.ready.Load(); m != nil {
				m.Tight()
			}
		},
		Fault: faults.add,
	}
}

// makeRoom is what a writer waits for when the store is full.
func (p *parts) makeRoom(ctx context.Context, free uint64) bool {
	m := p.ready.Load()
	return m != nil && m.Relieve(ctx, free)
}

// wanted says whether a step needs a content; before the steps are known, all
// are.
func (p *parts) wanted(first, until uint64) bool {
	m := p.ready.Load()
	return m == nil || m.Wanted(first, until)
}

// close closes in the opposite order. It is safe on parts that failed to open.
func (p *parts) close() error {
	var errs []error
	if p.manager != nil {
		errs = append(errs, p.manager.Close())
	}
	if p.tree != nil {
		errs = append(errs, p.tree.Close())
	}
	if p.chunks != nil {
		errs = append(errs, p.chunks.Close())
	}
	if p.engine != nil {
		errs = append(errs, p.engine.Close(errors.Join(errs...) == nil))
	}
	return errors.Join(errs...)
}

// chunkReader gives the tree its stored bytes.
type chunkReader struct{ *chunkstore.Store }

// ReadChunk is ReadAt with the tree's types.
func (r chunkReader) ReadChunk(ctx context.Context, id [32]byte, raw uint32, dst []byte, off int) error {
	return r.Store.ReadAt(ctx, chunkstore.ID(id), raw, dst, off)
}

// mounted is a mount that is served.
type mounted struct{ server *stepfsfs.Server }

// mountParts mounts the store at point; serve answers it.
func mountParts(l *local, point string, o *mountOptions) (*mounted, error) {
	f, err := stepfsfs.New(stepfsfs.Options{
		Tree: l.parts.tree, Registry: l.parts.manager, Manager: l.parts.manager,
		SnapDirName: o.snapDirName, SnapDirVisible: o.snapDir == "visible", SnapshotsOnly: o.snapshotsOnly,
		Status: l.statusFile, Fault: l.faults.add,
	})
	if err != nil {
		return nil, err
	}
	conn, err := stepfsfs.Mount(point, stepfsfs.MountOptions{
		Source: l.dir.Path(), AllowOther: o.allowOther, ReadOnly: o.liveReadOnly(), Flags: o.kernel,
	})
	if err != nil {
		return nil, err
	}
	server, err := f.NewServer(conn, stepfsfs.ServerOptions{
		Panic: func(v any, stack []byte) {
			l.faults.add("a request panicked", fmt.Errorf("%v\n%s", v, stack))
		},
	})
	if err != nil {
		return nil, errors.Join(err, stepfsfs.Unmount(point, true), conn.Close())
	}
	l.changed = func(dir uint64, names []string) {
		errs := []error{server.NotifyInode(dir, 0, 0)}
		for _, name := range names {
			errs = append(errs, server.NotifyEntry(dir, name))
		}
		if err := errors.Join(errs...); err != nil {
			l.faults.add("tell the kernel what a rollback changed", err)
		}
	}
	return &mounted{server}, nil
}

func (m *mounted) serve() error { return m.server.Serve() }
func (m *mounted) tune()        { m.server.Tune() }

// statusFile is snapshots/.status and .status.json.
func (l *local) statusFile(asJSON bool) ([]byte, error) {
	s, err := l.Status(context.Background())
	if err != nil {
		return nil, err
	}
	if asJSON {
		b, err := json.Marshal(s)
		return append(b, '\n'), err
	}
	var b bytes.Buffer
	err = s.print(&b)
	return b.Bytes(), err
}
