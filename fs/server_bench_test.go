package fs

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// BenchmarkServer compares our loop with go-fuse's own server (which can
// splice a READ from a file) on a file in memory: it measures what the road to
// the kernel costs and nothing else.
func BenchmarkServer(b *testing.B) {
	const size, block = 64 << 20, 1 << 20
	for _, kind := range []string{"ours", "gofuse", "gofuse-splice"} {
		for _, direct := range []bool{false, true} {
			mnt := benchMount(b, kind, direct)
			for _, op := range []string{"write", "read", "stat"} {
				b.Run(fmt.Sprintf("%s/direct=%v/%s", kind, direct, op), func(b *testing.B) {
					f, err := os.OpenFile(filepath.Join(mnt, "f"), os.O_RDWR, 0)
					if err != nil {
						b.Fatal(err)
					}
					defer f.Close()
					buf := make([]byte, block)
					if op != "stat" {
						b.SetBytes(block)
					}
					for i := range b.N {
						off := int64(i) * block % size
						switch op {
						case "write":
							_, err = f.WriteAt(buf, off)
						case "read":
							_, err = f.ReadAt(buf, off)
						default:
							_, err = os.Stat(f.Name())
						}
						if err != nil && err != io.EOF {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func benchMount(b *testing.B, kind string, direct bool) string {
	dir, err := os.MkdirTemp("/dev/shm", "stepfs-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	one := newOneFile(b, filepath.Join(dir, "backing"))
	if err := one.backing.Truncate(64 << 20); err != nil {
		b.Fatal(err)
	}
	one.direct, one.splice = direct, kind == "gofuse-splice"
	mnt := mountDir(b)
	if kind == "ours" {
		serveDir(b, mnt, one)
		return mnt
	}
	opts := ServerOptions{}.withDefaults().protocolOptions()
	opts.DirectMountStrict, opts.FsName, opts.Name = true, "bench", fsType
	opts.Options = []string{"default_permissions"}
	opts.DisableSplice = kind == "gofuse"
	opts.Logger = log.New(io.Discard, "", 0)
	s, err := fuse.NewServer(one, mnt, opts)
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve()
	if err := s.WaitMount(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			b.Error(err)
		}
	})
	return mnt
}
