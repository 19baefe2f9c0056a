package s3

import (
	"context"
	"errors"
	"hash/crc32"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/remotetest"
)

func TestCombine(t *testing.T) {
	data := remotetest.Random(1, 300_000)
	for _, at := range []int{0, 1, 7, 65_535, 65_536, 65_537, 150_000, 299_999, 300_000} {
		first, second := crc32.Checksum(data[:at], castagnoli), crc32.Checksum(data[at:], castagnoli)
		if got, want := combine(first, second, int64(len(data)-at)), crc32.Checksum(data, castagnoli); got != want {
			t.Errorf("cut at %d: %08x, want %08x", at, got, want)
		}
	}
}

// Whose server it is decides how it is spoken to.
func TestWhoseServer(t *testing.T) {
	for endpoint, amazon := range map[string]bool{
		"": true, "https://s3.eu-west-1.amazonaws.com": true, "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com": true,
		"https://s3.cn-north-1.amazonaws.com.cn:443": true, "https://s3.dualstack.us-west-2.api.aws": true,
		"http://127.0.0.1:9000": false, "https://amazonaws.com.example.com": false, "https://s3.example.com": false, "https://notamazonaws.com": false,
	} {
		t.Setenv("AWS_ENDPOINT_URL", "")
		b, err := Open(t.Context(), Options{Bucket: "bucket", Endpoint: endpoint, Region: "eu-1", Credentials: credentials.NewStaticCredentialsProvider("k", "s", "")})
		if err != nil {
			t.Fatal(err)
		}
		if b.checksum != amazon || b.api.Options().UsePathStyle == amazon {
			t.Errorf("%q: checksums are %v, path style is %v", endpoint, b.checksum, b.api.Options().UsePathStyle)
		}
	}
}

func TestRegion(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_ENDPOINT_URL", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	opt := Options{Bucket: "bucket", Credentials: aws.AnonymousCredentials{}}
	if _, err := Open(t.Context(), opt); !errors.Is(err, remote.ErrAddress) || !strings.Contains(err.Error(), "region") {
		t.Errorf("AWS without a region: %v", err)
	}
	opt.Endpoint = "http://127.0.0.1:9000"
	b, err := Open(t.Context(), opt)
	if err != nil || b.api.Options().Region != "us-east-1" {
		t.Errorf("another server without a region: %v", err)
	}
}

// answered is how the SDK gives an error answer.
func answered(status int, code string) error {
	resp := &http.Response{StatusCode: status, Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}}
	return &smithy.OperationError{ServiceID: "S3", OperationName: "X", Err: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: resp}, Err: &smithy.GenericAPIError{Code: code, Message: "m"}}}
}

// Servers say the same thing in many ways.
func TestKinds(t *testing.T) {
	b, err := Open(t.Context(), Options{Bucket: "bucket", Region: "eu-1", Endpoint: "http://127.0.0.1:1", Credentials: aws.AnonymousCredentials{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		code   string
		kind   error
	}{
		{404, "NoSuchKey", remote.ErrNotExist}, {404, "NotFound", remote.ErrNotExist}, {404, "", remote.ErrNotExist},
		{404, "NoSuchBucket", remote.ErrAddress}, {301, "PermanentRedirect", remote.ErrAddress}, {301, "", remote.ErrAddress}, {400, "AuthorizationHeaderMalformed", remote.ErrAddress},
		{403, "AccessDenied", remote.ErrAccess}, {403, "Forbidden", remote.ErrAccess}, {401, "", remote.ErrAccess}, {403, "InvalidAccessKeyId", remote.ErrAccess},
		{400, "ExpiredToken", remote.ErrAccess}, {403, "RequestTimeTooSkewed", remote.ErrClock},
		{500, "InternalError", remote.ErrRetryable}, {500, "", remote.ErrRetryable}, {502, "", remote.ErrRetryable}, {503, "SlowDown", remote.ErrRetryable},
		{503, "", remote.ErrRetryable}, {504, "", remote.ErrRetryable}, {429, "", remote.ErrRetryable}, {400, "RequestTimeout", remote.ErrRetryable}, {408, "", remote.ErrRetryable},
		{409, "OperationAborted", remote.ErrRetryable}, {409, "ConditionalRequestConflict", remote.ErrRetryable}, {409, "", remote.ErrRetryable},
		{400, "BadDigest", remote.ErrDamaged}, {400, "XAmzContentSHA256Mismatch", remote.ErrDamaged},
		{507, "", remote.ErrFull}, {403, "QuotaExceeded", remote.ErrFull}, {501, "NotImplemented", remote.ErrUnsupported}, {501, "", remote.ErrUnsupported}, {405, "", remote.ErrUnsupported},
		{400, "InvalidArgument", remote.ErrInvalid}, {400, "KeyTooLongError", remote.ErrInvalid}, {200, "", remote.ErrRetryable},
	} {
		if err := b.failed(context.Background(), "get", "k", answered(c.status, c.code)); !errors.Is(err, c.kind) {
			t.Errorf("%d %s is %v, want %v", c.status, c.code, err, c.kind)
		}
	}
	for _, c := range []struct {
		cond   condition
		status int
		code   string
		kind   error
	}{
		{condition{absent: true}, 412, "PreconditionFailed", remote.ErrExists}, {condition{absent: true}, 409, "ConditionalRequestConflict", nil},
		{condition{absent: true}, 404, "NoSuchBucket", nil}, {condition{version: "v"}, 412, "PreconditionFailed", remote.ErrChanged},
		{condition{version: "v"}, 404, "NoSuchKey", remote.ErrChanged}, {condition{version: "v"}, 404, "NoSuchBucket", nil}, {condition{version: "v"}, 500, "", nil},
	} {
		if got := c.cond.unmet(answered(c.status, c.code)); got != c.kind {
			t.Errorf("%+v, %d %s: %v, want %v", c.cond, c.status, c.code, got, c.kind)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, o := range []Options{{}, {Bucket: "bucket", PartSize: -1}, {Bucket: "bucket", Parts: -1}, {Bucket: "bucket", Stall: -1}, {Bucket: "bucket", CAFile: "/no/such/file", Region: "x"}} {
		if _, err := Open(t.Context(), o); !errors.Is(err, remote.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
