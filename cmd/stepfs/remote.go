package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/probe"
	"stepfs/chunkstore/remote/retry"
)

func remoteCommand(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "remote",
		Short: "Look at an object store",
		Long: `Look at an object store. Nothing of a store goes there yet. URL is one of

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
	c.AddCommand(remoteCheckCommand(g), remoteListCommand(g))
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
	b, _, err = location.Wrap(b, retry.Options{Within: 15 * time.Second}, limit.Options{Requests: 16})
	return b, err
}

// RemoteSummary is the last line of `stepfs remote check --json`.
type RemoteSummary struct {
	Address string `json:"address"`
	Usable  bool   `json:"usable"`
}

func remoteCheckCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "check URL",
		Short: "Find out what an object store can do, by trying",
		Long: `Find out what an object store can do, by trying: whether of several who put the
same object at the same time one wins, whether it refuses bytes that do not match
their checksum, whether it holds Object Lock. What it says of itself proves
nothing. All that is made lies below probe/ in the prefix, and is removed.

With --json each finding is a line, and the last line sums up.

Exit codes: 0 stepfs can use it, 1 it cannot be reached, or lacks something that
is needed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := openRemote(c.Context(), args[0])
			if err != nil {
				return err
			}
			findings, err := probe.Run(c.Context(), b)
			if err != nil {
				return err
			}
			return printFindings(c, g, b.String(), findings)
		},
	}
}

func printFindings(c *cobra.Command, g *global, address string, findings []probe.Finding) error {
	out := c.OutOrStdout()
	usable := probe.Usable(findings)
	if g.json {
		for _, f := range findings {
			if err := printJSON(out, f); err != nil {
				return err
			}
		}
		if err := printJSON(out, RemoteSummary{address, usable}); err != nil {
			return err
		}
	} else {
		t := table(out)
		for _, f := range findings {
			needed := ""
			if f.Needed && f.Verdict != probe.Yes {
				needed = "NEEDED"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, f.Verdict, needed, f.Detail)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if !usable {
		return errors.New("stepfs can't use this object store: it lacks what is needed")
	}
	return nil
}

// RemoteObject is a line of `stepfs remote ls --json`.
type RemoteObject struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

func remoteListCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "ls URL [PREFIX]",
		Short: "List the objects in an object store",
		Long: `List the objects in an object store whose keys begin with PREFIX. What stepfs can't
have put there is left out.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := openRemote(c.Context(), args[0])
			if err != nil {
				return err
			}
			prefix := ""
			if len(args) > 1 {
				prefix = args[1]
			}
			for o, err := range b.List(c.Context(), prefix, "") {
				if err == nil && g.json {
					err = printJSON(c.OutOrStdout(), RemoteObject(o))
				} else if err == nil {
					_, err = fmt.Fprintf(c.OutOrStdout(), "%10s  %s  %s\n", humanBytes(o.Size), humanTime(o.Modified), o.Key)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}
