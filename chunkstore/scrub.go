package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Scrubbing reads packs one by one, in the order of their numbers, and holds
// all that is in them against each other and against its name. A chunk that is
// damaged here may be whole elsewhere: Heal stores it again.

// NextPack gives the first pack behind a number; 0: there is none.
func (s *Store) NextPack(after uint64) (number uint64, err error) {
	_, upper := schema.PackBounds()
	it, err := s.db.NewIter(schema.PackKey(after+1), upper)
	if err != nil {
		return 0, err
	}
	if it.First() {
		number, err = schema.ParsePackKey(it.Key())
	}
	return number, errors.Join(err, it.Error(), it.Close())
}

// Scrub reads a pack from the disk: its header, its footer, and of each chunk
// that is read from it the part's header and the bytes, which must have the
// chunk's name. found hears what is wrong, rest of each read; rest may wait. An
// error says that it could not look.
func (s *Store) Scrub(ctx context.Context, number uint64, found func(error), rest func(bytes int64) error) error {
	rec, err := getPack(s.db, number)
	if errors.Is(err, state.ErrNotFound) {
		return nil // collected
	}
	if err != nil {
		return err
	}
	name := pack.Name(rec.Name)
	f, err := s.files.acquire(s.fs.PathJoin(s.dir, name.FileName()))
	if oserror.IsNotExist(err) && s.isAway(number) {
		return s.scrubStub(number, name, found)
	}
	if oserror.IsNotExist(err) {
		if _, err := getPack(s.db, number); errors.Is(err, state.ErrNotFound) {
			return nil
		}
		if !s.goneButUploaded(number, rec) {
			s.damage.losePack(number)
		}
		found(fmt.Errorf("%w: pack %s", ErrMissing, name.FileName()))
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pack: %w", err)
	}
	defer s.files.release(f)
	dropCache(f.File) // the disk is asked, not the memory
	defer dropCache(f.File)
	foot, err := s.readFooter(name) // and header
	if errors.Is(err, pack.ErrFormat) {
		s.damage.badFile(number)
		found(fmt.Errorf("%w: %w", ErrCorrupt, err))
		return rest(int64(rec.Size))
	}
	if err != nil {
		if oserror.IsNotExist(err) {
			return nil
		}
		return err
	}
	for _, e := range foot.Entries {
		loc, err := s.getChunk(s.db, e.ID)
		if errors.Is(err, state.ErrNotFound) || err == nil && (loc.Pack != number || loc.Offset != e.PayloadOffset()) {
			continue // dead, or a copy that nobody reads
		}
		if err == nil {
			err = s.scrubChunk(number, e, rec, found)
		}
		if errors.Is(err, errGone) {
			return nil
		}
		if err == nil {
			err = rest(int64(e.Stored))
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) scrubChunk(number uint64, e pack.Entry, rec schema.PackRecord, found func(error)) error {
	b := s.buffers.get(int(e.Raw))
	defer s.buffers.put(b)
	err := s.fetch(e.ID, chunkLoc(number, e), rec, b.bytes)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMissing) || badSector(err) {
		if loc, gerr := s.getChunk(s.db, e.ID); errors.Is(gerr, state.ErrNotFound) || gerr == nil && loc.Pack != number {
			return nil // it moved, and its base went
		} else if gerr != nil {
			return gerr
		}
		found(err)
		err = nil
	}
	if err != nil {
		return err
	}
	same, err := s.partHeader(number, e, rec)
	if err == nil && !same {
		s.damage.badFile(number)
		found(fmt.Errorf("%w: pack %s, the header before chunk %x at %d is not what the footer says", ErrCorrupt, pack.Name(rec.Name).FileName(), e.ID, e.Offset))
	}
	return err
}

// maxDamaged bounds what Damaged gives.
const maxDamaged = 1 << 16

// Damaged gives the chunks whose bytes in packs were found wrong, and behind each
// what is made from it: storing that again saves it, too.
func (s *Store) Damaged() ([]ID, error) {
	s.damage.mu.Lock()
	ids := make([]ID, 0, len(s.damage.chunks))
	for id := range s.damage.chunks {
		ids = append(ids, id)
	}
	s.damage.mu.Unlock()
	seen := make(map[ID]bool, len(ids))
	for _, id := range ids {
		seen[id] = true
	}
	for k := 0; k < len(ids) && len(ids) < maxDamaged; k++ {
		prefix := schema.ChunkBasePrefix(s.cfg.Domain, ids[k])
		it, err := s.db.NewIter(prefix, schema.After(prefix))
		if err != nil {
			return nil, err
		}
		for ok := it.First(); ok && err == nil; ok = it.Next() {
			var made ID
			if _, _, made, err = schema.ParseChunkBaseKey(it.Key()); err == nil && !seen[made] {
				seen[made] = true
				ids = append(ids, made)
			}
		}
		if err := errors.Join(err, it.Error(), it.Close()); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// IsDamaged says whether a chunk's bytes were found wrong or gone, or those of what
// it is made from, or it is nowhere, though somebody holds it.
func (s *Store) IsDamaged(id ID) (bool, error) {
	loc, err := s.getChunk(s.db, id)
	if errors.Is(err, state.ErrNotFound) {
		holders, err := s.Holders(id, 1)
		return len(holders) > 0, err
	}
	if err != nil || s.damage.has(id, loc.Pack) {
		return err == nil, err
	}
	whole, err := s.readable(loc)
	return err == nil && !whole, err
}

// AnyDamaged says whether one of these chunks is.
func (s *Store) AnyDamaged(ids [][32]byte) (bool, error) {
	for _, id := range ids {
		if is, err := s.IsDamaged(id); is || err != nil {
			return is, err
		}
	}
	return false, nil
}

// Holders gives who needs a chunk, max of them at most.
func (s *Store) Holders(id ID, max int) (holders []uint64, err error) {
	prefix := schema.ChunkRefPrefix(s.cfg.Domain, id)
	it, err := s.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok && err == nil && len(holders) < max; ok = it.Next() {
		var h uint64
		_, _, h, err = schema.ParseChunkRefKey(it.Key())
		holders = append(holders, h)
	}
	return holders, errors.Join(err, it.Error(), it.Close())
}

// IsNamed says whether plain bytes are those of a chunk.
func (s *Store) IsNamed(id ID, plain []byte) bool { return s.named(plain, id) }

// Heal stores a chunk of a file's content that is damaged again, or, if it is in the
// index, an object, from bytes that have its name. The index points to the new place
// once that is durable; what needs the chunk is not touched. It does nothing for a
// chunk that is not known to be damaged.
func (s *Store) Heal(ctx context.Context, id ID, plain []byte) error {
	naming, ok := s.namedBy(plain, id)
	if len(plain) > pack.MaxRaw || !ok {
		return fmt.Errorf("%w: chunk %x can't be healed: %w", ErrSource, id, errWrongName)
	}
	typ := pack.TypeData
	if loc, err := s.getChunk(s.db, id); err == nil {
		typ = pack.Type(loc.Type)
	} else if !errors.Is(err, state.ErrNotFound) {
		return err
	}
	b := s.buffers.get(pack.PartHeaderSize + len(plain))
	defer s.buffers.put(b)
	copy(b.bytes[pack.PartHeaderSize:], plain)
	p := s.newPending()
	defer p.Release()
	p.refs = []Ref{{Len: uint32(len(plain)), ID: id}}
	coder := s.coders.get()
	defer s.coders.put(coder)
	err := p.add(coder, chunk{part: b.bytes, id: id, naming: naming}, 0, typ)
	if err == nil {
		err = s.Flush(ctx)
	}
	if err == nil {
		err = p.Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("heal chunk %x: %w", id, err)
	}
	return nil
}

// scrubStub looks at what stays here of a pack that is away. Without it the pack is
// fetched.
func (s *Store) scrubStub(number uint64, name pack.Name, found func(error)) error {
	_, err := s.readFooter(name)
	if (oserror.IsNotExist(err) || errors.Is(err, pack.ErrFormat)) && s.isAway(number) {
		s.damage.badFile(number)
		found(fmt.Errorf("%w: the stub of a pack that is only in the bucket: %w", ErrCorrupt, err))
		return nil
	}
	if oserror.IsNotExist(err) { // it came back, or was collected
		return nil
	}
	return err
}
