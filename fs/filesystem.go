package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
	"stepfs/internal/handles"
	"stepfs/snapshot"
)

// Manager makes and removes snapshots; snapshot.Manager is one.
type Manager interface {
	// Barrier returns once a snapshot is recorded with everything of inos
	// durable in it. Directories are allowed. Its error is what the caller's
	// fsync fails with.
	Barrier(ctx context.Context, reason string, inos ...uint64) (seq uint64, err error)
	// SnapshotAs takes a snapshot of a scope ("" is the root) and seals it
	// under a name, for a user.
	SnapshotAs(ctx context.Context, scope, name, reason string, uid uint32, tags []string) (snapshot.Info, error)
	// Remove removes a snapshot that was made under a name: "name" or
	// "scope/name". A step is refused with snapshot.ErrReadOnly.
	Remove(ctx context.Context, name string, uid uint32) error
	// Freeable gives the bytes that would come back if a snapshot alone were
	// removed; up to age old.
	Freeable(ctx context.Context, seq uint64, age time.Duration) (int64, error)
}

// Registry knows what snapshots there are; snapshot.Registry is one. An
// unknown name, number or slot is snapshot.ErrNotExist.
type Registry interface {
	// Scopes lists the names directly below the scope parent that are scopes
	// or lead to one, in any order.
	Scopes(parent string) []string
	// Steps lists the newest revisions of a scope's names behind after, in byte
	// order.
	Steps(scope, after string, max int) ([]snapshot.Info, error)
	// Resolve finds "12000" (its newest revision), "12000@77" or a given name.
	Resolve(scope, name string) (snapshot.Info, error)
	// Reach is Resolve, but a revision that was forgotten is still found while
	// somebody reads it.
	Reach(scope, name string) (snapshot.Info, error)
	// Use notes that somebody looks into a snapshot, Pin keeps it until it is
	// released, if it is still there after the call.
	Use(seq uint64)
	Pin(seq uint64) (release func())
	// Latest is the step of a scope that was sealed last.
	Latest(scope string) (snapshot.Info, bool)
	// Barriers lists the snapshots with a number above after, in order.
	Barriers(after uint64, max int) ([]snapshot.Info, error)
	Get(seq uint64) (snapshot.Info, error)
	// Slot gives a snapshot the number under which its nodes are shown, the
	// same one for ever: 1 to 1<<22-1.
	Slot(seq uint64) (uint32, error)
	BySlot(slot uint32) (snapshot.Info, error)
}

// Options is what a FileSystem is made of. Tree and Registry are required, and
// Manager unless SnapshotsOnly.
type Options struct {
	Tree     *stage.Tree
	Registry Registry
	Manager  Manager

	// SnapDirName is the name of the directory of snapshots; default
	// "snapshots". SnapDirVisible lists it in the root, too: by default it is
	// only there by name, since training code globs its directory and deletes
	// what it finds.
	SnapDirName    string
	SnapDirVisible bool
	// SnapshotsOnly shows the directory of snapshots as the root, and nothing
	// of the live tree.
	SnapshotsOnly bool
	// Status renders snapshots/.status, or .status.json.
	Status func(json bool) ([]byte, error)
	// Fault hears of errors that a caller is told as EIO, which says nothing.
	Fault func(what string, err error)
}

func (o Options) withDefaults() Options {
	if o.SnapDirName == "" {
		o.SnapDirName = "snapshots"
	}
	if o.Fault == nil {
		o.Fault = func(string, error) {}
	}
	if o.Status == nil {
		o.Status = func(bool) ([]byte, error) { return nil, nil }
	}
	return o
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	switch {
	case o.Tree == nil || o.Registry == nil:
		return errors.New("fs: Tree and Registry are required")
	case o.Manager == nil && !o.SnapshotsOnly:
		return errors.New("fs: Manager is required for a live tree")
	case o.SnapDirName == "." || o.SnapDirName == ".." || strings.ContainsAny(o.SnapDirName, "/\x00") || len(o.SnapDirName) > stage.MaxName:
		return fmt.Errorf("fs: %q is no name for a directory", o.SnapDirName)
	}
	return nil
}

// forever is how long the kernel may believe what we say of live nodes and of
// what is in a snapshot: nobody but this mount changes the one, nobody at all
// the other. What can change by itself (the names of snapshots) is asked for
// each time.
const forever = 10 * 365 * 24 * time.Hour

// FileSystem answers the kernel's requests. Its methods are those of
// fuse.RawFileSystem:
//
//	lookup.go     Lookup, GetAttr, Statx
//	setattr.go    SetAttr
//	open.go       Open, Create, Tmpfile, Flush, Release
//	io.go         Read, Write
//	copy.go       CopyFileRange
//	sync.go       Fsync, FsyncDir
//	namespace.go  Mknod, Mkdir, Symlink, Link, Unlink, Rmdir, Rename, Readlink
//	readdir.go    OpenDir, ReadDir, ReadDirPlus, ReleaseDir
//	xattr.go      GetXAttr, SetXAttr, ListXAttr, RemoveXAttr
//	space.go      Fallocate, Lseek, StatFs
//
// The others are not implemented: permissions (ACCESS) and locks are the
// kernel's, and FORGET says nothing to somebody who keeps no table of nodes.
type FileSystem struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented

	opts     Options
	tree     *stage.Tree
	registry Registry
	manager  Manager

	names   nameTable
	dirs    handles.Table[*dirStream]
	texts   handles.Table[[]byte]
	pins    handles.Table[func()] // of open files of snapshots
	closers closers
	writers writers

	// directWrites: write-only opens bypass the page cache. Set before serving.
	directWrites bool
}

