package posix

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// What two results are compared for is equality, but for what follows here and
// what scripts avoid. docs/POSIX.md tells users of each.
//
//	wantsPeerOff     calls that ext4 has and stepfs refuses: collapse and insert
//	                 range, RENAME_WHITEOUT; made on the mount alone
//	main_test.go     ext4 is mounted noatime, nosuid, nodev, as stepfs behaves
//	describe         the size of a directory, blocks
//	seekRight        where SEEK_DATA and SEEK_HOLE stop
//	callSeekdir      the order of names in a directory
//	stampOf          times of FIFOs
//	beyond           writes beyond the largest file of either, by the way
//	unaligned        O_DIRECT with what ext4 would refuse
//	compareRef       what O_PATH alone has open cannot be opened again
//	argument         no set-group-id without group execution, no more attributes
//	                 than ext4 has room for
//	notAsked         chown(2) of nothing, of others' programs
//	callSendfile     a file sent into itself: what is sent is not defined

// unaligned says whether a call at the descriptor's position would be one that
// ext4 refuses for O_DIRECT.
func (d *desc) unaligned() bool {
	if !d.direct {
		return false
	}
	pos, err := unix.Seek(d.fd, 0, unix.SEEK_CUR)
	var st unix.Stat_t
	return err != nil || pos%4096 != 0 || d.append && (unix.Fstat(d.fd, &st) != nil || st.Size%4096 != 0)
}

// beyond says whether a write is too far out and must not be tried. ext4 refuses
// it at once. A FUSE file's limit the kernel does not know; so before it asks it
// takes set-user-id away, and after an O_DIRECT write that failed it truncates
// the file to the size that it has. Both are changes of times.
func (d *desc) beyond(off string) bool {
	var st unix.Stat_t
	return num(off) > 1<<42 && (d.direct || unix.Fstat(d.fd, &st) != nil || st.Mode&0o6000 != 0)
}

// notAsked says whether chown(2) of nothing must not be tried: of a file of somebody
// else, with bits that it takes away. ext4 refuses that. Of a FUSE file the kernel does
// not ask whose it is, and what it sends looks as what it sends of its own accord.
func notAsked(st *unix.Stat_t, a []string) bool {
	me := unix.Geteuid()
	return num(a[1]) == -1 && num(a[2]) == -1 && st.Mode&0o6000 != 0 && me != 0 && uint32(me) != st.Uid
}

// seekRight says whether the answer to SEEK_DATA or SEEK_HOLE is a right one.
func seekRight(fd int, off, pos int64, hole bool, err error) (string, error) {
	const right = "a right answer"
	var st unix.Stat_t
	if e := unix.Fstat(fd, &st); e != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || off < 0 || off >= st.Size {
		return "", err
	}
	end := pos
	switch {
	case err == unix.ENXIO && !hole:
		end = st.Size // there must be no data at all
	case err != nil:
		return "", err
	case pos < off || pos > st.Size || pos == st.Size && !hole:
		return fmt.Sprintf("it is not at %d", pos), nil
	case pos == st.Size:
		return right, nil // every file ends in a hole
	case hole:
		off, end = pos, pos+1
	}
	end = min(end, off+4<<20) // a file may be a terabyte of hole
	for b := arena[:1<<20]; off < end; {
		n, e := unix.Pread(fd, b[:min(int64(len(b)), end-off)], off)
		if e != nil || n == 0 {
			break // write-only, or O_DIRECT: not to be looked at
		}
		if i := bytes.IndexFunc(b[:n], func(r rune) bool { return r != 0 }); i >= 0 {
			return fmt.Sprintf("there is data at %d", off+int64(i)), nil
		}
		off += int64(n)
	}
	return right, nil
}
