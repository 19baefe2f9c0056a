package chunkstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// The chunk index of a whole store, made from the footers of its packs. It is
// made in two passes, which look up nothing but deltas: IndexPacks writes where
// each chunk lies, a pack in a transaction, deltas when what they are made from
// is there; CountDead walks over chunks and references side by side and marks
// those that nobody holds. In memory is a record for each pack. Nothing else may use the store meanwhile. Whatever ends
// it, it can be done again from the start.

// Indexed is what IndexPacks found.
type Indexed struct {
	Packs, Chunks uint64
	Bytes         uint64   // of all packs
	Unreadable    []string // pack files without a footer that can be used
	Broken        []error  // why, in that order
	BadStubs      []string // those of packs that are away, and of no use
	WhyBad        []error

	deltas []deltaPack
}

// IndexPacks writes the locations of all chunks in the packs of dir, and the
// records of the packs, into an index that has none. Of a chunk that lies in
// several packs, the youngest file has it that has it whole, else the oldest of
// which the base is there. done hears of each pack.
func IndexPacks(ctx context.Context, db DB, fs vfs.FS, dir string, domain uint32, done func(Indexed)) (Indexed, error) {
	x := Indexed{}
	files, err := filesByAge(fs, dir)
	if err != nil {
		return x, fmt.Errorf("index the packs: %w", err)
	}
	away, err := x.stubs(fs, dir, files)
	if err != nil {
		return x, fmt.Errorf("index the packs: %w", err)
	}
	for _, f := range append(away, files...) {
		if err := ctx.Err(); err != nil {
			return x, err
		}
		foot, err := readFooter(fs, dir, f.name, domain)
		if errors.Is(err, pack.ErrFormat) {
			x.Unreadable, x.Broken = append(x.Unreadable, f.name.FileName()), append(x.Broken, err)
			continue
		}
		if err == nil {
			err = x.enter(db, domain, f, foot)
		}
		if err != nil {
			return x, fmt.Errorf("index the packs: %w", err)
		}
		if done != nil {
			done(x)
		}
	}
	if err := x.enterDeltas(ctx, db, fs, dir, domain); err != nil {
		return x, fmt.Errorf("index the packs: %w", err)
	}
	return x, nil
}

// enter writes one pack.
func (x *Indexed) enter(db DB, domain uint32, f agedFile, foot pack.Footer) error {
	name, number := f.name, x.Packs+1
	rec := packRecord(domain, name, foot)
	hasDeltas := false
	_, err := db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		tx.Put(schema.PackCounterKey(), schema.Counter(number+1))
		tx.Put(schema.PackKey(number), rec.Encode())
		if f.away != nil {
			tx.Put(schema.PackUploadKey(name), f.away.record().Encode())
		}
		for _, e := range foot.Entries {
			if e.Enc == pack.EncDelta {
				hasDeltas = true
				continue
			}
			tx.Put(schema.ChunkKey(domain, e.ID), chunkLoc(number, e).Encode())
		}
		return nil
	})
	if err != nil {
		return err
	}
	if hasDeltas {
		x.deltas = append(x.deltas, deltaPack{number, name})
	}
	x.Packs++
	x.Chunks += rec.Chunks
	x.Bytes += rec.Size
	return nil
}

// deltaPack is a pack of which deltas are not in the index yet.
type deltaPack struct {
	number uint64
	name   pack.Name
}

// enterDeltas writes where deltas lie, each once its base is in the index, and less
// deep: of copies of a chunk, which may have been made from different bases, not
// all need be readable. What has no base in the end stays unknown.
func (x *Indexed) enterDeltas(ctx context.Context, db DB, fs vfs.FS, dir string, domain uint32) error {
	for more := true; more; {
		more = false
		var rest []deltaPack
		for _, p := range x.deltas {
			foot, err := readFooter(fs, dir, p.name, domain)
			if err = errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			found, waits, err := enterDeltas(db, domain, p.number, byDepth(foot.Entries))
			if err != nil {
				return err
			}
			if more = more || found; waits {
				rest = append(rest, p)
			}
		}
		x.deltas = rest
	}
	return nil
}

