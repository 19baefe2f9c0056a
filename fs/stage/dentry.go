package stage

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// dentry is an entry as found: its newest version at some cut, or none.
type dentry struct {
	schema.Dentry
	seq   uint64
	found bool // a version exists, perhaps a tombstone
}

func (d dentry) live() bool { return d.found && d.Ino != 0 }

// seen says whether a view that shows this version shows the entry.
func (d dentry) seen() bool { return d.live() && !d.Hidden }

const newest = ^uint64(0)

// findDentry gives the newest version of an entry at or before seq.
func (t *Tree) findDentry(dir uint64, name string, seq uint64) (dentry, error) {
	k, v, err := t.db.Seek(schema.DentryPrefix(dir, name), schema.DentryKey(dir, name, seq))
	if errors.Is(err, state.ErrNotFound) {
		return dentry{}, nil
	}
	if err != nil {
		return dentry{}, wrapDisk(err)
	}
	return parseDentry(k, v)
}

func parseDentry(k, v []byte) (dentry, error) {
	name, seq, err := schema.ParseDentryKey(k)
	if err != nil {
		return dentry{}, wrapDisk(err)
	}
	d, err := schema.DecodeDentry(v)
	if err != nil {
		return dentry{}, wrapDisk(fmt.Errorf("entry %q: %w", name, err))
	}
	return dentry{Dentry: d, seq: seq, found: true}, nil
}

// noEntry is what an entry becomes that is removed.
var noEntry schema.Dentry

// putDentry makes name what next says, but for HasOlder. cur is what findDentry
// gave for it under the directory's lock.
func (t *Tree) putDentry(tx *txn, dir uint64, name string, cur dentry, next schema.Dentry) {
	seq := tx.Epoch()
	next.HasOlder = cur.found && (cur.seq != seq || cur.HasOlder)
	if cur.found && cur.seq != seq {
		tx.Put(schema.DeathKey(seq, schema.DentryKey(dir, name, cur.seq)), nil)
	}
	key := schema.DentryKey(dir, name, seq)
	if next.Ino == 0 && (!next.HasOlder || cur.seq == seq && t.isOldest(schema.DentryPrefix(dir, name), key)) {
		tx.Delete(key)
		return
	}
	tx.Put(key, next.Encode())
}

// isOldest says whether a version has none before it, which its own word for
// it (HasOlder) need not tell once Prune took those away. After an error it is
// not the oldest, which is always safe.
func (t *Tree) isOldest(prefix, version []byte) bool {
	_, _, err := t.db.Seek(prefix, schema.After(version))
	return errors.Is(err, state.ErrNotFound)
}

// checkName refuses what can't be the name of a new entry.
func checkName(name string) error {
	switch {
	case len(name) > MaxName:
		return ErrNameTooLong
	case name == "" || strings.ContainsAny(name, "/\x00"):
		return ErrInvalid
	case name == "." || name == "..":
		return ErrExist
	}
	return nil
}

// readDir gives up to max entries of dir whose names come after `after`, as
// of cut seq, in byte order. Its cost is that of the entries passed, however
// many versions or other snapshots there are.
func (t *Tree) readDir(dir, seq uint64, after string, max int) ([]Dirent, error) {
	prefix := schema.DirPrefix(dir)
	from := prefix
	if after != "" {
		from = schema.After(schema.DentryPrefix(dir, after))
	}
	it, err := t.db.NewIter(from, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	var out []Dirent
	for ok := it.First(); ok && len(out) < max; {
		d, err := parseDentry(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		name, _, _ := schema.ParseDentryKey(it.Key())
		if d.seq > seq {
			ok = it.SeekGE(schema.DentryKey(dir, name, seq))
			continue
		}
		if d.Ino != 0 {
			out = append(out, Dirent{Name: name, Ino: d.Ino, Type: d.Type, Hidden: d.Hidden})
		}
		ok = skipVersions(it, schema.DentryPrefix(dir, name))
	}
	return out, wrapDisk(it.Error())
}

// cursor is the part of an iterator that skipVersions needs.
type cursor interface {
	Next() bool
	SeekGE([]byte) bool
	Key() []byte
}

// skipVersions moves behind all keys that start with prefix: a few steps
// first, since most names have few versions, then a seek.
func skipVersions(it cursor, prefix []byte) bool {
	for range 4 {
		if !it.Next() {
			return false
		}
		if !bytes.HasPrefix(it.Key(), prefix) {
			return true
		}
	}
	return it.SeekGE(schema.After(prefix))
}

func (t *Tree) dirEmpty(dir uint64) (bool, error) {
	es, err := t.readDir(dir, newest, "", 1)
	return len(es) == 0, err
}