var (
	_ fuse.RawFileSystem = (*FileSystem)(nil)
	_ Manager            = (*snapshot.Manager)(nil)
	_ Registry           = (*snapshot.Registry)(nil)
)

// New makes a FileSystem.
func New(o Options) (*FileSystem, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	f := &FileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		opts:          o, tree: o.Tree, registry: o.Registry, manager: o.Manager,
	}
	f.names.init()
	f.dirs.Init()
	f.texts.Init()
	f.pins.Init()
	f.closers.init()
	f.writers.init()
	return f, nil
}

// directIOCoherent is the protocol version 7.x of the first kernel (6.6) that
// drops cached pages when a file is written around the cache.
const directIOCoherent = 39

// NewServer makes the server that answers c by f.
func (f *FileSystem) NewServer(c *Conn, o ServerOptions) (*Server, error) {
	s, err := NewServer(c, f, o)
	if err != nil {
		return nil, err
	}
	f.directWrites = s.KernelMinor() >= directIOCoherent
	return s, nil
}

// String is the file system's name in go-fuse's messages.
func (f *FileSystem) String() string { return fsType }

// OnUnmount frees what was kept for open handles.
func (f *FileSystem) OnUnmount() { f.closers.close() }

// source is a tree that can be read: the live one, or one snapshot of it.
// *stage.Tree and *stage.View are the two.
type source interface {
	Lookup(parent uint64, name string) (stage.Attr, error)
	GetAttr(ino uint64) (stage.Attr, error)
	Readlink(ino uint64) (string, error)
	ReadDir(dir uint64, after string, max int) ([]stage.Dirent, error)
	Parent(dir uint64) (uint64, error)
	GetXattr(ino uint64, name string) ([]byte, error)
	ListXattr(ino uint64) ([]string, error)
	Lseek(ino uint64, off int64, whence uint32) (int64, error)
}

var (
	_ source = (*stage.Tree)(nil)
	_ source = (*stage.View)(nil)
)

// node is the node that the kernel's number means.
func (f *FileSystem) node(id uint64) nodeID {
	if f.opts.SnapshotsOnly && id == fuse.FUSE_ROOT_ID {
		return snapRoot
	}
	return nodeID(id)
}

// number is the inverse of node.
func (f *FileSystem) number(n nodeID) uint64 {
	if f.opts.SnapshotsOnly && n == snapRoot {
		return fuse.FUSE_ROOT_ID
	}
	return uint64(n)
}

// source gives the tree that a live or snapshot node is in.
func (f *FileSystem) source(n nodeID) (source, error) {
	switch {
	case n.isSnapshot():
		return f.snapshotOf(n)
	case n.isLive() && !f.opts.SnapshotsOnly:
		return f.tree, nil
	}
	return nil, stage.ErrStale
}

// snapshotOf gives the snapshot that a snapshot node is in.
func (f *FileSystem) snapshotOf(n nodeID) (*stage.View, error) {
	info, err := f.registry.BySlot(n.slot())
	if err != nil {
		return nil, err
	}
	return f.tree.At(info.Seq), nil
}

// use notes that somebody reads what a node of a snapshot stands for.
func (f *FileSystem) use(n nodeID) error {
	if !n.isSnapshot() {
		return nil
	}
	info, err := f.registry.BySlot(n.slot())
	if err == nil {
		f.registry.Use(info.Seq)
	}
	return err
}

// pin keeps the snapshot of an open node; release, which is never nil, ends that.
func (f *FileSystem) pin(n nodeID) (release func(), err error) {
	if !n.isSnapshot() {
		return func() {}, nil
	}
	info, err := f.registry.BySlot(n.slot())
	if err != nil {
		return nil, err
	}
	release = f.registry.Pin(info.Seq)
	if _, err := f.registry.Get(info.Seq); err != nil {
		release()
		return nil, err // pruned before we had it
	}
	return release, nil
}

// live gives the live inode of a node that is about to be changed. Everything
// that is not live is immutable.
func (f *FileSystem) live(id uint64) (uint64, error) {
	n := f.node(id)
	if !n.isLive() || f.opts.SnapshotsOnly {
		return 0, stage.ErrReadOnly
	}
	return n.ino(), nil
}

// isSnapDir says whether name in the directory parent is the directory of
// snapshots.
func (f *FileSystem) isSnapDir(parent nodeID, name string) bool {
	return parent == stage.RootIno && !f.opts.SnapshotsOnly && name == f.opts.SnapDirName
}
