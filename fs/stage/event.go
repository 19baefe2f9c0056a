package stage

// Op says what happened to an entry of the tree.
type Op uint8

// What can happen. A file is written, truncated and closed through whatever
// name it is last known by.
const (
	OpCreate   Op = iota + 1 // a name was added: create, mknod, symlink, link
	OpMkdir                  // a directory was made
	OpWrite                  // a file was written, for the first time since it was closed
	OpTruncate               // likewise, by a change of its size
	OpClose                  // a file that was written is closed: snapshots show what was written
	OpAbandon                // it is open no more, and its writer was killed: they do not
	OpRename                 // an entry was moved
	OpUnlink                 // a name was removed
	OpRmdir                  // a directory was removed
	OpAttr                   // mode, owner or times were changed
)

// Event is one thing that happened. Nothing is told of what is excluded.
type Event struct {
	Op       Op
	Dir      uint64 // directory of the entry; of a rename, the new one
	Name     string
	Ino      uint64
	FromDir  uint64 // of a rename: where it was
	FromName string
	Over     uint64 // of a rename: the inode that lost the name; 0: none
}

func (t *Tree) happened(e Event) {
	if t.cfg.Events.Happened != nil {
		t.cfg.Events.Happened(e)
	}
}

// dirty tells of a change of n's content, once until it is closed. n is locked.
func (t *Tree) dirty(op Op, n *inode) {
	if !n.noted && n.rec.Nlink > 0 && !n.rec.Excluded {
		n.noted = true
		t.happened(Event{Op: op, Dir: n.rec.Parent, Name: n.rec.Name, Ino: n.ino})
	}
}

// clean tells that n, which is locked, is closed or abandoned, if it was dirty.
func (t *Tree) clean(op Op, n *inode) {
	if n.noted {
		n.noted = false
		if n.rec.Excluded {
			return
		}
		t.happened(Event{Op: op, Dir: n.rec.Parent, Name: n.rec.Name, Ino: n.ino})
	}
}
