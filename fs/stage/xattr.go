package stage

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Limits of extended attributes, in bytes, as in Linux.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

type xattr struct {
	schema.Xattr
	seq   uint64
	found bool
}

func (x xattr) live() bool { return x.found && !x.Gone }

func (t *Tree) findXattr(ino uint64, name string, seq uint64) (xattr, error) {
	k, v, err := t.db.Seek(schema.XattrPrefix(ino, name), schema.XattrKey(ino, name, seq))
	if errors.Is(err, state.ErrNotFound) {
		return xattr{}, nil
	}
	if err != nil {
		return xattr{}, wrapDisk(err)
	}
	_, ver, err := schema.ParseXattrKey(k)
	if err != nil {
		return xattr{}, wrapDisk(err)
	}
	x, err := schema.DecodeXattr(v)
	if err != nil {
		return xattr{}, wrapDisk(fmt.Errorf("inode %d attribute %q: %w", ino, name, err))
	}
	return xattr{x, ver, true}, nil
}

func (t *Tree) getXattr(ino uint64, name string, seq uint64) ([]byte, error) {
	x, err := t.findXattr(ino, name, seq)
	if err != nil {
		return nil, err
	}
	if !x.live() {
		return nil, ErrNoAttr
	}
	return x.Value, nil
}

func (t *Tree) listXattr(ino, seq uint64) ([]string, error) {
	prefix := schema.XattrInode(ino)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	var out []string
	for ok := it.First(); ok; {
		name, ver, err := schema.ParseXattrKey(it.Key())
		if err != nil {
			return nil, wrapDisk(err)
		}
		if ver > seq {
			ok = it.SeekGE(schema.XattrKey(ino, name, seq))
			continue
		}
		x, err := schema.DecodeXattr(it.Value())
		if err != nil {
			return nil, wrapDisk(err)
		}
		if !x.Gone {
			out = append(out, name)
		}
		ok = skipVersions(it, schema.XattrPrefix(ino, name))
	}
	return out, wrapDisk(it.Error())
}

// GetXattr gives the value of an extended attribute.
func (t *Tree) GetXattr(ino uint64, name string) ([]byte, error) {
	return t.getXattr(ino, name, newest)
}

// ListXattr gives the names of the extended attributes, in byte order.
func (t *Tree) ListXattr(ino uint64) ([]string, error) { return t.listXattr(ino, newest) }

// SetXattr sets an extended attribute; flags are XATTR_CREATE or XATTR_REPLACE.
func (t *Tree) SetXattr(ino uint64, name string, val []byte, flags int) error {
	switch {
	case name == "" || len(name) > maxXattrName:
		return ErrRange
	case len(val) > maxXattrValue:
		return ErrNoSpace
	}
	return t.changeXattr(ino, name, func(cur xattr) (schema.Xattr, error) {
		switch {
		case flags&unix.XATTR_CREATE != 0 && cur.live():
			return schema.Xattr{}, ErrExist
		case flags&unix.XATTR_REPLACE != 0 && !cur.live():
			return schema.Xattr{}, ErrNoAttr
		}
		return schema.Xattr{Value: val}, nil
	})
}

// RemoveXattr removes an extended attribute.
func (t *Tree) RemoveXattr(ino uint64, name string) error {
	return t.changeXattr(ino, name, func(cur xattr) (schema.Xattr, error) {
		if !cur.live() {
			return schema.Xattr{}, ErrNoAttr
		}
		return schema.Xattr{Gone: true}, nil
	})
}

func (t *Tree) changeXattr(ino uint64, name string, change func(cur xattr) (schema.Xattr, error)) error {
	n, err := t.get(ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return ErrNotExist
	}
	cur, err := t.findXattr(ino, name, newest)
	if err != nil {
		return err
	}
	next, err := change(cur)
	if err != nil || cur.live() && !next.Gone && bytes.Equal(cur.Value, next.Value) {
		return err // the same value is no change, as on ext4
	}
	rec := *n.rec
	rec.Ctime = t.now()
	_, err = t.update(schema.KindXattr, func(tx *txn) error {
		t.putXattr(tx, ino, name, cur, next)
		t.putInode(tx, n, &rec)
		return nil
	})
	return err
}

// putXattr replaces the attribute cur by next.
func (t *Tree) putXattr(tx *txn, ino uint64, name string, cur xattr, next schema.Xattr) {
	seq := tx.Epoch()
	next.HasOlder = cur.found && (cur.seq != seq || cur.HasOlder)
	if cur.found && cur.seq != seq {
		tx.Put(schema.DeathKey(seq, schema.XattrKey(ino, name, cur.seq)), nil)
	}
	key := schema.XattrKey(ino, name, seq)
	if next.Gone && (!next.HasOlder || cur.seq == seq && t.isOldest(schema.XattrPrefix(ino, name), key)) {
		tx.Delete(key)
	} else {
		tx.Put(key, next.Encode())
	}
}
