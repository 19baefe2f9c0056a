package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"stepfs/chunkstore/remote"
)

// code is S3's word for an error; empty if it has said none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func answer(err error) *http.Response {
	var re *smithyhttp.ResponseError
	if errors.As(err, &re) && re.Response != nil {
		return re.Response.Response
	}
	return nil
}

// status is the HTTP status of an error; 0 if there was no answer.
func status(err error) int {
	if r := answer(err); r != nil {
		return r.StatusCode
	}
	return 0
}

// known says what the words of S3 servers mean, where their number does not
// already say it.
var known = map[string]struct {
	kind error
	say  string // more than the server does
}{
	"NoSuchKey":    {remote.ErrNotExist, ""},
	"NoSuchBucket": {remote.ErrAddress, "there is no such bucket"},
	"NoSuchUpload": {remote.ErrRetryable, "the parts that were sent are gone"},
	"InvalidPart":  {remote.ErrRetryable, "the parts that were sent are gone"},

	"InvalidAccessKeyId":                 {remote.ErrAccess, "the access key is not known"},
	"SignatureDoesNotMatch":              {remote.ErrAccess, "the secret key is wrong"},
	"ExpiredToken":                       {remote.ErrAccess, "the credentials have expired"},
	"ExpiredTokenException":              {remote.ErrAccess, "the credentials have expired"},
	"TokenRefreshRequired":               {remote.ErrAccess, "the credentials have expired"},
	"InvalidToken":                       {remote.ErrAccess, "the session token is wrong"},
	"InvalidObjectState":                 {remote.ErrUnsupported, "the object is archived and has to be restored first"},
	"ObjectLocked":                       {remote.ErrAccess, ""},
	"RequestTimeTooSkewed":               {remote.ErrClock, ""},
	"RequestExpired":                     {remote.ErrClock, ""},
	"PermanentRedirect":                  {remote.ErrAddress, "the bucket is in another region"},
	"TemporaryRedirect":                  {remote.ErrAddress, "the bucket is somewhere else"},
	"IllegalLocationConstraintException": {remote.ErrAddress, "the region is wrong"},
	"AuthorizationHeaderMalformed":       {remote.ErrAddress, "the region is wrong"},
	"IncorrectEndpoint":                  {remote.ErrAddress, "the endpoint is wrong"},
	"InvalidBucketName":                  {remote.ErrAddress, ""},

	"SlowDown":                   {remote.ErrRetryable, ""},
	"RequestTimeout":             {remote.ErrRetryable, ""},
	"InternalError":              {remote.ErrRetryable, ""},
	"ServiceUnavailable":         {remote.ErrRetryable, ""},
	"OperationAborted":           {remote.ErrRetryable, "another request for it is under way"},
	"IncompleteBody":             {remote.ErrRetryable, ""},
	"ThrottlingException":        {remote.ErrRetryable, ""},
	"RequestLimitExceeded":       {remote.ErrRetryable, ""},
	"ConditionalRequestConflict": {remote.ErrRetryable, "another request for it is under way"},

	"MalformedXML":                {remote.ErrDamaged, "a request was changed on its way"},
	"BadDigest":                   {remote.ErrDamaged, ""},
	"InvalidDigest":               {remote.ErrDamaged, ""},
	"XAmzContentSHA256Mismatch":   {remote.ErrDamaged, ""},
	"XAmzContentChecksumMismatch": {remote.ErrDamaged, ""},
	"InvalidChecksum":             {remote.ErrDamaged, ""},

	"QuotaExceeded":                  {remote.ErrFull, ""},
	"XMinioStorageFull":              {remote.ErrFull, ""},
	"XMinioAdminBucketQuotaExceeded": {remote.ErrFull, ""},
	"NotImplemented":                 {remote.ErrUnsupported, ""},
	"MethodNotAllowed":               {remote.ErrUnsupported, ""},
	"KeyTooLongError":                {remote.ErrInvalid, ""},
	"EntityTooLarge":                 {remote.ErrInvalid, ""},
	"XMinioObjectExistsAsDirectory":  {remote.ErrInvalid, ""},
	"ExistingObjectIsDirectory":      {remote.ErrInvalid, ""},
	"ObjectParentIsFile":             {remote.ErrInvalid, ""},
}

