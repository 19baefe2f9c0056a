package posix

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

func callFsyncDir(s *side, a []string) (string, error) {
	fd, err := unix.Openat(s.root, expand(a[0]), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return "", unix.Fsync(fd)
}

// dirent is an entry as getdents64(2) gives it.
type dirent struct {
	name   string
	typ    byte
	cookie int64 // where to go on behind it
}

// getdents reads on in a directory, with a buffer that holds a few entries.
func getdents(fd int, buf []byte) ([]dirent, error) {
	n, err := unix.ReadDirent(fd, buf)
	if err != nil {
		return nil, err
	}
	var out []dirent
	for b := buf[:n]; len(b) > 0; {
		size := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := bytes.Cut(b[19:size], []byte{0})
		out = append(out, dirent{string(name), b[18], int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[size:]
	}
	return out, nil
}

func readAllDents(fd int) (all []dirent, err error) {
	buf := make([]byte, 512)
	for {
		some, err := getdents(fd, buf)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
	}
}

func (s *side) openDir(path string) (int, error) {
	return unix.Openat(s.root, expand(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func callReaddir(s *side, a []string) (string, error) {
	fd, err := s.openDir(a[0])
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	all, err := readAllDents(fd)
	var names []string
	for _, e := range all {
		names = append(names, fmt.Sprintf("%s/%d", e.name, e.typ))
	}
	sort.Strings(names)
	return strings.Join(names, " "), err
}

// callSeekdir reads a directory, changes it, and goes back to a place in it:
// what is there all the time must come exactly once. The order is each file
// system's own, so that is checked, not compared.
func callSeekdir(s *side, a []string) (string, error) {
	fd, err := s.openDir(a[0])
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	all, err := readAllDents(fd)
	if err != nil || len(all) == 0 {
		return "", err
	}
	added, removed := expand(a[1]), expand(a[2])
	made := unix.Symlinkat("target", fd, added)
	gone := unix.Unlinkat(fd, removed, 0)
	at := int(num(a[3])) % (len(all) + 1)
	cookie := int64(0)
	if at > 0 {
		cookie = all[at-1].cookie
	}
	if _, err := unix.Seek(fd, cookie, unix.SEEK_SET); err != nil {
		return "", err
	}
	rest, err := readAllDents(fd)
	if err != nil {
		return "", err
	}
	seen := map[string]int{}
	for _, e := range rest {
		seen[e.name]++
	}
	for i, e := range all {
		want := 0
		if i >= at {
			want = 1
		}
		if seen[e.name] != want && e.name != removed && e.name != added {
			return fmt.Sprintf("%q was seen %d times behind place %d of %d", e.name, seen[e.name], at, len(all)), nil
		}
		delete(seen, e.name)
	}
	delete(seen, added)
	return fmt.Sprintf("add %v, remove %v, strangers %d", errnoName(made), errnoName(gone), len(seen)), nil
}
