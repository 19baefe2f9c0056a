package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// GetVerified fills p with a range of an object whose bytes the caller can hold
// against a hash: verify is given p and says whether they are the right ones.
// What is wrong may have become so on the way, so it is fetched once more before
// it is ErrDamaged. Fewer bytes than len(p) are wrong bytes.
func GetVerified(ctx context.Context, b Bucket, key string, p []byte, off int64, verify func(p []byte) error) (Info, error) {
	var wrong error
	for range 2 {
		n, info, err := b.Get(ctx, key, p, off)
		switch {
		case errors.Is(err, io.EOF):
			wrong = fmt.Errorf("bytes %d to %d of an object that has %d", off, off+int64(len(p)), info.Size)
			if n > 0 {
				continue
			}
		case err != nil:
			return Info{}, err
		default:
			if wrong = verify(p); wrong == nil {
				return info, nil
			}
		}
	}
	return Info{}, Fail("get", key, ErrDamaged, wrong)
}

// ReadAll gives an object's bytes, of which there may be limit at most. Nothing
// is known of their being right.
func ReadAll(ctx context.Context, b Bucket, key string, limit int64) ([]byte, Info, error) {
	p := make([]byte, min(limit+1, 64<<10))
	for {
		n, info, err := b.Get(ctx, key, p, 0)
		switch {
		case errors.Is(err, io.EOF):
			return p[:n], info, nil
		case err != nil:
			return nil, Info{}, err
		case info.Size > limit:
			return nil, Info{}, Fail("get", key, ErrDamaged, fmt.Errorf("an object of %d bytes, where %d is the most", info.Size, limit))
		case info.Size < int64(len(p)):
			return nil, Info{}, Fail("get", key, ErrDamaged, fmt.Errorf("%d bytes of an object that is said to have %d", n, info.Size))
		}
		p = make([]byte, info.Size+1)
	}
}

// Same says whether the object under a key is the content, byte for byte. This
// is how somebody whose answer was lost finds out that the object is his own: it
// needs nothing of a server but Get (metadata does not exist in a directory and
// gets lost on the way through some gateways), and what it proves is what
// matters, that the bytes have arrived. Bytes that differ may have been changed
// on the way, so they count only when they are the same twice.
func Same(ctx context.Context, b Bucket, key string, c Content) (info Info, same bool, err error) {
	theirs := make([]byte, min(c.Size+1, 1<<20))
	ours := make([]byte, len(theirs))
	for off := int64(0); ; off += int64(len(theirs)) {
		n, now, err := b.Get(ctx, key, theirs, off)
		if err != nil && err != io.EOF {
			return Info{}, false, err
		}
		if now.Size != c.Size || off > 0 && now.Version != info.Version {
			return Info{}, false, nil
		}
		info = now
		want := ours[:min(int64(len(theirs)), c.Size-off)]
		if err := c.readFull(want, off); err != nil {
			return Info{}, false, PutFailed(ctx, "compare", key, err)
		}
		if !bytes.Equal(want, theirs[:n]) {
			again := make([]byte, len(theirs))
			switch m, then, err := b.Get(ctx, key, again, off); {
			case err != nil && err != io.EOF:
				return Info{}, false, err
			case then.Version != info.Version || bytes.Equal(again[:m], theirs[:n]):
				return Info{}, false, nil
			case !bytes.Equal(again[:m], want):
				return Info{}, false, Fail("get", key, ErrDamaged, fmt.Errorf("bytes from %d on are not the same twice", off))
			}
		}
		if off+int64(len(want)) == c.Size {
			return info, true, nil
		}
	}
}
