package stage

import (
	"math/rand/v2"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// power is the mains of a machine: a metadata filesystem and a staging disk,
// every operation of which is counted, and which go dark together before the
// operation that was chosen. Those that run on see the old machine; what the
// cut left is in mem and disk.
type power struct {
	gate sync.RWMutex // read-locked by each operation, locked by the cut
	fs   *vfs.MemFS
	on   *memDisk
	rng  *rand.Rand
	kill bool // the daemon dies, the machine stays: nothing is lost

	mu   sync.Mutex
	ops  int
	at   int // cut before this operation; 0: never
	mem  *vfs.MemFS
	disk *memDisk
}

// begin counts an operation and keeps the power on until end.
func (p *power) begin() {
	p.mu.Lock()
	p.ops++
	now := p.at != 0 && p.ops >= p.at && p.mem == nil
	p.mu.Unlock()
	if now {
		p.cut()
	}
	p.gate.RLock()
}

func (p *power) end() { p.gate.RUnlock() }

// arm chooses the operation, counted from now, before which the power goes.
func (p *power) arm(in int, kill bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.kill = p.ops+in, kill
}

// cut takes the power away now, unless it is gone already.
func (p *power) cut() {
	p.gate.Lock()
	defer p.gate.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem != nil {
		return
	}
	luck := p.rng.IntN(101)
	if p.kill {
		luck = 100
	}
	p.mem = p.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: luck, RNG: p.rng})
	p.disk = p.on.crash(p.rng, p.kill)
}

// out says whether the power is gone.
func (p *power) out() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mem != nil
}

func newPower(mem *vfs.MemFS, disk *memDisk, rng *rand.Rand) *power {
	p := &power{fs: mem, on: disk, rng: rand.New(rand.NewPCG(rng.Uint64(), 3))} // its own: any goroutine may cut
	disk.before = func(string, uint64) error { p.begin(); return nil }
	disk.after = p.end
	return p
}

// powerFS is the metadata filesystem of a power.
type powerFS struct {
	vfs.FS
	p *power
}

func (f powerFS) file(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return powerFile{file, f.p}, nil
}

func (f powerFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.p.begin()
	defer f.p.end()
	return f.file(f.FS.Create(name, c))
}

func (f powerFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f.p.begin()
	defer f.p.end()
	return f.file(f.FS.OpenReadWrite(name, c, o...))
}

func (f powerFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.p.begin()
	defer f.p.end()
	return f.file(f.FS.ReuseForWrite(old, name, c))
}

func (f powerFS) OpenDir(name string) (vfs.File, error) { return f.file(f.FS.OpenDir(name)) }

func (f powerFS) Link(old, name string) error {
	f.p.begin()
	defer f.p.end()
	return f.FS.Link(old, name)
}

func (f powerFS) Remove(name string) error {
	f.p.begin()
	defer f.p.end()
	return f.FS.Remove(name)
}

func (f powerFS) RemoveAll(name string) error {
	f.p.begin()
	defer f.p.end()
	return f.FS.RemoveAll(name)
}

func (f powerFS) Rename(old, name string) error {
	f.p.begin()
	defer f.p.end()
	return f.FS.Rename(old, name)
}

func (f powerFS) MkdirAll(dir string, perm os.FileMode) error {
	f.p.begin()
	defer f.p.end()
	return f.FS.MkdirAll(dir, perm)
}

type powerFile struct {
	vfs.File
	p *power
}

func (f powerFile) Write(b []byte) (int, error) {
	f.p.begin()
	defer f.p.end()
	return f.File.Write(b)
}

func (f powerFile) WriteAt(b []byte, off int64) (int, error) {
	f.p.begin()
	defer f.p.end()
	return f.File.WriteAt(b, off)
}

func (f powerFile) Sync() error {
	f.p.begin()
	defer f.p.end()
	return f.File.Sync()
}

func (f powerFile) SyncData() error {
	f.p.begin()
	defer f.p.end()
	return f.File.SyncData()
}

func (f powerFile) SyncTo(n int64) (bool, error) {
	f.p.begin()
	defer f.p.end()
	return f.File.SyncTo(n)
}
