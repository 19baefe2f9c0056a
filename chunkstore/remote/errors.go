package remote

import (
	"context"
	"errors"
	"fmt"
)

// The kinds of errors. Every error of a Bucket is one of them, or of a context
// that ended. Only the kinds tell what to do; the text says what happened.
var (
	// ErrNotExist: there is no such object.
	ErrNotExist = errors.New("no such object")
	// ErrExists: PutIfAbsent met an object.
	ErrExists = errors.New("the object exists")
	// ErrChanged: ReplaceIfMatch met another version, or none.
	ErrChanged = errors.New("the object has changed")

	// ErrRetryable: it may work in a moment. The network, a server in trouble,
	// one that asks to slow down, an answer that makes no sense.
	ErrRetryable = errors.New("the object store cannot be reached or is in trouble")
	// ErrDamaged: bytes are not what their checksum says. They were changed on
	// the way, and trying again helps, or lie so in the store.
	ErrDamaged = errors.New("bytes do not match their checksum")
	// ErrContent: what was to be put could not be read, or is not any more what
	// it was when it was made. The fault is on this machine.
	ErrContent = errors.New("what is to be put is damaged")

	// ErrAccess: the server knows us not, or allows us not to do this.
	ErrAccess = errors.New("access denied")
	// ErrClock: this machine's clock, or the server's, is wrong.
	ErrClock = errors.New("the clocks of this machine and of the object store differ")
	// ErrAddress: the bucket, region or endpoint is wrong.
	ErrAddress = errors.New("the address does not lead to a bucket")
	// ErrFull: there is no room, or a quota is used up.
	ErrFull = errors.New("the object store is full")
	// ErrUnsupported: the server can't do this.
	ErrUnsupported = errors.New("the object store cannot do this")
	// ErrInvalid: the caller asked for what no Bucket does. Nothing was done.
	ErrInvalid = errors.New("invalid request")
)

// Error is an error of a Bucket: what was being done, its kind, what happened.
type Error struct {
	Op, Key string
	Kind    error
	Err     error // may be nil
}

func (e *Error) Error() string {
	s := e.Op
	if e.Key != "" {
		s += " " + e.Key
	}
	s += ": " + e.Kind.Error()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the kind and what is behind it.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Fail makes an error of a kind.
func Fail(op, key string, kind, err error) error {
	return &Error{Op: op, Key: key, Kind: kind, Err: err}
}

// Invalid makes an ErrInvalid.
func Invalid(op, key, format string, args ...any) error {
	return Fail(op, key, ErrInvalid, fmt.Errorf(format, args...))
}

// Ended gives the error of a context that has ended, else nil.
func Ended(ctx context.Context, op, key string) error {
	if ctx.Err() == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return Fail(op, key, ctx.Err(), cause)
	}
	return Fail(op, key, ctx.Err(), nil)
}

// Passing says whether the same request may work if it is made again.
func Passing(err error) bool {
	return errors.Is(err, ErrRetryable) || errors.Is(err, ErrDamaged)
}

// PutFailed makes the error of an attempt to put a content that failed on this
// machine, while the content was read or waited for its pace.
func PutFailed(ctx context.Context, op, key string, err error) error {
	if ended := Ended(ctx, op, key); ended != nil {
		return ended
	}
	return Fail(op, key, ErrContent, err)
}
