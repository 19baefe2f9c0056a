package dir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/dir"
	"stepfs/chunkstore/remote/remotetest"
)

func open(t *testing.T, fs vfs.FS, root string) *dir.Bucket {
	t.Helper()
	b, err := dir.Open(fs, root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// noTemps fails the test if temporary files are left.
func noTemps(root *string) func(t *testing.T) {
	return func(t *testing.T) {
		if left, _ := filepath.Glob(filepath.Join(*root, ".tmp", "*")); len(left) > 0 {
			t.Errorf("left over are %q", left)
		}
	}
}

func TestConformance(t *testing.T) {
	var root string
	remotetest.Suite{Check: noTemps(&root), New: func(t *testing.T) remote.Bucket {
		root = t.TempDir()
		return open(t, vfs.Default, root)
	}}.Run(t)
}

// noLinks is a filesystem that has no hard links.
type noLinks struct{ vfs.FS }

func (noLinks) Link(string, string) error { return &os.LinkError{Op: "link", Err: syscall.EPERM} }
func (n noLinks) Unwrap() vfs.FS          { return n.FS }

func TestConformanceWithoutLinks(t *testing.T) {
	var root string
	remotetest.Suite{Check: noTemps(&root), Listed: 50, New: func(t *testing.T) remote.Bucket {
		root = t.TempDir()
		return open(t, noLinks{vfs.Default}, root)
	}}.Run(t)
}

// Where nothing can be made without overwriting, that is said, and nothing made.
func TestNoWayWithoutOverwriting(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/b", 0o777); err != nil {
		t.Fatal(err)
	}
	b := open(t, noLinks{fs}, "/b")
	if _, err := b.PutIfAbsent(t.Context(), "k", remote.Bytes(nil)); err == nil || remote.Passing(err) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Stat(t.Context(), "k"); !errors.Is(err, remote.ErrNotExist) {
		t.Error(err)
	}
}

// linkedTwice is an NFS client that lost the answer to a link, and made it again.
type linkedTwice struct{ vfs.FS }

func (l linkedTwice) Link(from, to string) error {
	if err := l.FS.Link(from, to); err != nil {
		return err
	}
	return l.FS.Link(from, to)
}

// Who meets a name that he has made himself has it; who meets another's has not.
func TestLinkedTwice(t *testing.T) {
	b := open(t, linkedTwice{vfs.Default}, t.TempDir())
	if _, err := b.PutIfAbsent(t.Context(), "k", remote.Bytes([]byte("first"))); err != nil {
		t.Error(err)
	}
	if _, err := b.PutIfAbsent(t.Context(), "k", remote.Bytes([]byte("second"))); !errors.Is(err, remote.ErrExists) {
		t.Error(err)
	}
}

// A directory that is not there is not made: it may be one that is not mounted.
func TestNoDirectory(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(root, "no"), file} {
		if _, err := dir.Open(vfs.Default, path); !errors.Is(err, remote.ErrAddress) {
			t.Errorf("%s: %v", path, err)
		}
	}
	gone := filepath.Join(root, "gone")
	if err := os.Mkdir(gone, 0o777); err != nil {
		t.Fatal(err)
	}
	b := open(t, vfs.Default, gone)
	if err := b.Put(t.Context(), "a/b", remote.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "a/c", remote.Bytes(nil)); !errors.Is(err, remote.ErrAddress) {
		t.Errorf("put into what is gone: %v", err)
	}
	for _, err := range b.List(t.Context(), "", "") {
		if !errors.Is(err, remote.ErrAddress) {
			t.Errorf("list what is gone: %v", err)
		}
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("it was made: %v", err)
	}
}

