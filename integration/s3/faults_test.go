package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/remotetest"
	"stepfs/chunkstore/remote/retry"
	"stepfs/chunkstore/remote/s3"
)

// number is how much of something is done: the standard, or what the
// environment says.
func number(t *testing.T, env string, standard int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return standard
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// patient tries again at once, and for ever.
func patient(b remote.Bucket) *retry.Bucket {
	return retry.New(b, retry.Options{First: time.Millisecond, Most: 20 * time.Millisecond, Within: time.Hour, Budget: 1 << 20})
}

// once has the first request that matches suffer a fault.
func once(f fault, match func(r *http.Request) bool) func(r *http.Request) fault {
	var done atomic.Bool
	return func(r *http.Request) fault {
		if match(r) && done.CompareAndSwap(false, true) {
			return f
		}
		return none
	}
}

func method(m string) func(r *http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m }
}

// Each fault, once, in each direction: without retries the error is of the right
// kind; with them the request succeeds, and the object is the right one.
func TestEachFault(t *testing.T) {
	srv := versitygw(t)
	bucket := srv.bucket(t)
	data := remotetest.Random(1, 100_000)
	c := remote.Bytes(data)
	// What a put meets, and whether the object is there afterwards.
	puts := map[fault]struct {
		kind error
		done bool
	}{
		refused: {remote.ErrRetryable, false}, cutUp: {remote.ErrRetryable, false}, error500: {remote.ErrRetryable, false}, slowDown: {remote.ErrRetryable, false},
		page502: {remote.ErrRetryable, false}, hangs: {remote.ErrRetryable, false}, wrongUp: {remote.ErrDamaged, false},
		lost: {remote.ErrRetryable, true}, error500late: {remote.ErrRetryable, true},
	}
	// What a get meets. wrongDown is no error here: the caller's hash finds it.
	gets := map[fault]error{
		refused: remote.ErrRetryable, lost: remote.ErrRetryable, cutDown: remote.ErrRetryable, short: remote.ErrRetryable, error500: remote.ErrRetryable,
		slowDown: remote.ErrRetryable, page502: remote.ErrRetryable, hangs: remote.ErrRetryable,
	}
	through := func(decide func(r *http.Request) fault) *s3.Bucket {
		opt := srv.options(bucket)
		opt.Endpoint = newProxy(t, srv, decide).url
		opt.Stall = 300 * time.Millisecond
		return open(t, opt)
	}
	direct := open(t, srv.options(bucket))
	for f, want := range puts {
		t.Run("put "+f.String(), func(t *testing.T) {
			key := fmt.Sprintf("put/%d", f)
			_, err := through(once(f, method("PUT"))).PutIfAbsent(t.Context(), key, c)
			is(t, err, want.kind)
			_, err = direct.Stat(t.Context(), key)
			if there := err == nil; there != want.done {
				t.Fatalf("it is there: %v (%v)", there, err)
			}
			version, err := patient(through(once(f, method("PUT")))).PutIfAbsent(t.Context(), key+"again", c)
			must(t, err)
			info, same, err := remote.Same(t.Context(), direct, key+"again", c)
			if !same || info.Version != version {
				t.Fatalf("another object of version %q, said to be %q (%v)", info.Version, version, err)
			}
		})
	}
	must(t, direct.Put(t.Context(), "k", c))
	for f, kind := range gets {
		t.Run("get "+f.String(), func(t *testing.T) {
			p := make([]byte, 50_000)
			_, _, err := through(once(f, method("GET"))).Get(t.Context(), "k", p, 1000)
			is(t, err, kind)
			n, _, err := patient(through(once(f, method("GET")))).Get(t.Context(), "k", p, 1000)
			must(t, err)
			if n != len(p) || !bytes.Equal(p, data[1000:51_000]) {
				t.Fatal("other bytes")
			}
		})
	}
	t.Run("get wrong bytes", func(t *testing.T) {
		p := make([]byte, 50_000)
		verify := func(p []byte) error {
			if !bytes.Equal(p, data[1000:51_000]) {
				return errors.New("another hash")
			}
			return nil
		}
		_, err := remote.GetVerified(t.Context(), through(once(wrongDown, method("GET"))), "k", p, 1000, verify)
		must(t, err)
		_, err = remote.GetVerified(t.Context(), through(func(r *http.Request) fault { return wrongDown }), "k", p, 1000, verify)
		is(t, err, remote.ErrDamaged, "another hash")
	})
	for _, f := range []fault{refused, lost, cutDown, short, error500, page502} {
		t.Run("list "+f.String(), func(t *testing.T) {
			n := 0
			for _, err := range patient(through(once(f, isList))).List(t.Context(), "put/", "") {
				must(t, err)
				n++
			}
			if want := len(puts) + 2; n != want { // each again, and two the first time
				t.Errorf("%d objects, want %d", n, want)
			}
		})
	}
}

