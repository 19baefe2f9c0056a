package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holder is a process that keeps a mount busy.
type holder struct {
	PID     int
	Command string
	Path    string // what it holds
	How     string // open file, working directory, …
}

func (h holder) String() string {
	return fmt.Sprintf("pid %d (%s): %s %s", h.PID, h.Command, h.How, h.Path)
}

// maxHolders is how many are named; one is usually what it takes.
const maxHolders = 10

// holders looks through /proc for who holds something below dir: an open file,
// the working or root directory, a mapped file. It reads links only, which
// never touches the mount. Without root it sees the caller's own processes.
func holders(dir string) []holder {
	var found []holder
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if h, ok := holds(pid, dir); ok {
			if found = append(found, h); len(found) == maxHolders {
				break
			}
		}
	}
	return found
}

// holds gives the first reason for which a process holds dir.
func holds(pid int, dir string) (holder, bool) {
	base := fmt.Sprintf("/proc/%d/", pid)
	links := []struct{ path, how string }{
		{base + "cwd", "working directory"}, {base + "root", "root directory"}, {base + "exe", "runs"},
	}
	for _, sub := range []struct{ name, how string }{{"fd", "open"}, {"map_files", "maps"}} {
		entries, err := os.ReadDir(base + sub.name)
		if err != nil {
			continue // gone, or another user's
		}
		for _, e := range entries {
			links = append(links, struct{ path, how string }{filepath.Join(base, sub.name, e.Name()), sub.how})
		}
	}
	i := slices.IndexFunc(links, func(l struct{ path, how string }) bool {
		at, err := os.Readlink(l.path)
		return err == nil && dir != "/" && isWithin(at, dir)
	})
	if i < 0 {
		return holder{}, false
	}
	at, err := os.Readlink(links[i].path)
	if err != nil {
		return holder{}, false // it has just let go
	}
	return holder{PID: pid, Command: commandName(base), Path: at, How: links[i].how}, true
}

// commandName is what a process was started as; comm, which kernel threads and
// processes that cleared their arguments have, is cut at 15 bytes.
func commandName(base string) string {
	if b, err := os.ReadFile(base + "cmdline"); err == nil {
		if first, _, _ := strings.Cut(string(b), "\x00"); first != "" {
			return filepath.Base(first)
		}
	}
	b, err := os.ReadFile(base + "comm")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

// describeHolders ends a message about a busy mount.
func describeHolders(dir string) string {
	all := holders(dir)
	if len(all) == 0 {
		return "; no holder is visible from here (another user's, or in another container)"
	}
	var b strings.Builder
	b.WriteString("; it is held by:")
	for _, h := range all {
		fmt.Fprintf(&b, "\n  %v", h)
	}
	return b.String()
}
