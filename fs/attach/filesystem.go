package attach

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/internal/handles"
	"stepfs/snapshot/published"
)

// Options is what a FileSystem is made of. Catalog and Snapshots are required.
type Options struct {
	Catalog   *published.Catalog
	Snapshots *published.Snapshots

	// SnapDirName is the name of the directory of snapshots; default
	// "snapshots". SnapshotsOnly shows that as the root.
	SnapDirName   string
	SnapshotsOnly bool
	// UID and GID own the directories above the snapshots.
	UID, GID uint32
	// Fault hears of errors that a caller is told as EIO, which says nothing.
	Fault func(what string, err error)
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	switch {
	case o.Catalog == nil || o.Snapshots == nil:
		return errors.New("attach: Catalog and Snapshots are required")
	case o.SnapDirName == "." || o.SnapDirName == ".." || strings.ContainsAny(o.SnapDirName, "/\x00") || len(o.SnapDirName) > maxName:
		return fmt.Errorf("attach: %q is no name for a directory", o.SnapDirName)
	}
	return nil
}

const (
	// forever is how long the kernel may believe what we say of what is in a
	// snapshot. What can change by itself (the names of snapshots) is asked for
	// each time.
	forever = 10 * 365 * 24 * time.Hour

	maxName   = 255
	blockSize = 1 << 20 // st_blksize: the largest request
	fsName    = "stepfs"
)

// FileSystem answers the kernel's requests. Its methods are those of
// fuse.RawFileSystem:
//
//	lookup.go    Lookup, GetAttr, Readlink
//	readdir.go   OpenDir, ReadDir, ReadDirPlus, ReleaseDir
//	open.go      Open, Read, Lseek, Release
//	xattr.go     GetXAttr, ListXAttr
//	readonly.go  what would change something
type FileSystem struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented

	opts  Options
	begun time.Time
	// generation is that of all nodes: their numbers mean something else in the
	// next mount, so a file handle (name_to_handle_at) of this one is stale there.
	generation uint64
	names      nameTable
	shown      snapshotTable
	pages      objectCache
	dirs       handles.Table[[]listed]
	files      handles.Table[*openFile]

	ctx   context.Context // of what is read for nobody in particular
	stop  context.CancelFunc
	tasks sync.WaitGroup

	glanceMu sync.Mutex
	glance   glance
}

var _ fuse.RawFileSystem = (*FileSystem)(nil)

// New makes a FileSystem.
func New(o Options) (*FileSystem, error) {
	if o.SnapDirName == "" {
		o.SnapDirName = "snapshots"
	}
	if o.Fault == nil {
		o.Fault = func(string, error) {}
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	f := &FileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), opts: o, begun: time.Now(), generation: uint64(rand.Uint32())}
	f.names.init()
	f.shown.init()
	f.pages.init()
	f.dirs.Init()
	f.files.Init()
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// String is the file system's name in go-fuse's messages.
func (f *FileSystem) String() string { return fsName }

// OnUnmount ends what nobody waits for any more.
func (f *FileSystem) OnUnmount() {
	f.stop()
	f.tasks.Wait()
}

// asking is the context of a request: it ends when the caller is killed.
func asking(cancel <-chan struct{}) context.Context { return &fuse.Context{Cancel: cancel} }
