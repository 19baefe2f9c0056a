package retry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/remotetest"
	"stepfs/chunkstore/remote/retry"
)

var errTrouble = remote.Fail("test", "", remote.ErrRetryable, nil)

// The contract holds although a third of all requests fail, before or after
// they are made, or are made long after they failed.
func TestConformanceWithFaults(t *testing.T) {
	remotetest.Suite{Faulty: true, New: func(t *testing.T) remote.Bucket {
		faulty := fault.New(mem.New(), fault.Sometimes(0.3, 1))
		t.Cleanup(faulty.Wait)
		return retry.New(faulty, retry.Options{First: time.Millisecond, Most: 4 * time.Millisecond, Within: time.Hour, Budget: 1 << 20})
	}}.Run(t)
}

// script has the requests of one verb fail one after the other.
func script(verb string, faults ...fault.Fault) fault.Rule {
	var mu sync.Mutex
	return func(v, _ string) fault.Fault {
		mu.Lock()
		defer mu.Unlock()
		if v != verb || len(faults) == 0 {
			return fault.Fault{}
		}
		f := faults[0]
		faults = faults[1:]
		return f
	}
}

// A put whose answer was lost finds that the object is its own; one that was
// not made, and lost to another, finds that it is not.
func TestLostAnswer(t *testing.T) {
	ours, theirs := remote.Bytes([]byte("ours")), remote.Bytes([]byte("their"))
	for _, c := range []struct {
		name  string
		fault fault.Fault
		first bool // another comes first
		won   bool
	}{
		{"answer lost", fault.Fault{After: errTrouble}, false, true},
		{"not made", fault.Fault{Before: errTrouble}, false, true},
		{"answer lost, another was first", fault.Fault{After: errTrouble}, true, false},
		{"not made, another was first", fault.Fault{Before: errTrouble}, true, false},
	} {
		for _, verb := range []string{"put-if-absent", "replace"} {
			t.Run(verb+" "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					inner := mem.New()
					b := retry.New(fault.New(inner, script(verb, c.fault, c.fault)), retry.Options{})
					version, put, lost := "", b.PutIfAbsent, remote.ErrExists
					if verb == "replace" {
						v, err := inner.PutIfAbsent(t.Context(), "k", remote.Bytes([]byte("before")))
						if err != nil {
							t.Fatal(err)
						}
						lost = remote.ErrChanged
						put = func(ctx context.Context, key string, c remote.Content) (string, error) {
							return b.ReplaceIfMatch(ctx, key, v, c)
						}
					}
					if c.first {
						if err := inner.Put(t.Context(), "k", theirs); err != nil {
							t.Fatal(err)
						}
					}
					version, err := put(t.Context(), "k", ours)
					if won := err == nil; won != c.won || !won && !errors.Is(err, lost) {
						t.Fatalf("won is %v: %v", won, err)
					}
					info, err := inner.Stat(t.Context(), "k")
					if err != nil || c.won && info.Version != version {
						t.Fatalf("the version is %q, and is said to be %q (%v)", info.Version, version, err)
					}
				})
			})
		}
	}
}

// While it can't be found out whose object it is, nothing is claimed.
func TestLostAnswerUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		denied := remote.Fail("get", "k", remote.ErrAccess, nil)
		rule := func(verb, _ string) fault.Fault {
			if verb == "get" {
				return fault.Fault{Before: denied}
			}
			return fault.Fault{After: errTrouble}
		}
		b := retry.New(fault.New(mem.New(), rule), retry.Options{})
		_, err := b.PutIfAbsent(t.Context(), "k", remote.Bytes(nil))
		if err == nil || errors.Is(err, remote.ErrExists) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestWhatIsRetried(t *testing.T) {
	for _, c := range []struct {
		err   error
		again bool
	}{
		{remote.ErrRetryable, true}, {remote.ErrDamaged, true},
		{remote.ErrNotExist, false}, {remote.ErrAccess, false}, {remote.ErrClock, false}, {remote.ErrAddress, false}, {remote.ErrFull, false},
		{remote.ErrUnsupported, false}, {remote.ErrInvalid, false}, {remote.ErrContent, false}, {context.Canceled, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			made := 0
			b := retry.New(fault.New(mem.New(), func(verb, key string) fault.Fault {
				if made++; made < 4 {
					return fault.Fault{Before: remote.Fail(verb, key, c.err, nil)}
				}
				return fault.Fault{}
			}), retry.Options{})
			err := b.Put(t.Context(), "k", remote.Bytes(nil))
			if c.again && (err != nil || made != 4) || !c.again && (!errors.Is(err, c.err) || made != 1) {
				t.Errorf("%v: %d attempts, then %v", c.err, made, err)
			}
		})
	}
}

