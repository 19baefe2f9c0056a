// Package schema encodes and decodes every Pebble key, every Pebble value and
// every journal record kind of a store, in one place, so that the on-disk
// format can be read as one page. docs/FORMAT.md has the byte tables.
//
// Read key.go first (what exists), then inode.go, extent.go, snapshot.go and
// chunk.go (what the values hold).
//
// Conventions: integers in keys are big endian, so that byte order is number
// order; a version (a cut's sequence number or a generation) is stored as its
// complement, so that the newest version of a key comes first.
package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt reports a key or value that no version of stepfs wrote.
var ErrCorrupt = errors.New("corrupt record")

// Key prefixes. One byte each; no two kinds share one.
const (
	PrefixMeta      = 'M' // M name                       -> counter
	PrefixInode     = 'I' // I ino ~seq                   -> Inode
	PrefixDentry    = 'D' // D dir name 0 ~seq            -> Dentry
	PrefixXattr     = 'X' // X ino name 0 ~seq            -> Xattr
	PrefixSymlink   = 'L' // L ino                        -> target
	PrefixStripe    = 'F' // F ino stripe ~gen            -> []Fragment
	PrefixGen       = 'G' // G gen                        -> Generation
	PrefixInline    = 'B' // B gen block                  -> up to InlineBlock bytes
	PrefixChunkMap  = 'C' // C gen page                   -> []ChunkExtent
	PrefixOrphan    = 'O' // O ino                        -> empty; unlinked while open
	PrefixUnsettled = 'U' // U ino gen                    -> Unsettled
	PrefixPending   = 'W' // W gen                        -> Pending; waits for ingest
	PrefixHot       = 'H' // H gen                        -> bytes; stored, its own copy still kept
	PrefixDeath     = 'Z' // Z seq key                    -> empty; version `key` is superseded from seq on
	PrefixGenRef    = 'R' // R gen ino                    -> empty; an inode other than its owner names it, or its owner again
	PrefixReap      = 'V' // V ino [gen]                  -> empty; dead content to look for; gen lost its last name
	PrefixDoomed    = 'Y' // Y gen                        -> empty; dead, staging file to unlink
	PrefixSnapshot  = 'S' // S seq                        -> Snapshot
	PrefixName      = 'N' // N scope 0 name 0 ~seq        -> empty
	PrefixSlot      = 'T' // T slot                       -> seq
	PrefixSlotOf    = 't' // t seq                        -> slot
	PrefixCandidate = 'Q' // Q ino                        -> Candidate; step-like, not sealed
	PrefixLastPath  = 'A' // A hash of masked path        -> gen last ingested there
	PrefixChunk     = 'K' // see chunk.go
	PrefixPack      = 'P' // see chunk.go
	PrefixChunkRef  = 'c' // see chunk.go
	PrefixChunkDead = 'd' // see chunk.go
	PrefixChunkBase = 'b' // see chunk.go
	PrefixTreeRef   = 'o' // o holder id                  -> empty: object of a sealed step's tree; or TreeRefContent
	PrefixDeadHold  = 'm' // m holder                     -> empty; dead, but still holds chunks
	PrefixExpired   = 'E' // E seq                        -> empty; a snapshot that is gone, what it alone saw is not
	PrefixClock     = 'k' // k store time                 -> newest snapshot's number at that time
	PrefixPosition  = 'J' // J                            -> journal position applied

	PrefixPackUpload  = 'u' // u pack name         -> see upload.go
	PrefixIndexUpload = 'i' // i number of index   -> see upload.go
	PrefixRefUpload   = 'r' // r snapshot          -> see upload.go
)

// Kind is the first byte of a journal record: which operation made it. Replay
// does not look at it (a record holds results, not intentions); it is there
// for `stepfs check`, for golden traces and for people.
type Kind byte

// Record kinds. Numbers are part of the format: append only.
const (
	KindMkfs Kind = iota + 1
	KindNamespace
	KindAttr
	KindWrite
	KindTruncate
	KindClose
	KindXattr
	KindCut
	KindCommit
	KindSettled
	KindReverted
	KindStored
	KindEvict
	KindReap
	KindSeal
	KindRegistry
	KindCandidate
	KindChunkIndex
	KindPackState
	KindRollback
	KindSweep
	KindUnlink
	KindReserve
	KindExpire
	KindPrune
	KindUpload
)

