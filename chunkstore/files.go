package chunkstore

import (
	"container/list"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fileCache keeps pack files open for readers, at most max that nobody reads.
type fileCache struct {
	fs  vfs.FS
	max int

	mu    sync.Mutex
	files map[string]*packFile
	idle  list.List // of *packFile that nobody reads, the oldest first
}

type packFile struct {
	vfs.File
	path string
	refs int
	gone bool // dropped from the cache while being read
	elem *list.Element
}

func newFileCache(fs vfs.FS, max int) *fileCache {
	return &fileCache{fs: fs, max: max, files: make(map[string]*packFile)}
}

// acquire opens path, or finds it open. Every acquire needs a release.
func (c *fileCache) acquire(path string) (*packFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[path]
	if f == nil {
		file, err := c.fs.Open(path)
		if err != nil {
			return nil, err
		}
		f = &packFile{File: file, path: path}
		c.files[path] = f
	}
	if f.elem != nil {
		c.idle.Remove(f.elem)
		f.elem = nil
	}
	f.refs++
	return f, nil
}

func (c *fileCache) release(f *packFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.refs--; f.refs > 0 {
		return
	}
	if f.gone {
		_ = f.Close() // only read from: nothing to lose
		return
	}
	f.elem = c.idle.PushBack(f)
	if c.idle.Len() > c.max {
		c.closeLocked(c.idle.Front())
	}
}

func (c *fileCache) closeLocked(e *list.Element) {
	f := e.Value.(*packFile)
	c.idle.Remove(e)
	delete(c.files, f.path)
	_ = f.Close()
}

// forget closes path, which was unlinked: at once, or when nobody reads it any
// more. A file of the same name that comes later is another one.
func (c *fileCache) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[path]
	switch {
	case f == nil:
	case f.elem != nil:
		c.closeLocked(f.elem)
	default:
		f.gone = true
		delete(c.files, path)
	}
}

// drop closes what nobody reads, and the rest as soon as nobody does.
func (c *fileCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.idle.Len() > 0 {
		c.closeLocked(c.idle.Front())
	}
	for path, f := range c.files {
		f.gone = true
		delete(c.files, path)
	}
}
