package attach

import (
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
	"stepfs/snapshot/published"
)

// Attributes that stepfs answers itself. As on every mount of ours they are never
// listed: cp -a copies what is listed.
const (
	virtualPrefix = "user.stepfs."
	stateAttr     = virtualPrefix + "state"
	stateRemote   = "remote"
)

// stepAttrs are what the directory of a snapshot tells of it.
var stepAttrs = map[string]func(*published.Step) string{
	virtualPrefix + "step":    func(s *published.Step) string { return s.Record.Name },
	virtualPrefix + "verdict": func(s *published.Step) string { return s.Record.Verdict },
	virtualPrefix + "reason":  func(s *published.Step) string { return s.Record.Reason },
	virtualPrefix + "seq":     func(s *published.Step) string { return strconv.FormatUint(s.Sequence, 10) },
	virtualPrefix + "time":    func(s *published.Step) string { return s.Time().UTC().Format(time.RFC3339Nano) },
	virtualPrefix + "tags":    func(s *published.Step) string { return strings.Join(s.Record.Tags, ",") },
	virtualPrefix + "logical": func(s *published.Step) string { return strconv.FormatInt(s.Record.Logical, 10) },
	virtualPrefix + "stored":  func(s *published.Step) string { return strconv.FormatInt(s.Record.Stored, 10) },
	virtualPrefix + "writer":  func(s *published.Step) string { return s.Writer.String() },
}

// GetXAttr gives an attribute; an empty dest asks for its size.
func (f *FileSystem) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := nodeID(in.NodeId)
	if strings.HasPrefix(name, "system.") { // access control lists
		return 0, fuse.Status(unix.EOPNOTSUPP)
	}
	if !n.isSnapshot() {
		return 0, f.told("read an attribute", errNoAttr)
	}
	s, err := f.snapshotOf(n)
	if err != nil {
		return 0, f.told("read an attribute", err)
	}
	if value, known := stepAttrs[name]; known && n.page() == 0 {
		return fill(dest, []byte(value(s.step)))
	}
	if name == stateAttr {
		return fill(dest, []byte(stateRemote))
	}
	_, e, err := f.entry(asking(cancel), s, n)
	if err != nil {
		return 0, f.told("read an attribute", err)
	}
	for _, x := range kept(e) {
		if x.Name == name {
			return fill(dest, x.Value)
		}
	}
	return 0, f.told("read an attribute", errNoAttr)
}

// kept are the attributes that users have set.
func kept(e *schema.TreeEntry) (all []schema.NamedValue) {
	for _, x := range e.Xattrs {
		if !strings.HasPrefix(x.Name, virtualPrefix) {
			all = append(all, x)
		}
	}
	return all
}

// fill copies an attribute into the caller's buffer.
func fill(dest, val []byte) (uint32, fuse.Status) {
	if len(dest) < len(val) {
		return uint32(len(val)), fuse.ERANGE // to an empty dest this is the size
	}
	return uint32(copy(dest, val)), fuse.OK
}

// ListXAttr lists the names of the attributes that users have set; those that
// only root may read, to root alone.
func (f *FileSystem) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n := nodeID(in.NodeId)
	if !n.isSnapshot() {
		return 0, fuse.OK
	}
	s, err := f.snapshotOf(n)
	if err != nil {
		return 0, f.told("list attributes", err)
	}
	_, e, err := f.entry(asking(cancel), s, n)
	if err != nil {
		return 0, f.told("list attributes", err)
	}
	var list []byte
	for _, x := range kept(e) {
		if in.Uid != 0 && strings.HasPrefix(x.Name, "trusted.") {
			continue
		}
		list = append(append(list, x.Name...), 0)
	}
	return fill(dest, list)
}
