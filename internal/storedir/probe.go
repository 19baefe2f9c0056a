package storedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// probe tries what the store cannot do without, on a scratch file:
//
//   - a rename replaces its target (config, recycled journal segments);
//   - an unlinked open file stays readable (staging files of removed files);
//   - SEEK_DATA tells holes from data: after a power cut that is how recovery
//     knows which writes reached the disk. A filesystem that calls a hole data
//     (NFS before 4.2 does) would give zeros for the older content, silently;
//   - a shared mapping can be read (the index's files).
//
// A full disk is no reason to refuse a store that is already there: the probe
// then passes and the open fails, or does not, on its own merits.
func probe(dir string, k Kind) error {
	f, err := os.CreateTemp(dir, "probe"+tempMark+"*")
	if err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return nil
		}
		return fmt.Errorf("%s: %w: %w", dir, ErrNotWritable, err)
	}
	name := f.Name()
	err = probeFile(f, name)
	err = errors.Join(err, f.Close())
	for _, leftover := range []string{name, name + "x"} {
		_ = os.Remove(leftover) // the next Open clears what stays
	}
	if err == nil || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return fmt.Errorf("%s is on %s: %w: %w; put the store on a local disk (ext4, xfs or btrfs)",
		filepath.Clean(dir), k.Name, ErrUnsuitable, err)
}

func probeFile(f *os.File, name string) error {
	const hole = 4 << 20 // larger than any block size in use
	block := make([]byte, 4096)
	block[0] = 1
	if _, err := f.WriteAt(block, hole); err != nil {
		return fmt.Errorf("writing behind a hole: %w", err)
	}
	at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	if err != nil {
		return fmt.Errorf("SEEK_DATA: %w", err)
	}
	if at == 0 {
		return errors.New("it does not tell holes from data (SEEK_DATA)")
	}
	if err := os.WriteFile(name+"x", []byte("old"), 0o600); err != nil {
		return fmt.Errorf("writing a second file: %w", err)
	}
	if err := os.Rename(name, name+"x"); err != nil {
		return fmt.Errorf("renaming over a file: %w", err)
	}
	if err := os.Remove(name + "x"); err != nil {
		return fmt.Errorf("removing an open file: %w", err)
	}
	if _, err := f.ReadAt(block, hole); err != nil || block[0] != 1 {
		return fmt.Errorf("reading a removed file: %w", err)
	}
	m, err := unix.Mmap(int(f.Fd()), hole, len(block), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping a file: %w", err)
	}
	return unix.Munmap(m)
}
