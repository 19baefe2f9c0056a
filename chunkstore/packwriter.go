package chunkstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
)

const tmpSuffix = ".tmp"

// packWriter is one pack from its first claim until it is durable and indexed,
// or has failed. Nothing of a pack is kept in memory but its table of
// contents: parts go to the file as they come.
type packWriter struct {
	s      *Store
	done   chan struct{} // closed when the pack is durable and indexed, or failed
	err    error         // why it failed; read only after done
	opened time.Time
	lane   lane      // what it is for
	want   chooser   // which of its chunks are to be read from it
	info   *packInfo // what becomes known of it, pins already now

	// Under s.mu:
	claimed   []ID
	bases     []*packInfo // pinned: what is in the pack is made from what they have
	pending   int         // claims whose chunk is not in the file yet
	size      int64       // bytes written and reserved
	used      time.Time
	closed    bool // takes no more claims
	finishing bool
	expected  bool // somebody waits
	failure   error

	// wmu orders the appends. It is taken before s.mu.
	wmu     sync.Mutex
	file    vfs.File
	tmp     string
	slot    bool
	off     int64
	entries []pack.Entry
	hasty   uint64 // payload bytes that Collect should encode
	broken  error  // the first write error: the file is of no use after it
}

func (s *Store) newPackWriter(l lane, want chooser) *packWriter {
	return &packWriter{s: s, lane: l, done: make(chan struct{}), opened: time.Now(), want: want, info: &packInfo{}}
}

// wait returns once the pack is durable and indexed, or why it is not.
func (pw *packWriter) wait(ctx context.Context) error {
	select {
	case <-pw.done:
		return pw.err
	default:
	}
	select {
	case <-pw.done:
		return pw.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// append writes c as the chunk e, which the caller has claimed.
func (pw *packWriter) append(c encoded, e pack.Entry) error {
	err := pw.write(c, e)
	pw.s.appended(pw, int64(e.Raw)-int64(len(c.payload())), err)
	return err
}

// write writes c as the chunk e. The room before its payload takes the part's
// header, so that a part is one write(2).
func (pw *packWriter) write(c encoded, e pack.Entry) error {
	payload := c.payload()
	e.Enc, e.Ext, e.Stored, e.CRC = c.enc, c.ext, uint32(len(payload)), pack.Checksum(payload)
	pw.wmu.Lock()
	defer pw.wmu.Unlock()
	if pw.broken == nil && pw.file == nil {
		pw.broken = pw.create()
	}
	if pw.broken != nil {
		return pw.broken
	}
	e.Offset = pw.off
	pack.PutPartHeader(c.out, e, pw.s.cfg.Domain)
	if pw.broken = pw.put(c.out); pw.broken != nil {
		return pw.broken
	}
	pw.entries = append(pw.entries, e)
	if c.hasty {
		pw.hasty += uint64(e.Stored)
	}
	return nil
}

func (pw *packWriter) put(b []byte) error {
	n, err := pw.file.Write(b)
	pw.off += int64(n)
	if err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	return nil
}

// create makes the file. It waits for a slot first: packs that are on their
// way to the disk hold dirty memory, and the disk sets the pace. A pack with a
// slot never waits for one without, so this ends.
func (pw *packWriter) create() error {
	pw.s.slots <- struct{}{}
	pw.slot = true
	return pw.open()
}

// open makes the temporary file.
func (pw *packWriter) open() error {
	s := pw.s
	pw.tmp = s.fs.PathJoin(s.dir, fmt.Sprintf("%016x%s", s.tmpSeq.Add(1), tmpSuffix))
	f, err := s.fs.Create(pw.tmp, "stepfs-pack")
	if err != nil {
		return fmt.Errorf("create pack: %w", err)
	}
	pw.file = f
	return pw.put(pack.AppendHeader(nil, s.packInfo()))
}

func (s *Store) packInfo() pack.Info {
	return pack.Info{Hash: pack.HashBLAKE3, Domain: s.cfg.Domain}
}

// finish makes the pack durable and indexes it, or cleans up after a failure,
// and tells everyone who waits. It runs once, after the last append.
func (pw *packWriter) finish() {
	s := pw.s
	s.mu.Lock()
	err := pw.failure
	s.mu.Unlock()
	if err == nil {
		err = pw.seal()
	} else {
		pw.discard()
	}
	s.mu.Lock()
	s.unclaimLocked(pw)
	for _, info := range pw.bases {
		info.pins--
	}
	pw.bases = nil
	delete(s.mu.packs, pw)
	pw.err = err
	pw.entries = nil // a Pending may keep pw for long
	close(pw.done)
	s.mu.Unlock()
	if pw.slot {
		<-s.slots
	}
}

// seal makes the file durable under its name, and only then indexes it. It
// leaves no file behind when it fails, with one exception (see publish).
func (pw *packWriter) seal() error {
	body := pw.off
	name, footer := pw.s.takeName(pw.lane.naming, body, pw.entries)
	err := pw.harden(name, pack.AppendTrailer(footer, body, len(footer)))
	if err != nil {
		pw.discard()
	} else {
		err = pw.publish(name, body)
	}
	if err != nil {
		pw.s.freeName(name)
	}
	return err
}

// harden: footer and trailer, fsync, rename, fsync of the directory.
func (pw *packWriter) harden(name pack.Name, end []byte) error {
	if err := pw.put(end); err != nil {
		return err
	}
	if err := pw.file.Sync(); err != nil {
		return fmt.Errorf("sync pack: %w", err)
	}
	dropCache(pw.file)
	err := pw.file.Close()
	pw.file = nil
	if err != nil {
		return fmt.Errorf("close pack: %w", err)
	}
	s := pw.s
	path := s.fs.PathJoin(s.dir, name.FileName())
	if err := s.fs.Rename(pw.tmp, path); err != nil {
		return fmt.Errorf("name pack: %w", err)
	}
	pw.tmp = path
	if err := s.syncDir(); err != nil {
		return fmt.Errorf("sync pack directory: %w", err)
	}
	return nil
}

// publish indexes the durable pack. If that fails while the engine is well,
// nothing refers to the file, and it goes. If the engine itself has failed,
// the record may or may not be in the journal: then the file stays, for the
// index to point at or for the next Open to adopt.
func (pw *packWriter) publish(name pack.Name, body int64) error {
	rec := pw.s.newRecord(name, pack.Footer{Body: body, Naming: pw.lane.naming, Entries: pw.entries})
	rec.Hasty = pw.hasty
	err := pw.s.index(pw.info, rec, pw.entries, pw.want)
	if err != nil && pw.s.db.Err() == nil {
		pw.discard()
	}
	return err
}

// discard removes what there is of the file. Errors are of no interest: the
// caller has a better one, and the next Open removes what is left.
func (pw *packWriter) discard() {
	if pw.file != nil {
		_ = pw.file.Close()
		pw.file = nil
	}
	if pw.tmp != "" {
		_ = pw.s.fs.Remove(pw.tmp)
	}
}

// isTemp says whether a file is one of ours that was never finished.
func isTemp(name string) bool {
	number, ok := strings.CutSuffix(name, tmpSuffix)
	_, err := strconv.ParseUint(number, 16, 64)
	return ok && len(number) == 16 && err == nil
}
