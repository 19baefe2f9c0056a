package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPosix runs go-fuse's conformance tests, each on a mount of its own. One
// is left out, as go-fuse leaves it out on ext4: it wants two POSIX locks of
// the same process to conflict.
func TestPosix(t *testing.T) {
	for name, test := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, newMount(t).dir) })
	}
}
