package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// The second pass of rebuilding the chunk index: see rebuild.go.

// buried is how many dead chunks one transaction marks.
const buried = 4096

// CountDead marks the chunks that nobody holds, of an index that IndexPacks has
// written, and counts them in the records of their packs. refsFrom says which is
// the first pack of which all references are known: of the others nothing is ever
// removed.
func CountDead(ctx context.Context, db DB, domain uint32, refsFrom func(Dead) (uint64, error)) (n Dead, err error) {
	records, err := allPacks(db)
	if err != nil {
		return n, fmt.Errorf("count dead chunks: %w", err)
	}
	for _, rec := range records { // until a chunk is met that is read from it
		rec.Dead, rec.DeadChunks = rec.Stored, rec.Chunks
	}
	var dead []struct {
		id  ID
		loc schema.ChunkLoc
	}
	flush := func() error {
		_, err := db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
			for _, d := range dead {
				tx.Put(schema.ChunkDeadKey(domain, d.id), schema.DeadChunk{Pack: d.loc.Pack, Stored: d.loc.Stored}.Encode())
			}
			return nil
		})
		dead = dead[:0]
		return err
	}
	err = eachHeld(ctx, db, domain, func(id ID, loc schema.ChunkLoc, held bool) error {
		if held {
			if rec := records[loc.Pack]; rec != nil {
				rec.AddDead(-1, -int64(loc.Stored))
			}
			return nil
		}
		n.Chunks++
		n.Bytes += uint64(loc.Stored)
		if pack.Type(loc.Type) == pack.TypeTree {
			n.Objects++
		}
		loc.Ext = nil // only valid for now
		if dead = append(dead, struct {
			id  ID
			loc schema.ChunkLoc
		}{id, loc}); len(dead) < buried {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	from := uint64(0)
	if err == nil {
		from, err = refsFrom(n)
	}
	if err == nil {
		_, err = db.Update(schema.KindPackState, func(tx *state.Tx) error {
			for number, rec := range records {
				tx.Put(schema.PackKey(number), rec.Encode())
			}
			tx.Put(schema.MetaKey(schema.MetaRefsFrom), schema.Counter(from))
			return nil
		})
	}
	if err != nil {
		return n, fmt.Errorf("count dead chunks: %w", err)
	}
	return n, nil
}

// Dead counts chunks that nobody holds.
type Dead struct {
	Chunks, Bytes uint64
	Objects       uint64 // of the chunks, directory objects
}

// eachHeld calls fn for each chunk of the index and says whether somebody holds
// it. It walks over both kinds of keys side by side.
func eachHeld(ctx context.Context, db DB, domain uint32, fn func(id ID, loc schema.ChunkLoc, held bool) error) error {
	it, err := db.NewIter(schema.ChunkBounds())
	if err != nil {
		return err
	}
	refs, err := db.NewIter(schema.ChunkRefBounds())
	if err != nil {
		return errors.Join(err, it.Close())
	}
	n, more := 0, refs.First()
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if n++; n%1024 == 0 {
			if err = ctx.Err(); err != nil {
				break
			}
		}
		own, id, e := schema.ParseChunkKey(it.Key())
		if e != nil || own != domain {
			err = e
			continue
		}
		loc, e := schema.DecodeChunkLoc(it.Value())
		if e != nil {
			err = e
			break
		}
		more = seekRef(refs, more, it.Key()[1:])
		err = fn(id, loc, more && bytes.HasPrefix(refs.Key()[1:], it.Key()[1:]))
	}
	return errors.Join(err, it.Error(), it.Close(), refs.Error(), refs.Close())
}

// seekRef moves to the first reference that is not before a chunk's: a few
// steps, since most chunks have few, then a seek.
func seekRef(refs *pebble.Iterator, more bool, chunk []byte) bool {
	for n := 0; more && bytes.Compare(refs.Key()[1:], chunk) < 0; n++ {
		if n < 8 {
			more = refs.Next()
		} else {
			more = refs.SeekGE(append([]byte{schema.PrefixChunkRef}, chunk...))
		}
	}
	return more
}