var kindNames = map[Kind]string{
	KindMkfs: "mkfs", KindNamespace: "namespace", KindAttr: "attr", KindWrite: "write",
	KindTruncate: "truncate", KindClose: "close", KindXattr: "xattr", KindCut: "cut",
	KindCommit: "commit", KindSettled: "settled", KindReverted: "reverted", KindStored: "stored",
	KindEvict: "evict", KindReap: "reap", KindSeal: "seal", KindRegistry: "registry",
	KindCandidate: "candidate", KindChunkIndex: "chunk-index", KindPackState: "pack-state",
	KindRollback: "rollback", KindSweep: "sweep", KindUnlink: "unlink", KindReserve: "reserve",
	KindExpire: "expire", KindPrune: "prune", KindUpload: "upload",
}

// String gives the kind's name, or its number when unknown.
func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind(%d)", byte(k))
}

func u64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// Meta counters.
const (
	MetaEpoch   = "epoch"    // number of the next cut
	MetaNextIno = "next-ino" // inode numbers below are, or may have been, given out
	MetaNextGen = "next-gen" // generations below are, or may have been, given out
	MetaSlot    = "next-slot"
	MetaOldGen  = "old-gen"  // generations up to this one were begun before a power cut: nothing is written to them
	MetaExclude = "exclude"  // not a counter: the patterns of what is excluded, a line each
	MetaAdopt   = "adopting" // packs were being entered into the index: see chunkstore
	MetaBoot    = "boot"     // boot of the machine in which what an earlier power cut left was put right
)

// MetaKey is the key of a counter.
func MetaKey(name string) []byte { return append([]byte{PrefixMeta}, name...) }

// PositionKey holds the journal position that the index has applied.
func PositionKey() []byte { return []byte{PrefixPosition} }

// Counter encodes the value of a counter, and of every value that is one number.
func Counter(v uint64) []byte { return u64(nil, v) }

