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
	New     int64    // bytes of them that no earlier snapshot holds, before encoding
	Stored  int64    // bytes that they took in packs
	Tree    [32]byte // name of the root's Merkle directory object; zero = not written yet
	Drained bool     // everything that it names is stored
}

const (
	snapExplicit = 1 << iota
	snapDrained
)

// Encode gives the snapshot's value.
func (s *Snapshot) Encode() []byte {
	var flags uint64
	if s.Explicit {
		flags |= snapExplicit
	}
	if s.Drained {
		flags |= snapDrained
	}
	b := binary.AppendUvarint(nil, flags)
	b = binary.AppendUvarint(b, s.ScopeIno)
	for _, v := range [...]string{s.Scope, s.Name, s.Reason, s.Verdict} {
		b = putBytes(b, []byte(v))
	}
	b = binary.AppendUvarint(b, uint64(s.UID))
	b = binary.AppendUvarint(b, s.Revision)
	for _, v := range [...]int64{s.Time, s.Logical, s.New, s.Stored} {
		b = binary.AppendVarint(b, v)
	}
	for _, l := range [...][]string{s.Tags, s.Marks} {
		b = binary.AppendUvarint(b, uint64(len(l)))
		for _, v := range l {
			b = putBytes(b, []byte(v))
		}
	}
	return append(b, s.Tree[:]...)
}

// DecodeSnapshot is the inverse of Encode.
func DecodeSnapshot(v []byte) (*Snapshot, error) {
	r := &reader{b: v}
	flags := r.uint()
	s := &Snapshot{Explicit: flags&snapExplicit != 0, Drained: flags&snapDrained != 0, ScopeIno: r.uint()}
	for _, p := range [...]*string{&s.Scope, &s.Name, &s.Reason, &s.Verdict} {
		*p = string(r.bytes())
	}
	s.UID = uint32(r.uint())
	s.Revision = r.uint()
	for _, p := range [...]*int64{&s.Time, &s.Logical, &s.New, &s.Stored} {
		*p = r.int()
	}
	for _, p := range [...]*[]string{&s.Tags, &s.Marks} {
		n := r.uint()
		if n > uint64(len(r.b)) {
			r.fail("list longer than its record")
			break
		}
		for ; n > 0; n-- {
			*p = append(*p, string(r.bytes()))
		}
	}
	copy(s.Tree[:], r.fixed(32))
	return s, r.done("snapshot")
}

// Candidate is a step-like directory or file that may have to be sealed.
type Candidate struct {
	Name string // step
	Time int64  // ns, of the last change seen
}

// Encode gives the candidate's value.
func (c Candidate) Encode() []byte {
	return binary.AppendVarint(putBytes(nil, []byte(c.Name)), c.Time)
}

// DecodeCandidate is the inverse of Encode.
func DecodeCandidate(v []byte) (Candidate, error) {
	r := &reader{b: v}
	c := Candidate{Name: string(r.bytes()), Time: r.int()}
	return c, r.done("candidate")
}