// What is fresh is sent without a question, and is nevertheless made once: if
// something lies there already, or the answer is lost, the next attempt finds it.
func TestFreshPut(t *testing.T) {
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			bucket := srv.bucket(t)
			opt := srv.options(bucket)
			data := remotetest.Random(1, 8<<20)
			c := remote.Bytes(data)
			c.Fresh = true
			p := newProxy(t, srv, func(*http.Request) fault { return none })
			opt.Endpoint = p.url
			_, err := open(t, opt).PutIfAbsent(t.Context(), "a", c)
			must(t, err)
			if n := p.made[none].Load(); n != 1 {
				t.Errorf("%d requests", n)
			}
			other := remote.Bytes(remotetest.Random(2, 8<<20))
			other.Fresh = true
			_, err = patient(open(t, srv.options(bucket))).PutIfAbsent(t.Context(), "a", other)
			is(t, err, remote.ErrExists)
			opt.Endpoint = newProxy(t, srv, once(lost, method("PUT"))).url
			_, err = patient(open(t, opt)).PutIfAbsent(t.Context(), "b", c)
			must(t, err)
			direct := open(t, srv.options(bucket))
			for _, key := range []string{"a", "b"} {
				if _, same, err := remote.Same(t.Context(), direct, key, c); !same {
					t.Errorf("%s is another object (%v)", key, err)
				}
			}
		})
	}
}

// The last request of many, whose condition decides: its answer is lost, the
// object is recognised, and no parts are left.
func TestLostCompletion(t *testing.T) {
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			bucket := srv.bucket(t)
			opt := srv.options(bucket)
			opt.PartSize = 5 << 20
			data := remote.Bytes(remotetest.Random(2, 11<<20))
			isLast := func(r *http.Request) bool {
				return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
			}
			for _, f := range []fault{lost, refused, error500late, slowDown} {
				opt.Endpoint = newProxy(t, srv, once(f, isLast)).url
				key := fmt.Sprintf("k%d", f)
				_, err := patient(open(t, opt)).PutIfAbsent(t.Context(), key, data)
				must(t, err)
				_, same, err := remote.Same(t.Context(), open(t, srv.options(bucket)), key, data)
				if !same {
					t.Errorf("%v: another object (%v)", f, err)
				}
			}
			srv.uploads(t, bucket)
		})
	}
}

// Parts that could not be taken back, as when the machine dies, are swept.
func TestSweep(t *testing.T) {
	srv := versitygw(t)
	bucket := srv.bucket(t)
	opt := srv.options(bucket)
	opt.PartSize, opt.Prefix = 5<<20, "p"
	opt.Endpoint = newProxy(t, srv, func(r *http.Request) fault {
		if r.Method == http.MethodDelete || r.URL.Query().Get("partNumber") == "2" {
			return refused
		}
		return none
	}).url
	is(t, open(t, opt).Put(t.Context(), "k", remote.Bytes(remotetest.Random(1, 11<<20))), remote.ErrRetryable)
	opt.Endpoint = srv.url
	b := open(t, opt)
	for _, c := range []struct {
		age  time.Duration
		want int
	}{{time.Hour, 0}, {0, 1}, {0, 0}} {
		if n, err := b.Sweep(t.Context(), c.age); n != c.want || err != nil {
			t.Errorf("older than %v: %d, %v, want %d", c.age, n, err, c.want)
		}
	}
	srv.uploads(t, bucket)
}

// renewing are credentials that were right an hour ago, and others when they are
// asked for again.
type renewing struct {
	asked atomic.Int64
	next  aws.CredentialsProvider
}

func (r *renewing) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if r.asked.Add(1) == 1 || r.next == nil {
		return aws.Credentials{AccessKeyID: "expired", SecretAccessKey: "x", SessionToken: "t"}, nil
	}
	return r.next.Retrieve(ctx)
}

// Credentials that have expired are asked for anew, once; if there are no others,
// that is what is said.
func TestExpiredCredentials(t *testing.T) {
	srv := versitygw(t)
	bucket := srv.bucket(t)
	p := newProxy(t, srv, func(r *http.Request) fault { return none })
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if bytes.Contains([]byte(r.Header.Get("Authorization")), []byte("Credential=expired/")) {
			s3Error(w, 403, "ExpiredToken")
			return
		}
		p.ServeHTTP(w, r)
	})
	opt := srv.options(bucket)
	opt.Endpoint = serve(t, front)
	creds := &renewing{next: keys()}
	opt.Credentials = creds
	b := open(t, opt)
	c := remote.Bytes([]byte("x"))
	must(t, b.Put(t.Context(), "k", c))
	must(t, b.Put(t.Context(), "k", c))
	if n := creds.asked.Load(); n != 2 {
		t.Errorf("credentials were asked for %d times", n)
	}
	opt.Credentials = &renewing{}
	_, _, err := open(t, opt).Get(t.Context(), "k", make([]byte, 1), 0)
	is(t, err, remote.ErrAccess, "expired")
}

