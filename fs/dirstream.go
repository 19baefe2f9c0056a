package fs

import (
	"hash/fnv"
	"math"
	"sort"
	"sync"

	"stepfs/fs/stage"
)

// listed is one entry of a directory being read.
type listed struct {
	name string
	key  string // where to go on behind it
	mode uint32 // file type
	node nodeID // 0 = not known
	dot  bool   // one of the names that every directory has
	// hidden: there, but not shown (a live entry from a time when the directory
	// of snapshots had another name).
	hidden bool
}

// lister lists a directory in its order: up to max entries behind the key.
// None means the end.
type lister func(after string, max int) ([]listed, error)

// dirStream is one open directory. The offset of an entry is how many entries
// were given before it; the kernel asks again at any offset that it was given,
// mostly at the last, often some entries before it (when its reader's buffer
// was full), seldom anywhere (seekdir). Since entries come and go meanwhile, a
// count says nothing about a place; so the stream remembers
//
//   - the key of the last entry given, for going straight on,
//   - for each request where it began (page), and for each entry a hash of its
//     key: going back to offset k means to list again from the page that k is
//     in, and to go on behind the last entry that is known to be before k.
//
// So whatever exists all the time is seen exactly once. Four bytes per entry
// and one key per request is what it costs.
//
// A stream of a predecessor, which is not known here, is wound forward by
// counting: the only case in which a concurrent delete can hide an entry.
type dirStream struct {
	n    nodeID
	list lister
	dots []listed

	release func() // of the snapshot that the directory is in; nil when begun for a predecessor's handle

	mu     sync.Mutex
	hashes []uint32 // of the entries given so far, without dots
	pages  []dirPage
	last   string // key of the last of them
}

// dirPage is where one request began.
type dirPage struct {
	first int    // entries given before it
	after string // the key it went on behind
}

// emit takes one entry and the offset behind it; false when it does not fit.
type emit func(e listed, off uint64) (bool, error)

// Entries are listed in pieces of about what fits into a request.
const minPiece, maxPiece = 16, 1024

// read gives the entries from offset off on until emit has had enough.
func (s *dirStream) read(off uint64, fits int, add emit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; off < uint64(len(s.dots)); off++ {
		if ok, err := add(s.dots[off], off+1); !ok || err != nil {
			return err
		}
	}
	if off > math.MaxInt64 {
		return stage.ErrInvalid
	}
	k := int(off) - len(s.dots)
	after, err := s.find(k)
	if err != nil {
		return err
	}
	s.cut(k, after)
	s.pages = append(s.pages, dirPage{first: k, after: after})
	return s.give(min(max(fits, minPiece), maxPiece), add)
}

// give lists on from the last entry.
func (s *dirStream) give(piece int, add emit) error {
	after := s.last
	for {
		page, err := s.list(after, piece)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			after = e.key
			if e.hidden {
				continue
			}
			if ok, err := add(e, uint64(len(s.dots)+len(s.hashes)+1)); !ok || err != nil {
				return err
			}
			s.hashes, s.last = append(s.hashes, keyHash(e.key)), e.key
		}
	}
}

// cut forgets what was given from entry k on: it is about to be given again.
func (s *dirStream) cut(k int, after string) {
	s.hashes, s.last = s.hashes[:k], after
	for len(s.pages) > 0 && s.pages[len(s.pages)-1].first >= k {
		s.pages = s.pages[:len(s.pages)-1]
	}
}

// find gives the key behind which entry k comes.
func (s *dirStream) find(k int) (string, error) {
	switch {
	case k <= 0:
		return "", nil
	case k == len(s.hashes):
		return s.last, nil
	case k > len(s.hashes):
		err := s.wind(k)
		return s.last, err
	}
	i := sort.Search(len(s.pages), func(i int) bool { return s.pages[i].first > k }) - 1
	from, end := s.pages[i], len(s.hashes)
	if i+1 < len(s.pages) {
		end = s.pages[i+1].first
	}
	return s.findIn(from, k, end)
}

// findIn goes through the page that holds entries from.first to end, as it is
// now, up to the last entry that was given before k.
func (s *dirStream) findIn(from dirPage, k, end int) (string, error) {
	place := make(map[uint32]int, end-from.first)
	for i := from.first; i < end; i++ {
		place[s.hashes[i]] = i
	}
	found, after := from.after, from.after
	// More than the page had are new ones; somewhere behind twice as many the
	// rest of the page is taken to be deleted.
	for left := 2*(end-from.first) + minPiece; left > 0; {
		page, err := s.list(after, min(left, maxPiece))
		if err != nil || len(page) == 0 {
			return found, err
		}
		for _, e := range page {
			i, given := place[keyHash(e.key)]
			if given && i >= k {
				return found, nil
			}
			if given {
				found = e.key
			}
			after = e.key
		}
		left -= len(page)
	}
	return found, nil
}

// wind goes forward to entry k as if all before it had been given.
func (s *dirStream) wind(k int) error {
	if len(s.pages) == 0 {
		s.pages = append(s.pages, dirPage{})
	}
	for len(s.hashes) < k {
		page, err := s.list(s.last, min(k-len(s.hashes), maxPiece))
		if err != nil {
			return err
		}
		if len(page) == 0 {
			// Fewer are left than there were: the end.
			for len(s.hashes) < k {
				s.hashes = append(s.hashes, 0)
			}
			return nil
		}
		for _, e := range page {
			s.last = e.key
			if !e.hidden {
				s.hashes = append(s.hashes, keyHash(e.key))
			}
		}
	}
	return nil
}

func keyHash(key string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(key))
	return h.Sum32()
}
