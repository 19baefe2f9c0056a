package main

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// otherDescriptors is how many descriptors everything but staging files may need: the
// index 512, packs, journal, the socket and its clients, the kernel's requests.
const otherDescriptors = 768

// stagingFiles is how many staging files may be open at a time. (Go has raised
// the process's limit as far as it goes.)
func stagingFiles() int64 {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur > math.MaxInt32 {
		return 0 // any number
	}
	return max(64, int64(lim.Cur)-otherDescriptors)
}

// minFiles is how many descriptors there have to be.
const minFiles = 1024

// checkDescriptors says when a mount would soon run out of descriptors.
func checkDescriptors() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur >= minFiles {
		return nil
	}
	return &systemError{fmt.Errorf("no more than %d files may be open, and a mount needs %d; raise the limit (ulimit -Hn %d as root, LimitNOFILE= in a unit, --ulimit nofile= of a container)",
		lim.Cur, minFiles, 8*minFiles)}
}
