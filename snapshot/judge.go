package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"stepfs/internal/schema"
	"stepfs/snapshot/rules"
)

// What a view is worth as a step is decided twice: of the tree as it is, to
// spare a cut, and of the cut, since the job goes on between the two.

var (
	// errOpen: a file of the step is open for writing.
	errOpen = errors.New("a file of the step is open for writing")
	// errChanging: something has happened to the step since.
	errChanging = errors.New("the step is changing")
	// errWait: the step is not committed yet, nor quiet.
	errWait = errors.New("the step is not committed")
	// errNothing: the view shows no file of the step, or it is none.
	errNothing = errors.New("there is no step")
)

// sameError: the newest revision has the same bytes, and is worth as much.
type sameError struct {
	revision Info
	again    uint64 // the cut that showed the same
}

func (e *sameError) Error() string { return "the step is what " + e.revision.ID() + " is" }

// judgement is what is known of a step in a view.
type judgement struct {
	s      *sealer
	a      *attempt
	v      View
	files  []member
	pieces []string

	rule      *rules.Rule
	committed bool
	step      string
	verdict   string
	reason    string
	why       []string
	prior     *Info // the newest revision of the step
	before    []member
}

// examine finds the files of the step and its rule, and says whether it can be
// sealed: once it is committed and has all that its rule wants, or is quiet.
func (s *sealer) examine(a *attempt, v View) (*judgement, error) {
	if s.writing(a) {
		return nil, errOpen
	}
	j := &judgement{s: s, a: a, v: v, step: a.step}
	var err error
	if j.files, j.pieces, err = s.members(a, v); err != nil {
		return nil, err
	}
	if j.findRule(); j.rule == nil {
		return nil, errNothing
	}
	j.reason, j.verdict = j.rule.Reason, VerdictComplete
	switch {
	case j.rule.Quiet():
		j.verdict = VerdictUnverified
	case !j.committed:
		j.lacking(rules.ReasonQuiet, "its commit point was not seen: "+j.rule.Missing(j.seen))
	}
	if a.adopted {
		j.reason = ReasonImport
	}
	if lacks := j.lacks(); lacks != "" {
		j.lacking(j.reason, lacks)
	}
	for _, f := range j.files {
		if f.typ != modeReg {
			continue
		}
		hole, err := v.Unwritten(f.ino)
		if err != nil {
			return nil, err
		}
		if hole {
			j.lacking(j.reason, f.name+" was made longer and not written")
		}
	}
	if j.verdict != VerdictComplete && !a.quiet {
		return nil, errWait
	}
	return j, nil
}

// lacking: the step is not whole, as far as one knows.
func (j *judgement) lacking(reason, why string) {
	j.reason, j.verdict = reason, VerdictPartial
	j.why = append(j.why, why)
}

func (j *judgement) seen(k int) bool { return j.a.seen[commitPoint{j.rule, k}] }

// findRule gives the rule that the step is known to follow: the first of which
// it has a sign, or a commit that no other rule has; else that of the step
// before; else the first that takes every step of that name.
func (j *judgement) findRule() {
	names := namesOf(j.files)
	for _, r := range j.a.rules {
		j.rule, j.committed = r, j.isCommitted(r)
		if j.committed && r.Tells() || r.Signed(names, base(j.a.path), j.beside) {
			return
		}
	}
	last := ""
	if before, err := j.s.m.lastStep(j.a.scope); err == nil && before != nil {
		last = before.Rule
	}
	for _, is := range []func(*rules.Rule) bool{
		func(r *rules.Rule) bool { return len(r.Signs) > 0 && r.Name == last },
		(*rules.Rule).Claims,
	} {
		if i := slices.IndexFunc(j.a.rules, is); i >= 0 {
			j.rule = j.a.rules[i]
			j.committed = j.isCommitted(j.rule)
			return
		}
	}
	j.rule = nil
}

// beside says whether there is a file of that name beside the step.
func (j *judgement) beside(name string) bool {
	_, err := j.v.Lookup(j.a.in, name)
	return err == nil
}

