package chunkstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
)

// What was fetched of a pack that is away is kept in a file beside it, at the
// offsets that it has in the pack, for whoever reads it again. Once all payloads are
// there, the file gets what lies between them, which the stub knows, and is the
// pack's own: so a pack that is read from end to end is here again, and each of its
// bytes was fetched once. These files do not outlive the daemon.
//
// They take an eighth of the limit at most, and the one that was read least lately
// goes first. A pack that is complete counts as others do, and has those evicted
// that are read less.

const keptShare = 8

// kept is all such files.
type kept struct {
	s     *Store
	limit atomic.Int64 // bytes that packs may take; 0: nothing is kept

	mu    sync.Mutex
	packs map[uint64]*keptPack
	bytes int64 // that are in them
	clock uint64
}

// keptPack is one of them. Its fields are under kept.mu; the file is read and
// written without.
type keptPack struct {
	file  vfs.File
	path  string
	at    bucket.Pack
	got   map[int64]bool // by offset of the payload
	bytes int64
	refs  int
	used  uint64
	gone  bool // dropped: closed and removed by who uses it last
}

// KeepFetched has what is fetched kept, as far as packs may take so many bytes.
func (s *Store) KeepFetched(limit int64) { s.far.kept.limit.Store(limit) }

// acquire gives the file of a pack, made if there is none and there is room; nil:
// nothing of it is kept.
func (k *kept) acquire(number uint64, make *bucket.Pack) *keptPack {
	k.mu.Lock()
	defer k.mu.Unlock()
	kp := k.packs[number]
	if kp == nil && make != nil && make.Size <= k.limit.Load()/keptShare {
		kp = k.createLocked(*make)
		if kp != nil {
			k.packs[number] = kp
		}
	}
	if kp != nil {
		k.clock++
		kp.refs, kp.used = kp.refs+1, k.clock
	}
	return kp
}

func (k *kept) createLocked(at bucket.Pack) *keptPack {
	if _, err := readStub(k.s.fs, k.s.dir, at.Name); err != nil {
		return nil // it could not be completed
	}
	path := k.s.fs.PathJoin(k.s.dir, fmt.Sprintf("%016x%s", k.s.tmpSeq.Add(1), tmpSuffix))
	f, err := k.s.fs.OpenReadWrite(path, "stepfs-pack")
	if err != nil {
		return nil
	}
	return &keptPack{file: f, path: path, at: at, got: map[int64]bool{}}
}

func (k *kept) release(kp *keptPack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kp.refs--; kp.refs == 0 && kp.gone {
		k.removeLocked(kp)
	}
}

func (k *kept) removeLocked(kp *keptPack) {
	_ = kp.file.Close() // nothing of it matters
	_ = k.s.fs.Remove(kp.path)
}

// drop gives up what is kept of a pack.
func (k *kept) drop(number uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLocked(number)
}

func (k *kept) dropLocked(number uint64) {
	kp := k.packs[number]
	if kp == nil {
		return
	}
	delete(k.packs, number)
	k.bytes -= kp.bytes
	if kp.gone = true; kp.refs == 0 {
		k.removeLocked(kp)
	}
}

func (k *kept) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for number := range k.packs {
		k.dropLocked(number)
	}
}

// find gives the file if it has the payload at an offset; else nil.
func (k *kept) find(number uint64, off int64) *keptPack {
	kp := k.acquire(number, nil)
	if kp == nil {
		return nil
	}
	k.mu.Lock()
	has := kp.got[off]
	k.mu.Unlock()
	if !has {
		k.release(kp)
		return nil
	}
	return kp
}

// has says whether a payload is kept.
func (k *kept) has(number uint64, off int64) bool {
	kp := k.find(number, off)
	if kp != nil {
		k.release(kp)
	}
	return kp != nil
}

// put keeps what was fetched. A failure is of no interest: it is fetched again.
func (k *kept) put(p *farPack, sp *span) {
	if k.limit.Load() == 0 {
		return
	}
	kp := k.acquire(p.number, &p.at)
	if kp == nil {
		return
	}
	defer k.release(kp)
	for _, l := range sp.parts {
		if _, err := kp.file.WriteAt(sp.payload(l), l.off); err != nil {
			k.drop(p.number)
			return
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range sp.parts {
		if !kp.gone && !kp.got[l.off] {
			kp.got[l.off] = true
			kp.bytes += int64(l.stored)
			k.bytes += int64(l.stored)
		}
	}
	k.trimLocked(p.number)
	if !kp.gone && len(kp.got) == len(p.parts) {
		kp.refs++
		k.s.far.spans.tasks.Go(func() {
			defer k.release(kp)
			if done, err := k.complete(p.number, kp); done || err != nil {
				k.drop(p.number)
			}
		})
	}
}

// trimLocked drops those that were read least lately, but not one.
func (k *kept) trimLocked(but uint64) {
	for k.bytes > k.limit.Load()/keptShare {
		oldest := but
		for number, kp := range k.packs {
			if number != but && (oldest == but || kp.used < k.packs[oldest].used) {
				oldest = number
			}
		}
		if oldest == but {
			return
		}
		k.dropLocked(oldest)
	}
}

// complete makes the file the pack's own.
func (k *kept) complete(number uint64, kp *keptPack) (done bool, err error) {
	s := k.s
	st, err := readStub(s.fs, s.dir, kp.at.Name)
	if err != nil {
		return false, err
	}
	foot, name, err := pack.ReadFooter(st, kp.at.Size)
	if err != nil || name != kp.at.Name {
		return false, errors.Join(err, pack.ErrFormat)
	}
	put := func(b []byte, off int64) {
		if err == nil {
			_, err = kp.file.WriteAt(b, off)
		}
	}
	put(st.head, 0)
	for _, e := range foot.Entries {
		head := make([]byte, pack.PartHeaderSize, pack.PartHeaderSize+len(e.Ext))
		pack.PutPartHeader(head, e, foot.Domain)
		put(append(head, e.Ext...), e.Offset)
	}
	put(st.tail, foot.Body)
	if err == nil {
		err = kp.file.Sync()
	}
	if err == nil {
		err = verifyFile(s.fs, kp.path, kp.at)
	}
	if err != nil {
		return false, err
	}
	return s.takeBack(number, kp.at, func() (string, error) { return kp.path, nil })
}
