// Package location finds the bucket that a URL names.
//
//	s3://BUCKET/PREFIX?endpoint=URL&region=NAME&…
//	dir:/PATH or file:///PATH
package location

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/dir"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/meter"
	"stepfs/chunkstore/remote/retry"
	"stepfs/chunkstore/remote/s3"
)

// Location is where a bucket is.
type Location struct {
	Dir string     // a directory, if it is one
	S3  s3.Options // else
}

// parameters are what may stand behind the question mark.
var parameters = map[string]func(o *s3.Options, value string) error{
	"endpoint":      func(o *s3.Options, v string) error { o.Endpoint = v; return nil },
	"region":        func(o *s3.Options, v string) error { o.Region = v; return nil },
	"addressing":    func(o *s3.Options, v string) error { o.Addressing = v; return nil },
	"ca":            func(o *s3.Options, v string) error { o.CAFile = v; return nil },
	"checksum":      func(o *s3.Options, v string) error { o.Checksum = v; return nil },
	"sse":           func(o *s3.Options, v string) error { o.SSE = v; return nil },
	"kms-key":       func(o *s3.Options, v string) error { o.KMSKey = v; return nil },
	"storage-class": func(o *s3.Options, v string) error { o.StorageClass = v; return nil },
	"part-size": func(o *s3.Options, v string) (err error) {
		o.PartSize, err = size(v)
		return err
	},
}

// size reads a number of bytes such as 64M.
func size(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMG")
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30}
	by, ok := shift[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n > 1<<40>>by {
		return 0, fmt.Errorf("%q is no size, such as 64M", s)
	}
	return n << by, nil
}

// Parse reads a URL.
func Parse(s string) (Location, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		return Location{}, bad(s, "it has no scheme: s3://bucket/prefix or dir:/path")
	case scheme == "dir":
		return directory(s, rest)
	case scheme == "file":
		path, ok := strings.CutPrefix(rest, "//")
		if !ok {
			path = rest
		}
		return directory(s, path)
	case scheme == "s3":
		return bucket(s)
	}
	return Location{}, bad(s, "the scheme %q is not known; s3 and dir are", scheme)
}

func bad(url, format string, args ...any) error {
	return remote.Invalid(fmt.Sprintf("%q", shown(url)), "", format, args...)
}

// shown is a URL without what may be a secret in it.
func shown(s string) string {
	slash := strings.Index(s, "//")
	at := strings.LastIndex(s, "@")
	if slash >= 0 && at > slash {
		return s[:slash+2] + "…" + s[at:]
	}
	return s
}

func directory(s, path string) (Location, error) {
	if !filepath.IsAbs(path) {
		return Location{}, bad(s, "the path %q does not begin with a slash", path)
	}
	path = filepath.Clean(path)
	if path == "/" {
		return Location{}, bad(s, "the system's root can't be it")
	}
	return Location{Dir: path}, nil
}

func bucket(s string) (Location, error) {
	u, err := url.Parse(s)
	if err != nil { // it has the whole URL in it, and so what may be a secret
		return Location{}, bad(s, "it is no URL")
	}
	switch {
	case u.User != nil:
		return Location{}, bad(s, "credentials do not belong here but into the environment or AWS's files")
	case u.Opaque != "" || u.Host == "":
		return Location{}, bad(s, "there is no bucket in it: s3://bucket/prefix")
	case u.Port() != "":
		return Location{}, bad(s, "a bucket has no port; a server is named by ?endpoint=http://host:port")
	case u.Fragment != "":
		return Location{}, bad(s, "it has a part behind #")
	}
	o := s3.Options{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Location{}, bad(s, "what is behind the question mark: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set, ok := parameters[name]
		switch {
		case !ok:
			return Location{}, bad(s, "%q is not known; %s are", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		case len(query[name]) > 1:
			return Location{}, bad(s, "%s is given %d times", name, len(query[name]))
		case query[name][0] == "":
			return Location{}, bad(s, "%s has no value", name)
		}
		if err := set(&o, query[name][0]); err != nil {
			return Location{}, bad(s, "%s: %w", name, err)
		}
	}
	if err := o.Validate(); err != nil {
		var e *remote.Error
		if errors.As(err, &e) { // that it is invalid is said once
			err = e.Err
		}
		return Location{}, bad(s, "%w", err)
	}
	return Location{S3: o}, nil
}

// Open gives the bucket itself. Of a server nothing is asked yet.
func (l Location) Open(ctx context.Context) (remote.Bucket, error) {
	if l.Dir != "" {
		return dir.Open(vfs.Default, l.Dir)
	}
	return s3.Open(ctx, l.S3)
}

// Wrap puts around a bucket what everybody needs: requests that fail are made
// again, each attempt within the limits, and counted.
func Wrap(b remote.Bucket, again retry.Options, most limit.Options) (remote.Bucket, *meter.Bucket, error) {
	if err := again.Validate(); err != nil {
		return nil, nil, err
	}
	if err := most.Validate(); err != nil {
		return nil, nil, err
	}
	counted := meter.New(b)
	return retry.New(limit.New(counted, most), again), counted, nil
}