func (j *judgement) isCommitted(r *rules.Rule) bool {
	if r.Quiet() {
		return false
	}
	all := true
	for k := range r.Commits {
		all = all && j.a.seen[commitPoint{r, k}]
	}
	return all || j.a.lost && j.showsCommit(r, true) || j.a.adopted && j.showsCommit(r, false)
}

// showsCommit says whether the view shows the commit points of a rule, for
// when nobody saw them happen; last: and that nothing was changed after them.
func (j *judgement) showsCommit(r *rules.Rule, last bool) bool {
	var points []member
	for _, c := range r.Commits {
		beside, out := strings.CutPrefix(c.File, "../")
		switch {
		case c.Kind == rules.Unlink: // who knows whether there was a marker
			if !j.a.adopted || j.beside(rules.Expand(beside, base(j.a.path))) {
				return false
			}
		case c.Kind == rules.Tracker:
			text, err := readTracker(j.v, join(j.a.scope, beside))
			if step, _ := rules.Number(text); err != nil || text != base(j.a.path) && step != j.a.step {
				return false
			}
			n, err := j.v.Lookup(j.a.in, beside)
			if err != nil {
				return false
			}
			points = append(points, member{ctime: n.Ctime})
		case out:
			n, err := j.v.Lookup(j.a.in, rules.Expand(beside, base(j.a.path)))
			if err != nil {
				return false
			}
			points = append(points, member{ctime: n.Ctime})
		case c.File == ".":
			if j.a.dir && !r.Signed(namesOf(j.files), base(j.a.path), j.beside) {
				return false
			}
			points = append(points, member{ctime: newest(j.files)})
		default:
			i := slices.IndexFunc(j.files, func(f member) bool { return c.Is(c.Kind, f.name, c.From) })
			if i < 0 {
				return false
			}
			points = append(points, j.files[i])
		}
	}
	return !last || newest(points) >= newest(j.files)
}

// lacks says what the rule wants and the step does not have.
func (j *judgement) lacks() string {
	names := namesOf(j.files)
	if lacks := j.rule.Lacks(names); lacks != "" {
		return lacks
	}
	if j.a.match.Parts == 1 {
		return ""
	}
	return j.lacksPiece(names)
}

// lacksPiece says which directory has pieces of other steps, and none of this.
func (j *judgement) lacksPiece(names []string) (lacks string) {
	has := map[string]bool{}
	for _, n := range names {
		dir, _, _ := strings.Cut(n, "/")
		has[dir] = true
	}
	_ = each(j.v, j.a.in, func(d Entry) error {
		if d.Type != modeDir || has[d.Name] || lacks != "" {
			return nil
		}
		return each(j.v, d.Ino, func(e Entry) error {
			parts := append(slices.Clone(j.a.parts[:j.a.match.Scope]), d.Name, e.Name)
			if m, ok := j.s.rules.Match(parts, e.Type == modeDir); ok && m.Parts == j.a.match.Parts {
				lacks = d.Name + " has no piece of it"
				return errEnough
			}
			return nil
		})
	})
	return lacks
}

// check decides what a cut is worth, and fills in the record.
func (s *sealer) check(ctx context.Context, a *attempt, v View, rec *schema.Snapshot) error {
	j, err := s.examine(a, v)
	if err != nil {
		return err
	}
	j.number()
	if err := j.compare(); err != nil {
		return err
	}
	sound, err := j.inspect(ctx)
	if err != nil {
		return err
	}
	if sound && j.verdict == VerdictUnverified {
		if err := j.likeBefore(); err != nil {
			return err
		}
	}
	if j.before != nil && worth(j.prior.Verdict) >= worth(j.verdict) {
		return &sameError{revision: *j.prior}
	}
	rec.Name, rec.Reason, rec.Verdict, rec.Judged = j.step, j.reason, j.verdict, true
	rec.Rule, rec.Why, rec.Pieces = j.rule.Name, bounded(j.why), j.pieces[:min(len(j.pieces), maxListed)]
	if !sound && j.verdict != VerdictPartial { // it takes longer than others should wait
		rec.Pending, rec.Verdict = j.verdict, VerdictUnverified
	}
	return nil
}