// errNoETag: without one there are no versions, and it is hardly S3.
var errNoETag = errors.New("the server gives no ETag")

// failed makes an error of what the SDK gave.
func (b *Bucket) failed(ctx context.Context, op, key string, err error) error {
	if ended := remote.Ended(ctx, op, key); ended != nil {
		return ended
	}
	if errors.Is(err, remote.ErrContent) {
		return remote.PutFailed(ctx, op, key, err)
	}
	say, kind := b.kindOf(err)
	if say != "" {
		err = fmt.Errorf("%s (%w)", say, err)
	}
	return remote.Fail(op, key, kind, err)
}

// kindOf says of which kind an error is, and what can be said besides.
func (b *Bucket) kindOf(err error) (say string, kind error) {
	if off, wrong := clockOff(err); wrong {
		return off, remote.ErrClock
	}
	if errors.Is(err, errNoETag) {
		return "", remote.ErrUnsupported
	}
	if k, ok := known[code(err)]; ok {
		return k.say + b.place(err, k.kind), k.kind
	}
	var stranger *strangerError
	if errors.As(err, &stranger) {
		if stranger.status >= 500 || stranger.status == http.StatusTooManyRequests { // a proxy whose server is in trouble
			return "", remote.ErrRetryable
		}
		return "", remote.ErrAddress
	}
	switch s := status(err); {
	case s == 0:
		return offline(err)
	case s == http.StatusNotFound, s == http.StatusGone:
		return "", remote.ErrNotExist
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return "", remote.ErrAccess
	case s == http.StatusNotImplemented, s == http.StatusMethodNotAllowed:
		return "", remote.ErrUnsupported
	case s == http.StatusInsufficientStorage:
		return "", remote.ErrFull
	case s/100 == 3, s == http.StatusBadRequest && b.place(err, remote.ErrAddress) != "":
		return "the bucket is somewhere else" + b.place(err, remote.ErrAddress), remote.ErrAddress
	case s/100 == 4 && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests && s != http.StatusConflict:
		return "", remote.ErrInvalid
	}
	return "", remote.ErrRetryable
}

// place says in which region a bucket is, when the server has told.
func (b *Bucket) place(err error, kind error) string {
	if r := answer(err); r != nil && kind == remote.ErrAddress {
		if region := r.Header.Get("X-Amz-Bucket-Region"); region != "" && region != b.api.Options().Region {
			return fmt.Sprintf(": in %s, and not %s", region, b.api.Options().Region)
		}
	}
	return ""
}

// offline is what there was no answer to. That a server is not there, or its
// name not known, may pass: the network of this machine may be gone. That it is
// another than we think does not.
func offline(err error) (say string, kind error) {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &verify):
		return "the server's certificate is not trusted", remote.ErrAddress
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the endpoint does not speak TLS: try http://", remote.ErrAddress
	}
	// The SDK has no type for this.
	if s := err.Error(); strings.Contains(s, "get credentials") || strings.Contains(s, "failed to refresh cached credentials") {
		return "no credentials were found (AWS_ACCESS_KEY_ID, AWS's files, or a role)", remote.ErrAccess
	}
	return "", remote.ErrRetryable
}

// maxClockOff is how wrong a clock may be for S3.
const maxClockOff = 15 * time.Minute

// clockOff says how far this machine's clock is from the server's, if a refusal
// can be due to that. What refuses a HEAD says nothing else.
func clockOff(err error) (say string, wrong bool) {
	r := answer(err)
	if r == nil || r.StatusCode != http.StatusForbidden && r.StatusCode != http.StatusBadRequest {
		return "", false
	}
	theirs, e := http.ParseTime(r.Header.Get("Date"))
	if e != nil {
		return "", false
	}
	off := time.Since(theirs).Round(time.Minute)
	switch {
	case off > maxClockOff:
		return fmt.Sprintf("this machine is %v ahead", off), true
	case off < -maxClockOff:
		return fmt.Sprintf("this machine is %v behind", -off), true
	}
	return "", false
}

// clockCorrected says whether the SDK knows now how wrong the clock is, and
// signs with the right time: it does after the first answer that has a date.
func clockCorrected(err error) bool {
	_, wrong := clockOff(err)
	return wrong
}

func expired(err error) bool {
	switch code(err) {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return true
	}
	return false
}
