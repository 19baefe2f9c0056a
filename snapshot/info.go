package snapshot

import (
	"fmt"
	"time"

	"stepfs/internal/schema"
)

// States of a snapshot's bytes.
const (
	StateStaged = "staged" // some lie in staging files or the index only
	StateStored = "stored" // all lie in packs
)

// Verdicts of a step.
const (
	VerdictComplete   = "complete"
	VerdictPartial    = "partial"
	VerdictUnverified = "unverified"
)

// Info is what the registry knows of a snapshot.
type Info struct {
	Seq      uint64
	Name     string // step or given name; "" = plain barrier
	Scope    string // path of the directory that it shows, "" = root
	ScopeIno uint64
	Revision int // 1 for the first snapshot of that name in its scope
	Time     time.Time
	Reason   string // why it was taken: fsync, mkdir, command, xattr, quiet, rollback, …
	Verdict  string
	Explicit bool // made under a name by a person
	UID      uint32
	Marks    []string // what it could not show as it was: "path: why"
	Tags     []string

	Logical, New, Stored int64 // bytes; final once State is stored
	State                string
	Tree                 [32]byte // name of its Merkle tree's root, once stored
}

// ID is the name that is this snapshot's for ever.
func (i Info) ID() string { return fmt.Sprintf("%s@%d", i.Name, i.Seq) }

func infoOf(seq uint64, s *schema.Snapshot) Info {
	i := Info{
		Seq: seq, Name: s.Name, Scope: s.Scope, ScopeIno: s.ScopeIno, Revision: int(s.Revision), Time: time.Unix(0, s.Time),
		Reason: s.Reason, Verdict: s.Verdict, Explicit: s.Explicit, UID: s.UID, Marks: s.Marks, Tags: s.Tags,
		Logical: s.Logical, New: s.New, Stored: s.Stored, State: StateStaged, Tree: s.Tree,
	}
	if s.Drained {
		i.State = StateStored
	}
	return i
}