// number takes the step from where the rule says that it stands.
func (j *judgement) number() {
	if j.rule.File == "" {
		return
	}
	step, err := readStep(j.v, join(j.a.path, j.rule.File), j.rule.Field)
	switch {
	case errors.Is(err, errGone):
	case err != nil:
		j.lacking(j.reason, fmt.Sprintf("%s says no step: %v", j.rule.File, err))
	default:
		j.step = step
	}
}

// compare looks at what was sealed of this step before. The verdict of a step
// that got but more files is that of the step before it did.
func (j *judgement) compare() error {
	revs, err := j.s.m.Revisions(j.a.scope, j.step, 1)
	if err != nil || len(revs) == 0 || revs[0].Explicit || !revs[0].Judged {
		if err == nil && len(revs) == 0 && j.verdict == VerdictPartial && !j.committed && len(j.why) == 1 && j.showsCommit(j.rule, false) {
			// It came from elsewhere, say; nobody knows in which order.
			j.verdict = VerdictUnverified
		}
		return err
	}
	j.prior = &revs[0]
	old := j.s.m.tree.At(j.prior.Seq)
	before, _, err := j.s.members(j.a, old)
	if errors.Is(err, errNothing) {
		before, err = j.s.byPath(j.a, old)
	}
	if err != nil || len(before) == 0 {
		return err
	}
	all, err := holdsAll(old, before, j.v, j.files)
	if err != nil || !all {
		return err
	}
	if j.verdict == VerdictPartial && !j.committed && len(j.why) == 1 {
		j.verdict, j.why = j.prior.Verdict, append(slices.Clone(j.prior.Findings), "files were added after it was sealed first")
	}
	if len(before) == len(j.files) {
		j.before = before
	}
	return nil
}

// byPath gives the files of the step in a view in which it is another inode.
func (s *sealer) byPath(a *attempt, v View) ([]member, error) {
	ino, ok := find(v, a.path)
	if !ok || a.match.Parts > 1 {
		return nil, nil
	}
	n, err := v.Node(ino)
	if err != nil {
		return nil, err
	}
	if n.Mode&modeType == modeDir != a.dir {
		return nil, nil
	}
	if !a.dir {
		return []member{{base(a.path), ino, n.Mode & modeType, n.Size, n.Ctime}}, nil
	}
	return s.below(v, a, ino, "", 0)
}

// likeBefore makes a step complete whose files are called like those of the
// step before it.
func (j *judgement) likeBefore() error {
	last, err := j.s.m.stepBefore(j.a.scope, j.step)
	if err != nil || last == nil {
		return err
	}
	old := j.s.m.tree.At(last.Seq)
	var files []member
	for _, piece := range last.Pieces {
		more, err := j.s.filesOf(old, last.Scope, piece)
		if err != nil {
			return err
		}
		files = append(files, more...)
	}
	mine := j.files
	if !slices.Equal(masked(mine), masked(files)) {
		j.why = append(j.why, "nothing says when it is whole, and its files are not those of step "+last.Name)
		return nil
	}
	j.verdict = VerdictComplete
	j.why = append(j.why, "its files are those of step "+last.Name)
	return nil
}

// filesOf gives the files of a piece of a step that was sealed.
func (s *sealer) filesOf(v View, scope, piece string) ([]member, error) {
	path := join(scope, piece)
	ino, ok := find(v, path)
	if !ok {
		return nil, nil
	}
	n, err := v.Node(ino)
	if err != nil {
		return nil, err
	}
	if n.Mode&modeType != modeDir {
		return []member{{name: piece, ino: ino}}, nil
	}
	parts := splitPath(path)
	m, ok := s.rules.Match(parts, true)
	if !ok {
		return nil, nil
	}
	return s.below(v, &attempt{path: path, parts: parts, match: m, rules: m.Rules}, ino, "", 0)
}

// worth orders verdicts.
func worth(verdict string) int {
	return slices.Index([]string{VerdictPartial, VerdictUnverified, VerdictComplete}, verdict)
}

// maxListed bounds the lists of a record.
const maxListed = 64

func bounded(l []string) []string {
	if len(l) <= maxListed {
		return l
	}
	return append(slices.Clone(l[:maxListed]), fmt.Sprintf("and %d more", len(l)-maxListed))
}
