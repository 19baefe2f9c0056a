package integration

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// hunger is another program on the store's disk: it takes every byte that is
// free, and every byte that becomes free, until it is fed up.
type hunger struct {
	path string
	stop chan struct{}
	done sync.WaitGroup
	took int64
	rest sync.Mutex // held: it takes nothing for a while
}

func hungry(t *testing.T, dir string) *hunger {
	h := &hunger{path: filepath.Join(dir, "hunger"), stop: make(chan struct{})}
	f, err := os.Create(h.path)
	must(t, err)
	must(t, h.eat(f))
	h.done.Go(func() {
		defer f.Close()
		for {
			select {
			case <-h.stop:
				return
			case <-time.After(5 * time.Millisecond):
				h.rest.Lock()
				h.eat(f)
				h.rest.Unlock()
			}
		}
	})
	t.Cleanup(h.end)
	return h
}

// eat takes what there is, down to the last block.
func (h *hunger) eat(f *os.File) error {
	crumbs := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(crumbs)
	for size := len(crumbs); size >= 512; size /= 8 {
		for {
			n, err := f.Write(crumbs[:size])
			h.took += int64(n)
			if err != nil {
				break
			}
		}
	}
	if h.took == 0 {
		return fmt.Errorf("nothing was free")
	}
	return nil
}

func (h *hunger) end() {
	select {
	case <-h.stop:
		return
	default:
		close(h.stop)
	}
	h.done.Wait()
}

// TestHungryDisk: another program takes the disk to its last byte, and goes on
// taking. What makes room works all the same: names, deletes, barriers,
// snapshots, forgetting, pruning; and so does opening the store after kill -9,
// and after an orderly end. With the other program gone, work goes on.
func TestHungryDisk(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(fstype, func(t *testing.T) {
			dir := hungryDisk(t, fstype)
			d := prepare(t, "--seal-quiet", "200ms")
			d.Store = dir + "/store"
			must(t, d.Start())
			w := &wanting{t: t, d: d, files: map[string][]byte{}}
			rnd := rand.New(rand.NewSource(7))
			for i := range 6 {
				data := make([]byte, 2<<20+i)
				rnd.Read(data)
				name := fmt.Sprintf("f%d", i)
				must(t, os.WriteFile(filepath.Join(d.Mnt, name), data, 0o644))
				w.files[name] = data
				w.snapshot(fmt.Sprintf("s%d", i))
			}
			_, err := root.Must("drain", d.Mnt)
			must(t, err)
			eventually(t, "there is a ballast", func() bool { _, err := os.Stat(d.Store + "/ballast"); return err == nil })

			h := hungry(t, dir)
			w.work("while another program takes everything")
			time.Sleep(1500 * time.Millisecond) // the daemon has looked at the disk, and has given what it gives
			w.work("a while later")
			for round := range 2 {
				if round == 0 {
					must(t, d.Kill())
				} else {
					must(t, d.Stop())
				}
				h.rest.Lock() // else it is faster than the start
				if err = d.Start(); err == nil {
					eventually(t, "it says that it is ready", func() bool { return strings.Contains(d.Output(), "snapshots are in") || !d.Running() })
				}
				h.rest.Unlock()
				time.Sleep(100 * time.Millisecond) // it has eaten what the start left
				if err != nil || !d.Running() {
					t.Fatalf("it does not open on a full disk: %v\n%s", err, d.Output())
				}
				w.work(fmt.Sprintf("after restart %d on a full disk", round))
				if round == 0 { // room, so that there is a ballast again
					h.end()
					must(t, os.Remove(h.path))
					shell(t, "sync", "-f", dir)
					eventually(t, "the ballast is back", func() bool { i, err := os.Stat(d.Store + "/ballast"); return err == nil && i.Size() > 8<<20 })
					h = hungry(t, dir)
				}
			}
			h.end()
			must(t, os.Remove(h.path))
			shell(t, "sync", "-f", dir) // btrfs has the room when its transaction ends
			more := bytes.Repeat([]byte("room again"), 1<<18)
			eventually(t, "writes go on by themselves", func() bool { return os.WriteFile(d.Mnt+"/more", more, 0o644) == nil })
			w.files["more"] = more
			w.snapshot("more")
			w.verify("with room again")
			_, err = root.Must("check", "--read-data", d.Mnt)
			must(t, err)
			noPanic(t, d.Output())
		})
	}
}

func hungryDisk(t *testing.T, fstype string) string {
	t.Helper()
	if fstype != "tmpfs" {
		disk, err := root.NewLoopFS(fstype, diskSize)
		must(t, err)
		t.Cleanup(func() { must(t, disk.Close()) })
		return disk.Dir
	}
	dir := tempDir(t)
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// wanting is who uses a store on a full disk.
type wanting struct {
	t     *testing.T
	d     *harness.Daemon
	files map[string][]byte
	names []string // snapshots, oldest first
	sees  []map[string][]byte
	n     int
}

func (w *wanting) snapshot(name string) {
	w.t.Helper()
	snapshotNow(w.t, w.d, name)
	sees := map[string][]byte{}
	for k, v := range w.files {
		sees[k] = v
	}
	w.names, w.sees = append(w.names, name), append(w.sees, sees)
}

// work does what takes no room, or makes some; all of it has to succeed.
func (w *wanting) work(when string) {
	w.t.Helper()
	t := w.t
	w.verify(when)
	w.n++
	old := fmt.Sprintf("f%d", w.n-1)
	must(t, os.Rename(filepath.Join(w.d.Mnt, old), w.d.Mnt+"/moved"))
	must(t, os.Chmod(w.d.Mnt+"/moved", 0o600))
	must(t, os.Remove(w.d.Mnt+"/moved"))
	delete(w.files, old)
	dir, err := os.Open(w.d.Mnt)
	must(t, err)
	if err := dir.Sync(); err != nil {
		t.Errorf("%s: a barrier: %v", when, err)
	}
	must(t, dir.Close())
	w.snapshot(fmt.Sprintf("full%d", w.n))
	gone := w.names[0]
	w.names, w.sees = w.names[1:], w.sees[1:]
	_, err = root.Must("forget", w.d.Mnt, gone)
	must(t, err)
	_, err = root.Must("prune", "--wait", w.d.Mnt)
	must(t, err)
	w.verify(when + ", afterwards")
	if t.Failed() {
		t.Fatalf("%s\n%s", when, w.d.Output())
	}
}

// verify reads everything, and each snapshot.
func (w *wanting) verify(when string) {
	w.t.Helper()
	for name, want := range w.files {
		holds(w.t, filepath.Join(w.d.Mnt, name), want, when)
	}
	for i, sees := range w.sees {
		for name, want := range sees {
			holds(w.t, filepath.Join(w.d.Mnt, "snapshots", w.names[i], name), want, when)
		}
	}
}
