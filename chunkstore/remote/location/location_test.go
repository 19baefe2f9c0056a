package location_test

import (
	"errors"
	"strings"
	"testing"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/remotetest"
	"stepfs/chunkstore/remote/retry"
	"stepfs/chunkstore/remote/s3"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]location.Location{
		"dir:/mnt/lustre/run":  {Dir: "/mnt/lustre/run"},
		"dir:/a/../b//c/":      {Dir: "/b/c"},
		"dir:/with space?&#@":  {Dir: "/with space?&#@"},
		"file:///mnt/x":        {Dir: "/mnt/x"},
		"file:/mnt/x":          {Dir: "/mnt/x"},
		"s3://bucket":          {S3: s3.Options{Bucket: "bucket"}},
		"s3://bucket/":         {S3: s3.Options{Bucket: "bucket"}},
		"s3://my.bucket_1/a/b": {S3: s3.Options{Bucket: "my.bucket_1", Prefix: "a/b"}},
		"s3://bucket/a%20b/":   {S3: s3.Options{Bucket: "bucket", Prefix: "a b"}},
		"s3://bucket/p?endpoint=https://s3.example.com:9000&region=eu-1&addressing=host&ca=/etc/ca.pem": {S3: s3.Options{
			Bucket: "bucket", Prefix: "p", Endpoint: "https://s3.example.com:9000", Region: "eu-1", Addressing: "host", CAFile: "/etc/ca.pem"}},
		"s3://bucket?checksum=crc32c&sse=aws:kms&kms-key=k1&storage-class=STANDARD_IA&part-size=64M": {S3: s3.Options{
			Bucket: "bucket", Checksum: "crc32c", SSE: "aws:kms", KMSKey: "k1", StorageClass: "STANDARD_IA", PartSize: 64 << 20}},
	} {
		got, err := location.Parse(url)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", url, got, err, want)
		}
	}
}

// What can't be read is named, and said what is wrong with; secrets are not
// repeated.
func TestParseErrors(t *testing.T) {
	for url, says := range map[string]string{
		"":                                   "no scheme",
		"/mnt/x":                             "no scheme",
		"bucket/prefix":                      "no scheme",
		"gs://bucket":                        `"gs" is not known`,
		"dir:":                               "does not begin with a slash",
		"dir:relative":                       `"relative" does not begin with a slash`,
		"dir:///":                            "the system's root",
		"file://host/path":                   "does not begin with a slash",
		"s3:bucket":                          "no bucket",
		"s3://":                              "no bucket",
		"s3:///prefix":                       "no bucket",
		"s3://ab":                            `"ab" can't be a bucket's name`,
		"s3://Bucket":                        `"Bucket" can't be`,
		"s3://127.0.0.1:9000/b":              "a bucket has no port",
		"s3://bucket/a//b":                   "empty name",
		"s3://bucket/../b":                   "dots",
		"s3://bucket/a%00b":                  "can't be a prefix",
		"s3://bucket/p#frag":                 "#",
		"s3://bucket/%zz":                    "no URL",
		"s3://bucket?regoin=x":               `"regoin" is not known`,
		"s3://bucket?region=a&region=b":      "2 times",
		"s3://bucket?region=":                "no value",
		"s3://bucket?endpoint=s3.x.com":      "no endpoint",
		"s3://bucket?endpoint=ftp://x.com":   "no endpoint",
		"s3://bucket?addressing=virtual":     `"virtual"`,
		"s3://bucket?checksum=md5":           `"md5"`,
		"s3://bucket?sse=none":               `"none"`,
		"s3://bucket?kms-key=k":              "needs sse=aws:kms",
		"s3://bucket?part-size=1M":           "5242880",
		"s3://bucket?part-size=64X":          `"64X"`,
		"s3://bucket?part-size=-5M":          `"-5M"`,
		"s3://bucket?part-size=99999999999G": "no size",
		"s3://bucket?a;b":                    "question mark",
		"s3://KEY:hush@bucket/p":             "credentials",
		"s3://KEY:hush%zz@bucket/p":          "no URL",
		"s3://bucket?endpoint=http://KEY:hush@host": "credentials",
	} {
		_, err := location.Parse(url)
		if !errors.Is(err, remote.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want one that says %q", url, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error repeats a secret: %v", url, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"s3://bucket/p?endpoint=http://x:1&part-size=64M", "dir:/x", "file:///x", "s3://a:b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := location.Parse(s)
		if err == nil && l.Dir == "" {
			if err := l.S3.Validate(); err != nil {
				t.Errorf("%q is taken, and not valid: %v", s, err)
			}
		}
	})
}

func TestOpen(t *testing.T) {
	root := t.TempDir()
	l, err := location.Parse("dir:" + root)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Open(t.Context())
	if err != nil || b.String() != "dir:"+root {
		t.Fatalf("%v, %v", b, err)
	}
	if l, err = location.Parse("s3://bucket/p?region=eu-1&endpoint=http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Open(t.Context()); err != nil || b.String() != "s3://bucket/p at http://127.0.0.1:1" {
		t.Fatalf("%v, %v", b, err)
	}
	if _, err = (location.Location{Dir: root + "/no"}).Open(t.Context()); !errors.Is(err, remote.ErrAddress) {
		t.Error(err)
	}
}

func TestWrap(t *testing.T) {
	remotetest.Suite{Listed: 50, New: func(t *testing.T) remote.Bucket {
		inner := mem.New()
		b, counted, err := location.Wrap(inner, retry.Options{}, limit.Options{Requests: 8})
		if err != nil || remote.Base(b) != remote.Bucket(inner) {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if s := counted.Stats(); s.InFlight != 0 || s.Put.Calls+s.PutIfAbsent.Calls+s.Get.Calls+s.Stat.Calls+s.List.Calls == 0 {
				t.Errorf("counted are %+v", s)
			}
		})
		return b
	}}.Run(t)
	if _, _, err := location.Wrap(mem.New(), retry.Options{Budget: -1}, limit.Options{}); err == nil {
		t.Error("a negative budget is taken")
	}
	if _, _, err := location.Wrap(mem.New(), retry.Options{}, limit.Options{Up: -1}); err == nil {
		t.Error("a negative limit is taken")
	}
}
