package snapshot

// Hot copies of stored files are kept while there is room: reading one is
// faster than reading its chunks.

const (
	// evictBatch is how many generations are evicted between two journal syncs.
	evictBatch = 16
	// evictList bounds how many are looked at between two looks at the index.
	evictList = 4096
	// hotFree: hot copies leave at least this part of the disk free.
	hotFree = 8
)

// hotCopy is a stored generation that still has its own copy.
type hotCopy struct {
	gen   uint64
	bytes int64
}

// makeRoom evicts hot copies, oldest first, while they take more than they may
// or the disk has less free than it should.
func (s *storer) makeRoom() error {
	low, err := s.diskLow()
	limit := s.m.cfg.HotLimit
	if err != nil || !low && (limit == 0 || !s.grown) {
		return err
	}
	sum, err := s.hotBytes()
	if err != nil {
		return err
	}
	s.grown = limit > 0 && sum > limit
	for last := uint64(0); ; {
		list, err := s.hotAfter(last)
		if err != nil || len(list) == 0 {
			return err
		}
		for len(list) > 0 {
			if low, err = s.diskLow(); err != nil || !low && (limit == 0 || sum <= limit) {
				return err
			}
			n := min(len(list), evictBatch)
			for _, c := range list[:n] {
				if err := s.m.tree.Evict(c.gen); err != nil {
					return err
				}
				sum -= c.bytes
				last = c.gen
			}
			list = list[n:]
			if err := s.m.tree.UnlinkEvicted(); err != nil {
				return err
			}
		}
	}
}

func (s *storer) diskLow() (bool, error) {
	total, free, err := s.m.tree.FreeSpace()
	return free < total/hotFree, err
}

func (s *storer) hotBytes() (sum int64, err error) {
	err = s.m.tree.Hot(func(_ uint64, bytes int64) bool { sum += bytes; return true })
	return sum, err
}

// hotAfter lists hot copies of generations above last: those up to it were
// tried already, and stay if they hold something that is not stored.
func (s *storer) hotAfter(last uint64) (list []hotCopy, err error) {
	err = s.m.tree.Hot(func(gen uint64, bytes int64) bool {
		if gen > last {
			list = append(list, hotCopy{gen, bytes})
		}
		return len(list) < evictList
	})
	return list, err
}
