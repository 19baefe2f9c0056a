package stage

import (
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Rebuilder makes a tree out of what sealed steps say of it, when the index is
// lost: the namespace of a new, empty index (state.Config.Bulk).
//
// The steps are replayed in the order of their numbers, as states that the tree
// went through (Begin … End). Each says what one scope's directory and all below
// it was then. What differs from the state before gets a version of that number,
// and what it supersedes a death behind the number before: so steps share
// versions as they did, a snapshot shows its step to the letter, and prune frees
// what a step alone shows. Of what lies outside of a scope a state knows nothing,
// and there the one before goes on.
//
// A file's content becomes one generation, stored as a whole, for each content
// that differs from the one before; chunks are the same, so nothing is stored
// twice. Numbers of inodes are those that the steps say; directories that no step
// shows (those above a scope) get new ones.
//
// A directory whose object is the one of the state before is passed over, with
// all below it: entries hold everything, so nothing in it differs. A rebuild thus
// costs what the steps changed. In memory are the object of each directory, the
// files of several names, and 1 MiB of what is to be written.
//
// Nothing but a Rebuilder may use the index meanwhile. It is of no use until
// Finish, and whatever ends it before is begun anew.
type Rebuilder struct {
	db       *state.Engine
	domain   uint32
	uid, gid uint32
	now      int64

	seq, prev uint64 // the state at hand, and the one before; 0: none
	ino, gen  uint64 // last numbers that are taken

	puts   map[string][]byte // not written yet; nil: deleted
	size   int
	inodes map[uint64]version  // newest versions, of inodes that are in puts
	dirs   map[uint64]struct{} // that have entries in puts

	known  map[uint64][32]byte // directory -> its object, where that stands for all below it
	names  map[uint64]int      // of files that have, or had, several
	marked map[uint64]struct{} // inodes that have, or had, extended attributes
	alias  map[aliasKey]uint64 // inodes whose number another one has
	gone   []uint64            // lost a name in this state
	left   map[string]struct{} // entries that leave took away in this state
}

// aliasKey tells inodes of one number apart. A store that went back to an old
// backup may have given a number twice.
type aliasKey struct {
	ino    uint64
	kind   uint32
	target string // of a symbolic link
}

// rebuildBatch is how much is written at a time, in bytes.
const rebuildBatch = 1 << 20

// NewRebuilder begins a rebuild. last is a number that no inode is above; chunks
// are of the domain; uid and gid are the owner of directories that no step shows.
func NewRebuilder(db *state.Engine, last uint64, domain, uid, gid uint32, now int64) *Rebuilder {
	return &Rebuilder{
		db: db, domain: domain, uid: uid, gid: gid, now: now, ino: max(last, RootIno),
		puts: map[string][]byte{}, inodes: map[uint64]version{}, dirs: map[uint64]struct{}{},
		known: map[uint64][32]byte{}, names: map[uint64]int{}, marked: map[uint64]struct{}{},
		alias: map[aliasKey]uint64{}, left: map[string]struct{}{},
	}
}

// Begin begins a state; numbers grow.
func (r *Rebuilder) Begin(seq uint64) { r.prev, r.seq = r.seq, seq }

// End ends a state: what has lost its last name in it is deleted.
func (r *Rebuilder) End() error {
	for len(r.gone) > 0 {
		ino := r.gone[len(r.gone)-1]
		r.gone = r.gone[:len(r.gone)-1]
		if err := r.bury(ino); err != nil {
			return fmt.Errorf("state %d: inode %d: %w", r.seq, ino, err)
		}
	}
	clear(r.left)
	return r.flush()
}

// Same says whether a directory was left by the last state that showed it as
// the object says.
func (r *Rebuilder) Same(dir uint64, object [32]byte) bool { return r.known[dir] == object }

// Know notes that it was.
func (r *Rebuilder) Know(dir uint64, object [32]byte) { r.known[dir] = object }

// forgetUp notes that a directory, and those above it, are not as their objects
// say any more, since something below it was changed from elsewhere: as the scope
// that it is in, or as what came from it. A later step may show them as they were,
// to the time of the last change, if the live tree went back to one.
func (r *Rebuilder) forgetUp(dir uint64) error {
	for range maxDepth {
		delete(r.known, dir)
		if dir == RootIno {
			return nil
		}
		cur, err := r.newest(dir)
		if err != nil || cur.rec == nil || cur.rec.Deleted {
			return err
		}
		dir = cur.rec.Parent
	}
	return nil
}

// maxDepth bounds walks towards the root.
const maxDepth = 4096

// put and del note a key; flush writes what was noted.
func (r *Rebuilder) put(k, v []byte) {
	if v == nil {
		v = []byte{}
	}
	r.puts[string(k)] = v
	r.size += len(k) + len(v)
}

func (r *Rebuilder) del(k []byte) { r.puts[string(k)] = nil }

func (r *Rebuilder) flush() error {
	if len(r.puts) == 0 {
		return nil
	}
	_, err := r.db.Update(schema.KindRollback, func(tx *state.Tx) error {
		for k, v := range r.puts {
			if v == nil {
				tx.Delete([]byte(k))
			} else {
				tx.Put([]byte(k), v)
			}
		}
		return nil
	})
	clear(r.puts)
	clear(r.inodes)
	clear(r.dirs)
	r.size = 0
	return wrapDisk(err)
}

func (r *Rebuilder) flushFull() error {
	if r.size < rebuildBatch {
		return nil
	}
	return r.flush()
}

// newest gives an inode's newest version; rec nil: there is none.
func (r *Rebuilder) newest(ino uint64) (version, error) {
	if v, ok := r.inodes[ino]; ok {
		return v, nil
	}
	k, v, err := r.db.First(schema.InodePrefix(ino))
	if errors.Is(err, state.ErrNotFound) {
		return version{}, nil
	}
	if err != nil {
		return version{}, err
	}
	rec, err := schema.DecodeInode(v)
	return version{seqOf(k), rec}, err
}

// write makes rec the newest version of an inode.
func (r *Rebuilder) write(ino uint64, cur version, rec *schema.Inode) {
	rec.HasOlder = cur.rec != nil && (cur.seq != r.seq || cur.rec.HasOlder)
	if cur.rec != nil && cur.seq != r.seq {
		r.put(schema.DeathKey(r.prev+1, schema.InodeKey(ino, cur.seq)), nil)
	}
	r.put(schema.InodeKey(ino, r.seq), rec.Encode())
	r.inodes[ino] = version{r.seq, rec}
}

// entry gives the newest version of an entry.
func (r *Rebuilder) entry(dir uint64, name string) (dentry, error) {
	if _, dirty := r.dirs[dir]; dirty {
		if err := r.flush(); err != nil {
			return dentry{}, err
		}
	}
	k, v, err := r.db.First(schema.DentryPrefix(dir, name))
	if errors.Is(err, state.ErrNotFound) {
		return dentry{}, nil
	}
	if err != nil {
		return dentry{}, err
	}
	return parseDentry(k, v)
}

// setEntry makes name what next says.
func (r *Rebuilder) setEntry(dir uint64, name string, cur dentry, next schema.Dentry) {
	r.dirs[dir] = struct{}{}
	next.HasOlder = cur.found && (cur.seq != r.seq || cur.HasOlder)
	if cur.found && cur.seq != r.seq {
		r.put(schema.DeathKey(r.prev+1, schema.DentryKey(dir, name, cur.seq)), nil)
	}
	key := schema.DentryKey(dir, name, r.seq)
	if next.Ino == 0 && !next.HasOlder {
		r.del(key)
	} else {
		r.put(key, next.Encode())
	}
	if _, before := r.left[string(schema.DentryPrefix(dir, name))]; cur.live() && cur.Ino != next.Ino && !before {
		r.lose(cur.Ino)
	}
}

// lose notes that an inode has one name less.
func (r *Rebuilder) lose(ino uint64) {
	if n, ok := r.names[ino]; ok {
		r.names[ino] = n - 1
	}
	r.gone = append(r.gone, ino)
}

// bury deletes an inode that has no name any more, and what is in it.
func (r *Rebuilder) bury(ino uint64) error {
	cur, err := r.newest(ino)
	if err != nil || cur.rec == nil || cur.rec.Deleted {
		return err
	}
	if n, ok := r.names[ino]; ok {
		if n > 0 {
			return nil
		}
		delete(r.names, ino)
	} else {
		d, err := r.entry(cur.rec.Parent, cur.rec.Name)
		if err != nil || d.live() && d.Ino == ino {
			return err // it has moved
		}
	}
	if isDir(cur.rec) {
		d, err := r.Dir(ino)
		if err != nil {
			return err
		}
		if err := d.Done(); err != nil {
			return err
		}
	}
	r.write(ino, cur, &schema.Inode{Mode: cur.rec.Mode, Deleted: true, Ctime: cur.rec.Ctime})
	return r.flushFull()
}

// Finish ends the rebuild: the next cut is epoch. In the live tree, files that
// have names which no step shows have no more links than names.
func (r *Rebuilder) Finish(epoch uint64) error {
	r.Begin(epoch)
	if err := r.root(); err != nil { // there may be no step at all
		return err
	}
	for ino, n := range r.names {
		cur, err := r.newest(ino)
		if err != nil {
			return err
		}
		if cur.rec == nil || cur.rec.Deleted || cur.rec.Nlink == uint32(n) {
			continue
		}
		rec := *cur.rec
		rec.Nlink = uint32(n)
		r.write(ino, cur, &rec)
		if err := r.flushFull(); err != nil {
			return err
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	_, err := r.db.Update(schema.KindMkfs, func(tx *state.Tx) error {
		for name, n := range map[string]uint64{
			schema.MetaEpoch: epoch, schema.MetaNextIno: r.ino + 1, schema.MetaNextGen: r.gen + 1, schema.MetaOldGen: r.gen,
		} {
			tx.Put(schema.MetaKey(name), schema.Counter(n))
		}
		tx.PutBoot()
		return nil
	})
	return wrapDisk(err)
}
