package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// smallDir is what a directory with very many files is compared with.
const smallDir = 1000

// bigDirectory fills one directory, on both sides once, since that takes
// minutes, and then looks whether anything in it costs what its size is.
func bigDirectory(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("%d files in one directory", b.bigDir),
		Target: "create 0.12 and ls -U 0.25 of native; lookup, barrier and the second seal as in a small one",
	}
	d, err := b.mount("--seal-quiet", "1h")
	if err != nil {
		return r, err
	}
	native, err := b.native()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(native)
	var create [2]float64
	for i, base := range []string{native, d.Mnt} {
		unix.Sync()
		t, err := seconds(func() error { return touchIn(base+"/big", b.bigDir) })
		if err != nil {
			return r, err
		}
		create[i] = float64(b.bigDir) / t
		progress("side %d: %.0f files/s created", i, create[i])
	}
	if err := touchIn(d.Mnt+"/small", smallDir); err != nil {
		return r, err
	}
	list, err := b.turns(
		func() (float64, error) { return listRate(native+"/big", b.bigDir) },
		func() (float64, error) { return listRate(d.Mnt+"/big", b.bigDir) })
	if err != nil {
		return r, err
	}
	barrier, err := b.turns(
		func() (float64, error) { return changeAndSync(d.Mnt + "/small") },
		func() (float64, error) { return changeAndSync(d.Mnt + "/big") })
	if err != nil {
		return r, err
	}
	first, lookup, err := b.lookups(d)
	if err != nil {
		return r, err
	}
	r.add("native create", create[0], "files/s")
	r.add("stepfs create", create[1], "files/s")
	r.add("ratio", create[1]/create[0], "")
	r.add("native ls -U", list[0], "names/s")
	r.add("stepfs ls -U", list[1], "names/s")
	r.add("ratio", list[1]/list[0], "")
	r.add(fmt.Sprintf("lookup among %d", smallDir), lookup[0], "µs")
	r.add("lookup in it", lookup[1], "µs")
	r.add(fmt.Sprintf("the first after a mount, among %d", smallDir), first[0], "µs")
	r.add("the first after a mount, in it", first[1], "µs")
	r.add("barrier after a change in the small one", barrier[0], "ms")
	r.add("barrier after a change in it", barrier[1], "ms")
	seals, err := b.sealTwice(d, &r)
	if err != nil {
		return r, err
	}
	// A page of names, the index of pages and what lies above: no second copy.
	paged := seals[1] <= 0.1*seals[0]
	r.Met = create[1] >= 0.12*create[0] && list[1] >= 0.25*list[0] &&
		lookup[1] <= 1.5*lookup[0] && barrier[1] <= 1.2*barrier[0]+0.2 && paged
	r.Note = "lookups are of names that the kernel does not know; a barrier is an fsync of the directory after a create"
	return r, nil
}

// touchIn creates n empty files in a new directory.
func touchIn(dir string, n int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		fd, err := unix.Open(bigName(dir, i), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return fmt.Errorf("create file %d of %s: %w", i, dir, err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

func bigName(dir string, i int) string { return fmt.Sprintf("%s/f%07d", dir, i) }

// listRate runs ls -U and gives the names a second.
func listRate(dir string, n int) (float64, error) {
	t, err := seconds(func() error { return exec.Command("ls", "-U", dir).Run() })
	return float64(n) / t, err
}

// changeAndSync creates files and syncs the directory after each; it gives the
// median of the syncs in milliseconds.
func changeAndSync(path string) (float64, error) {
	dir, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	var times []float64
	for i := range 50 {
		name := filepath.Join(path, fmt.Sprintf("new%d-%d", time.Now().UnixNano(), i))
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			return 0, err
		}
		t, err := seconds(dir.Sync)
		if err != nil {
			return 0, err
		}
		times = append(times, t*1e3)
	}
	return percentile(times, 50), nil
}

// lookups starts the mount anew, so that the kernel knows no name, and times
// the stat of random files and then of their neighbours, whose part of the index
// has just been read: in the small directory and in the big one, in microseconds.
func (b *bench) lookups(d *harness.Daemon) (first, again [2]float64, err error) {
	var firsts, agains [2][]float64
	for round := range b.rounds + 1 {
		for i, dir := range []string{"/small", "/big"} {
			if err := d.Stop(); err != nil {
				return first, again, err
			}
			if err := d.Start(); err != nil {
				return first, again, err
			}
			pairs := rand.Perm([]int{smallDir, b.bigDir}[i] / 2)[:smallDir/2]
			for k, times := range []*[]float64{&firsts[i], &agains[i]} {
				t, err := seconds(func() error { return statAll(d.Mnt+dir, pairs, k) })
				if err != nil {
					return first, again, err
				}
				if round > 0 {
					*times = append(*times, t*1e6/float64(len(pairs)))
				}
			}
		}
	}
	for i := range 2 {
		first[i], again[i] = percentile(firsts[i], 50), percentile(agains[i], 50)
	}
	return first, again, nil
}

// statAll stats one file of each pair of neighbours.
func statAll(dir string, pairs []int, which int) error {
	var st unix.Stat_t
	for _, p := range pairs {
		if err := unix.Lstat(bigName(dir, 2*p+which), &st); err != nil {
			return err
		}
	}
	return nil
}

// sealTwice seals the tree, changes one file of the big directory and seals it
// again. It gives what each seal brought to the packs, in bytes.
func (b *bench) sealTwice(d *harness.Daemon, r *Result) (brought [2]float64, err error) {
	for i := range 2 {
		if err := os.WriteFile(bigName(d.Mnt+"/big", b.bigDir/2), []byte{byte(i)}, 0o644); err != nil {
			return brought, err
		}
		before, err := bytesBelow(d.Store + "/packs")
		if err != nil {
			return brought, err
		}
		seal, err := seconds(func() error { return os.Mkdir(fmt.Sprintf("%s/snapshots/s%d", d.Mnt, i), 0o755) })
		if err != nil {
			return brought, err
		}
		store, err := seconds(func() error { _, err := b.root.Must("drain", d.Mnt); return err })
		if err != nil {
			return brought, err
		}
		after, err := bytesBelow(d.Store + "/packs")
		if err != nil {
			return brought, err
		}
		brought[i] = float64(after - before)
		when := []string{"first", "second"}[i]
		r.add(when+" seal", seal*1e3, "ms")
		r.add(when+" seal, stored after", store, "s")
		r.add(when+" seal, in packs", brought[i]/1e3, "kB")
	}
	return brought, nil
}
