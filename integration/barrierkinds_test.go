package integration

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// barrierKinds is every call that makes a barrier, each writing its file's own
// name into it.
func barrierKinds() map[string]func(path string) error {
	return map[string]func(path string) error{
		"fsync": func(p string) error { return writeAndThen(p, 0, func(f *os.File) error { return f.Sync() }) },
		"fdatasync": func(p string) error {
			return writeAndThen(p, 0, func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) })
		},
		"O_SYNC":  func(p string) error { return writeAndThen(p, unix.O_SYNC, func(*os.File) error { return nil }) },
		"O_DSYNC": func(p string) error { return writeAndThen(p, unix.O_DSYNC, func(*os.File) error { return nil }) },
		"msync":   writeMapped,
		"fsync of the directory": func(p string) error {
			if err := os.WriteFile(p, []byte(filepath.Base(p)), 0o644); err != nil {
				return err
			}
			d, err := os.Open(filepath.Dir(p))
			if err != nil {
				return err
			}
			defer d.Close()
			return d.Sync()
		},
	}
}

func writeAndThen(path string, flags int, sync func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(filepath.Base(path)); err != nil {
		return err
	}
	return sync(f)
}

func writeMapped(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	name := filepath.Base(path)
	if err := f.Truncate(int64(len(name))); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, len(name), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	copy(m, name)
	return unix.Msync(m, unix.MS_SYNC)
}
