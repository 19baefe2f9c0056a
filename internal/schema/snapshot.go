package schema

import "encoding/binary"

// Snapshot is the registry's record of one published barrier. Its key is the
// number of its cut.
type Snapshot struct {
	ScopeIno uint64 // directory that snapshots/<name> shows; the root for a plain barrier
	Scope    string // path of that directory, "" = root
	Name     string // step or given name; "" = plain barrier, not sealed
	Reason   string // fsync, mkdir, command, xattr, quiet, rollback
	Verdict  string // complete, partial, unverified; "" = plain barrier
	Explicit bool   // made by a person under a name: rmdir may remove it
	UID      uint32 // who made it
	Revision uint64 // 1 for the first snapshot of that name in its scope
	Time     int64  // ns, of the commit
	Tags     []string
	Marks    []string // what this snapshot could not show as it was: "path: why"

	Logical int64    // bytes of all files below the scope
	Brought int64    // bytes of them that were new to the store when they were stored, before encoding
	Stored  int64    // bytes that those took in packs
	Tree    [32]byte // name of the root's Merkle directory object; zero = not written yet
	Drained bool     // everything that it names is stored

	// What decides how long it is kept.
	Clock     int64      // store time of the commit, ns; 0 = recorded before there was one
	Holds     []Hold     // while there is one it is not removed
	Forgotten *Forgotten // not nil: not shown any more, and gone once it is pruned
	Spared    bool       // brought back after it was forgotten: no policy forgets it again

	// What is known of a step; with Judged alone.
	Judged  bool
	Rule    string   // by which it was sealed
	Why     []string // why the verdict is what it is
	Pieces  []string // its directories or files, as paths below the scope
	Pending string   // the verdict that it gets if its files check out; "" = it has it
	Again   uint64   // a later cut that showed the same step, written once more; 0 = none

	Verified *Verified // nil: nobody has read it back yet
}

// Hold keeps a snapshot until it is released.
type Hold struct {
	Name   string // of the hold; a snapshot has one of each name
	UID    uint32 // who holds it
	By     string // the same for people: user@host
	Reason string
	Time   int64 // ns
}

// Verified says how it went when a snapshot was last read back.
type Verified struct {
	Time     int64 // ns
	Took     int64 // ns
	Bytes    int64 // read
	Problems []string
}

// Forgotten says when, by whom and why a snapshot was forgotten.
type Forgotten struct {
	By     string // user@host, or "policy"
	Reason string
	Time   int64 // ns
	Clock  int64 // store time, ns
	Bucket bool  // in the bucket, too, once it is pruned here
}

const (
	snapExplicit = 1 << iota
	snapDrained
	snapKept // what decides how long it is kept follows the tree
	snapForgotten
	snapSpared
	snapJudged   // what is known of a step follows
	snapVerified // and last, how it was read back
	snapBucket   // forgotten in the bucket, too
)

// Flags in the value of a name's key: what a listing has to know of a
// snapshot without reading its record.
const (
	NameExplicit   = 1 << iota // a person gave the name
	NameForgotten              // not shown any more
	NamePartial                // a step that is not complete
	NameUnverified             // nothing says whether the step is
	NamePending                // its files are being checked
	NameAgain                  // the cut follows at which it was sealed again
)

// ParseNameFlags is the inverse of NameFlags.
func ParseNameFlags(v []byte) (flags byte, again uint64) {
	if len(v) == 0 {
		return 0, 0
	}
	if v[0]&NameAgain != 0 && len(v) == 9 {
		again = binary.BigEndian.Uint64(v[1:])
	}
	return v[0], again
}

// NameRank orders claims to be the latest of a scope: a complete step goes before
// one that is not verified, and that before every name that a person gave. What
// is partial or forgotten has none: 0.
func NameRank(flags byte) int {
	switch {
	case flags&(NameForgotten|NamePartial) != 0:
		return 0
	case flags&NameExplicit != 0:
		return 1
	case flags&NameUnverified != 0:
		return 2
	}
	return 3
}

// NameFlags gives the value of the snapshot's name key.
func (s *Snapshot) NameFlags() []byte {
	var b byte
	if s.Explicit {
		b |= NameExplicit
	}
	if s.Forgotten != nil {
		b |= NameForgotten
	}
	switch {
	case s.Verdict == "partial":
		b |= NamePartial
	case s.Verdict == "unverified" && s.Judged: // in a store of version 2 every step was, and counted as complete
		b |= NameUnverified
	}
	if s.Pending != "" {
		b |= NamePending
	}
	if s.Again != 0 {
		return u64([]byte{b | NameAgain}, s.Again)
	}
	return []byte{b}
}

