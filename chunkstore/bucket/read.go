package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"

	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
)

// tailSize is how much of a pack's end is asked for at first: the footer of some
// thousand chunks fits, and packs that have little but the tree of a step fit whole.
const tailSize = 64 << 10

// ReadRef gives a ref. One that is damaged is fetched once more.
func ReadRef(ctx context.Context, b remote.Bucket, w Writer, seq uint64) (*Ref, error) {
	return readTwice(ctx, b, RefKey(w, seq), MaxRef, func(p []byte) (*Ref, error) { return DecodeRef(p, w, seq) })
}

// ReadCatalog gives a catalog. One that is damaged is fetched once more.
func ReadCatalog(ctx context.Context, b remote.Bucket, w Writer, first, last uint64) (*Catalog, error) {
	return readTwice(ctx, b, CatalogKey(w, first, last), MaxCatalog, func(p []byte) (*Catalog, error) { return DecodeCatalog(p, w, first, last) })
}

// ReadIndex gives an index object. One that is damaged is fetched once more.
func ReadIndex(ctx context.Context, b remote.Bucket, w Writer, seq uint64) (*Index, error) {
	return readTwice(ctx, b, IndexKey(w, seq), MaxIndex, func(p []byte) (*Index, error) { return DecodeIndex(p, w, seq) })
}

// readTwice reads a whole object, which says itself whether it is right.
func readTwice[T any](ctx context.Context, b remote.Bucket, key string, limit int64, decode func([]byte) (T, error)) (v T, err error) {
	for range 2 {
		var text []byte
		if text, _, err = remote.ReadAll(ctx, b, key, limit); errors.Is(err, remote.ErrDamaged) {
			continue
		}
		if err != nil {
			return v, err
		}
		if v, err = decode(text); !errors.Is(err, ErrFormat) {
			break
		}
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", key, err)
	}
	return v, nil
}

// ReadFooter gives the footer of a pack, from the pack's end. Its name proves
// it. What has another name, or another size than p says, is remote.ErrDamaged.
func ReadFooter(ctx context.Context, b remote.Bucket, p Pack) (pack.Footer, error) {
	f, _, err := ReadTail(ctx, b, p)
	return f, err
}

// ReadTail is ReadFooter, and gives the whole pack, too, where that came with it: so
// it does for packs of up to 64 KiB. Nothing but the footer is proved by the name.
func ReadTail(ctx context.Context, b remote.Bucket, p Pack) (f pack.Footer, whole []byte, err error) {
	key := p.Key()
	if p.Size < pack.TrailerSize || p.Size > remote.MaxObject {
		return f, nil, fmt.Errorf("%w: pack %s of %d bytes", ErrFormat, key, p.Size)
	}
	off, length := p.Size-min(p.Size, tailSize), 0
	end := make([]byte, p.Size-off)
	info, err := remote.GetVerified(ctx, b, key, end, off, func(tail []byte) (err error) {
		at, n, err := pack.ParseTrailer(tail[len(tail)-pack.TrailerSize:], p.Size)
		if err != nil {
			return err
		}
		if at < off { // not all of it is here
			off, length = at, n
			return nil
		}
		f, err = named(tail[at-off:][:n], p)
		return err
	})
	if err == nil && length > 0 {
		_, err = remote.GetVerified(ctx, b, key, make([]byte, length), off, func(text []byte) (err error) {
			f, err = named(text, p)
			return err
		})
	}
	if err == nil && info.Size != p.Size {
		err = remote.Fail("get", key, remote.ErrDamaged, fmt.Errorf("it has %d bytes, its ref says %d: %w", info.Size, p.Size, io.ErrUnexpectedEOF))
	}
	if err == nil && len(end) == int(p.Size) {
		whole = end
	}
	return f, whole, err
}

// named parses a footer that has the pack's name.
func named(text []byte, p Pack) (pack.Footer, error) {
	if pack.NameOf(text) != p.Name {
		return pack.Footer{}, errors.New("its footer does not have its name")
	}
	return pack.ParseFooter(text)
}
