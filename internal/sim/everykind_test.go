package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/internal/simdisk"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

var le = binary.LittleEndian

// flipSegment is the size of journal segments: what is damaged is looked for in all
// that is behind it.
const flipSegment = 64 << 10

// maker makes a store in which there is everything that a store can have.
type maker struct {
	t    *testing.T
	s    *store
	disk *simdisk.Disk
	rng  *rand.Rand
	dir  uint64
}

// everyKind gives two stores: one that was killed, with a record of every kind in
// its journal and nothing in its index that the journal does not have; and the
// same one after its index was flushed, with keys and chunks of every kind.
func everyKind(t *testing.T) (killed, stored *simdisk.Disk) {
	m := &maker{t: t, disk: newDisk(), rng: rand.New(rand.NewPCG(3, 3))}
	m.begin(storeConf{boot: "boot", roomy: true, segment: flipSegment, cold: true})
	a, err := m.s.tree.Mknod(stage.RootIno, "w0", stage.ModeDir|0o755, 0, stage.Cred{})
	m.ok(err)
	m.dir = a.Ino
	m.chunks()
	m.dead()
	m.failure()
	m.steps()
	m.ok(m.s.close(false))
	m.begin(storeConf{boot: "boot", roomy: true, segment: flipSegment}) // what is stored from here on stays hot
	m.put(m.dir, "hot", m.random(70000))
	m.seal("four")
	m.ok(m.s.close(false))
	// From here on nothing is done in the background that would take away what
	// was made.
	m.begin(storeConf{boot: "boot", roomy: true, segment: flipSegment, passive: true})
	m.names()
	killed = m.disk.Kill()
	return killed, m.flushed()
}

func (m *maker) begin(conf storeConf) {
	var err error
	m.s, err = open(m.disk, conf)
	m.ok(err)
}

func (m *maker) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// open makes or opens a file in w0 and writes to it.
func (m *maker) open(dir uint64, name string, data []byte) (ino, fh uint64) {
	m.t.Helper()
	a, err := m.s.tree.Lookup(dir, name)
	if err != nil {
		a, fh, err = m.s.tree.Create(dir, name, 0o644, unix.O_RDWR, stage.Cred{})
	} else {
		fh, err = m.s.tree.Open(a.Ino, unix.O_RDWR, stage.Cred{})
	}
	m.ok(err)
	_, err = m.s.tree.Write(a.Ino, fh, data, 0)
	m.ok(err)
	return a.Ino, fh
}

// put is open and close.
func (m *maker) put(dir uint64, name string, data []byte) (ino uint64) {
	m.t.Helper()
	ino, fh := m.open(dir, name, data)
	m.ok(m.s.tree.Flush(ino, fh, false))
	m.s.tree.Release(ino, fh)
	return ino
}

func (m *maker) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	return b
}

func (m *maker) seal(name string) snapshot.Info {
	m.t.Helper()
	i, err := m.s.m.Snapshot(ctx, "w0", name, "mkdir", nil)
	m.ok(err)
	m.ok(m.s.m.Drain(ctx, nil))
	return i
}

// chunks makes chunks of every encoding and trees, some of them dead.
func (m *maker) chunks() {
	k := &worker{rng: m.rng}
	m.put(m.dir, "raw", m.random(20000))
	m.put(m.dir, "text", []byte(strings.Repeat("what compresses well ", 3000)))
	m.put(m.dir, "model", k.trained())
	for i := range 120 { // a directory object that compresses
		m.put(m.dir, fmt.Sprintf("small%03d", i), []byte{byte(i)})
	}
	m.seal("one")
	m.put(m.dir, "model", k.trained())
	src := m.put(m.dir, "doomed", m.random(30000))
	i := m.seal("two")
	_, err := m.s.m.Slot(i.Seq)
	m.ok(err)
	_, err = m.s.m.Hold(i.Seq, snapshot.Hold{Name: "sim", By: "sim"})
	m.ok(err)
	dst, fh := m.open(m.dir, "copy", nil)
	_, err = m.s.tree.CopyRange(stage.Copy{Src: src, Dst: dst, Fh: fh, Len: 1 << 20})
	m.ok(err)
	m.ok(m.s.tree.Flush(dst, fh, false))
	m.s.tree.Release(dst, fh)
	_, err = m.s.m.Rollback(ctx, "w0", "two")
	m.ok(err)
}

// dead makes chunks that nobody needs: in a pack that goes, and beside others, for
// which it stays.
func (m *maker) dead() {
	for _, name := range []string{"large", "little"} {
		size := 90_000
		if name == "little" {
			m.put(m.dir, "kept", m.random(200_000))
			size = 5000
		}
		m.put(m.dir, name, m.random(size))
		m.seal(name)
		m.ok(m.s.tree.Unlink(m.dir, name))
		_, err := m.s.m.Forget(snapshot.Forget{Scope: "w0", Names: []string{name}})
		m.ok(err)
	}
	for range barriersKept + 2 {
		m.put(m.dir, "often", m.random(10))
		_, err := m.s.m.Barrier(ctx, "fsync")
		m.ok(err)
	}
	_, err := m.s.m.PruneNow(ctx, nil)
	m.ok(err)
}

