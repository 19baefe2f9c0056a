package remotetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"stepfs/chunkstore/remote"
)

// atOnce runs fn n times at the same time.
func atOnce(n int, fn func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	wg.Wait()
}

// won gives the only one without an error; all others lost, in the way given.
func won(t *testing.T, errs []error, lost error) int {
	t.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("%d and %d have won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, lost):
			t.Fatalf("%d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody has won")
	}
	return winner
}

func (s Suite) racingPuts(t *testing.T, b remote.Bucket) {
	for round := range 3 {
		key, errs := fmt.Sprintf("race/%d", round), make([]error, s.Racers)
		content := func(i int) []byte { return Random(uint64(i), 10_000+int64(i)) }
		atOnce(s.Racers, func(i int) { _, errs[i] = b.PutIfAbsent(t.Context(), key, remote.Bytes(content(i))) })
		holds(t, b, key, content(won(t, errs, remote.ErrExists)))
	}
}

// racingLarge: of large objects, which are made by their last request, one wins
// too. A server may cut the connection of who has lost, so not all hear why.
func (s Suite) racingLarge(t *testing.T, b remote.Bucket) {
	const racers = 4
	errs := make([]error, racers)
	content := func(i int) []byte { return Random(uint64(i), s.Large) }
	atOnce(racers, func(i int) { _, errs[i] = b.PutIfAbsent(t.Context(), "large", remote.Bytes(content(i))) })
	for i, err := range errs {
		if remote.Passing(err) {
			errs[i] = remote.ErrExists
		}
	}
	holds(t, b, "large", content(won(t, errs, remote.ErrExists)))
}

func (s Suite) racingReplaces(t *testing.T, b remote.Bucket) {
	version, err := b.PutIfAbsent(t.Context(), "lease", remote.Bytes([]byte("nobody")))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		errs, versions := make([]error, s.Racers), make([]string, s.Racers)
		content := func(i int) []byte { return []byte(fmt.Sprintf("held by %d after %s", i, version)) }
		atOnce(s.Racers, func(i int) {
			versions[i], errs[i] = b.ReplaceIfMatch(t.Context(), "lease", version, remote.Bytes(content(i)))
		})
		winner := won(t, errs, remote.ErrChanged)
		if info := holds(t, b, "lease", content(winner)); info.Version != versions[winner] {
			t.Fatalf("the version is %q, and the winner has %q", info.Version, versions[winner])
		}
		version = versions[winner]
	}
}

// counter: several count in one object, each with what it read; nothing that
// was counted is lost.
func (s Suite) counter(t *testing.T, b remote.Bucket) {
	const workers, each = 4, 5
	content := func(n, by int) []byte { return fmt.Appendf(nil, "%d by %d", n, by) } // nobody else puts these bytes
	if _, err := b.PutIfAbsent(t.Context(), "counter", remote.Bytes(content(0, 0))); err != nil {
		t.Fatal(err)
	}
	read := func() (n int, version string, err error) {
		p, info, err := remote.ReadAll(t.Context(), b, "counter", 100)
		if err != nil {
			return 0, "", err
		}
		_, err = fmt.Sscanf(string(p), "%d by", &n)
		return n, info.Version, err
	}
	count := func(by int) error {
		for {
			n, version, err := read()
			if err != nil {
				return err
			}
			_, err = b.ReplaceIfMatch(t.Context(), "counter", version, remote.Bytes(content(n+1, by)))
			if !errors.Is(err, remote.ErrChanged) {
				return err
			}
		}
	}
	errs := make([]error, workers)
	atOnce(workers, func(i int) {
		for n := 0; n < each && errs[i] == nil; n++ {
			errs[i] = count(i)
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	// With faults one may count twice: see ReplaceIfMatch.
	if n, _, err := read(); n < workers*each || n > workers*each && !s.Faulty || err != nil {
		t.Fatalf("counted are %d of %d, %v", n, workers*each, err)
	}
}
