// Package remotetest is what every remote.Bucket has to pass: the contract,
// sentence by sentence. Faults are no part of it; a Bucket under a wrapper that
// makes some, and under one that retries, has to pass it as well.
package remotetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"stepfs/chunkstore/remote"
)

// Suite says how to get a bucket and how much to do with it.
type Suite struct {
	New    func(t *testing.T) remote.Bucket // an empty one; its test cleans up
	Listed int                              // objects in a list; 1100: more than a page of S3
	Large  int64                            // bytes of the largest object; 5 MiB
	Racers int                              // who put at the same time; 32
	Faulty bool                             // requests are made again: bytes may leave more than once
	Check  func(t *testing.T)               // looks at the end of each test for what should not be left over; may be nil
}

// Run runs the suite.
func (s Suite) Run(t *testing.T) {
	if s.Listed == 0 {
		s.Listed = 1100
	}
	if s.Large == 0 {
		s.Large = 5 << 20
	}
	if s.Racers == 0 {
		s.Racers = 32
	}
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b remote.Bucket)
	}{
		{"PutGet", putGet},
		{"PutAgain", putAgain},
		{"PutIfAbsent", putIfAbsent},
		{"ReplaceIfMatch", replaceIfMatch},
		{"RacingPuts", s.racingPuts},
		{"RacingLarge", s.racingLarge},
		{"RacingReplaces", s.racingReplaces},
		{"Counter", s.counter},
		{"Ranges", ranges},
		{"Missing", missing},
		{"Delete", deletes},
		{"OddKeys", oddKeys},
		{"BadKeys", badKeys},
		{"BadRequests", badRequests},
		{"List", lists},
		{"LongList", s.longList},
		{"WrongContent", s.wrongContent},
		{"Large", s.large},
		{"LargeIfAbsent", s.largeIfAbsent},
		{"Cancelled", s.cancelled},
		{"Pace", s.pace},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.New(t)
			c.run(t, b)
			if s.Check != nil {
				s.Check(t)
			}
		})
	}
}

// Random gives n bytes that do not compress, the same for the same seed.
func Random(seed uint64, n int64) []byte {
	b := make([]byte, n)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(key).Read(b)
	return b
}

func put(t *testing.T, b remote.Bucket, key string, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), key, remote.Bytes(data)); err != nil {
		t.Fatal(err)
	}
}

// holds fails the test unless the object is there with these bytes.
func holds(t *testing.T, b remote.Bucket, key string, want []byte) remote.Info {
	t.Helper()
	got, info, err := remote.ReadAll(t.Context(), b, key, int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s has %d other bytes than the %d that were put", key, len(got), len(want))
	}
	stat, err := b.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if stat.Size != int64(len(want)) || stat.Version == "" || stat.Version != info.Version || stat.Modified.IsZero() {
		t.Fatalf("%s: stat gives %+v, get %+v", key, stat, info)
	}
	return stat
}

// is fails the test unless the error is of the kind.
func is(t *testing.T, err, kind error, what string, args ...any) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: got the error %v, want %v", fmt.Sprintf(what, args...), err, kind)
	}
}

func absent(t *testing.T, b remote.Bucket, key string) {
	t.Helper()
	_, err := b.Stat(t.Context(), key)
	is(t, err, remote.ErrNotExist, "stat %s", key)
	_, _, err = b.Get(t.Context(), key, make([]byte, 1), 0)
	is(t, err, remote.ErrNotExist, "get %s", key)
}

func keys(t *testing.T, b remote.Bucket, prefix, after string) []string {
	t.Helper()
	var all []string
	for o, err := range b.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatal(err)
		}
		if o.Modified.IsZero() {
			t.Fatalf("%s is listed without a time", o.Key)
		}
		all = append(all, o.Key)
	}
	return all
}