// failure has a sync fail, so that content is taken back.
func (m *maker) failure() {
	ino := m.put(m.dir, "failed", m.random(70000))
	_, err := m.s.m.Barrier(ctx, "fsync", ino)
	m.ok(err)
	m.disk.Before(func(op simdisk.Op) error {
		if op.Kind == simdisk.Sync && strings.HasPrefix(op.Path, stagingDir) {
			return syscall.EIO
		}
		return nil
	})
	_, fh := m.open(m.dir, "failed", m.random(80000))
	if _, err := m.s.m.Barrier(ctx, "fsync", ino); err == nil {
		m.t.Fatal("a sync failed, and nobody was told")
	}
	m.disk.Before(nil)
	m.s.tree.Release(ino, fh)
	m.ok(m.s.tree.Unlink(m.dir, "failed")) // nothing could be stored with it
}

// steps makes one that is sealed and one that waits, and has barriers expire.
func (m *maker) steps() {
	for n, names := range [][]string{{"weights.dat", "trainer_state.json"}, {"weights.dat"}} {
		a, err := m.s.tree.Mknod(m.dir, fmt.Sprint("checkpoint-", n+1), stage.ModeDir|0o755, 0, stage.Cred{})
		m.ok(err)
		for _, name := range names {
			m.put(a.Ino, name, []byte(fmt.Sprintf(`{"global_step": %d, "log_history": []}`, n+1)))
		}
	}
	until := time.Now().Add(time.Minute)
	for steps := 0; steps == 0 || len(m.s.m.Waiting()) == 0; time.Sleep(time.Millisecond) {
		found, err := m.s.m.Steps("w0", "", 10)
		m.ok(err)
		steps = 0
		for _, i := range found {
			if !i.Explicit {
				steps++
			}
		}
		if time.Now().After(until) {
			m.t.Fatalf("no step was sealed: %+v", found)
		}
	}
	m.ok(m.s.m.Drain(ctx, nil))
}

// names makes what is there of files besides their content, and content that is
// neither synced nor stored.
func (m *maker) names() {
	ino := m.put(m.dir, "named", m.random(5000))
	mode, size := uint32(0o600), int64(3000)
	_, err := m.s.tree.SetAttr(ino, stage.SetAttr{Mode: &mode})
	m.ok(err)
	_, err = m.s.tree.SetAttr(ino, stage.SetAttr{Size: &size})
	m.ok(err)
	m.ok(m.s.tree.SetXattr(ino, "user.k", []byte("v"), 0))
	_, err = m.s.tree.Symlink(m.dir, "link", "named", stage.Cred{})
	m.ok(err)
	m.open(m.dir, "unsettled", m.random(70000))
	m.open(m.dir, "unlinked", m.random(100))
	m.ok(m.s.tree.Unlink(m.dir, "unlinked"))
	orphan, fh := m.open(m.dir, "orphan", m.random(100))
	m.ok(m.s.tree.Unlink(m.dir, "orphan"))
	m.s.tree.Release(orphan, fh)
	for range 2 { // the newest record knows all before it to be durable
		m.put(m.dir, "named", m.random(10))
		_, err := m.s.m.Barrier(ctx, "fsync")
		m.ok(err)
	}
}

// flushed gives the store with all of it in the index, and with the keys that are
// there for a moment only.
func (m *maker) flushed() *simdisk.Disk {
	disk := m.disk.Kill()
	m.ok(m.s.close(false))
	eng, err := metadata(disk)
	m.ok(err)
	_, err = eng.Update(schema.KindReap, func(tx *state.Tx) error {
		for _, prefix := range []byte{schema.PrefixDoomed, schema.PrefixReap, schema.PrefixDeadHold, schema.PrefixExpired} {
			tx.Put(schema.Numbered(prefix, 1<<40), nil)
		}
		return nil
	})
	m.ok(err)
	m.ok(eng.Flush())
	m.ok(eng.Close(false))
	m.repack(disk)
	return disk
}

// repack writes the index anew in small blocks: few kinds of values share one, and
// Pebble's search for the bit that was flipped is short, which it does at each
// read of the block.
func (m *maker) repack(disk *simdisk.Disk) {
	opts := &pebble.Options{FS: disk.FS(), DisableWAL: true, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy, opts.Levels[i].BlockSize = bloom.FilterPolicy(10), 512
	}
	old, err := index(disk)
	m.ok(err)
	fresh, err := pebble.Open("s/fresh", opts)
	m.ok(err)
	for _, kind := range []byte(allPrefixes) {
		m.ok(eachKey(old, kind, func(key, value string) { m.ok(fresh.Set([]byte(key), []byte(value), pebble.NoSync)) }))
	}
	m.ok(fresh.Flush())
	m.ok(fresh.Close())
	m.ok(old.Close())
	m.ok(disk.FS().RemoveAll("s/index"))
	m.ok(disk.FS().Rename("s/fresh", "s/index"))
}

// quiet is a logger.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
