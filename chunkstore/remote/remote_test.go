package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
)

// What is got is held against the caller's hash; what broke on the way is
// fetched once more, what lies broken is said to be so.
func TestGetVerified(t *testing.T) {
	inner := mem.New()
	good := []byte("the bytes that were put")
	if err := inner.Put(t.Context(), "k", remote.Bytes(good)); err != nil {
		t.Fatal(err)
	}
	verify := func(want []byte) func([]byte) error {
		return func(p []byte) error {
			if !bytes.Equal(p, want) {
				return errors.New("another hash")
			}
			return nil
		}
	}
	damaged := 1
	b := fault.New(inner, func(string, string) fault.Fault {
		damaged--
		return fault.Fault{Damage: damaged >= 0}
	})
	p := make([]byte, 5)
	if _, err := remote.GetVerified(t.Context(), b, "k", p, 4, verify(good[4:9])); err != nil {
		t.Errorf("damaged once: %v", err)
	}
	damaged = 2
	if _, err := remote.GetVerified(t.Context(), b, "k", p, 4, verify(good[4:9])); !errors.Is(err, remote.ErrDamaged) || !strings.Contains(err.Error(), "another hash") {
		t.Errorf("damaged twice: %v", err)
	}
	damaged = 0
	for _, off := range []int64{int64(len(good)) - 4, int64(len(good)), 1 << 40} {
		if _, err := remote.GetVerified(t.Context(), b, "k", p, off, func([]byte) error { return nil }); !errors.Is(err, remote.ErrDamaged) {
			t.Errorf("a range from %d that is not all there: %v", off, err)
		}
	}
	if err := inner.Damage("k", 6); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.GetVerified(t.Context(), b, "k", p, 4, verify(good[4:9])); !errors.Is(err, remote.ErrDamaged) {
		t.Errorf("damaged where it lies: %v", err)
	}
	if _, err := remote.GetVerified(t.Context(), b, "gone", p, 4, verify(nil)); !errors.Is(err, remote.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestReadAll(t *testing.T) {
	b := mem.New()
	for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300_000} {
		data := bytes.Repeat([]byte{1}, n)
		if err := b.Put(t.Context(), "k", remote.Bytes(data)); err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int64{int64(n), int64(n) + 1, 1 << 40} {
			if got, info, err := remote.ReadAll(t.Context(), b, "k", limit); err != nil || !bytes.Equal(got, data) || info.Size != int64(n) {
				t.Errorf("%d bytes, at most %d: %d, %+v, %v", n, limit, len(got), info, err)
			}
		}
		if n > 0 {
			if _, _, err := remote.ReadAll(t.Context(), b, "k", int64(n)-1); !errors.Is(err, remote.ErrDamaged) {
				t.Errorf("more than %d bytes: %v", n-1, err)
			}
		}
	}
}

// liar says that its objects have any size.
type liar struct {
	remote.Bucket
	size int64
}

func (l liar) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	n, info, err := l.Bucket.Get(ctx, key, p, off)
	info.Size = l.size
	return n, info, err
}

// A server that says what is not so makes nobody allocate what it says, nor
// loop for ever.
func TestReadAllOfALiar(t *testing.T) {
	b := mem.New()
	if err := b.Put(t.Context(), "k", remote.Bytes(make([]byte, 100_000))); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{-1, 0, 5, 1 << 50} {
		if _, _, err := remote.ReadAll(t.Context(), liar{b, size}, "k", 1<<20); !errors.Is(err, remote.ErrDamaged) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestSame(t *testing.T) {
	b := mem.New()
	for _, n := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		data := bytes.Repeat([]byte{7}, n)
		if err := b.Put(t.Context(), "k", remote.Bytes(data)); err != nil {
			t.Fatal(err)
		}
		if info, same, err := remote.Same(t.Context(), b, "k", remote.Bytes(data)); !same || err != nil || info.Version == "" {
			t.Errorf("%d bytes: %v, %v", n, same, err)
		}
		others := [][]byte{append(bytes.Clone(data), 0)}
		if n > 0 {
			last := bytes.Clone(data)
			last[n-1]++
			others = append(others, data[1:], last)
		}
		for _, other := range others {
			if _, same, err := remote.Same(t.Context(), b, "k", remote.Bytes(other)); same || err != nil {
				t.Errorf("%d bytes and %d others: %v, %v", n, len(other), same, err)
			}
		}
	}
	if _, _, err := remote.Same(t.Context(), b, "gone", remote.Bytes(nil)); !errors.Is(err, remote.ErrNotExist) {
		t.Error(err)
	}
}

// Bytes that were changed on the way do not make an object another's; the same
// bytes twice do.
func TestSameDamagedOnTheWay(t *testing.T) {
	inner := mem.New()
	data := bytes.Repeat([]byte{7}, 3<<20)
	if err := inner.Put(t.Context(), "k", remote.Bytes(data)); err != nil {
		t.Fatal(err)
	}
	n := 0
	b := fault.New(inner, func(string, string) fault.Fault {
		n++
		return fault.Fault{Damage: n == 2}
	})
	if _, same, err := remote.Same(t.Context(), b, "k", remote.Bytes(data)); !same || err != nil {
		t.Errorf("damaged once: %v, %v", same, err)
	}
	if err := inner.Damage("k", 2<<20); err != nil {
		t.Fatal(err)
	}
	if _, same, err := remote.Same(t.Context(), b, "k", remote.Bytes(data)); same || err != nil {
		t.Errorf("damaged where it lies: %v, %v", same, err)
	}
}

func TestErrors(t *testing.T) {
	cause := os.ErrPermission
	err := fmt.Errorf("upload: %w", remote.Fail("put", "packs/1", remote.ErrAccess, cause))
	if !errors.Is(err, remote.ErrAccess) || !errors.Is(err, cause) || errors.Is(err, remote.ErrRetryable) || remote.Passing(err) {
		t.Errorf("%v is of the wrong kind", err)
	}
	if want := "upload: put packs/1: access denied: permission denied"; err.Error() != want {
		t.Errorf("says %q, want %q", err, want)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := remote.Ended(ctx, "get", "k"); err != nil {
		t.Error(err)
	}
	cancel(io.ErrClosedPipe)
	if err := remote.Ended(ctx, "get", "k"); !errors.Is(err, context.Canceled) || !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	data := bytes.Repeat([]byte("abc"), 100_000)
	c := remote.Bytes(data)
	if got, err := c.Load(t.Context()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	c.CRC++
	if _, err := c.Load(t.Context()); !errors.Is(err, remote.ErrContent) {
		t.Error(err)
	}
	c = remote.Bytes(data)
	c.Size--
	if _, err := c.Load(t.Context()); !errors.Is(err, remote.ErrContent) {
		t.Errorf("a part is taken for the whole: %v", err)
	}
}
