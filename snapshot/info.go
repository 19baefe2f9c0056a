package snapshot

import (
	"fmt"
	"slices"
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
	Explicit bool     // made under a name by a person
	Judged   bool     // as a step: what follows is known of it
	Rule     string   // that it was sealed by
	Findings []string // why the verdict is what it is
	Pieces   []string // its directories or files, below the scope
	Pending  bool     // the verdict may still change: its files are being checked
	UID      uint32
	Marks    []string // what it could not show as it was: "path: why"
	Tags     []string

	// Bytes, final once State is stored: of all files; of those what was new to
	// the store when it was stored, before encoding, and what that took in packs.
	// What it alone needs is another number, see Manager.Freeable.
	Logical, Brought, Stored int64

	State string
	Tree  [32]byte // name of its Merkle tree's root, once stored

	Clock     time.Duration // store time at which it was taken; see clock.go
	Holds     []Hold        // by name
	Forgotten *Forgotten    // not nil: not listed any more, and gone once it is pruned
	Spared    bool          // brought back by unforget: no policy forgets it again

	Verified *Verified // nil: nobody has read it back yet
}

// Pinned says whether it stays on this disk; see pinned.go.
func (i *Info) Pinned() bool {
	return slices.ContainsFunc(i.Holds, func(h Hold) bool { return h.Name == PinHold })
}

// Hold keeps a snapshot until it is released: no policy, no pressure and no
// forget removes it.
type Hold struct {
	Name   string // of the hold; default "user"
	UID    uint32 // who holds it
	By     string // the same for people: user@host
	Reason string
	Time   time.Time
}

// Forgotten says when, by whom and why a snapshot was forgotten.
type Forgotten struct {
	By     string
	Reason string
	Time   time.Time
	Bucket bool // in the bucket, too, once it is pruned here
}

// Verified says how it went when a snapshot was last read back.
type Verified struct {
	Time     time.Time
	Took     time.Duration
	Bytes    int64    // read
	Problems []string // "path: why"
}

// OK says whether all of it was there, and whole.
func (v *Verified) OK() bool { return len(v.Problems) == 0 }

// Complete says whether a step counts as a whole checkpoint when it is decided
// what is kept: one that is not verified may well be.
func (i *Info) Complete() bool { return i.Name != "" && i.Verdict != VerdictPartial }

// Path is the ID below snapshots/, with the scope.
func (i Info) Path() string { return join(i.Scope, i.ID()) }

// ID is the name that is this snapshot's for ever.
func (i Info) ID() string { return fmt.Sprintf("%s@%d", i.Name, i.Seq) }

func infoOf(seq uint64, s *schema.Snapshot) Info {
	i := Info{
		Seq: seq, Name: s.Name, Scope: s.Scope, ScopeIno: s.ScopeIno, Revision: int(s.Revision), Time: time.Unix(0, s.Time),
		Reason: s.Reason, Verdict: s.Verdict, Explicit: s.Explicit, UID: s.UID, Marks: s.Marks, Tags: s.Tags,
		Logical: s.Logical, Brought: s.Brought, Stored: s.Stored, State: StateStaged, Tree: s.Tree,
		Clock: time.Duration(s.Clock), Spared: s.Spared,
		Judged: s.Judged, Rule: s.Rule, Findings: s.Why, Pieces: s.Pieces, Pending: s.Pending != "",
	}
	for _, h := range s.Holds {
		i.Holds = append(i.Holds, Hold{h.Name, h.UID, h.By, h.Reason, time.Unix(0, h.Time)})
	}
	if f := s.Forgotten; f != nil {
		i.Forgotten = &Forgotten{f.By, f.Reason, time.Unix(0, f.Time), f.Bucket}
	}
	if v := s.Verified; v != nil {
		i.Verified = &Verified{time.Unix(0, v.Time), time.Duration(v.Took), v.Bytes, v.Problems}
	}
	if s.Drained {
		i.State = StateStored
	}
	return i
}
