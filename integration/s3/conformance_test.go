package s3

import (
	"testing"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/remotetest"
	"stepfs/chunkstore/remote/s3"
)

// The contract holds on real servers: without and with a prefix, with checksums,
// and of objects that are sent in parts.
func TestConformance(t *testing.T) {
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			for _, c := range []struct {
				name   string
				change func(*s3.Options)
				listed int
			}{
				{"plain", func(o *s3.Options) {}, 1100},
				{"prefix", func(o *s3.Options) { o.Prefix = "runs/Llama 3+ä" }, 20},
				{"crc32c", func(o *s3.Options) { o.Checksum = "crc32c" }, 20},
				{"parts", func(o *s3.Options) { o.PartSize = 5 << 20 }, 20},
				{"parts-crc32c", func(o *s3.Options) { o.PartSize, o.Checksum = 5<<20, "crc32c" }, 20},
			} {
				t.Run(c.name, func(t *testing.T) {
					var last string
					remotetest.Suite{
						Listed: c.listed,
						Large:  12<<20 + 4321, // three parts
						New: func(t *testing.T) remote.Bucket {
							last = srv.bucket(t)
							opt := srv.options(last)
							c.change(&opt)
							return open(t, opt)
						},
						Check: func(t *testing.T) { srv.uploads(t, last) },
					}.Run(t)
				})
			}
		})
	}
}
