package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/restic/chunker"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/internal/check"
	"stepfs/internal/livetree"
	"stepfs/internal/simdisk"
	"stepfs/internal/state"
	"stepfs/snapshot"
	"stepfs/snapshot/include"
)

// store is an open store, wired as cmd/stepfs/wire.go does it.
type store struct {
	eng    *state.Engine
	chunks *chunkstore.Store
	tree   *stage.Tree
	m      *snapshot.Manager

	mu      sync.Mutex
	faults  []string
	expired []uint64

	reading struct {
		sync.Mutex
		buf  []byte
		last map[uint64]string // of each inode, what it showed
	}
}

const (
	stagingDir = "s/staging"
	packDir    = "s/packs"
)

func newDisk() *simdisk.Disk { return simdisk.New("s", stagingDir) }

// storeConf is what differs between the stores of the simulation.
type storeConf struct {
	boot     string
	passive  bool  // nothing is sealed, stored or expired by itself
	cold     bool  // hot copies go at once
	roomy    bool  // memtable, journal segments and packs that nothing here fills
	timeless bool  // no time passes: nothing is recorded or done because of a tick
	segment  int64 // of the journal; 0: as the others say
	exclude  []string
	out      *outside // what is included from; nil: nothing
	sealed   func(snapshot.Info)
}

var chunkConf = func() chunkstore.Config {
	p, err := chunker.DerivePolynomial(rand.New(rand.NewSource(7)))
	if err != nil {
		panic(err)
	}
	return chunkstore.Config{Polynomial: p, Key: [32]byte{1, 2, 3}, MinSize: 4 << 10, AverageBits: 12,
		MaxSize: 64 << 10, PackSize: 96 << 10, Workers: 1, CacheBytes: 1 << 20}
}()

type chunkReader struct{ *chunkstore.Store }

func (r chunkReader) ReadChunk(ctx context.Context, id [32]byte, raw uint32, dst []byte, off int) error {
	return r.ReadAt(ctx, id, raw, dst, off)
}

// staging gives a disk's staging files the types that a live tree wants.
type staging struct{ *simdisk.Staging }

func (s staging) Create(gen uint64) (stage.File, error) { return s.Staging.Create(gen) }
func (s staging) Open(gen uint64) (stage.File, error)   { return s.Staging.Open(gen) }
func (s staging) Space() (stage.Space, error) {
	return stage.Space{Total: 1 << 40, Free: 1 << 40, Files: 1 << 30, FilesFree: 1 << 30}, nil
}

// barriersKept is how many barriers are kept behind those of steps.
const barriersKept = 4

func open(disk *simdisk.Disk, conf storeConf) (s *store, err error) {
	s = &store{}
	defer func() {
		if err != nil {
			_ = s.close(false) // the first error counts
		}
	}()
	meta, packs := state.Config{Dir: "s", FS: disk.FS(), BootID: conf.boot, MemTable: 64 << 10, Cache: 1 << 20, SegmentSize: 32 << 10}, chunkConf
	if conf.roomy {
		meta.MemTable, meta.SegmentSize, packs.PackSize = 4<<20, 4<<20, 8<<20
	}
	if conf.segment != 0 {
		meta.SegmentSize = conf.segment
	}
	if s.eng, err = state.Open(meta); err != nil {
		return s, fmt.Errorf("open state: %w", err)
	}
	if s.chunks, err = chunkstore.Open(s.eng, disk.FS(), packDir, packs); err != nil {
		return s, fmt.Errorf("open chunks: %w", err)
	}
	var ready atomic.Pointer[snapshot.Manager]
	s.tree, err = stage.Open(stage.Config{Engine: s.eng, Disk: staging{disk.Staging(stagingDir)}, Chunks: chunkReader{s.chunks}, Reserve: 1,
		Events: stage.Events{
			Happened: func(e stage.Event) {
				if m := ready.Load(); m != nil {
					m.Happened(livetree.Event(e))
				}
			},
			Tight: func() {
				if m := ready.Load(); m != nil {
					m.Tight()
				}
			},
			Fault: s.fault,
		},
		MakeRoom: func(ctx context.Context, free uint64) bool {
			m := ready.Load()
			return m != nil && m.Relieve(ctx, free)
		},
		Wanted: func(first, until uint64) bool {
			m := ready.Load()
			return m == nil || m.Wanted(first, until)
		},
	})
	if err != nil {
		return s, fmt.Errorf("open tree: %w", err)
	}
	if conf.exclude != nil {
		e, err := stage.ParseExcludes(conf.exclude)
		if err == nil {
			err = s.tree.Exclude(e)
		}
		if err != nil {
			return s, err
		}
	}
	s.chunks.Copies(s.tree.HotChunk)
	policy, err := snapshot.ParsePolicy(map[string]string{"keep-barriers": "0s", "keep-barriers-last": fmt.Sprint(barriersKept)})
	if err != nil {
		return s, err
	}
	cfg := snapshot.Config{DB: s.eng, Tree: livetree.New(s.tree), Chunks: s.chunks, Workers: 1, SealQuiet: time.Hour, SealGrace: time.Millisecond,
		ReadOnly: conf.passive, NoSeal: conf.passive, Policy: &policy, UseGrace: -1, Collector: livetree.Collector(s.chunks, 0),
		Events: snapshot.Events{Fault: s.fault, Sealed: conf.sealed, Expired: func(i snapshot.Info, _ string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.expired = append(s.expired, i.Seq)
		}}}
	if conf.timeless {
		cfg.Ticks = func() time.Duration { return 0 }
	}
	if conf.cold {
		cfg.HotLimit = 1
	}
	if conf.out != nil {
		if cfg.Include, err = include.New(include.Config{Paths: []string{conf.out.path}, Fresh: 50 * time.Millisecond}); err != nil {
			return s, err
		}
	}
	if s.m, err = snapshot.Open(cfg); err != nil {
		return s, fmt.Errorf("open snapshots: %w", err)
	}
	ready.Store(s.m)
	return s, nil
}

