package dir_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/remotetest"
)

// state is what a directory may hold for each key: any of these contents; nil
// stands for no object.
type state map[string][][]byte

func content(n int) []byte { return remotetest.Random(uint64(n), int64(n)*7919) }

// mayHold says what is wrong with what a directory holds after a crash.
func mayHold(t *testing.T, fs vfs.FS, want state) error {
	b := open(t, fs, "/b")
	found := map[string]bool{}
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			return err
		}
		got, _, err := remote.ReadAll(t.Context(), b, o.Key, 1<<20)
		if err != nil {
			return err
		}
		found[o.Key] = true
		if !slices.ContainsFunc(want[o.Key], func(w []byte) bool { return w != nil && bytes.Equal(w, got) }) {
			return fmt.Errorf("%s has %d bytes that nobody put there, or put there last", o.Key, len(got))
		}
	}
	for key, contents := range want {
		if !found[key] && !slices.ContainsFunc(contents, func(w []byte) bool { return w == nil }) {
			return fmt.Errorf("%s is gone", key)
		}
	}
	// Life goes on.
	return b.Put(t.Context(), "after", remote.Bytes(nil))
}

// history makes changes one after the other; around each, may says what a crash
// may leave.
func history(t *testing.T, b remote.Bucket, may func(state)) {
	now := state{}
	change := func(key string, to []byte, do func() error) {
		t.Helper()
		before := now[key]
		if before == nil {
			before = [][]byte{nil}
		}
		now[key] = [][]byte{before[0], to}
		may(now)
		if err := do(); err != nil {
			t.Fatal(err)
		}
		now[key] = [][]byte{to}
		may(now)
	}
	n, versions := 0, map[string]string{}
	for _, key := range []string{"k", "a/b/c/d", "a/b/e", "refs/w/1"} {
		n++
		change(key, content(n), func() error { return b.Put(t.Context(), key, remote.Bytes(content(n))) })
		n++
		change(key+".1", content(n), func() (err error) {
			versions[key], err = b.PutIfAbsent(t.Context(), key+".1", remote.Bytes(content(n)))
			return err
		})
		n++
		change(key, content(n), func() error { return b.Put(t.Context(), key, remote.Bytes(content(n))) })
		change(key+".1", []byte("replaced"), func() (err error) {
			_, err = b.ReplaceIfMatch(t.Context(), key+".1", versions[key], remote.Bytes([]byte("replaced")))
			return err
		})
		change(key, nil, func() error { return b.Delete(t.Context(), key) })
	}
}

// Power fails before each operation of the disk, with all that was not synced
// lost, kept, or half of it. What was answered is there, what was not is there
// whole or not at all.
func TestPowerCuts(t *testing.T) {
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll("/b", 0o777); err != nil {
		t.Fatal(err)
	}
	root, err := mem.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Sync(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	may, crashes := state{}, 0
	rnd := rand.New(rand.NewPCG(1, 2))
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 30, 70, 100} {
			crashes++
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rnd})
			if err := mayHold(t, clone, may); err != nil {
				t.Errorf("power cut before %v %s, %d%% of what was not synced kept: %v", op.Kind, op.Path, percent, err)
			}
		}
		return nil
	}))
	history(t, open(t, fs, "/b"), func(s state) { may = s })
	if crashes < 500 {
		t.Errorf("only %d power cuts", crashes)
	}
	t.Logf("%d power cuts", crashes)
}

// Each operation of the disk fails once. Whoever is told of it finds the object
// as it was or as it was to be, and can try again.
func TestFailingDisk(t *testing.T) {
	for k := 0; ; k++ {
		mem := vfs.NewMem()
		if err := mem.MkdirAll("/b", 0o777); err != nil {
			t.Fatal(err)
		}
		n := 0
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			n++
			if n == k+10 { // not while the directory is opened
				return syscall.EIO
			}
			return nil
		}))
		b := open(t, fs, "/b")
		failed := false
		try := func(what string, do func() error, ok func(error) bool) {
			if err := do(); err != nil {
				failed = true
				if !errors.Is(err, syscall.EIO) || !errors.Is(err, remote.ErrRetryable) {
					t.Errorf("operation %d, %s: %v", k, what, err)
				}
				if err := do(); !ok(err) {
					t.Errorf("operation %d, %s again: %v", k, what, err)
				}
			}
		}
		is := func(kinds ...error) func(error) bool {
			return func(err error) bool {
				return err == nil || slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
			}
		}
		c := remote.Bytes(content(20))
		try("put", func() error { return b.Put(t.Context(), "a/b", c) }, is())
		try("put if absent", func() error { _, err := b.PutIfAbsent(t.Context(), "a/c", c); return err }, is(remote.ErrExists))
		for _, key := range []string{"a/b", "a/c"} {
			if _, same, err := remote.Same(t.Context(), open(t, mem, "/b"), key, c); !same {
				t.Errorf("operation %d: %s is another: %v", k, key, err)
			}
		}
		try("delete", func() error { return b.Delete(t.Context(), "a/b") }, is())
		if _, err := open(t, mem, "/b").Stat(t.Context(), "a/b"); !errors.Is(err, remote.ErrNotExist) {
			t.Errorf("operation %d: it is still there: %v", k, err)
		}
		if !failed && n < k+10 {
			t.Logf("%d operations", n)
			return
		}
	}
}
