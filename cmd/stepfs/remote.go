package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/retry"
)

func remoteCommand(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "remote",
		Short: "Look at an object store, and at what is published in it",
		Long: `Look at an object store, and at the snapshots that stepfs mount --remote publishes
in it: the bucket alone is enough for that, and for stepfs restore URL STEP TARGET.
URL is one of

  s3://BUCKET/PREFIX?NAME=VALUE&…   any S3-compatible server
  dir:/PATH                         a directory, on Lustre, GPFS, NFS or a disk

Credentials, region and endpoint come from where AWS's own tools take them
(AWS_ACCESS_KEY_ID and the other variables, ~/.aws, the machine's role); they
have no place in the URL, apart from what these say:

  endpoint=https://HOST:PORT   the server, if it is not AWS
  region=NAME
  addressing=path|host         whether the bucket is in the path or in the host's name
                               (default: host for AWS, path for others)
  ca=FILE                      certificates to trust
  checksum=crc32c|none         send checksums with everything (default: to AWS)
  sse=AES256|aws:kms, kms-key=ID, storage-class=NAME
                               for everything that is put
  part-size=SIZE               larger objects are sent in parts (default 128M)`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(remoteCheckCommand(g), remoteListCommand(g), remoteStatsCommand(g))
	c.AddCommand(remoteForgetCommand(g), remotePruneCommand(g))
	return c
}

// openRemote gives the bucket that a URL names, patient for as long as somebody
// waits at a terminal.
func openRemote(ctx context.Context, url string) (remote.Bucket, error) {
	l, err := location.Parse(url)
	if err != nil {
		return nil, err
	}
	b, err := l.Open(ctx)
	if err != nil {
		return nil, err
	}
	b, _, err = location.Wrap(b, retry.Options{Within: 15 * time.Second}, limit.Options{Requests: 32})
	return b, err
}
