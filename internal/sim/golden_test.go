package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/simdisk"
	"stepfs/snapshot"
)

var update = flag.Bool("update", false, "write the golden traces anew")

// kindOf is what a file of a store is for.
func kindOf(p string) string {
	name := path.Base(p)
	switch dir := path.Base(path.Dir(p)); {
	case dir == "staging":
		return "staging file"
	case dir == "journal":
		return "journal segment"
	case dir == "packs" && strings.HasSuffix(name, ".tmp"):
		return "unnamed pack"
	case dir == "packs":
		return "pack"
	case dir == "index" && strings.HasSuffix(name, ".sst"):
		return "index table"
	case dir == "index" && strings.Contains(name, "."):
		return "index " + strings.Join(strings.Split(name, ".")[:2], " ")
	case dir == "index":
		return "index " + strings.TrimRight(name, "-0123456789")
	}
	return name + "/"
}

// tracer writes down the operations of a disk.
type tracer struct {
	mu    sync.Mutex
	lines []string
	last  time.Time
}

func (t *tracer) see(op simdisk.Op) error {
	if !op.Changes() {
		return nil
	}
	line := fmt.Sprintf("%-8s %s", op.Kind, kindOf(op.Path))
	if op.To != "" {
		line += " -> " + kindOf(op.To)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
	if n := len(t.lines); op.Kind != simdisk.Write || n == 0 || t.lines[n-1] != line {
		t.lines = append(t.lines, line) // writes in a row are one line
	}
	return nil
}

// quiet waits until nothing is done in the background any more.
func (t *tracer) quiet() {
	for {
		t.mu.Lock()
		calm := time.Since(t.last)
		t.mu.Unlock()
		if calm > 300*time.Millisecond {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// of gives what is done to a disk by fn, as a text.
func (t *tracer) of(fn func()) string {
	t.quiet()
	t.mu.Lock()
	t.lines = nil
	t.mu.Unlock()
	fn()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return "nothing\n"
	}
	return strings.Join(t.lines, "\n") + "\n"
}

// TestGoldenTraces holds what the commit path does to the disk, and in which
// order, against texts that were reviewed: -update writes them anew.
func TestGoldenTraces(t *testing.T) {
	disk, tr := newDisk(), &tracer{last: time.Now()}
	disk.Before(tr.see)
	s, err := open(disk, storeConf{boot: "boot", roomy: true, timeless: true})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(err)
	defer func() { ok(s.close(true)) }()
	rng := rand.New(rand.NewPCG(1, 1))
	create := func(name string, n int) (ino, fh uint64) {
		a, fh, err := s.tree.Create(stage.RootIno, name, 0o644, unix.O_RDWR, stage.Cred{})
		ok(err)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		for off := 0; off < n; off += 128 << 10 {
			_, err = s.tree.Write(a.Ino, fh, b[off:min(off+128<<10, n)], int64(off))
			ok(err)
		}
		return a.Ino, fh
	}
	shut := func(ino, fh uint64) {
		ok(s.tree.Flush(ino, fh, false))
		s.tree.Release(ino, fh)
	}
	var big, small, bfh, sfh uint64
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"write-1MiB-and-barrier", func() {
			big, bfh = create("big", 1<<20)
			_, err := s.m.Barrier(ctx, "fsync", big)
			ok(err)
		}},
		{"write-small-and-barrier", func() {
			small, sfh = create("small", 2000)
			_, err := s.m.Barrier(ctx, "fsync", small)
			ok(err)
		}},
		{"barrier-of-nothing-new", func() {
			_, err := s.m.Barrier(ctx, "fsync", small)
			ok(err)
		}},
		{"seal-and-ingest", func() {
			i, err := s.m.Snapshot(ctx, "", "one", "mkdir", nil)
			ok(err)
			for i.State != snapshot.StateStored { // by itself: a drain takes a barrier besides
				time.Sleep(5 * time.Millisecond)
				i, err = s.m.Get(i.Seq)
				ok(err)
			}
			tr.quiet()
		}},
		{"prune", func() {
			_, err := s.m.PruneNow(ctx, nil)
			ok(err)
		}},
	} {
		if step.name == "seal-and-ingest" { // they are closed, and settle, before
			shut(big, bfh)
			shut(small, sfh)
		}
		if step.name == "prune" { // by nobody but who is asked
			ok(s.close(true))
			s, err = open(disk, storeConf{boot: "boot", roomy: true, passive: true})
			ok(err)
			ok(s.tree.Unlink(stage.RootIno, "big"))
			_, err := s.m.Forget(snapshot.Forget{Names: []string{"one"}})
			ok(err)
			for range barriersKept + 1 { // none of those that are kept shows it
				shut(create("small2", 10))
				ok(s.tree.Unlink(stage.RootIno, "small2"))
				_, err := s.m.Barrier(ctx, "fsync")
				ok(err)
			}
		}
		got := tr.of(step.do)
		file := "testdata/" + step.name + ".txt"
		if *update {
			ok(os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		ok(err)
		if got != string(want) {
			t.Errorf("%s differs from %s (-update writes it anew):\n%s", step.name, file, got)
		}
	}
	if faults := s.faulty(); len(faults) > 0 {
		t.Error(faults)
	}
}
