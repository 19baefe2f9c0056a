package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// LostView is what MarkLost needs of the tree of a snapshot.
type LostView interface {
	Chunks(ino uint64) (es []schema.ChunkExtent, ok bool, err error)
	Path(ino uint64) (string, error) // one of its names, or an error if none is known
	Links(ino uint64) (int, error)
	Walk(fn func(path string, ino uint64) error) error
}

// MarkLost makes partial each snapshot with a name that shows a file of which
// chunks are lost, and marks where. lost are the chunks, by the inodes that may
// have them. It tells each path, also those that were marked before. Nothing
// else may use the registry meanwhile; with look nothing is written.
func MarkLost(ctx context.Context, db *state.Engine, at func(seq uint64) LostView, lost map[uint64]map[[32]byte]struct{}, look bool,
	tell func(i Info, path, why string)) (marked int, err error) {
	if len(lost) == 0 {
		return 0, nil
	}
	var names []struct {
		scope, name string
		seq         uint64
	}
	r := &Registry{db: db}
	err = r.names([]byte{schema.PrefixName}, func(scope, name string, seq uint64, _ []byte) error {
		names = append(names, struct {
			scope, name string
			seq         uint64
		}{scope, name, seq})
		return ctx.Err()
	})
	for _, n := range names {
		if err != nil {
			break
		}
		var marks []string
		if marks, err = lostIn(at(n.seq), n.scope, lost); err != nil || len(marks) == 0 {
			continue
		}
		marked++
		err = r.mark(n.seq, marks, look, tell)
	}
	if err != nil {
		return marked, fmt.Errorf("mark what is lost: %w", err)
	}
	return marked, nil
}

// lostIn gives a mark for each file below a scope that lost something. An inode
// knows one of its names, or one that it had: others are looked for.
func lostIn(v LostView, scope string, lost map[uint64]map[[32]byte]struct{}) (marks []string, err error) {
	mark := func(path, why string) {
		if scope != "" {
			var in bool
			if path, in = strings.CutPrefix(path, scope+"/"); !in {
				return
			}
		}
		marks = append(marks, path+": "+why)
	}
	search := map[uint64]string{}
	for ino, ids := range lost {
		why := lostOf(v, ino, ids)
		if why == "" {
			continue
		}
		path, err := v.Path(ino)
		if n, e := v.Links(ino); err != nil || e != nil || n > 1 {
			search[ino] = why
		} else {
			mark(path, why)
		}
	}
	if len(search) > 0 {
		err = v.Walk(func(path string, ino uint64) error {
			if why := search[ino]; why != "" {
				mark(path, why)
			}
			return nil
		})
	}
	slices.Sort(marks)
	return marks, err
}

// lostOf says what a file of a snapshot has lost; empty: nothing, or it is not there.
func lostOf(v LostView, ino uint64, ids map[[32]byte]struct{}) string {
	es, _, err := v.Chunks(ino)
	if err != nil {
		return ""
	}
	missing := 0
	for _, e := range es {
		if _, gone := ids[e.ID]; gone {
			missing++
		}
	}
	if missing == 0 {
		return ""
	}
	return fmt.Sprintf("%d of its %d chunks are lost", missing, len(es))
}

// mark adds marks to a snapshot's record, and makes it partial.
func (r *Registry) mark(seq uint64, marks []string, look bool, tell func(i Info, path, why string)) error {
	v, err := r.db.Get(schema.Numbered(schema.PrefixSnapshot, seq))
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := schema.DecodeSnapshot(v)
	if err != nil {
		return err
	}
	for _, m := range marks {
		path, why, _ := strings.Cut(m, ": ")
		tell(infoOf(seq, s), path, why)
	}
	if len(marks) > lostMarks {
		marks = append(marks[:lostMarks:lostMarks], fmt.Sprintf(".: %d more are not whole", len(marks)-lostMarks))
	}
	if s.Verdict == VerdictPartial && !slices.ContainsFunc(marks, func(m string) bool { return !slices.Contains(s.Marks, m) }) || look {
		return nil
	}
	becomePartial(s, marks)
	pos, err := r.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
		tx.Put(schema.NameKey(s.Scope, s.Name, seq), s.NameFlags())
		return nil
	})
	if err == nil {
		err = r.db.Sync(pos)
	}
	return err
}

// becomePartial makes a step of which something is lost a partial one.
func becomePartial(s *schema.Snapshot, marks []string) {
	for _, m := range marks {
		if !slices.Contains(s.Marks, m) {
			s.Marks = append(s.Marks, m)
		}
	}
	if s.Verdict == VerdictPartial && s.Pending == "" && slices.Contains(s.Why, lostWhy) {
		return
	}
	s.Verdict, s.Pending, s.Judged = VerdictPartial, "", true
	s.Why = append(s.Why, lostWhy)
}

const lostWhy = "some of it is lost: found when the store was repaired"
