package probe_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/dir"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/probe"
)

// run probes a bucket and gives what is not yes. Nothing may be left over.
func run(t *testing.T, b remote.Bucket) (bad map[string]probe.Verdict, usable bool) {
	t.Helper()
	findings, err := probe.Run(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	bad = map[string]probe.Verdict{}
	for _, f := range findings {
		t.Logf("%+v", f)
		if f.Verdict != probe.Yes {
			bad[f.Name] = f.Verdict
		}
	}
	for o := range remote.Base(b).List(t.Context(), "", "") {
		t.Errorf("%s is left over", o.Key)
	}
	return bad, probe.Usable(findings)
}

func TestHonest(t *testing.T) {
	d, err := dir.Open(vfs.Default, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []remote.Bucket{mem.New(), d} {
		if bad, usable := run(t, b); len(bad) > 0 || !usable {
			t.Errorf("%s: %v", b, bad)
		}
	}
}

// liar does less than it says.
type liar struct {
	*mem.Bucket
	lie string
}

// Unwrap has what is left over looked for in what is inside.
func (l *liar) Unwrap() remote.Bucket { return l.Bucket }

func (l *liar) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	if l.lie != "overwrites" {
		return l.Bucket.PutIfAbsent(ctx, key, c)
	}
	if err := l.Put(ctx, key, c); err != nil {
		return "", err
	}
	info, err := l.Bucket.Stat(ctx, key)
	return info.Version, err
}

func (l *liar) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	switch l.lie {
	case "replaces":
		return "v", l.Put(ctx, key, c)
	case "can't":
		return "", remote.Fail("replace", key, remote.ErrUnsupported, nil)
	}
	return l.Bucket.ReplaceIfMatch(ctx, key, version, c)
}

func (l *liar) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	if l.lie == "no ranges" {
		off = 0
	}
	return l.Bucket.Get(ctx, key, p, off)
}

func (l *liar) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	all := l.Bucket.List(ctx, prefix, after)
	if l.lie != "unordered" && l.lie != "late" {
		return all
	}
	var objects []remote.Object
	for o := range all {
		objects = append(objects, o)
	}
	if l.lie == "late" && len(objects) > 0 {
		objects = objects[1:]
	}
	if l.lie == "unordered" {
		slices.Reverse(objects)
	}
	return func(yield func(remote.Object, error) bool) {
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func TestLiars(t *testing.T) {
	for lie, name := range map[string]string{
		"overwrites": "put if absent", "replaces": "replace if match", "can't": "replace if match", "no ranges": "ranges",
		"unordered": "lists in order, at once", "late": "lists in order, at once",
	} {
		t.Run(lie, func(t *testing.T) {
			// A liar may not list what is to be cleaned up.
			l := &liar{mem.New(), lie}
			findings, err := probe.Run(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(findings, func(f probe.Finding) bool { return f.Name == name })
			if i < 0 || findings[i].Verdict != probe.No || !findings[i].Needed || findings[i].Detail == "" || probe.Usable(findings) {
				t.Errorf("found are %+v", findings)
			}
		})
	}
}

// What can't be tried is not claimed.
func TestUnknown(t *testing.T) {
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if verb == "replace" {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, nil)}
		}
		return fault.Fault{}
	})
	if bad, usable := run(t, b); usable || bad["replace if match"] != probe.Unknown {
		t.Errorf("found are %v, usable is %v", bad, usable)
	}
	denied := fault.New(mem.New(), func(verb, key string) fault.Fault {
		return fault.Fault{Before: remote.Fail(verb, key, remote.ErrAccess, nil)}
	})
	if findings, err := probe.Run(t.Context(), denied); !errors.Is(err, remote.ErrAccess) {
		t.Errorf("%+v, %v", findings, err)
	}
}
