package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"stepfs/chunkstore/remote"
)

// Options say where a bucket is and how to write to it. Zero values mean the
// defaults; only Bucket is needed.
type Options struct {
	Bucket   string
	Prefix   string // without slashes around it
	Endpoint string // URL; default: the environment's, or AWS
	Region   string // default: the chain's; us-east-1 for servers that are not AWS
	// Addressing is "path" (endpoint/bucket/key) or "host" (bucket.endpoint/key);
	// default: host for AWS, path for all others.
	Addressing string
	CAFile     string // certificates to trust, PEM; default: the system's, and AWS_CA_BUNDLE

	// Checksum is "crc32c" (sent with everything) or "none"; default: crc32c for
	// AWS, none for others.
	Checksum     string
	SSE          string // server-side encryption: "AES256" or "aws:kms"; default: the bucket's
	KMSKey       string
	StorageClass string

	PartSize int64         // objects larger than this are sent in parts of this size; 128 MiB
	Parts    int           // of one object, at a time; 4
	Stall    time.Duration // a connection on which nothing moves for so long is given up; 60 s

	Credentials aws.CredentialsProvider // for tests; default: the SDK's chain
}

// Limits of S3 for parts.
const (
	minPart = 5 << 20
	maxPart = 5 << 30
)

func (o Options) withDefaults() Options {
	if o.PartSize == 0 {
		// A pack of 64 MiB is one request; parts would be several.
		o.PartSize = 128 << 20
	}
	if o.Parts == 0 {
		o.Parts = 4
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	return o
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	bad := func(format string, args ...any) error {
		return remote.Invalid("s3", "", format, args...)
	}
	def := o.withDefaults()
	switch {
	case !bucketName(o.Bucket):
		return bad("%q can't be a bucket's name", o.Bucket)
	case len(o.Prefix) > 256 || !utf8.ValidString(o.Prefix) || strings.ContainsFunc(o.Prefix, func(r rune) bool { return r < ' ' }):
		return bad("%q can't be a prefix", o.Prefix)
	case o.Addressing != "" && o.Addressing != "path" && o.Addressing != "host":
		return bad("addressing is %q; path or host are known", o.Addressing)
	case o.Checksum != "" && o.Checksum != "crc32c" && o.Checksum != "none":
		return bad("checksum is %q; crc32c or none are known", o.Checksum)
	case o.SSE != "" && o.SSE != "AES256" && o.SSE != "aws:kms":
		return bad("sse is %q; AES256 or aws:kms are known", o.SSE)
	case o.KMSKey != "" && o.SSE != "aws:kms":
		return bad("a kms-key needs sse=aws:kms")
	case def.PartSize < minPart || def.PartSize > maxPart:
		return bad("parts of %d bytes; S3 takes %d to %d", o.PartSize, int64(minPart), int64(maxPart))
	case def.Parts < 1 || def.Stall < 0:
		return bad("%d parts at a time, given up after %v", o.Parts, o.Stall)
	}
	if o.Prefix != "" {
		for name := range strings.SplitSeq(o.Prefix, "/") {
			if name == "" || name == "." || name == ".." {
				return bad("the prefix %q has an empty name or dots", o.Prefix)
			}
		}
	}
	if o.Endpoint == "" {
		return nil
	}
	return checkEndpoint(o.Endpoint)
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return remote.Invalid("s3", "", "endpoint: %w", err)
	case u.User != nil:
		return remote.Invalid("s3", "", "the endpoint has credentials in it: they belong into the environment or AWS's files")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.RawQuery != "", u.Fragment != "":
		return remote.Invalid("s3", "", "%q is no endpoint, such as https://s3.example.com:9000", endpoint)
	}
	return nil
}

// bucketName holds a name to what all servers agree on.
func bucketName(s string) bool {
	if len(s) < 3 || len(s) > 63 || s[0] == '.' || s[0] == '-' || strings.Contains(s, "..") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
}

// Open gives the bucket. It asks nothing of the server: see Reach.
func Open(ctx context.Context, opt Options) (*Bucket, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	opt = opt.withDefaults()
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient(opt.Stall)),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if opt.Region != "" {
		load = append(load, config.WithRegion(opt.Region))
	}
	if opt.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(opt.Credentials))
	}
	if opt.CAFile != "" {
		pem, err := os.Open(opt.CAFile)
		if err != nil {
			return nil, remote.Fail("s3", "", remote.ErrInvalid, err)
		}
		defer pem.Close()
		load = append(load, config.WithCustomCABundle(pem))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, remote.Fail("s3", "", remote.ErrInvalid, err)
	}
	return fromConfig(cfg, opt)
}

// fromConfig decides what depends on whose server it is, which only the SDK
// knows once it has looked at environment and files.
func fromConfig(cfg aws.Config, opt Options) (*Bucket, error) {
	if opt.Endpoint == "" {
		if found := awss3.NewFromConfig(cfg).Options().BaseEndpoint; found != nil {
			opt.Endpoint = *found
			if err := checkEndpoint(opt.Endpoint); err != nil {
				return nil, fmt.Errorf("from the environment or AWS's files: %w", err)
			}
		}
	}
	amazon := isAWS(opt.Endpoint)
	if cfg.Region == "" {
		if amazon {
			return nil, remote.Fail("s3", "", remote.ErrAddress, errors.New("no region is given (region=…, AWS_REGION, or AWS's config file)"))
		}
		cfg.Region = "us-east-1" // where there are no regions, this is what it is called
	}
	b := &Bucket{opt: opt, tls: opt.Endpoint == "" || strings.HasPrefix(opt.Endpoint, "https:")}
	b.creds, _ = cfg.Credentials.(*aws.CredentialsCache)
	b.checksum = opt.Checksum == "crc32c" || opt.Checksum == "" && amazon
	b.api = awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		if opt.Endpoint != "" {
			o.BaseEndpoint = &opt.Endpoint
		}
		o.UsePathStyle = opt.Addressing == "path" || opt.Addressing == "" && !amazon
		o.HTTPClient = &client{o.HTTPClient, b}
		// We compute and send what is to be sent ourselves, in a header: the
		// SDK's trailers are what other servers do not know.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	return b, nil
}

// isAWS says whether an endpoint is Amazon's own.
func isAWS(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if endpoint == "" || err != nil {
		return endpoint == ""
	}
	host := u.Hostname()
	for _, end := range []string{".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws"} {
		if strings.HasSuffix(host, end) {
			return true
		}
	}
	return false
}

// httpClient makes connections that end when nothing moves on them. Many, of
// HTTP/1.1: over a single one of HTTP/2 all requests share its window.
func httpClient(stall time.Duration) *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		dial := (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &movingConn{Conn: c, stall: stall}, nil
		}
		t.ForceAttemptHTTP2 = false
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		t.MaxIdleConnsPerHost = 64
		t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
	})
}

func (o Options) sse() types.ServerSideEncryption { return types.ServerSideEncryption(o.SSE) }

func (o Options) class() types.StorageClass { return types.StorageClass(o.StorageClass) }

// orNil leaves out what is not given.
func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