func enterDeltas(db DB, domain uint32, number uint64, entries []pack.Entry) (found, waits bool, err error) {
	taken := map[ID]uint8{} // reads see the state before the transaction
	_, err = db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		depthOf := func(id ID) (depth uint8, known bool, err error) {
			if depth, known = taken[id]; known {
				return depth, true, nil
			}
			v, err := tx.Get(schema.ChunkKey(domain, id))
			if errors.Is(err, state.ErrNotFound) {
				return 0, false, nil
			}
			if err != nil {
				return 0, false, err
			}
			loc, err := schema.DecodeChunkLoc(v)
			if err != nil {
				return 0, false, err
			}
			link, err := linkOf(loc)
			return link.Depth, true, err
		}
		for _, e := range entries {
			loc := chunkLoc(number, e)
			link, err := linkOf(loc)
			if err != nil {
				return err
			}
			if link.Depth == 0 {
				continue
			}
			_, known, err := depthOf(e.ID)
			if err != nil || known {
				if err != nil {
					return err
				}
				continue
			}
			depth, there, err := depthOf(link.ID)
			if err != nil {
				return err
			}
			if !there || depth >= link.Depth {
				waits = true
				continue
			}
			tx.Put(schema.ChunkKey(domain, e.ID), loc.Encode())
			tx.Put(schema.ChunkBaseKey(domain, link.ID, e.ID), nil)
			taken[e.ID] = link.Depth
		}
		return nil
	})
	return len(taken) > 0, waits, err
}

// agedFile is a pack in the directory.
type agedFile struct {
	name pack.Name
	time int64 // of its last change
	away *stub // of one that is not there; else nil
}

// stubs gives the stubs in dir of packs that are away. Of those that are of no use
// it is not known here any more what is in their packs.
func (x *Indexed) stubs(fs vfs.FS, dir string, files []agedFile) (away []agedFile, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		name, ok := parseStubName(n)
		if !ok || slices.ContainsFunc(files, func(f agedFile) bool { return f.name == name }) {
			continue
		}
		s, err := readStub(fs, dir, name)
		if errors.Is(err, pack.ErrFormat) || badSector(err) {
			x.BadStubs, x.WhyBad = append(x.BadStubs, n), append(x.WhyBad, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		s.head, s.tail = nil, nil
		away = append(away, agedFile{name: name, away: s})
	}
	return away, nil
}

// filesByAge gives the packs of a directory, the youngest last.
func filesByAge(fs vfs.FS, dir string) ([]agedFile, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	var files []agedFile
	for _, n := range names {
		name, ok := pack.ParseFileName(n)
		if !ok {
			continue
		}
		st, err := fs.Stat(fs.PathJoin(dir, n))
		if err != nil {
			return nil, err
		}
		files = append(files, agedFile{name: name, time: st.ModTime().UnixNano()})
	}
	slices.SortFunc(files, func(a, b agedFile) int {
		return cmp.Or(cmp.Compare(a.time, b.time), bytes.Compare(a.name[:], b.name[:]))
	})
	return files, nil
}

// Unreadable gives the pack files in dir that have no footer which can be used,
// and why.
func Unreadable(ctx context.Context, fs vfs.FS, dir string, domain uint32) (names []string, why []error, err error) {
	files, err := filesByAge(fs, dir)
	for _, f := range files {
		if err = ctx.Err(); err != nil {
			break
		}
		_, err = readFooter(fs, dir, f.name, domain)
		if errors.Is(err, pack.ErrFormat) {
			names, why, err = append(names, f.name.FileName()), append(why, err), nil
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the footers of packs: %w", err)
	}
	return names, why, nil
}

// NextPack is the number that the next pack gets.
func NextPack(db DB) (uint64, error) {
	v, err := db.Get(schema.PackCounterKey())
	if errors.Is(err, state.ErrNotFound) {
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	return schema.ParseCounter(v)
}

func allPacks(db DB) (map[uint64]*schema.PackRecord, error) {
	it, err := db.NewIter(schema.PackBounds())
	if err != nil {
		return nil, err
	}
	records := map[uint64]*schema.PackRecord{}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var number uint64
		var rec schema.PackRecord
		if number, err = schema.ParsePackKey(it.Key()); err == nil {
			rec, err = schema.DecodePackRecord(it.Value())
		}
		records[number] = &rec
	}
	return records, errors.Join(err, it.Error(), it.Close())
}