// Several writers, each with keys of its own, while a third of all requests meet
// a fault. Nothing that was answered is wrong, and an object of one's own is
// never taken for another's.
func TestManyFaults(t *testing.T) {
	want := int64(number(t, "STEPFS_REMOTE_FAULTS", 500))
	seed := uint64(number(t, "STEPFS_SEED", int(time.Now().UnixNano())))
	t.Logf("seed: STEPFS_SEED=%d", seed)
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			bucket := srv.bucket(t)
			var mu sync.Mutex
			rnd := rand.New(rand.NewPCG(seed, 1))
			p := newProxy(t, srv, func(r *http.Request) fault {
				mu.Lock()
				defer mu.Unlock()
				f := none
				if rnd.IntN(3) == 0 {
					f = fault(rnd.IntN(int(faults)))
				}
				if f == hangs && rnd.IntN(10) > 0 || f == wrongDown && isList(r) {
					f = refused // hanging takes long; a wrong name in a list nobody can find
				}
				return f
			})
			opt := srv.options(bucket)
			opt.Endpoint, opt.PartSize, opt.Stall = p.url, 5<<20, 500*time.Millisecond
			b := patient(open(t, opt))
			var wg sync.WaitGroup
			for w := range 6 {
				wg.Go(func() {
					writer := writer{t: t, b: b, rnd: rand.New(rand.NewPCG(seed, uint64(w)+2)), name: fmt.Sprintf("w%d", w), has: map[string][]byte{}}
					for round := 0; p.count() < want && !t.Failed(); round++ {
						writer.round(round)
					}
					writer.check(open(t, srv.options(bucket)))
				})
			}
			wg.Wait()
			for f := refused; f < faults; f++ {
				t.Logf("%5d × %v", p.made[f].Load(), f)
			}
			_, err := open(t, srv.options(bucket)).Sweep(t.Context(), 0) // what could not be taken back
			must(t, err)
			srv.uploads(t, bucket)
		})
	}
}

// writer does everything to keys of its own, and knows what should be there.
type writer struct {
	t    *testing.T
	b    remote.Bucket
	rnd  *rand.Rand
	name string
	has  map[string][]byte
}

func (w *writer) round(round int) {
	size := int64(w.rnd.IntN(200_000))
	if w.rnd.IntN(40) == 0 {
		size = 5<<20 + size // in parts
	}
	data := remotetest.Random(w.rnd.Uint64(), size)
	key := fmt.Sprintf("%s/%04d", w.name, round)
	ctx := w.t.Context()
	version, err := w.b.PutIfAbsent(ctx, key, remote.Bytes(data))
	if err != nil {
		w.t.Errorf("%s: %v", key, err)
		return
	}
	w.has[key] = data
	if size < 50_000 {
		data = fmt.Appendf(nil, "replaced in round %d", round)
		if _, err := w.b.ReplaceIfMatch(ctx, key, version, remote.Bytes(data)); err != nil {
			w.t.Errorf("replace %s: %v", key, err)
			return
		}
		w.has[key] = data
	}
	for key, data := range w.has { // any of them
		off := w.rnd.IntN(len(data) + 1)
		p := make([]byte, w.rnd.IntN(len(data)-off+1))
		for range 10 { // wrong twice in a row may well be
			_, err = remote.GetVerified(ctx, w.b, key, p, int64(off), func(p []byte) error {
				if !bytes.Equal(p, data[off:off+len(p)]) {
					return errors.New("other bytes")
				}
				return nil
			})
			if !errors.Is(err, remote.ErrDamaged) {
				break
			}
		}
		if err != nil {
			w.t.Errorf("get %d bytes of %s from %d: %v", len(p), key, off, err)
		}
		if w.rnd.IntN(4) == 0 {
			if err := w.b.Delete(ctx, key); err != nil {
				w.t.Errorf("delete %s: %v", key, err)
			}
			delete(w.has, key)
		}
		break
	}
}

// check holds what is on the server, seen without faults, against what should be.
func (w *writer) check(b remote.Bucket) {
	n := 0
	for o, err := range b.List(w.t.Context(), w.name+"/", "") {
		if err != nil {
			w.t.Error(err)
			return
		}
		n++
		data, ours := w.has[o.Key]
		got, _, err := remote.ReadAll(w.t.Context(), b, o.Key, 10<<20)
		if !ours || err != nil || !bytes.Equal(got, data) {
			w.t.Errorf("%s has %d bytes, and should have %d (%v)", o.Key, len(got), len(data), err)
		}
	}
	if n != len(w.has) {
		w.t.Errorf("%s: %d objects, and should be %d", w.name, n, len(w.has))
	}
}
