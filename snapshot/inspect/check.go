package inspect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A checker is one Check under way.
type checker struct {
	ctx    context.Context
	tree   Tree
	opts   Options
	report *Report

	path    string          // of the file that is looked at
	spoken  map[string]bool // directories whose .metadata was read
	claimed map[string]bool // files that one named: they are done
	block   []byte          // what data is read into
	counts  [2]int          // problems, minor ones

	// The directory listed last: files that name others do so in order.
	listed  string
	entries map[string]Entry
}

func newChecker(ctx context.Context, t Tree, o Options) *checker {
	if o.MaxProblems <= 0 {
		o.MaxProblems = 100
	}
	return &checker{ctx: ctx, tree: t, opts: o, report: &Report{}, spoken: map[string]bool{}, claimed: map[string]bool{}}
}

// Check looks at every file below the root of t. An error means that t could
// not be read, not that something is wrong with what it holds.
func Check(ctx context.Context, t Tree, o Options) (*Report, error) {
	c := newChecker(ctx, t, o)
	for dirs := []string{""}; len(dirs) > 0; {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		below, err := c.directory(dir)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, below...)
	}
	return c.report, nil
}

// CheckFile looks at one file: for a step that is a file. Others are looked at
// only as far as this one names them.
func CheckFile(ctx context.Context, t Tree, name string, o Options) (*Report, error) {
	c := newChecker(ctx, t, o)
	if err := c.file(name); err != nil {
		return nil, err
	}
	return c.report, nil
}

// directory looks at the files of one directory and gives the directories in it.
func (c *checker) directory(dir string) (below []string, err error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := c.tree.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", dir, err)
	}
	c.remember(dir, entries)
	// By name: .metadata comes before what it names, which is then known.
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		switch e.Kind {
		case KindDir:
			below = append(below, path.Join(dir, e.Name))
		case KindFile:
			if err := c.file(path.Join(dir, e.Name)); err != nil {
				return nil, err
			}
		}
	}
	return below, nil
}

// file looks at one file.
func (c *checker) file(name string) error {
	c.report.Files++
	defer c.within(name)()
	f := formatOf(path.Base(name))
	if f == nil && !isEmptyWeights(path.Base(name)) {
		return nil
	}
	if c.claimed[name] {
		c.report.Checked++
		return nil
	}
	s, closing, err := c.open(name)
	if err != nil {
		return err
	}
	defer closing()
	switch {
	case s.size == 0 && (isEmptyWeights(path.Base(name)) || !f.empty):
		c.report.Checked++
		c.problem(name, "empty")
		return nil
	case f == nil || s.size == 0:
		return nil
	}
	c.report.Checked++
	return c.judge(f.check(c, s))
}

// within sets the file that is spoken of, until the result is called.
func (c *checker) within(name string) (restore func()) {
	before := c.path
	c.path = name
	return func() { c.path = before }
}

// judge makes a problem of what is wrong with the current file, and gives back
// an error of reading.
func (c *checker) judge(err error) error {
	err = c.pass(err)
	if isFlaw(err) {
		c.problem(c.path, err.Error())
		return nil
	}
	if err != nil {
		return fmt.Errorf("check %q: %w", c.path, err)
	}
	return nil
}

// pass makes a remark of what is too large: what follows it is looked at.
func (c *checker) pass(err error) error {
	if err == errTooLarge {
		c.minor("%v", err)
		return nil
	}
	return err
}

// isFlaw: something is wrong with the file, not with reading it.
func isFlaw(err error) bool {
	var f flaw
	return errors.As(err, &f)
}

// onlyReading drops what is wrong with a file that is looked at in its own turn.
func onlyReading(err error) error {
	if isFlaw(err) || err == errTooLarge {
		return nil
	}
	return err
}

func (c *checker) problem(name, why string) { c.add(Problem{Path: name, Why: why}, 0) }

func (c *checker) minor(why string, args ...any) {
	c.add(Problem{Path: c.path, Why: fmt.Sprintf(why, args...), Minor: true}, 1)
}

// add keeps a problem, unless there are enough of its kind.
func (c *checker) add(p Problem, kind int) {
	if c.counts[kind]++; c.counts[kind] <= c.opts.MaxProblems {
		c.report.Problems = append(c.report.Problems, p)
	}
}

// open opens a file, whole. The caller calls what comes with it when it is done.
func (c *checker) open(name string) (span, func(), error) {
	f, err := c.tree.Open(name)
	if err != nil {
		return span{}, nil, fmt.Errorf("open %q: %w", name, err)
	}
	s := span{ctx: c.ctx, r: &source{r: f, count: &c.report.Bytes}, size: f.Size()}
	return s, func() { f.Close() }, nil
}

// lookup finds a file by its path.
func (c *checker) lookup(name string) (Entry, bool, error) {
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	if c.entries == nil || dir != c.listed {
		entries, err := c.tree.List(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Entry{}, false, fmt.Errorf("list %q: %w", dir, err)
		}
		c.remember(dir, entries)
	}
	e, ok := c.entries[path.Base(name)]
	return e, ok, nil
}

func (c *checker) remember(dir string, entries []Entry) {
	c.listed, c.entries = dir, make(map[string]Entry, len(entries))
	for _, e := range entries {
		c.entries[e.Name] = e
	}
}

// clip shortens a name for a message.
func clip(name string) string { return fmt.Sprintf("%.60q", name) }
