package snapshot

import (
	"errors"
	"time"
)

// Whether a step is quiet is decided twice: before the cut, to spare it, and
// of the cut itself, since the job goes on between the two.

var (
	// errNotQuiet: the step was changed a moment ago, or is being written.
	errNotQuiet = errors.New("step is not quiet")
	// errNothing: the snapshot would show no file of the step.
	errNothing = errors.New("step holds no file")
)

// check says whether the cut that v shows may be sealed as step c.
func (s *sealer) check(c *candidate, p place, v View) error {
	// Whoever was writing at the cut either is still, or has closed since and
	// thereby noted a change.
	if s.writing(c.ino, p.dir) {
		return errNotQuiet
	}
	s.resolve()
	s.mu.Lock()
	same := s.waiting[c.ino] == c
	s.mu.Unlock()
	if !same {
		return errNotQuiet
	}
	if ino, ok := find(v, p.path); !ok || ino != c.ino {
		return errNothing // renamed, removed, or a file that nobody ever closed
	}
	if !p.dir {
		return nil
	}
	files, changed, err := survey(v, c.ino, 0)
	switch {
	case err != nil:
		return err
	case files == 0:
		return errNothing
	}
	// Deletions note no change, since they make no step; but one that is half
	// deleted must not be sealed. A clock that was set back holds nothing up.
	if ago := time.Since(changed); ago >= 0 && ago < s.quiet {
		return errNotQuiet
	}
	return nil
}

// survey counts what is below a directory but directories, and tells when a
// directory there was changed last.
func survey(v View, dir uint64, depth int) (files int, changed time.Time, err error) {
	n, err := v.Node(dir)
	if err != nil || depth > maxDepth {
		return 0, changed, err
	}
	changed = time.Unix(0, n.Ctime)
	err = each(v, dir, func(e Entry) error {
		if e.Type != modeDir {
			files++
			return nil
		}
		n, at, err := survey(v, e.Ino, depth+1)
		files += n
		if at.After(changed) {
			changed = at
		}
		return err
	})
	return files, changed, err
}
