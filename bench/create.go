package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createIn creates, writes and closes n files of 4 KiB.
func createIn(dir string, n int) error {
	src := newSource(7)
	for i := range n {
		fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("f%06d", i)), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		page := src.next()[:4096]
		if _, err := unix.Write(fd, page); err != nil {
			unix.Close(fd)
			return err
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// createFiles compares small files: native, stepfs, and go-fuse's loopback,
// which shows what going through FUSE costs by itself.
func createFiles(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("create + write + close of %d files of 4 KiB", b.files),
		Target: "0.12 of native, stretch 0.2",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	native, err := b.native()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(native)
	peer, err := b.startLoopback()
	if err != nil {
		return r, err
	}
	defer peer.close()

	rate := func(base string) func() (float64, error) {
		return func() (float64, error) {
			dir, err := os.MkdirTemp(base, "create-")
			if err != nil {
				return 0, err
			}
			t, err := seconds(func() error { return createIn(dir, b.files) })
			os.RemoveAll(dir)
			return float64(b.files) / t, err
		}
	}
	m, err := b.turns(rate(native), rate(d.Mnt), rate(peer.mnt))
	if err != nil {
		return r, err
	}
	r.add("native", m[0], "files/s")
	r.add("stepfs", m[1], "files/s")
	r.add("go-fuse loopback", m[2], "files/s")
	r.add("ratio", m[1]/m[0], "")
	r.add("ratio of loopback", m[2]/m[0], "")
	r.Met = m[1] >= 0.12*m[0]
	return r, nil
}
