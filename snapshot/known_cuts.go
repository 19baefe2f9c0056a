package snapshot

import (
	"sync"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
)

// maxKnownCuts bounds how many chunks are remembered of contents that come from
// elsewhere: some 40 bytes each.
const maxKnownCuts = 1 << 20

// knownCuts are where files that were fetched from a bucket are cut there. Cut by
// their content alone they would mostly be cut elsewhere, since a version is cut
// where the one before was; and what was sent by the store that made them would be
// sent once more. They are a hint, in memory alone: the names of the chunks say
// whether it is true.
type knownCuts struct {
	mu    sync.Mutex
	of    map[uint64][]chunkstore.Ref // by inode
	total int
}

// KnowCuts says where the content of a file that has just been written is cut in
// the bucket from which it comes.
func (m *Manager) KnowCuts(ino uint64, es []schema.ChunkExtent) {
	refs := wholeRefs(es)
	k := &m.cuts
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.total+len(refs) > maxKnownCuts {
		return
	}
	if k.of == nil {
		k.of = map[uint64][]chunkstore.Ref{}
	}
	k.total += len(refs) - len(k.of[ino])
	k.of[ino] = refs
}

// take gives what is known of a file, once: what comes later is another version.
func (k *knownCuts) take(ino uint64) []chunkstore.Ref {
	k.mu.Lock()
	defer k.mu.Unlock()
	refs := k.of[ino]
	k.total -= len(refs)
	delete(k.of, ino)
	return refs
}
