package fs

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// The directory of snapshots and what is in it besides snapshots:
//
//	snapshots/             dirName of scope ""
//	  12000/ 12000@77/     the nodes of snapshots
//	  latest -> 12000      latestOf
//	  .barriers/77/        barriersName
//	  .status .status.json textName, jsonName
//	  run-a/               dirName of scope "run-a", or of a directory that leads to scopes
//
// These names are made up, as are their nodes; only their numbers are for
// ever. They are found anew each time somebody asks.

// nameKind is what a synthetic name is.
type nameKind uint8

const (
	dirName nameKind = iota
	latestOf
	barriersName
	textName
	jsonName
)

// nameOf is what a synthetic node stands for.
type nameOf struct {
	kind  nameKind
	scope string // of dirName and latestOf
}

// Nodes whose numbers are fixed.
const (
	snapRoot     = snapshotBit | 1
	barriersNode = snapshotBit | 2
	textNode     = snapshotBit | 3
	jsonNode     = snapshotBit | 4
	rootLatest   = snapshotBit | 5

	firstHashed = 1 << 16 // numbers below are for those above
)

const (
	latestName      = "latest"
	barriersDirName = ".barriers"
	textFileName    = ".status"
	jsonFileName    = ".status.json"
)

// nameTable numbers synthetic names. The number of a scope is a hash of its
// path, so that it is the same in the next process; the table exists to find
// the way back, and to keep two paths with the same hash apart.
type nameTable struct {
	mu  sync.Mutex
	ids map[nameOf]nodeID
	of  map[nodeID]nameOf
}

func (t *nameTable) init() {
	t.ids, t.of = map[nameOf]nodeID{}, map[nodeID]nameOf{}
	for n, of := range map[nodeID]nameOf{
		snapRoot:     {kind: dirName},
		rootLatest:   {kind: latestOf},
		barriersNode: {kind: barriersName},
		textNode:     {kind: textName},
		jsonNode:     {kind: jsonName},
	} {
		t.ids[of], t.of[n] = n, of
	}
}

// id gives the node of a name, for ever the same one.
func (t *nameTable) id(of nameOf) nodeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.ids[of]; ok {
		return n
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%s", of.kind, of.scope)
	n := nameNode(h.Sum64()%(maxIno-firstHashed) + firstHashed)
	for _, taken := t.of[n]; taken; _, taken = t.of[n] {
		n++
	}
	t.ids[of], t.of[n] = n, of
	return n
}

func (t *nameTable) get(n nodeID) (nameOf, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of, ok := t.of[n]
	return of, ok
}

// nameOf gives what a synthetic node stands for. One that is unknown was
// handed out by a predecessor: all scopes are numbered again to find it.
func (f *FileSystem) nameOf(n nodeID) (nameOf, error) {
	if of, ok := f.names.get(n); ok {
		return of, nil
	}
	f.numberScopes("")
	if of, ok := f.names.get(n); ok {
		return of, nil
	}
	return nameOf{}, stage.ErrStale
}

func (f *FileSystem) numberScopes(parent string) {
	for _, name := range f.registry.Scopes(parent) {
		scope := joinScope(parent, name)
		f.names.id(nameOf{dirName, scope})
		f.names.id(nameOf{latestOf, scope})
		f.numberScopes(scope)
	}
}

func joinScope(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "/" + name
}

// nameParent is the directory that a synthetic node is in.
func (f *FileSystem) nameParent(n nodeID) nodeID {
	of, err := f.nameOf(n)
	switch {
	case err != nil || of.kind != dirName && of.kind != latestOf:
		return snapRoot
	case of.kind == latestOf:
		return f.names.id(nameOf{dirName, of.scope})
	case of.scope == "" && f.opts.SnapshotsOnly:
		return snapRoot
	case of.scope == "":
		return stage.RootIno
	}
	up, _, _ := cutLast(of.scope)
	return f.names.id(nameOf{dirName, up})
}

// cutLast splits a scope's path before its last component.
func cutLast(scope string) (dir, base string, ok bool) {
	if i := strings.LastIndexByte(scope, '/'); i >= 0 {
		return scope[:i], scope[i+1:], true
	}
	return "", scope, false
}

// snapshotRoot says which inode of a snapshot is shown under its name on the
// way v, and which directory that name is in.
func (f *FileSystem) snapshotRoot(v view, info snapshot.Info) (ino uint64, dir nodeID) {
	if v == byBarrier {
		return stage.RootIno, barriersNode
	}
	return info.ScopeIno, f.names.id(nameOf{dirName, info.Scope})
}

