package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// fsType is what our mounts say they are.
const fsType = "fuse.stepfs"

// mountEntry is one line of /proc/self/mountinfo, as far as it matters here.
type mountEntry struct {
	Point  string
	Type   string
	Source string // of a stepfs mount: its store
}

// mounts lists what is mounted, in order: of two at one point the later is on top.
func mounts() ([]mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing what is mounted: %w", err)
	}
	defer f.Close()
	return parseMountinfo(f)
}

// parseMountinfo reads lines of the form (proc(5))
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
//
// with any number of fields before the lone hyphen.
func parseMountinfo(r io.Reader) ([]mountEntry, error) {
	var all []mountEntry
	for s := bufio.NewScanner(r); ; {
		if !s.Scan() {
			if err := s.Err(); err != nil {
				return nil, fmt.Errorf("reading mountinfo: %w", err)
			}
			return all, nil
		}
		before, after, ok := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 2 {
			continue
		}
		all = append(all, mountEntry{Point: unescape(left[4]), Type: right[0], Source: unescape(right[1])})
	}
}

// unescape undoes the octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return '0' <= c && c <= '7' }

// mountAt is what is mounted exactly at path.
func mountAt(all []mountEntry, path string) (mountEntry, bool) {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Point == path {
			return all[i], true
		}
	}
	return mountEntry{}, false
}

// mountOver is the mount that path is in: the one of the longest mountpoint.
func mountOver(all []mountEntry, path string) (best mountEntry, ok bool) {
	for _, m := range all {
		if isWithin(path, m.Point) && len(m.Point) >= len(best.Point) {
			best, ok = m, true
		}
	}
	return best, ok
}

// isWithin says whether path is dir or below it. Both are absolute and clean.
func isWithin(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+string(filepath.Separator))
}
