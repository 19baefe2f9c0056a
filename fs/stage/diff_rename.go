package stage

import "errors"

// pairUp finds what was renamed: an inode that either side shows under a path
// that the other does not have. Directories are matched before what is in them,
// so that one that moved is one change. One that only one side has anywhere is
// listed at once, since what moved may have come out of it, or gone into it.
func (d *differ) pairUp() error {
	for {
		matched, err := d.match()
		if err != nil {
			return err
		}
		if matched {
			continue
		}
		more, err := d.expandAll(false)
		if err == nil && !more {
			more, err = d.expandAll(true) // moved across the border of the scope
		}
		if err != nil || !more {
			return err
		}
	}
}

// match takes each inode that both sides have alone for a rename.
func (d *differ) match() (any bool, err error) {
	where := map[uint64][]int{}
	for k, s := range d.only[0] {
		if !s.matched && !s.expanded {
			where[s.ino] = append(where[s.ino], k)
		}
	}
	for k := 0; k < len(d.only[1]); k++ { // comparing adds to it
		s := &d.only[1][k]
		from := where[s.ino]
		if s.matched || s.expanded || len(from) == 0 {
			continue
		}
		where[s.ino] = from[1:]
		old := &d.only[0][from[0]]
		old.matched, s.matched, any = true, true, true
		paths, ino := [2]string{old.path, s.path}, s.ino
		if s.typ == ModeDir {
			err = d.dirs(paths, [2]uint64{ino, ino}, true)
		} else {
			err = d.compare(paths, [2]uint64{ino, ino}, false, true)
		}
		if err != nil {
			return any, err
		}
	}
	return any, nil
}

// expandAll lists the directories that one side alone has, and with moved those
// too whose other place is not in sight.
func (d *differ) expandAll(moved bool) (any bool, err error) {
	for side := range d.only {
		for k := 0; k < len(d.only[side]); k++ {
			s := d.only[side][k]
			if s.typ != ModeDir || s.expanded || s.matched {
				continue
			}
			if !moved {
				_, err := d.views[1-side].inode(s.ino)
				if err == nil {
					continue
				}
				if !errors.Is(err, ErrNotExist) {
					return any, err
				}
			}
			d.only[side][k].expanded, any = true, true
			if err := d.expand(side, s.path, s.ino); err != nil {
				return any, err
			}
		}
	}
	return any, nil
}