// close closes what is open.
func (s *store) close(clean bool) error {
	var errs []error
	if s.m != nil {
		errs = append(errs, s.m.Close())
	}
	if s.tree != nil {
		errs = append(errs, s.tree.Close())
	}
	if s.chunks != nil {
		errs = append(errs, s.chunks.Close())
	}
	if s.eng != nil {
		errs = append(errs, s.eng.Close(clean && errors.Join(errs...) == nil))
	}
	return errors.Join(errs...)
}

func (s *store) fault(what string, err error) {
	if err == nil || what == "include files" || strings.Contains(err.Error(), outOfTime) { // the snapshot says the same
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, what+": "+err.Error())
}

// gone gives the snapshots that expired since the store was opened.
func (s *store) gone() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.expired)
}

func (s *store) faulty() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// findings is what the checks of all layers say. data: what is in packs is read.
func (s *store) findings(data bool) (out []check.Finding, err error) {
	v := s.eng.View()
	defer v.Close()
	r := &check.Run{View: v, Report: func(f check.Finding) { out = append(out, f) }}
	ctx := context.Background()
	opts := chunkstore.CheckOptions{Holders: s.tree}
	if data {
		opts.ReadData = 1
	}
	_, err = s.chunks.Check(ctx, r, opts)
	if err == nil && data {
		err = r.Index(ctx)
	}
	if err == nil {
		_, err = s.tree.Check(ctx, r)
	}
	if err == nil {
		_, err = snapshot.Check(ctx, r)
	}
	return out, err
}

// source is what a dump reads: the live tree, or a snapshot.
type source interface {
	Lookup(parent uint64, name string) (stage.Attr, error)
	ReadDir(dir uint64, after string, max int) ([]stage.Dirent, error)
	Readlink(ino uint64) (string, error)
	GetXattr(ino uint64, name string) ([]byte, error)
}

// seen is what a tree shows of one path.
type seen struct {
	ino    uint64
	mode   uint32
	xattr  string // user.k
	data   string // of a file; where a link leads to
	mark   string
	isFile bool
}

// dump reads all below a directory.
func dump(src source, dir uint64, path string, out map[string]seen, read func(a stage.Attr) (data, mark string, err error)) error {
	es, err := src.ReadDir(dir, "", 1000)
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	for _, e := range es {
		p := strings.TrimPrefix(path+"/"+e.Name, "/")
		a, err := src.Lookup(dir, e.Name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", p, err)
		}
		n := seen{ino: a.Ino, mode: a.Mode}
		if x, err := src.GetXattr(a.Ino, "user.k"); err == nil {
			n.xattr = string(x)
		} else if !errors.Is(err, stage.ErrNoAttr) {
			return fmt.Errorf("xattr of %s: %w", p, err)
		}
		switch a.Mode & stage.ModeType {
		case stage.ModeDir:
			err = dump(src, a.Ino, p, out, read)
		case stage.ModeLink:
			n.data, err = src.Readlink(a.Ino)
		default:
			n.isFile = true
			n.data, n.mark, err = read(a)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		out[p] = n
	}
	return nil
}

// live is what the live tree shows, while nobody changes it.
func (s *store) live() (map[string]seen, error) { return s.liveIn(stage.RootIno, "") }

// liveOf is what the live tree shows of a worker's directory, while that one at
// least stands still.
func (s *store) liveOf(w int) (map[string]seen, error) {
	a, err := s.tree.Lookup(stage.RootIno, dirName(w))
	if err != nil {
		return nil, err
	}
	return s.liveIn(a.Ino, dirName(w))
}

func (s *store) liveIn(dir uint64, path string) (map[string]seen, error) {
	out := map[string]seen{}
	return out, dump(s.tree, dir, path, out, func(a stage.Attr) (string, string, error) {
		data, err := s.whole(a, func(b []byte) (int, error) { return s.tree.Read(a.Ino, 0, b, 0) })
		return data, "", err
	})
}

// whole reads a file. Of an inode that shows what it showed the last time, the
// same string is given again.
func (s *store) whole(a stage.Attr, read func([]byte) (int, error)) (string, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if int64(cap(s.reading.buf)) < a.Size {
		s.reading.buf = make([]byte, a.Size+a.Size/4)
	}
	b := s.reading.buf[:a.Size]
	clear(b)
	n, err := read(b)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d of %d bytes", n, len(b))
	}
	if last := s.reading.last[a.Ino]; err != nil || last == string(b) {
		return last, err
	}
	data := string(b)
	if s.reading.last == nil {
		s.reading.last = map[uint64]string{}
	}
	s.reading.last[a.Ino] = data
	return data, nil
}

// view is what a snapshot shows, from its root and not only its scope.
func (s *store) view(seq uint64) (map[string]seen, error) {
	v := s.tree.At(seq)
	out := map[string]seen{}
	return out, dump(v, stage.RootIno, "", out, func(a stage.Attr) (string, string, error) {
		data, err := s.whole(a, func(b []byte) (int, error) { return v.Read(a.Ino, b, 0) })
		if err != nil {
			return "", "", err
		}
		mark, err := v.Marks(a.Ino)
		return data, mark, err
	})
}
