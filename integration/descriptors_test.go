package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stepfs/integration/harness"
)

// TestDescriptors: more files are open and written than the daemon may have
// open. All of it is there, commands and snapshots go on; and a mount with next
// to no descriptors is refused.
func TestDescriptors(t *testing.T) {
	d := prepare(t, "--seal-quiet", "1s")
	res, err := harness.Run("prlimit", "--nofile=128:128", root.Bin, "mount", d.Store, d.Mnt)
	must(t, err)
	if res.Code != 1 || !strings.Contains(res.Both(), "128 files may be open") {
		t.Errorf("exit code %d, %s", res.Code, res.Both())
	}
	d.Wrap = []string{"prlimit", "--nofile=1024:1024"}
	must(t, d.Start())
	const files = 1200 // 256 staging files may be open
	open := make([]*os.File, files)
	content := func(k int) []byte { return bytes.Repeat([]byte{byte(k), byte(k >> 8)}, 40<<10) }
	for k := range open {
		open[k], err = os.Create(filepath.Join(d.Mnt, fmt.Sprint(k)))
		must(t, err)
		_, err = open[k].Write(content(k))
		must(t, err)
	}
	must(t, open[0].Sync())
	if _, err := root.Must("status", d.Mnt); err != nil {
		t.Error(err)
	}
	for _, f := range open {
		must(t, f.Close())
	}
	must(t, os.Mkdir(filepath.Join(d.Mnt, "snapshots/x"), 0o755))
	for k := range open {
		got, err := os.ReadFile(filepath.Join(d.Mnt, "snapshots/x", fmt.Sprint(k)))
		if err != nil || !bytes.Equal(got, content(k)) {
			t.Errorf("file %d: %d bytes, %v", k, len(got), err)
		}
	}
	must(t, d.Stop())
}
