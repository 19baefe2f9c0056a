package stage

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// benchTree is a tree on real files whose syncs are left out: what is measured
// is the work around them.
func benchTree(b *testing.B) *world {
	b.Helper()
	w := &world{t: b, disk: noSyncDisk{NewDisk(b.TempDir())}}
	var err error
	if w.eng, err = state.Open(state.Config{Dir: b.TempDir(), FS: noSyncFS{vfs.Default}, BootID: "b"}); err != nil {
		b.Fatal(err)
	}
	if w.tree, err = Open(Config{Engine: w.eng, Disk: w.disk, Reserve: 1}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.close)
	return w
}

// noSyncFS is a filesystem whose files are never synced.
type noSyncFS struct{ vfs.FS }

type noSyncFile struct{ vfs.File }

func (noSyncFile) Sync() error                { return nil }
func (noSyncFile) SyncData() error            { return nil }
func (noSyncFile) SyncTo(int64) (bool, error) { return false, nil }

func (f noSyncFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, o...)
	return noSyncFile{file}, err
}

// noSyncDisk is a staging disk whose files are never synced.
type noSyncDisk struct{ Disk }

type noSyncStaging struct{ File }

func (noSyncStaging) Sync() error { return nil }

func (noSyncDisk) SyncDir(uint64) error { return nil }

func (d noSyncDisk) Create(gen uint64) (File, error) {
	f, err := d.Disk.Create(gen)
	return noSyncStaging{f}, err
}

func (d noSyncDisk) Open(gen uint64) (File, error) {
	f, err := d.Disk.Open(gen)
	return noSyncStaging{f}, err
}

// BenchmarkAppendFsync appends 4 KiB to a file and takes its barrier.
func BenchmarkAppendFsync(b *testing.B) {
	w := benchTree(b)
	ino, fh := w.create("log")
	data := make([]byte, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := w.tree.Write(ino, fh, data, int64(i)*4096); err != nil {
			b.Fatal(err)
		}
		c, err := w.tree.Cut([]uint64{ino}, false, false)
		if err != nil {
			b.Fatal(err)
		}
		if w.tree.NeedsSync(c) {
			w.tree.SyncCut(b.Context(), c)
		}
		pos, err := w.eng.Update(schema.KindCommit, func(tx *state.Tx) error {
			publish(tx, c.Seq)
			return nil
		})
		if err != nil || w.eng.Sync(pos) != nil {
			b.Fatal(err)
		}
		w.tree.CutDone(c)
	}
}

// BenchmarkCreateWriteClose makes files of 4 KiB.
func BenchmarkCreateWriteClose(b *testing.B) {
	w := benchTree(b)
	data := make([]byte, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a, fh, err := w.tree.Create(RootIno, fmt.Sprintf("file%08d", i), 0o644, unix.O_WRONLY, Cred{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.tree.Write(a.Ino, fh, data, 0); err != nil {
			b.Fatal(err)
		}
		if err := w.tree.Flush(a.Ino, fh, false); err != nil {
			b.Fatal(err)
		}
		w.tree.Release(a.Ino, fh)
	}
}

// BenchmarkReapLog frees what one overwrite drops of a log with ten thousand
// barriers behind it.
func BenchmarkReapLog(b *testing.B) {
	w := benchTree(b)
	ino, fh := w.create("log")
	for i := range 10000 {
		w.mustWrite(ino, fh, 'x', 100, int64(i)*100)
		w.barrier(ino)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := w.tree.reap(ino); err != nil {
			b.Fatal(err)
		}
	}
}
