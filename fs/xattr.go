package fs

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// Attributes that stepfs answers itself. They are never listed, on purpose:
// cp -a copies what is listed, and a copied user.stepfs.step would seal the
// copy.
const (
	virtualPrefix = "user.stepfs."
	stepAttr      = virtualPrefix + "step"  // set on a live directory: seal it as that step
	stateAttr     = virtualPrefix + "state" // staged, stored, remote; excluded: in no snapshot, and not stored
	newAttr       = virtualPrefix + "new"   // bytes that would come back if this snapshot alone were forgotten
)

// stateExcluded is the state of what is in no snapshot.
const stateExcluded = "excluded"

// newAge is how old the number may be where it changes all the time.
const newAge = time.Second

// stepAttrs are what the directory of a snapshot tells of it.
var stepAttrs = map[string]func(snapshot.Info) string{
	stepAttr:                  func(i snapshot.Info) string { return i.Name },
	virtualPrefix + "verdict": func(i snapshot.Info) string { return i.Verdict },
	virtualPrefix + "reason":  func(i snapshot.Info) string { return i.Reason },
	virtualPrefix + "seq":     func(i snapshot.Info) string { return strconv.FormatUint(i.Seq, 10) },
	virtualPrefix + "time":    func(i snapshot.Info) string { return i.Time.UTC().Format(time.RFC3339Nano) },
	virtualPrefix + "tags":    func(i snapshot.Info) string { return strings.Join(i.Tags, ",") },
	virtualPrefix + "logical": func(i snapshot.Info) string { return strconv.FormatInt(i.Logical, 10) },
	virtualPrefix + "stored":  func(i snapshot.Info) string { return strconv.FormatInt(i.Stored, 10) },
}

// checkAttr refuses what can't be the name of an attribute: one outside the
// namespaces that the kernel knows, or a namespace alone.
func checkAttr(name string) error {
	for _, space := range [...]string{"user.", "trusted.", "security."} {
		switch {
		case name == space:
			return stage.ErrInvalid
		case strings.HasPrefix(name, space):
			return nil
		}
	}
	return stage.ErrNotSupported
}

// refusedAttr says which attributes are not kept: a file capability, which means
// nothing on a mount without suid, would have to be looked for at every write.
// (Access control lists, which would be kept but not obeyed, are in none of the
// namespaces of checkAttr.)
func refusedAttr(name string) bool { return name == "security.capability" }

// KeepsXattr says whether a mount keeps an extended attribute that a user sets.
func KeepsXattr(name string) bool {
	return checkAttr(name) == nil && !refusedAttr(name) && !strings.HasPrefix(name, virtualPrefix)
}

// GetXAttr gives an attribute; an empty dest asks for its size.
func (f *FileSystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	val, err := f.xattr(f.node(in.NodeId), name)
	if err != nil {
		return 0, status(err)
	}
	return fill(dest, val)
}

// fill copies an attribute into the caller's buffer.
func fill(dest, val []byte) (uint32, fuse.Status) {
	if len(dest) < len(val) {
		return uint32(len(val)), fuse.ERANGE // to an empty dest this is the size
	}
	return uint32(copy(dest, val)), fuse.OK
}

func (f *FileSystem) xattr(n nodeID, name string) ([]byte, error) {
	if err := checkAttr(name); err != nil {
		return nil, err
	}
	switch {
	case refusedAttr(name), n.isName():
		return nil, stage.ErrNoAttr
	case strings.HasPrefix(name, virtualPrefix):
		return f.virtualAttr(n, name)
	}
	src, err := f.source(n)
	if err != nil {
		return nil, err
	}
	return src.GetXattr(n.ino(), name)
}

func (f *FileSystem) virtualAttr(n nodeID, name string) ([]byte, error) {
	if name == stateAttr {
		return f.state(n)
	}
	value, known := stepAttrs[name]
	if !known && name != newAttr || !n.isSnapshot() {
		return nil, stage.ErrNoAttr
	}
	info, err := f.registry.BySlot(n.slot())
	if err != nil {
		return nil, err
	}
	if root, _ := f.snapshotRoot(n.view(), info); n.ino() != root {
		return nil, stage.ErrNoAttr
	}
	if known {
		return []byte(value(info)), nil
	}
	if f.manager == nil {
		return nil, stage.ErrNoAttr
	}
	bytes, err := f.manager.Freeable(context.Background(), info.Seq, newAge)
	return strconv.AppendInt(nil, bytes, 10), err
}

// state says where a file's bytes are. A live file may be written any time, so
// what is stored of it does not make it safe: it is staged.
func (f *FileSystem) state(n nodeID) ([]byte, error) {
	if n.isName() {
		return nil, stage.ErrNoAttr
	}
	if n.isSnapshot() {
		v, err := f.snapshotOf(n)
		if err != nil {
			return nil, err
		}
		if _, stored, err := v.Chunks(n.ino()); stored || err != nil {
			return []byte(snapshot.StateStored), err
		}
	}
	if n.isLive() && f.tree.Excluded(n.ino()) {
		return []byte(stateExcluded), nil
	}
	return []byte(snapshot.StateStaged), nil
}

// SetXAttr sets an attribute of a live node.
func (f *FileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, val []byte) fuse.Status {
	ino, err := f.live(in.NodeId)
	if err == nil {
		err = checkAttr(name)
	}
	switch {
	case err != nil:
	case refusedAttr(name):
		err = stage.ErrNotSupported
	case name == stepAttr:
		err = f.sealAs(ino, string(val), in.Uid)
	case strings.HasPrefix(name, virtualPrefix):
		err = stage.ErrPerm
	default:
		err = f.tree.SetXattr(ino, name, val, int(in.Flags))
	}
	return status(err)
}

// sealAs takes a snapshot of a live directory as step.
func (f *FileSystem) sealAs(ino uint64, step string, uid uint32) error {
	a, err := f.tree.GetAttr(ino)
	if err != nil {
		return err
	}
	if a.Mode&stage.ModeType != stage.ModeDir {
		return stage.ErrNotDir
	}
	scope, err := f.tree.PathOf(ino)
	if err != nil {
		return err
	}
	_, err = f.manager.SnapshotAs(context.Background(), scope, step, "xattr", uid, nil)
	return err
}

// ListXAttr lists the names of the attributes that users have set; those that
// only root may read, to root alone.
func (f *FileSystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n := f.node(in.NodeId)
	if n.isName() {
		return 0, fuse.OK
	}
	src, err := f.source(n)
	if err != nil {
		return 0, status(err)
	}
	names, err := src.ListXattr(n.ino())
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for _, name := range names {
		if in.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			continue
		}
		list = append(append(list, name...), 0)
	}
	return fill(dest, list)
}

// RemoveXAttr removes an attribute of a live node.
func (f *FileSystem) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	ino, err := f.live(in.NodeId)
	if err == nil {
		err = checkAttr(name)
	}
	switch {
	case err != nil:
	case refusedAttr(name):
		err = stage.ErrNoAttr
	case strings.HasPrefix(name, virtualPrefix):
		err = stage.ErrPerm
	default:
		err = f.tree.RemoveXattr(ino, name)
	}
	return status(err)
}
