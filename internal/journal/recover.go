package journal

import (
	"fmt"
	"slices"
)

// segmentFile is a file in the journal's directory under a final name.
type segmentFile struct {
	number uint64
	name   string
	size   int64
	inUse  bool // header is valid and is this segment's own
	header segmentHeader
}

// recovery is the work of Open: to find the chain of segments, the end of the
// log, and whether that end is the torn tail of a crash or damage.
type recovery struct {
	l     *Log
	files []segmentFile // by number
	chain []segmentFile // those in use, by number
	rec   Recovery
	live  []liveSegment
	last  uint32 // kind of the last record
}

// stop is where the walk over the chain came to its end.
type stop struct {
	at     segmentFile // in this file
	off    int64       // nothing valid stands here
	pos    Pos
	reason string // if it turns out to be damage
}

const noHeader = "its header does not read back, but a later segment follows it"

func (l *Log) recover() error {
	r := &recovery{l: l}
	if err := r.list(); err != nil {
		return err
	}
	end, err := r.walkChain()
	if err != nil {
		return err
	}
	end = r.dropHeadless(end)
	if err := r.judge(end); err != nil {
		return err
	}
	r.finish(end.pos)
	return nil
}

// list reads the directory and every header.
func (r *recovery) list() error {
	names, err := r.l.fs.List(r.l.dir)
	if err != nil {
		return fmt.Errorf("journal: list %s: %w", r.l.dir, err)
	}
	for _, name := range names {
		number, tmp, ok := parseName(name)
		if !ok {
			continue // not ours, not touched
		}
		r.l.mu.nextNumber = max(r.l.mu.nextNumber, number)
		if tmp {
			r.l.leftovers = append(r.l.leftovers, leftover{name: name, tmp: true})
			continue
		}
		f, err := r.inspect(name, number)
		if err != nil {
			return err
		}
		r.files = append(r.files, f)
	}
	r.l.mu.nextNumber++
	slices.SortFunc(r.files, func(a, b segmentFile) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	for _, f := range r.files {
		if f.inUse {
			r.chain = append(r.chain, f)
		}
	}
	return nil
}

// inspect reads one file's header.
func (r *recovery) inspect(name string, number uint64) (segmentFile, error) {
	f := segmentFile{number: number, name: name}
	sr, err := openSegmentReader(r.l.fs, r.l.path(name), number)
	if err != nil {
		return f, err
	}
	defer sr.close()
	f.size = sr.size
	h, ok, err := sr.segmentHeader()
	if err != nil {
		return f, fmt.Errorf("%s: %w", r.l.path(name), err)
	}
	// A header of another number is what a recycled file held before.
	f.inUse, f.header = ok && h.number == number, h
	return f, nil
}

// walkChain reads all records in order until one is missing.
func (r *recovery) walkChain() (stop, error) {
	var end stop
	if len(r.chain) == 0 {
		end.reason = "the header of the first segment does not read back"
		if len(r.files) > 0 {
			end.at = r.files[0]
		}
		return end, nil
	}
	r.rec.First = r.chain[0].header.first
	for i, f := range r.chain {
		limit, blank := maxPos, (*segmentFile)(nil)
		if i+1 < len(r.chain) {
			var err error
			if limit, blank, err = r.limit(f, r.chain[i+1]); err != nil {
				return end, err
			}
		}
		var reached bool
		var err error
		if end, reached, err = r.walk(f, limit); err != nil {
			return end, err
		}
		if blank != nil {
			end.at, end.off, end.reason = *blank, 0, noHeader
			return end, nil
		}
		if !reached {
			return end, nil
		}
	}
	return end, nil
}

// limit says where f ends by the header of next, the segment in use after it. If
// next follows a segment whose header is not there, that one is returned: the
// log cannot go on behind f, and whether it should have is to be judged.
func (r *recovery) limit(f, next segmentFile) (Pos, *segmentFile, error) {
	h := next.header
	if h.prev != f.number {
		if blank := r.file(h.prev); blank != nil && h.prev > f.number {
			return maxPos, blank, nil
		}
		return 0, nil, r.corrupt(next, 0, fmt.Sprintf("it follows segment %s, which is missing", segmentName(h.prev)))
	}
	if h.prevEnd < f.header.first {
		return 0, nil, r.corrupt(next, 0, fmt.Sprintf("it claims that the log stood at %d before it, but %s starts at %d", h.prevEnd, f.name, f.header.first))
	}
	return h.prevEnd, nil, nil
}

// dropHeadless empties a chain that is no prefix of the log. The segment before
// it either was given up, and then has no file under its number any more, or
// its header did not come to the disk, since nothing was ever synced. Where the
// chain knows its own head to be durable, that header is damaged instead: the
// rest may be all that is wanted.
func (r *recovery) dropHeadless(end stop) stop {
	if len(r.chain) == 0 || r.rec.Synced > r.rec.First {
		return end
	}
	blank := r.file(r.chain[0].header.prev)
	if blank == nil {
		return end
	}
	r.rec, r.live, r.last = Recovery{}, nil, 0
	return stop{at: *blank, reason: noHeader}
}

// file gives the file of a number, or nil.
func (r *recovery) file(number uint64) *segmentFile {
	for i := range r.files {
		if r.files[i].number == number {
			return &r.files[i]
		}
	}
	return nil
}

// walk reads the records of f up to limit; reached tells that they fill it.
func (r *recovery) walk(f segmentFile, limit Pos) (end stop, reached bool, err error) {
	sr, err := openSegmentReader(r.l.fs, r.l.path(f.name), f.number)
	if err != nil {
		return end, false, err
	}
	defer sr.close()
	end = stop{at: f, off: segmentHeaderLen, pos: f.header.first, reason: "the record does not read back"}
	for end.pos < limit {
		h, _, ok, err := sr.record(end.off)
		if err != nil {
			return end, false, fmt.Errorf("%s: %w", r.l.path(f.name), err)
		}
		n := recordSize(int64(h.length))
		if !ok || end.pos+Pos(n) > limit {
			break
		}
		if h.synced > end.pos {
			return end, false, r.corrupt(f, end.off, "the record claims that later ones are durable")
		}
		r.rec.Synced = max(r.rec.Synced, h.synced)
		r.last = h.kind
		end.off += n
		end.pos += Pos(n)
	}
	r.live = append(r.live, liveSegment{
		number: f.number, prev: f.header.prev, prevEnd: f.header.prevEnd,
		first: f.header.first, end: end.pos, size: f.size, found: true,
	})
	return end, end.pos == limit, nil
}

// judge decides whether the log may end at end. Everything behind it, in that
// file and in all later ones, used or not, is searched for records: if one of
// them knew a position beyond end to be durable, what is missing was durable.
func (r *recovery) judge(end stop) error {
	var found remains
	var lastLive uint64
	if n := len(r.live); n > 0 {
		lastLive = r.live[n-1].number
	}
	for _, f := range r.files {
		if f.number < lastLive {
			continue
		}
		from := int64(segmentHeaderLen)
		if f.number == lastLive {
			from += int64(end.pos - r.live[len(r.live)-1].first)
		}
		if err := r.searchRest(f, from, &found); err != nil {
			return err
		}
	}
	known := max(found.synced, r.rec.Synced)
	if known > end.pos {
		return r.corrupt(end.at, end.off, fmt.Sprintf("%s at position %d, but everything up to %d was durable", end.reason, end.pos, known))
	}
	r.rec.Synced = known
	r.rec.TornBytes = found.bytes
	return nil
}

func (r *recovery) searchRest(f segmentFile, from int64, found *remains) error {
	sr, err := openSegmentReader(r.l.fs, r.l.path(f.name), f.number)
	if err != nil {
		return err
	}
	defer sr.close()
	if err := sr.rest(from, found); err != nil {
		return fmt.Errorf("%s: %w", r.l.path(f.name), err)
	}
	return nil
}

// finish hands the result to the log.
func (r *recovery) finish(end Pos) {
	l := r.l
	r.rec.End = end
	r.rec.Clean = r.last == kindClean
	r.rec.Segments = len(r.live)
	if n := len(r.chain); n > 0 {
		r.rec.LastBoot = r.chain[n-1].header.boot
	}
	for _, f := range r.files {
		if !slices.ContainsFunc(r.live, func(s liveSegment) bool { return s.number == f.number }) {
			l.leftovers = append(l.leftovers, leftover{name: f.name, size: f.size})
		}
	}
	l.rec, l.mu.live = r.rec, r.live
}

func (r *recovery) corrupt(f segmentFile, off int64, reason string) error {
	return &CorruptError{File: r.l.path(f.name), Offset: off, Reason: reason}
}