// Encode gives the snapshot's value.
func (s *Snapshot) Encode() []byte {
	var flags uint64
	if s.Explicit {
		flags |= snapExplicit
	}
	if s.Drained {
		flags |= snapDrained
	}
	kept := s.Clock != 0 || len(s.Holds) > 0 || s.Forgotten != nil
	if kept {
		flags |= snapKept
	}
	if s.Forgotten != nil {
		flags |= snapForgotten
		if s.Forgotten.Bucket {
			flags |= snapBucket
		}
	}
	if s.Spared {
		flags |= snapSpared
	}
	if s.Judged {
		flags |= snapJudged
	}
	if s.Verified != nil {
		flags |= snapVerified
	}
	b := binary.AppendUvarint(nil, flags)
	b = binary.AppendUvarint(b, s.ScopeIno)
	for _, v := range [...]string{s.Scope, s.Name, s.Reason, s.Verdict} {
		b = putBytes(b, []byte(v))
	}
	b = binary.AppendUvarint(b, uint64(s.UID))
	b = binary.AppendUvarint(b, s.Revision)
	for _, v := range [...]int64{s.Time, s.Logical, s.Brought, s.Stored} {
		b = binary.AppendVarint(b, v)
	}
	b = putList(putList(b, s.Tags), s.Marks)
	b = append(b, s.Tree[:]...)
	if kept {
		b = s.encodeKept(b)
	}
	if s.Judged {
		b = putBytes(b, []byte(s.Rule))
		b = putList(putList(b, s.Why), s.Pieces)
		b = binary.AppendUvarint(putBytes(b, []byte(s.Pending)), s.Again)
	}
	if v := s.Verified; v != nil {
		for _, n := range [...]int64{v.Time, v.Took, v.Bytes} {
			b = binary.AppendVarint(b, n)
		}
		b = putList(b, v.Problems)
	}
	return b
}

func putList(b []byte, l []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(l)))
	for _, v := range l {
		b = putBytes(b, []byte(v))
	}
	return b
}

func (r *reader) list() (l []string) {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail("list longer than its record")
		return nil
	}
	for ; n > 0 && r.err == nil; n-- {
		l = append(l, string(r.bytes()))
	}
	return l
}

func (s *Snapshot) encodeKept(b []byte) []byte {
	b = binary.AppendVarint(b, s.Clock)
	b = binary.AppendUvarint(b, uint64(len(s.Holds)))
	for _, h := range s.Holds {
		b = putBytes(b, []byte(h.Name))
		b = binary.AppendUvarint(b, uint64(h.UID))
		b = putBytes(putBytes(b, []byte(h.By)), []byte(h.Reason))
		b = binary.AppendVarint(b, h.Time)
	}
	if f := s.Forgotten; f != nil {
		b = putBytes(putBytes(b, []byte(f.By)), []byte(f.Reason))
		b = binary.AppendVarint(binary.AppendVarint(b, f.Time), f.Clock)
	}
	return b
}

// DecodeSnapshot is the inverse of Encode.
func DecodeSnapshot(v []byte) (*Snapshot, error) {
	r := &reader{b: v}
	flags := r.uint()
	s := &Snapshot{Explicit: flags&snapExplicit != 0, Drained: flags&snapDrained != 0, ScopeIno: r.uint()}
	for _, p := range [...]*string{&s.Scope, &s.Name, &s.Reason, &s.Verdict} {
		*p = string(r.bytes())
	}
	s.UID = r.uint32()
	s.Revision = r.uint()
	for _, p := range [...]*int64{&s.Time, &s.Logical, &s.Brought, &s.Stored} {
		*p = r.int()
	}
	s.Tags, s.Marks = r.list(), r.list()
	copy(s.Tree[:], r.fixed(32))
	s.Spared = flags&snapSpared != 0
	if flags&snapKept != 0 {
		s.decodeKept(r, flags&snapForgotten != 0)
	}
	if s.Forgotten != nil {
		s.Forgotten.Bucket = flags&snapBucket != 0
	}
	if s.Judged = flags&snapJudged != 0; s.Judged {
		s.Rule = string(r.bytes())
		s.Why, s.Pieces = r.list(), r.list()
		s.Pending, s.Again = string(r.bytes()), r.uint()
	}
	if flags&snapVerified != 0 {
		s.Verified = decodeVerified(r)
	}
	return s, r.done("snapshot")
}

func (s *Snapshot) decodeKept(r *reader, forgotten bool) {
	s.Clock = r.int()
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail("list longer than its record")
		return
	}
	for ; n > 0 && r.err == nil; n-- {
		h := Hold{Name: string(r.bytes()), UID: r.uint32()}
		h.By, h.Reason = string(r.bytes()), string(r.bytes())
		h.Time = r.int()
		s.Holds = append(s.Holds, h)
	}
	if forgotten {
		f := &Forgotten{By: string(r.bytes()), Reason: string(r.bytes())}
		f.Time, f.Clock = r.int(), r.int()
		s.Forgotten = f
	}
}

func decodeVerified(r *reader) *Verified {
	return &Verified{Time: r.int(), Took: r.int(), Bytes: r.int(), Problems: r.list()}
}

// Candidate is a step-like directory or file that may have to be sealed.
type Candidate struct {
	Name string // step
	Time int64  // ns, of the last change seen
	Rule string // by which it is committed; "" = by none, or not known
}

// Encode gives the candidate's value.
func (c Candidate) Encode() []byte {
	b := binary.AppendVarint(putBytes(nil, []byte(c.Name)), c.Time)
	if c.Rule != "" {
		b = putBytes(b, []byte(c.Rule))
	}
	return b
}

// DecodeCandidate is the inverse of Encode.
func DecodeCandidate(v []byte) (Candidate, error) {
	r := &reader{b: v}
	c := Candidate{Name: string(r.bytes()), Time: r.int()}
	if len(r.b) > 0 {
		c.Rule = string(r.bytes())
	}
	return c, r.done("candidate")
}