// A store that is down for good: waits grow, and end; what is said is what
// happened and how often it was tried.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begun := time.Now()
		b := retry.New(fault.New(mem.New(), func(string, string) fault.Fault {
			at = append(at, time.Since(begun))
			return fault.Fault{Before: errTrouble}
		}), retry.Options{First: time.Second, Most: 8 * time.Second, Within: time.Minute})
		_, err := b.Stat(t.Context(), "k")
		took := time.Since(begun)
		if !errors.Is(err, remote.ErrRetryable) || !strings.Contains(err.Error(), fmt.Sprintf("tried %d times", len(at))) {
			t.Errorf("%d attempts: %v", len(at), err)
		}
		if took > time.Minute || took < 50*time.Second {
			t.Errorf("gave up after %v", took)
		}
		most := time.Second
		for i := 1; i < len(at); i++ {
			if wait := at[i] - at[i-1]; wait < most/2 || wait > most {
				t.Errorf("wait %d is %v, and should be %v to %v", i, wait, most/2, most)
			}
			most = min(2*most, 8*time.Second)
		}
	})
}

// Many callers of a store that is down make no storm; what works gives the
// budget back.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, budget = 50, 20
		var mu sync.Mutex
		made, down := 0, true
		b := retry.New(fault.New(mem.New(), func(verb, key string) fault.Fault {
			mu.Lock()
			defer mu.Unlock()
			if made++; down {
				return fault.Fault{Before: errTrouble}
			}
			return fault.Fault{}
		}), retry.Options{Budget: budget, Within: time.Hour})
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if err := b.Delete(t.Context(), "k"); !errors.Is(err, remote.ErrRetryable) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if made != callers+budget {
			t.Errorf("%d attempts for %d callers with a budget of %d", made, callers, budget)
		}
		down = false
		for range 10 {
			if err := b.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
		}
		made, down = 0, true
		if err := b.Delete(t.Context(), "k"); err == nil || made != 2 {
			t.Errorf("after ten successes %d attempts are made: %v", made, err)
		}
	})
}

func TestCancelWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.New(fault.New(mem.New(), func(string, string) fault.Fault { return fault.Fault{Before: errTrouble} }),
			retry.Options{First: time.Hour, Most: time.Hour, Within: 24 * time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := b.Stat(ctx, "k")
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, remote.ErrRetryable) || time.Since(begun) != time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}

// A list that breaks off again and again has each object once.
func TestListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New()
		const n = 100
		for i := range n {
			if err := inner.Put(t.Context(), fmt.Sprintf("k%03d", i), remote.Bytes(nil)); err != nil {
				t.Fatal(err)
			}
		}
		calls := 0
		b := retry.New(fault.New(inner, func(string, string) fault.Fault {
			if calls++; calls%3 == 0 {
				return fault.Fault{Before: errTrouble}
			}
			return fault.Fault{}
		}), retry.Options{})
		i := 0
		for o, err := range b.List(t.Context(), "k", "") {
			if want := fmt.Sprintf("k%03d", i); err != nil || o.Key != want {
				t.Fatalf("got %q, %v, want %s", o.Key, err, want)
			}
			i++
		}
		if i != n {
			t.Errorf("%d objects of %d", i, n)
		}
	})
}

func TestValidate(t *testing.T) {
	for _, o := range []retry.Options{{First: -1}, {First: time.Hour}, {Within: -1}, {Budget: -1}} {
		if o.Validate() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	if err := (retry.Options{}).Validate(); err != nil {
		t.Error(err)
	}
}

// heard notes what is said of contents.
type heard struct {
	remote.Bucket
	fresh []bool
}

func (b *heard) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	b.fresh = append(b.fresh, c.Fresh)
	if len(b.fresh) < 3 {
		return "", errTrouble
	}
	return b.Bucket.PutIfAbsent(ctx, key, c)
}

// What was tried is not fresh any more: it may be there.
func TestFreshOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &heard{Bucket: mem.New()}
		c := remote.Bytes([]byte("x"))
		c.Fresh = true
		if _, err := retry.New(inner, retry.Options{}).PutIfAbsent(t.Context(), "k", c); err != nil || !slices.Equal(inner.fresh, []bool{true, false, false}) {
			t.Errorf("fresh at each attempt: %v (%v)", inner.fresh, err)
		}
	})
}