func putGet(t *testing.T, b remote.Bucket) {
	for i, n := range []int64{0, 1, 2, 1000, 64 << 10, 64<<10 + 1, 1 << 20} {
		key, data := fmt.Sprintf("a/%d", n), Random(uint64(i), n)
		put(t, b, key, data)
		holds(t, b, key, data)
	}
	if b.String() == "" {
		t.Error("a bucket without a name")
	}
}

func putAgain(t *testing.T, b remote.Bucket) {
	first, second := Random(1, 5000), Random(2, 4000)
	put(t, b, "x", first)
	before := holds(t, b, "x", first)
	put(t, b, "x", first)
	holds(t, b, "x", first)
	put(t, b, "x", second)
	if after := holds(t, b, "x", second); after.Version == before.Version {
		t.Errorf("another content has the same version %q", after.Version)
	}
}

func putIfAbsent(t *testing.T, b remote.Bucket) {
	for _, n := range []int64{0, 10, 1 << 20} {
		key, data := fmt.Sprintf("refs/w/%d", n), Random(1, n)
		version, err := b.PutIfAbsent(t.Context(), key, remote.Bytes(data))
		if err != nil {
			t.Fatal(err)
		}
		if info := holds(t, b, key, data); info.Version != version || len(version) > 256 {
			t.Fatalf("the version is %q, and was %q when it was put", info.Version, version)
		}
		_, err = b.PutIfAbsent(t.Context(), key, remote.Bytes(Random(2, n+1)))
		is(t, err, remote.ErrExists, "put %s again", key)
		holds(t, b, key, data)
	}
	if err := b.Delete(t.Context(), "refs/w/10"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutIfAbsent(t.Context(), "refs/w/10", remote.Bytes([]byte("new"))); err != nil {
		t.Fatalf("after a delete: %v", err)
	}
}

func replaceIfMatch(t *testing.T, b remote.Bucket) {
	_, err := b.ReplaceIfMatch(t.Context(), "lease", "no-such-version", remote.Bytes([]byte("x")))
	is(t, err, remote.ErrChanged, "replace what is not there")
	absent(t, b, "lease")
	v1, err := b.PutIfAbsent(t.Context(), "lease", remote.Bytes([]byte("one")))
	if err != nil {
		t.Fatal(err)
	}
	v2, err := b.ReplaceIfMatch(t.Context(), "lease", v1, remote.Bytes([]byte("two, longer")))
	if err != nil {
		t.Fatal(err)
	}
	if info := holds(t, b, "lease", []byte("two, longer")); info.Version != v2 || v1 == v2 {
		t.Fatalf("versions: %q, then %q, which stat says is %q", v1, v2, info.Version)
	}
	_, err = b.ReplaceIfMatch(t.Context(), "lease", v1, remote.Bytes([]byte("three")))
	is(t, err, remote.ErrChanged, "replace a version that is gone")
	holds(t, b, "lease", []byte("two, longer"))
	if _, err := b.ReplaceIfMatch(t.Context(), "lease", v2, remote.Bytes(nil)); err != nil {
		t.Fatalf("by nothing: %v", err)
	}
	if err := b.Delete(t.Context(), "lease"); err != nil {
		t.Fatal(err)
	}
	_, err = b.ReplaceIfMatch(t.Context(), "lease", v2, remote.Bytes([]byte("four")))
	is(t, err, remote.ErrChanged, "replace what was deleted")
	absent(t, b, "lease")
}

func ranges(t *testing.T, b remote.Bucket) {
	const size = 100_000
	data := Random(3, size)
	put(t, b, "p", data)
	put(t, b, "empty", nil)
	for _, r := range [][2]int64{{0, 1}, {0, size}, {0, size + 1}, {0, size - 1}, {1, size - 1}, {1, size}, {size - 1, 1}, {size - 1, 2},
		{size, 1}, {size + 1, 1}, {size * 1000, 10}, {0, 0}, {5, 0}, {size, 0}, {size + 9, 0}, {4095, 8194}, {1 << 40, 1}} {
		p := make([]byte, r[1])
		n, info, err := b.Get(t.Context(), "p", p, r[0])
		want := data[min(r[0], size):min(r[0]+r[1], size)]
		if !bytes.Equal(p[:n], want) || info.Size != size || info.Version == "" {
			t.Errorf("%d bytes from %d: got %d bytes of %+v", r[1], r[0], n, info)
		}
		if short := len(want) < len(p); short && err != io.EOF || !short && err != nil {
			t.Errorf("%d bytes from %d: error %v", r[1], r[0], err)
		}
	}
	for _, off := range []int64{0, 1} {
		if n, info, err := b.Get(t.Context(), "empty", make([]byte, 1), off); n != 0 || err != io.EOF || info.Size != 0 || info.Version == "" {
			t.Errorf("an empty object from %d: %d bytes, %+v, %v", off, n, info, err)
		}
	}
}

func missing(t *testing.T, b remote.Bucket) {
	absent(t, b, "a")
	put(t, b, "dir/b", []byte("b"))
	for _, key := range []string{"a", "dir/a", "dir", "dir/bb", "dir/c/d"} {
		absent(t, b, key)
	}
	_, _, err := b.Get(t.Context(), "dir/a", nil, 0)
	is(t, err, remote.ErrNotExist, "get nothing of it")
	_, _, err = remote.ReadAll(t.Context(), b, "dir/a", 10)
	is(t, err, remote.ErrNotExist, "read all of it")
}

func deletes(t *testing.T, b remote.Bucket) {
	for _, key := range []string{"a/b/c", "a/b/d", "a/e"} {
		put(t, b, key, []byte(key))
	}
	for range 2 {
		for _, key := range []string{"a/b/c", "a/b/nothing", "nothing", "no/thing", "a/b"} {
			if err := b.Delete(t.Context(), key); err != nil {
				t.Fatalf("delete %s: %v", key, err)
			}
		}
	}
	absent(t, b, "a/b/c")
	holds(t, b, "a/b/d", []byte("a/b/d"))
	if got := keys(t, b, "", ""); !slices.Equal(got, []string{"a/b/d", "a/e"}) {
		t.Fatalf("left are %q", got)
	}
	for _, key := range []string{"a/b/d", "a/e"} {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if got := keys(t, b, "", ""); len(got) != 0 {
		t.Fatalf("left are %q", got)
	}
}

func oddKeys(t *testing.T, b remote.Bucket) {
	odd := []string{
		"-", "_", "=", "a..b", "a.", "a=b=c", "-rf", "--", "0", "con", "a.tmp", "lost",
		"deep/" + strings.Repeat("d/", 100) + "end", "long/" + strings.Repeat("n", remote.MaxName),
		strings.Repeat(strings.Repeat("k", 101)+"/", 5) + "zz", // MaxKey bytes
		"b/b/b/b", "b/b-b", "b/b.b", "b/b=b", "b/b0",
	}
	for i, key := range odd {
		put(t, b, key, Random(uint64(i), int64(i)))
	}
	for i, key := range odd {
		holds(t, b, key, Random(uint64(i), int64(i)))
	}
	slices.Sort(odd)
	if got := keys(t, b, "", ""); !slices.Equal(got, odd) {
		t.Fatalf("listed are\n%q, put were\n%q", got, odd)
	}
}

func badKeys(t *testing.T, b remote.Bucket) {
	put(t, b, "a/b", []byte("b"))
	ctx := t.Context()
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.b", "A", "aB", "ä", "a b", "a\x00", "a\nb",
		"a\\b", "a?b", "a#b", "a%2fb", "a+b", "\xff", strings.Repeat("k", remote.MaxName+1), strings.Repeat("k/", remote.MaxKey/2) + "k"} {
		c := remote.Bytes([]byte("x"))
		_, absent := b.PutIfAbsent(ctx, key, c)
		_, replace := b.ReplaceIfMatch(ctx, key, "1", c)
		_, _, get := b.Get(ctx, key, make([]byte, 1), 0)
		_, stat := b.Stat(ctx, key)
		for verb, err := range map[string]error{"put": b.Put(ctx, key, c), "put if absent": absent, "replace": replace, "get": get, "stat": stat, "delete": b.Delete(ctx, key)} {
			if !errors.Is(err, remote.ErrInvalid) {
				t.Errorf("%s %.40q: %v", verb, key, err)
			}
		}
	}
	for _, prefix := range []string{"/", "A", "a//", "a b", "ä"} {
		n := 0
		for _, err := range b.List(ctx, prefix, "") {
			n++
			is(t, err, remote.ErrInvalid, "list %q", prefix)
		}
		if n != 1 {
			t.Errorf("list %q gives %d things", prefix, n)
		}
	}
	if got := keys(t, b, "", ""); !slices.Equal(got, []string{"a/b"}) {
		t.Fatalf("there are now %q", got)
	}
}

func badRequests(t *testing.T, b remote.Bucket) {
	ctx, c := t.Context(), remote.Bytes([]byte("x"))
	version, err := b.PutIfAbsent(ctx, "k", c)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Get(ctx, "k", make([]byte, 1), -1)
	is(t, err, remote.ErrInvalid, "get from -1")
	_, err = b.ReplaceIfMatch(ctx, "k", "", c)
	is(t, err, remote.ErrInvalid, "replace no version")
	_, err = b.ReplaceIfMatch(ctx, "k", version, remote.Bytes(make([]byte, remote.MaxReplace+1)))
	is(t, err, remote.ErrInvalid, "a large replacement")
	is(t, b.Put(ctx, "large", remote.Content{Body: bytes.NewReader(nil), Size: remote.MaxObject + 1}), remote.ErrInvalid, "a large object")
	is(t, b.Put(ctx, "negative", remote.Content{Body: bytes.NewReader(nil), Size: -1}), remote.ErrInvalid, "an object of -1 bytes")
	if got := keys(t, b, "", ""); !slices.Equal(got, []string{"k"}) {
		t.Fatalf("there are now %q", got)
	}
	largest := Random(7, remote.MaxReplace)
	if _, err = b.ReplaceIfMatch(ctx, "k", version, remote.Bytes(largest)); err != nil {
		t.Fatal(err)
	}
	holds(t, b, "k", largest)
}

// wrongContent: bytes that are not what they were when they were made become no
// object, and leave what was there.
func (s Suite) wrongContent(t *testing.T, b remote.Bucket) {
	for _, n := range []int64{0, 1, 70_000, s.Large} {
		good := Random(4, n)
		wrong, short := remote.Bytes(good), remote.Bytes(good)
		wrong.CRC ^= 1
		short.Size++
		for name, c := range map[string]remote.Content{"other bytes": wrong, "too few bytes": short} {
			_, ifAbsent := b.PutIfAbsent(t.Context(), "new", c)
			is(t, ifAbsent, remote.ErrContent, "%s of %d", name, n)
			is(t, b.Put(t.Context(), "new", c), remote.ErrContent, "%s of %d", name, n)
			absent(t, b, "new")
		}
	}
	version, err := b.PutIfAbsent(t.Context(), "old", remote.Bytes([]byte("good")))
	if err != nil {
		t.Fatal(err)
	}
	bad := remote.Bytes([]byte("bad"))
	bad.CRC ^= 1 << 31
	_, err = b.ReplaceIfMatch(t.Context(), "old", version, bad)
	is(t, err, remote.ErrContent, "a wrong replacement")
	is(t, b.Put(t.Context(), "old", bad), remote.ErrContent, "a wrong put")
	holds(t, b, "old", []byte("good"))
}

func (s Suite) large(t *testing.T, b remote.Bucket) {
	data := Random(5, s.Large)
	put(t, b, "large", data)
	holds(t, b, "large", data)
	p := make([]byte, 1000)
	for _, off := range []int64{0, s.Large / 2, s.Large - 1000} {
		n, info, err := b.Get(t.Context(), "large", p, off)
		if n != len(p) || err != nil || info.Size != s.Large || !bytes.Equal(p, data[off:off+1000]) {
			t.Fatalf("from %d: %d bytes of %+v, %v", off, n, info, err)
		}
	}
	for o, err := range b.List(t.Context(), "la", "") {
		if err != nil || o.Key != "large" || o.Size != s.Large {
			t.Fatalf("listed is %+v, %v", o, err)
		}
	}
}

func (s Suite) largeIfAbsent(t *testing.T, b remote.Bucket) {
	data := Random(6, s.Large)
	version, err := b.PutIfAbsent(t.Context(), "large", remote.Bytes(data))
	if err != nil {
		t.Fatal(err)
	}
	other := Random(7, s.Large)
	_, err = b.PutIfAbsent(t.Context(), "large", remote.Bytes(other))
	is(t, err, remote.ErrExists, "put again")
	if info := holds(t, b, "large", data); info.Version != version {
		t.Errorf("the version is %q, and was %q", info.Version, version)
	}
}

// cancelled: who cancels is told so, soon, and does not leave half an object.
func (s Suite) cancelled(t *testing.T, b remote.Bucket) {
	put(t, b, "k", []byte("k"))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	c := remote.Bytes([]byte("x"))
	_, ifAbsent := b.PutIfAbsent(gone, "new", c)
	_, replace := b.ReplaceIfMatch(gone, "k", "v", c)
	_, _, get := b.Get(gone, "k", make([]byte, 1), 0)
	_, stat := b.Stat(gone, "k")
	var list error
	for _, list = range b.List(gone, "", "") {
	}
	for verb, err := range map[string]error{"put": b.Put(gone, "new", c), "put if absent": ifAbsent, "replace": replace, "get": get, "stat": stat, "list": list, "delete": b.Delete(gone, "k")} {
		is(t, err, context.Canceled, "%s", verb)
	}
	absent(t, b, "new")

	half, cancel := context.WithCancel(t.Context())
	data := Random(8, s.Large)
	body := &cancelling{Reader: bytes.NewReader(data), at: s.Large / 2, cancel: cancel}
	large := remote.Bytes(data)
	large.Body = body
	_, err := b.PutIfAbsent(half, "half", large)
	is(t, err, context.Canceled, "cancelled in the middle")
	if got := keys(t, b, "", ""); slices.Contains(got, "half") {
		holds(t, b, "half", data)
	} else if !slices.Equal(got, []string{"k"}) {
		t.Fatalf("there are now %q", got)
	}
}

// cancelling cancels a context when a reader comes to a place.
type cancelling struct {
	*bytes.Reader
	at     int64
	cancel func()
}

func (c *cancelling) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) >= c.at {
		c.cancel()
	}
	return c.Reader.ReadAt(p, off)
}

// pace: all bytes are asked for before they leave, once, in small pieces.
func (s Suite) pace(t *testing.T, b remote.Bucket) {
	for _, n := range []int64{0, 10, 100_000, s.Large} {
		c, sum := remote.Bytes(Random(9, n)), atomic.Int64{}
		c.Pace = func(_ context.Context, n int) error {
			if n < 1 || n > 1<<20 {
				t.Errorf("%d bytes at a time", n)
			}
			sum.Add(int64(n))
			return nil
		}
		if err := b.Put(t.Context(), fmt.Sprintf("k%d", n), c); err != nil {
			t.Fatal(err)
		}
		if asked := sum.Load(); asked < n || asked > n && !s.Faulty {
			t.Errorf("of %d bytes %d were asked for", n, asked)
		}
	}
	stop := errors.New("no more")
	c := remote.Bytes(Random(9, 100_000))
	c.Pace = func(context.Context, int) error { return stop }
	if err := b.Put(t.Context(), "stopped", c); !errors.Is(err, stop) {
		t.Errorf("a pace that ended: %v", err)
	}
	absent(t, b, "stopped")
}
