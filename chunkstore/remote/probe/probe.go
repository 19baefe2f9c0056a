// Package probe finds out what an object store holds of the contract by trying
// it: what a server says of itself, and what it accepts without a word, proves
// nothing. It works under a key prefix of its own and removes what it made.
package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"stepfs/chunkstore/remote"
)

// Verdict is what trying has shown.
type Verdict string

// The verdicts. Unknown: it could not be tried.
const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Unknown Verdict = "unknown"
)

// Finding is one thing that was tried.
type Finding struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Needed  bool    `json:"needed"` // stepfs can't use a store without it
	Detail  string  `json:"detail,omitempty"`
}

// Inspector is a Bucket that can try more of its server than the contract asks
// for.
type Inspector interface {
	// Inspect tries it with keys that begin with prefix.
	Inspect(ctx context.Context, prefix string) []Finding
	// Purge removes everything whose key begins with prefix, old versions too.
	Purge(ctx context.Context, prefix string) error
}

// Reacher is a Bucket that can say whether it is there at all.
type Reacher interface {
	Reach(ctx context.Context) error
}

// Usable says whether everything that is needed is there.
func Usable(findings []Finding) bool {
	for _, f := range findings {
		if f.Needed && f.Verdict != Yes {
			return false
		}
	}
	return true
}

// racers is how many try the same thing at the same time.
const racers = 8

// Run tries everything. An error means that the store could not be tried at all.
func Run(ctx context.Context, b remote.Bucket) (findings []Finding, err error) {
	base := remote.Base(b)
	if r, ok := base.(Reacher); ok {
		if err := r.Reach(ctx); err != nil {
			return nil, err
		}
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	p := prober{b, "probe/" + hex.EncodeToString(random[:]) + "/"}
	// Without this nothing else can be tried, and its error says why.
	wrote := time.Now()
	if err := b.Put(ctx, p.prefix+"a/object", remote.Bytes(text)); err != nil {
		return nil, err
	}
	defer func() {
		if e := p.clean(context.WithoutCancel(ctx)); e != nil {
			findings = append(findings, Finding{"cleans up", No, false, e.Error()})
		}
	}()
	try := func(name string, needed bool, fn func(ctx context.Context) (string, error)) {
		f := Finding{Name: name, Needed: needed, Verdict: Yes}
		detail, err := fn(ctx)
		f.Detail = detail
		var lie *lieError
		switch {
		case errors.As(err, &lie), errors.Is(err, remote.ErrUnsupported):
			f.Verdict, f.Detail = No, err.Error()
		case err != nil:
			f.Verdict, f.Detail = Unknown, err.Error()
		}
		findings = append(findings, f)
	}
	try("keeps objects", true, p.keeps)
	try("ranges", true, p.ranges)
	try("lists in order, at once", true, p.lists)
	try("put if absent", true, p.putIfAbsent)
	try("replace if match", true, p.replaceIfMatch)
	try("deletes", true, p.deletes)
	try("clock", false, func(ctx context.Context) (string, error) { return p.clock(ctx, wrote) })
	if i, ok := base.(Inspector); ok {
		findings = append(findings, i.Inspect(ctx, p.prefix)...)
	}
	return findings, ctx.Err()
}

// lieError says that the store does not do what it should.
type lieError struct{ what string }

func (e *lieError) Error() string { return e.what }

func lie(format string, args ...any) error { return &lieError{fmt.Sprintf(format, args...)} }

var text = []byte("stepfs tries what this object store can do, and removes this object again")

type prober struct {
	b      remote.Bucket
	prefix string
}

// holds says whether an object has these bytes.
func (p prober) holds(ctx context.Context, key string, want []byte) error {
	got, _, err := remote.ReadAll(ctx, p.b, key, 1<<20)
	switch {
	case errors.Is(err, remote.ErrNotExist):
		return lie("an object that was put is not there")
	case err != nil:
		return err
	case !bytes.Equal(got, want):
		return lie("an object has other bytes than were put")
	}
	return nil
}

func (p prober) keeps(ctx context.Context) (string, error) {
	if err := p.holds(ctx, p.prefix+"a/object", text); err != nil {
		return "", err
	}
	if err := p.b.Put(ctx, p.prefix+"a/empty", remote.Bytes(nil)); err != nil {
		return "", err
	}
	return "", p.holds(ctx, p.prefix+"a/empty", nil)
}

func (p prober) ranges(ctx context.Context) (string, error) {
	got := make([]byte, 10)
	n, info, err := p.b.Get(ctx, p.prefix+"a/object", got, 7)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(got[:n], text[7:17]) || info.Size != int64(len(text)) {
		return "", lie("bytes 7 to 17 of an object are %q of %d, want %q of %d", got[:n], info.Size, text[7:17], len(text))
	}
	if n, _, err := p.b.Get(ctx, p.prefix+"a/object", got, int64(len(text))-3); err != io.EOF || n != 3 {
		return "", lie("the last 3 bytes are %d (%v)", n, err)
	}
	return "", nil
}

func (p prober) lists(ctx context.Context) (string, error) {
	// '-' sorts before '/', and that before '0'.
	want := []string{"a-b", "a/empty", "a/object", "a0"}
	for _, name := range []string{"a0", "a-b"} {
		if err := p.b.Put(ctx, p.prefix+name, remote.Bytes(text)); err != nil {
			return "", err
		}
	}
	n := 0
	for o, err := range p.b.List(ctx, p.prefix, "") {
		if err != nil {
			return "", err
		}
		if n >= len(want) || o.Key != p.prefix+want[n] {
			return "", lie("number %d of the list is %s, want %s", n, o.Key, p.prefix+want[min(n, len(want)-1)])
		}
		n++
	}
	if n < len(want) {
		return "", lie("%d of %d objects are listed", n, len(want))
	}
	return "", nil
}

// race has several put at the same time, each content another, and gives who
// has won. Whoever fails for another reason than having lost counts for neither.
func race(ctx context.Context, put func(i int) error, lost error) (winners []int, err error) {
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { errs[i] = put(i) })
	}
	wg.Wait()
	for i, e := range errs {
		switch {
		case e == nil:
			winners = append(winners, i)
		case !errors.Is(e, lost):
			err = e
		}
	}
	if len(winners) > 1 {
		return nil, lie("%d of %d at the same time were told that they had won", len(winners), racers)
	}
	if len(winners) == 0 && err == nil {
		err = lie("of %d at the same time nobody has won", racers)
	}
	if len(winners) == 0 {
		return nil, err
	}
	return winners, ctx.Err()
}