// ParseCounter is the inverse of Counter.
func ParseCounter(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: counter of %d bytes", ErrCorrupt, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// Numbered is the key of a kind that is keyed by one number (G, O, W, H, Y, S, T, t, Q, L).
func Numbered(prefix byte, n uint64) []byte { return u64([]byte{prefix}, n) }

// ParseNumbered gives back the number of a Numbered key.
func ParseNumbered(k []byte) (uint64, error) {
	if len(k) != 9 {
		return 0, fmt.Errorf("%w: key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint64(k[1:]), nil
}

// InodePrefix is the start of all versions of an inode.
func InodePrefix(ino uint64) []byte { return u64([]byte{PrefixInode}, ino) }

// InodeKey is the version of an inode written while seq was the next cut.
func InodeKey(ino, seq uint64) []byte { return u64(InodePrefix(ino), ^seq) }

// DirPrefix is the start of all entries of a directory.
func DirPrefix(dir uint64) []byte { return u64([]byte{PrefixDentry}, dir) }

// DentryPrefix is the start of all versions of one entry. Names hold no NUL,
// so entries sort in byte order of their names.
func DentryPrefix(dir uint64, name string) []byte {
	return append(append(DirPrefix(dir), name...), 0)
}

// DentryKey is one version of an entry.
func DentryKey(dir uint64, name string, seq uint64) []byte {
	return u64(DentryPrefix(dir, name), ^seq)
}

// ParseDentryKey gives the name and the version of an entry's key.
func ParseDentryKey(k []byte) (name string, seq uint64, err error) { return parseNamed(k, 9) }

// XattrInode is the start of all extended attributes of an inode.
func XattrInode(ino uint64) []byte { return u64([]byte{PrefixXattr}, ino) }

// XattrPrefix is the start of all versions of one extended attribute.
func XattrPrefix(ino uint64, name string) []byte {
	return append(append(XattrInode(ino), name...), 0)
}

// XattrKey is one version of an extended attribute.
func XattrKey(ino uint64, name string, seq uint64) []byte {
	return u64(XattrPrefix(ino, name), ^seq)
}

// ParseXattrKey gives the name and the version of an attribute's key.
func ParseXattrKey(k []byte) (name string, seq uint64, err error) { return parseNamed(k, 9) }

func parseNamed(k []byte, head int) (string, uint64, error) {
	n := len(k) - 9
	if n < head || k[n] != 0 {
		return "", 0, fmt.Errorf("%w: key %x", ErrCorrupt, k)
	}
	return string(k[head:n]), ^binary.BigEndian.Uint64(k[n+1:]), nil
}

// StripeInode is the start of all stripes of an inode.
func StripeInode(ino uint64) []byte { return u64([]byte{PrefixStripe}, ino) }

// StripePrefix is the start of all versions of one stripe.
func StripePrefix(ino uint64, stripe uint32) []byte { return u32(StripeInode(ino), stripe) }

// StripeKey is the version of a stripe that generation gen wrote.
func StripeKey(ino uint64, stripe uint32, gen uint64) []byte {
	return u64(StripePrefix(ino, stripe), ^gen)
}

// ParseStripeKey gives the stripe's number and version.
func ParseStripeKey(k []byte) (stripe uint32, gen uint64, err error) {
	if len(k) != 21 {
		return 0, 0, fmt.Errorf("%w: stripe key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint32(k[9:]), ^binary.BigEndian.Uint64(k[13:]), nil
}

// InlineKey is one block of a generation whose bytes lie in the index.
func InlineKey(gen uint64, block uint32) []byte { return u32(Numbered(PrefixInline, gen), block) }

// ChunkMapKey is one page of a generation's chunk map.
func ChunkMapKey(gen uint64, page uint32) []byte { return u32(Numbered(PrefixChunkMap, gen), page) }

// UnsettledKey marks a generation with bytes that no sync has covered.
func UnsettledKey(ino, gen uint64) []byte { return u64(Numbered(PrefixUnsettled, ino), gen) }

// GenRefKey says that inode ino names a generation that another inode wrote.
func GenRefKey(gen, ino uint64) []byte { return u64(Numbered(PrefixGenRef, gen), ino) }

// ReapKey queues an inode for the reaper because it may name gen no more.
func ReapKey(ino, gen uint64) []byte { return u64(Numbered(PrefixReap, ino), gen) }

// ParseUnsettledKey is the inverse of UnsettledKey.
func ParseUnsettledKey(k []byte) (ino, gen uint64, err error) {
	if len(k) != 17 {
		return 0, 0, fmt.Errorf("%w: unsettled key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint64(k[9:]), nil
}

// TreeHolder is the number under which a snapshot's tree holds chunks; contents
// hold theirs under the number of their generation.
func TreeHolder(seq uint64) uint64 { return seq | 1<<63 }

// IsTreeHolder says whether a holder of chunks is a snapshot's tree.
func IsTreeHolder(holder uint64) bool { return holder>>63 != 0 }

// TreeRefContent is the value of a TreeRefKey of what is no object, but content that
// the tree alone names.
var TreeRefContent = []byte{1}

// TreeRefKey lists an object of a tree.
func TreeRefKey(holder uint64, id [32]byte) []byte {
	return append(Numbered(PrefixTreeRef, holder), id[:]...)
}

// DeathKey says that the version stored under key was superseded, and that of
// the snapshots that see it seq-1 is the newest.
func DeathKey(seq uint64, key []byte) []byte { return append(Numbered(PrefixDeath, seq), key...) }

// NameScope is the start of all names of a scope.
func NameScope(scope string) []byte {
	return append(append([]byte{PrefixName}, scope...), 0)
}

// NamePrefix is the start of all revisions of a name.
func NamePrefix(scope, name string) []byte { return append(append(NameScope(scope), name...), 0) }

// NameKey is one revision of a name: the snapshot seq, newest first.
func NameKey(scope, name string, seq uint64) []byte { return u64(NamePrefix(scope, name), ^seq) }

// ParseNameKey is the inverse of NameKey.
func ParseNameKey(k []byte) (scope, name string, seq uint64, err error) {
	s, seq, err := parseNamed(k, 1)
	if err != nil {
		return "", "", 0, err
	}
	for i := 0; i < len(s); i++ {
		if s[i] == 0 {
			return s[:i], s[i+1:], seq, nil
		}
	}
	return "", "", 0, fmt.Errorf("%w: name key %x", ErrCorrupt, k)
}

// After gives the smallest key greater than every key that starts with prefix.
func After(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
