package s3

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"stepfs/chunkstore/remote/probe"
	"stepfs/chunkstore/remote/s3"
)

// probed gives what is found, by name. No version of anything may be left over.
func probed(t *testing.T, s *server, opt s3.Options) map[string]probe.Finding {
	t.Helper()
	findings, err := probe.Run(t.Context(), open(t, opt))
	must(t, err)
	byName := map[string]probe.Finding{}
	for _, f := range findings {
		t.Logf("%s: %s (%s)", f.Name, f.Verdict, f.Detail)
		byName[f.Name] = f
	}
	out, err := s.plain().ListObjectVersions(t.Context(), &awss3.ListObjectVersionsInput{Bucket: &opt.Bucket})
	must(t, err)
	if n := len(out.Versions) + len(out.DeleteMarkers); n > 0 {
		t.Errorf("%d versions are left over", n)
	}
	s.uploads(t, opt.Bucket)
	return byName
}

func verdicts(t *testing.T, found map[string]probe.Finding, want map[string]probe.Verdict) {
	t.Helper()
	for name, v := range want {
		if found[name].Verdict != v {
			t.Errorf("%s: %q, want %q (%s)", name, found[name].Verdict, v, found[name].Detail)
		}
	}
	if left, dirty := found["cleans up"]; dirty {
		t.Error(left.Detail)
	}
}

// needed are what every honest server has.
var needed = map[string]probe.Verdict{
	"keeps objects": probe.Yes, "ranges": probe.Yes, "lists in order, at once": probe.Yes, "put if absent": probe.Yes,
	"replace if match": probe.Yes, "deletes": probe.Yes, "clock": probe.Yes, "verifies what it is sent": probe.Yes, "put if absent, in parts": probe.Yes,
}

func TestProbe(t *testing.T) {
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			for _, checksum := range []string{"", "crc32c"} {
				opt := srv.options(srv.bucket(t))
				opt.Prefix, opt.Checksum = "some/where", checksum
				found := probed(t, srv, opt)
				verdicts(t, found, needed)
				verdicts(t, found, map[string]probe.Verdict{"keeps old versions": probe.No, "holds Object Lock": probe.No})
				for _, method := range []string{"SHA-256 of the signature: yes", "CRC-32C: yes"} {
					if d := found["verifies what it is sent"].Detail; !strings.Contains(d, method) {
						t.Errorf("not found: %s in %s", method, d)
					}
				}
			}

			versioned := srv.options(srv.bucket(t))
			_, err := srv.plain().PutBucketVersioning(t.Context(), &awss3.PutBucketVersioningInput{Bucket: &versioned.Bucket,
				VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled}})
			must(t, err)
			found := probed(t, srv, versioned)
			verdicts(t, found, needed)
			verdicts(t, found, map[string]probe.Verdict{"keeps old versions": probe.Yes, "holds Object Lock": probe.No})

			locked := srv.options(srv.bucket(t, func(in *awss3.CreateBucketInput) { in.ObjectLockEnabledForBucket = aws.Bool(true) }))
			found = probed(t, srv, locked)
			verdicts(t, found, needed)
			verdicts(t, found, map[string]probe.Verdict{"keeps old versions": probe.Yes, "holds Object Lock": probe.Yes})
		})
	}
}

// A server that accepts everything and holds nothing is found out.
func TestProbeLiar(t *testing.T) {
	srv := gofakes3(t)
	opt := srv.options(srv.bucket(t))
	found := probed(t, srv, opt)
	verdicts(t, found, map[string]probe.Verdict{"verifies what it is sent": probe.No, "holds Object Lock": probe.No})
}