func racer(i int) []byte { return fmt.Appendf(nil, "number %d of those who try at the same time", i) }

func (p prober) putIfAbsent(ctx context.Context) (string, error) {
	key := p.prefix + "once"
	winners, err := race(ctx, func(i int) error {
		_, err := p.b.PutIfAbsent(ctx, key, remote.Bytes(racer(i)))
		return err
	}, remote.ErrExists)
	if err != nil {
		return "", err
	}
	switch _, err := p.b.PutIfAbsent(ctx, key, remote.Bytes(text)); {
	case err == nil:
		return "", lie("it overwrites what is there")
	case !errors.Is(err, remote.ErrExists):
		return "", err
	}
	return fmt.Sprintf("one of %d at the same time", racers), p.holds(ctx, key, racer(winners[0]))
}

func (p prober) replaceIfMatch(ctx context.Context) (string, error) {
	key := p.prefix + "lease"
	first, err := p.b.PutIfAbsent(ctx, key, remote.Bytes(text))
	if err != nil {
		return "", err
	}
	winners, err := race(ctx, func(i int) error {
		_, err := p.b.ReplaceIfMatch(ctx, key, first, remote.Bytes(racer(i)))
		return err
	}, remote.ErrChanged)
	if err != nil {
		return "", err
	}
	switch _, err := p.b.ReplaceIfMatch(ctx, key, first, remote.Bytes(text)); {
	case err == nil:
		return "", lie("it replaces another version than it was told")
	case !errors.Is(err, remote.ErrChanged):
		return "", err
	}
	switch _, err := p.b.ReplaceIfMatch(ctx, p.prefix+"nothing", first, remote.Bytes(text)); {
	case err == nil:
		return "", lie("it replaces what is not there")
	case !errors.Is(err, remote.ErrChanged):
		return "", err
	}
	return fmt.Sprintf("one of %d at the same time", racers), p.holds(ctx, key, racer(winners[0]))
}

func (p prober) deletes(ctx context.Context) (string, error) {
	for range 2 { // what is not there is deleted as well
		if err := p.b.Delete(ctx, p.prefix+"a/empty"); err != nil {
			return "", err
		}
	}
	if _, err := p.b.Stat(ctx, p.prefix+"a/empty"); err == nil {
		return "", lie("an object that was deleted is still there")
	} else if !errors.Is(err, remote.ErrNotExist) {
		return "", err
	}
	return "", nil
}

// clock says how far the store's clock is from this machine's.
func (p prober) clock(ctx context.Context, wrote time.Time) (string, error) {
	info, err := p.b.Stat(ctx, p.prefix+"a/object")
	if err != nil {
		return "", err
	}
	off := info.Modified.Sub(wrote).Round(time.Second)
	if off.Abs() > time.Minute {
		return "", lie("the store's clock is %v from this machine's", off)
	}
	return "", nil
}

// clean removes what was made.
func (p prober) clean(ctx context.Context) error {
	if i, ok := remote.Base(p.b).(Inspector); ok {
		return i.Purge(ctx, p.prefix)
	}
	for o, err := range p.b.List(ctx, p.prefix, "") {
		if err == nil {
			err = p.b.Delete(ctx, o.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