// lookupName finds a name in a synthetic directory.
func (f *FileSystem) lookupName(parent nodeID, name string) (nodeID, error) {
	of, err := f.nameOf(parent)
	if err != nil {
		return 0, err
	}
	switch of.kind {
	case barriersName:
		return f.lookupBarrier(name)
	case dirName:
		return f.lookupInScope(of.scope, name)
	}
	return 0, stage.ErrNotDir
}

func (f *FileSystem) lookupInScope(scope, name string) (nodeID, error) {
	if scope == "" {
		if n, ok := map[string]nodeID{barriersDirName: barriersNode, textFileName: textNode, jsonFileName: jsonNode}[name]; ok {
			return n, nil
		}
	}
	if name == latestName {
		if _, ok := f.registry.Latest(scope); !ok {
			return 0, stage.ErrNotExist
		}
		return f.names.id(nameOf{latestOf, scope}), nil
	}
	info, err := f.registry.Reach(scope, name)
	if err == nil {
		v := byStep
		if strings.Contains(name, "@") {
			v = byRevision
		}
		return f.snapshotNode(v, info)
	}
	if errors.Is(err, snapshot.ErrNotExist) && slices.Contains(f.registry.Scopes(scope), name) {
		return f.names.id(nameOf{dirName, joinScope(scope, name)}), nil
	}
	return 0, err
}

// lookupBarrier finds a snapshot by its number, written the one usual way.
func (f *FileSystem) lookupBarrier(name string) (nodeID, error) {
	seq, err := strconv.ParseUint(name, 10, 64)
	if err != nil || strconv.FormatUint(seq, 10) != name {
		return 0, stage.ErrNotExist
	}
	info, err := f.registry.Get(seq)
	if err != nil {
		return 0, err
	}
	return f.snapshotNode(byBarrier, info)
}

// snapshotNode is the node of the directory that a snapshot's name shows.
func (f *FileSystem) snapshotNode(v view, info snapshot.Info) (nodeID, error) {
	slot, err := f.registry.Slot(info.Seq)
	if err != nil {
		return 0, err
	}
	if slot == 0 || slot > maxSlot {
		return 0, fmt.Errorf("snapshot %d has slot %d, which no node can say", info.Seq, slot)
	}
	ino, _ := f.snapshotRoot(v, info)
	return snapshotNode(v, slot, ino), nil
}

// readlinkName is where a synthetic link points: a name beside it.
func (f *FileSystem) readlinkName(n nodeID) (string, error) {
	of, err := f.nameOf(n)
	if err != nil {
		return "", err
	}
	if of.kind != latestOf {
		return "", stage.ErrInvalid
	}
	info, ok := f.registry.Latest(of.scope)
	if !ok {
		return "", stage.ErrNotExist
	}
	if newest, err := f.registry.Resolve(of.scope, info.Name); err == nil && newest.Seq != info.Seq {
		return info.ID(), nil // the step has a newer revision, which is not complete
	}
	return info.Name, nil
}

// nameAttr shows a synthetic node. They belong to the owner of the live root,
// with its permissions: who may write there may take a snapshot by mkdir.
func (f *FileSystem) nameAttr(n nodeID) (stage.Attr, error) {
	of, err := f.nameOf(n)
	if err != nil {
		return stage.Attr{}, err
	}
	root, err := f.tree.GetAttr(stage.RootIno)
	if err != nil {
		return stage.Attr{}, err
	}
	a := stage.Attr{Nlink: 1, UID: root.UID, GID: root.GID,
		Atime: root.Btime, Mtime: root.Btime, Ctime: root.Btime, Btime: root.Btime}
	if last, ok := f.registry.Latest(of.scope); ok {
		a.Mtime = last.Time.UnixNano()
		a.Ctime = a.Mtime
	}
	switch of.kind {
	case dirName, barriersName:
		a.Mode, a.Nlink = stage.ModeDir|root.Mode&0o7777, 2
		if of.kind == barriersName || f.opts.SnapshotsOnly {
			a.Mode &^= 0o222
		}
	case latestOf:
		a.Mode = stage.ModeLink | 0o777
		target, err := f.readlinkName(n)
		if err != nil {
			return a, err
		}
		a.Size = int64(len(target))
	case textName, jsonName:
		a.Mode = stage.ModeReg | 0o444
		text, err := f.opts.Status(of.kind == jsonName)
		if err != nil {
			return a, err
		}
		a.Size = int64(len(text))
	}
	return a, nil
}
