package fs

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"
)

// closers tells whether a process that closes a file does so because a signal
// is killing it. The kernel closes what a dying process has open with the same
// FLUSH as close(2); what was written by then is no finished file.
//
// While a task closes its files on the way out, its exit code is already in
// /proc/<pid>/stat (the last field, in the form of wait(2): the low seven bits
// are the signal). Asking costs some microseconds, most of them for the open,
// so the descriptors of the last few processes are kept. Such a descriptor
// belongs to that task for ever: of one that is gone, it gives ESRCH.
type closers struct {
	mu    sync.Mutex
	stats map[uint32]*os.File
}

const (
	keptClosers = 32
	// closerPatience bounds the question: reading /proc takes no lock that the
	// closing task holds, but no answer at all is not worth a hung close. It is
	// long, since on a machine that is busy an answer may wait for a processor,
	// and the wrong guess takes what is half written for a finished file.
	closerPatience = 5 * time.Second
)

func (c *closers) init() { c.stats = map[uint32]*os.File{} }

// dying says whether the task is being killed; not knowing is no.
func (c *closers) dying(pid uint32) bool {
	if pid == 0 {
		return false // from a namespace that we do not see
	}
	return soon(func() bool { return c.ask(pid) })
}

func (c *closers) ask(pid uint32) bool {
	if f := c.kept(pid); f != nil {
		if killed, err := exitSignal(f); err == nil {
			return killed
		}
		c.drop(pid, f)
	}
	p := strconv.FormatUint(uint64(pid), 10)
	f, err := os.Open("/proc/" + p + "/task/" + p + "/stat")
	if err != nil {
		return false
	}
	killed, err := exitSignal(f)
	if err != nil || killed || !c.keep(pid, f) {
		f.Close()
	}
	return err == nil && killed
}

// exitSignal reads the last field of a stat file.
func exitSignal(f *os.File) (bool, error) {
	var buf [1024]byte
	n, err := f.ReadAt(buf[:], 0)
	if n == 0 {
		return false, err
	}
	line := bytes.TrimSpace(buf[:n])
	code, err := strconv.Atoi(string(line[bytes.LastIndexByte(line, ' ')+1:]))
	return code&0x7f != 0, err
}

func (c *closers) kept(pid uint32) *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats[pid]
}

// keep keeps a descriptor, in the place of any other when there are enough.
func (c *closers) keep(pid uint32, f *os.File) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stats == nil || c.stats[pid] != nil {
		return false
	}
	for other, old := range c.stats {
		if len(c.stats) < keptClosers {
			break
		}
		old.Close()
		delete(c.stats, other)
	}
	c.stats[pid] = f
	return true
}

func (c *closers) drop(pid uint32, f *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stats[pid] == f {
		delete(c.stats, pid)
	}
	f.Close()
}

func (c *closers) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.stats {
		f.Close()
	}
	c.stats = nil
}
