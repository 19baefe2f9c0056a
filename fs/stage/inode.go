package stage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// inode is the in-memory side of a live inode: its newest version, and who
// has it open. It can be dropped whenever nobody holds a reference.
type inode struct {
	ino  uint64
	dir  bool // fixed once loaded
	refs int  // under inodeTable.mu

	mu  sync.RWMutex
	rec *schema.Inode // never changed in place: a new version replaces it
	seq uint64        // version under which rec is stored

	handles map[uint64]*handle
	writers int // writable handles

	tail       stripeCache    // the stripe written last
	stored     schema.Content // a live content all of whose bytes are in chunks (clone.go)
	appendOnly bool           // all writes since the first open writer were at the end
	dead       bool           // no link, no opener: gone from the index
	noted      bool           // somebody was told that it is being written (Events.Happened)
}

// stripeCache spares sequential writers the look-up of the stripe they are in.
type stripeCache struct {
	ok     bool
	stripe uint32
	gen    uint64
	frags  []schema.Fragment
}

// maxIdle is how many inodes without an opener stay in memory.
const maxIdle = 32 << 10

type inodeTable struct {
	mu   sync.Mutex
	all  map[uint64]*inode
	busy int // entries with refs > 0
}

func (it *inodeTable) init() { it.all = map[uint64]*inode{} }

// get gives the inode with one more reference, loading it when needed.
// ErrNotExist: there is none, or it is deleted.
func (t *Tree) get(ino uint64) (*inode, error) {
	it := &t.inodes
	it.mu.Lock()
	n := it.all[ino]
	if n == nil {
		n = &inode{ino: ino}
		it.all[ino] = n
	}
	if n.refs++; n.refs == 1 {
		it.busy++
	}
	it.mu.Unlock()
	if err := t.load(n); err != nil {
		t.put(n)
		return nil, err
	}
	return n, nil
}

// put gives a reference back. Idle inodes stay until there are too many.
func (t *Tree) put(n *inode) {
	it := &t.inodes
	it.mu.Lock()
	defer it.mu.Unlock()
	if n.refs--; n.refs > 0 {
		return
	}
	it.busy--
	if n.rec == nil || n.dead {
		delete(it.all, n.ino)
		return
	}
	for ino, old := range it.all { // random order: a cheap second choice to LRU
		if len(it.all)-it.busy <= maxIdle {
			break
		}
		if old.refs == 0 {
			delete(it.all, ino)
		}
	}
}

func (t *Tree) load(n *inode) error {
	n.mu.RLock()
	ok := n.rec != nil
	n.mu.RUnlock()
	if ok {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rec != nil {
		return nil
	}
	rec, seq, err := t.readInode(n.ino, ^uint64(0))
	if err != nil {
		return err
	}
	if rec.Deleted {
		return ErrNotExist
	}
	n.rec, n.seq, n.dir = rec, seq, isDir(rec)
	return nil
}

// readInode gives the newest version at or before seq.
func (t *Tree) readInode(ino, seq uint64) (*schema.Inode, uint64, error) {
	k, v, err := t.db.Seek(schema.InodePrefix(ino), schema.InodeKey(ino, seq))
	if errors.Is(err, state.ErrNotFound) {
		return nil, 0, ErrNotExist
	}
	if err != nil {
		return nil, 0, wrapDisk(err)
	}
	rec, err := schema.DecodeInode(v)
	if err != nil {
		return nil, 0, wrapDisk(fmt.Errorf("inode %d: %w", ino, err))
	}
	return rec, seqOf(k), nil
}

// seqOf is the version of an inode's key.
func seqOf(k []byte) uint64 { return ^binary.BigEndian.Uint64(k[9:]) }

// putInode records rec as the newest version of n, whose mutex is held.
// A version that a cut has frozen gets a successor; one of this epoch is
// replaced.
func (t *Tree) putInode(tx *txn, n *inode, rec *schema.Inode) {
	seq := tx.Epoch()
	if n.seq != seq && n.rec != nil {
		rec.HasOlder = true
		tx.Put(schema.DeathKey(seq, schema.InodeKey(n.ino, n.seq)), nil)
	}
	tx.Put(schema.InodeKey(n.ino, seq), rec.Encode())
	old, oldSeq := n.rec, n.seq
	tx.then(func() {
		n.rec, n.seq = rec, seq
	})
	if old != nil {
		t.supersede(tx, old.Committed, rec.Committed, seq)
	}
	if old != nil && (oldSeq == seq || old.Excluded) { // else a snapshot may name what it drops
		t.dropped(tx, n.ino, old, rec)
	}
}

// dropped has the reaper look at the generations that contents of old are
// numbered by and those of rec, which may be nil, are not.
func (t *Tree) dropped(tx *txn, ino uint64, old, rec *schema.Inode) {
	if t.drops(tx, ino, old, rec) {
		t.reaper.add(tx, ino)
	}
}

// drops is dropped without telling the reaper: it says whether there is anything
// to look at.
func (t *Tree) drops(tx *txn, ino uint64, old, rec *schema.Inode) bool {
	names := func(gen uint64) bool {
		return rec != nil && slices.Contains(gensOf(rec), gen)
	}
	drops := rec != nil && old.Live.Base != rec.Live.Base && old.Live.Gen != 0
	for _, gen := range gensOf(old) {
		if gen != 0 && !names(gen) {
			tx.Put(schema.ReapKey(ino, gen), nil)
			drops = true
		}
	}
	return drops
}

// gensOf gives the numbers of an inode's contents.
func gensOf(rec *schema.Inode) []uint64 {
	gens := []uint64{rec.Live.Gen}
	for _, c := range [...]*schema.Content{rec.Committed, rec.Settled} {
		if c != nil {
			gens = append(gens, c.Gen)
		}
	}
	return gens
}

// lockAll locks the inodes, without duplicates, directories first, each kind
// in the order of its numbers, and gives the func that unlocks them.
func lockAll(ns ...*inode) (unlock func()) {
	var list []*inode
	for _, n := range ns {
		if n == nil {
			continue
		}
		at := 0
		for at < len(list) && before(list[at], n) {
			at++
		}
		if at < len(list) && list[at] == n {
			continue
		}
		list = append(list[:at], append([]*inode{n}, list[at:]...)...)
	}
	for _, n := range list {
		n.mu.Lock()
	}
	return func() {
		for _, n := range list {
			n.mu.Unlock()
		}
	}
}

// before is the lock order.
func before(a, b *inode) bool {
	if a.dir != b.dir {
		return a.dir
	}
	return a.ino < b.ino
}