// Two Buckets of one directory see each other's objects; a directory that
// somebody has removed is made again.
func TestTwoBuckets(t *testing.T) {
	root := t.TempDir()
	one, two := open(t, vfs.Default, root), open(t, vfs.Default, root)
	for range 2 {
		if err := one.Put(t.Context(), "a/b/c", remote.Bytes([]byte("x"))); err != nil {
			t.Fatal(err)
		}
		if _, err := two.PutIfAbsent(t.Context(), "a/b/c", remote.Bytes(nil)); !errors.Is(err, remote.ErrExists) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := two.PutIfAbsent(t.Context(), "a/b/c", remote.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
}

// What is not ours is not listed, nor taken for an object.
func TestStrangers(t *testing.T) {
	root := t.TempDir()
	b := open(t, vfs.Default, root)
	if err := b.Put(t.Context(), "a/k", remote.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README", ".hidden", "a/.nfs000", "a/K", "a/x y"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.Symlink("nowhere", filepath.Join(root, "a/dangling")), syscall.Mkfifo(filepath.Join(root, "a/fifo"), 0o666), os.Mkdir(filepath.Join(root, "empty"), 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, o.Key)
	}
	if !slices.Equal(got, []string{"a/k"}) {
		t.Errorf("listed are %q", got)
	}
	if err := b.Delete(t.Context(), "empty"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "empty")); err != nil {
		t.Errorf("a directory was deleted: %v", err)
	}
}

// Temporary files of crashes go after a day; those of writers at work stay.
func TestStaleTemps(t *testing.T) {
	root := t.TempDir()
	temp := filepath.Join(root, ".tmp")
	if err := os.Mkdir(temp, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour} {
		path := filepath.Join(temp, name)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, vfs.Default, root).Put(t.Context(), "k", remote.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(temp + "/*"); !slices.Equal(left, []string{temp + "/young"}) {
		t.Errorf("left are %q", left)
	}
}

const counterEnv = "STEPFS_TEST_COUNTER"

// TestMain is also the process that counts.
func TestMain(m *testing.M) {
	if root := os.Getenv(counterEnv); root != "" {
		if err := count(root, os.Getpid()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const counts = 50

func count(root string, by int) error {
	b, err := dir.Open(vfs.Default, root)
	if err != nil {
		return err
	}
	for done := 0; done < counts; {
		p, info, err := remote.ReadAll(context.Background(), b, "counter", 100)
		if err != nil {
			return err
		}
		var n int
		if _, err := fmt.Sscanf(string(p), "%d", &n); err != nil {
			return err
		}
		_, err = b.ReplaceIfMatch(context.Background(), "counter", info.Version, remote.Bytes(fmt.Appendf(nil, "%d by %d", n+1, by)))
		if err == nil {
			done++
		} else if !errors.Is(err, remote.ErrChanged) {
			return err
		}
	}
	return nil
}

// Several processes, and several Buckets in one, replace one object: none
// overwrites what another put.
func TestProcesses(t *testing.T) {
	root := t.TempDir()
	if err := open(t, vfs.Default, root).Put(t.Context(), "counter", remote.Bytes([]byte("0"))); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 3 {
		go func() {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), counterEnv+"="+root)
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Run(); err != nil {
				done <- fmt.Errorf("%w: %s", err, said.Bytes())
				return
			}
			done <- nil
		}()
		go func() { done <- count(root, 0) }()
	}
	for range 6 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	p, err := os.ReadFile(filepath.Join(root, "counter"))
	if want := fmt.Sprint(6 * counts); err != nil || !bytes.HasPrefix(p, []byte(want+" ")) {
		t.Errorf("counted are %q, want %s (%v)", p, want, err)
	}
}

// While another has the lock, who replaces waits, for as long as he wants.
func TestLockIsWaitedFor(t *testing.T) {
	root := t.TempDir()
	b := open(t, vfs.Default, root)
	version, err := b.PutIfAbsent(t.Context(), "k", remote.Bytes(nil))
	if err != nil {
		t.Fatal(err)
	}
	l, err := vfs.Default.Lock(filepath.Join(root, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.ReplaceIfMatch(ctx, "k", version, remote.Bytes([]byte("x"))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with the lock taken: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReplaceIfMatch(t.Context(), "k", version, remote.Bytes([]byte("x"))); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	for errno, kind := range map[syscall.Errno]error{
		syscall.ENOSPC: remote.ErrFull, syscall.EDQUOT: remote.ErrFull, syscall.EACCES: remote.ErrAccess, syscall.EROFS: remote.ErrAccess,
		syscall.EIO: remote.ErrRetryable, syscall.ESTALE: remote.ErrRetryable, syscall.ENOTCONN: remote.ErrRetryable,
	} {
		mem := vfs.NewMem()
		if err := mem.MkdirAll("/b", 0o777); err != nil {
			t.Fatal(err)
		}
		b := open(t, failing{mem, errno}, "/b")
		if err := b.Put(t.Context(), "k", remote.Bytes(nil)); !errors.Is(err, kind) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// failing is a filesystem on which no file can be made.
type failing struct {
	vfs.FS
	errno syscall.Errno
}

func (f failing) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, &os.PathError{Op: "open", Path: name, Err: f.errno}
}
