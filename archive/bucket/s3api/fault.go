package s3api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// Fault is a server's answer that is no success.
type Fault struct {
	Code    string // "NoSuchKey"; empty where the answer had no body
	Message string
	Status  int // of HTTP
}

// verdict is what may be done about an answer.
type verdict struct {
	class tidegate.Class
	is    error // the condition that it is, if it has a sentinel
	hint  string
}

// The hints.
const (
	hintDenied = "the credentials are known and may not do this: docs/operating/archive-buckets.md has the policy that they need"
	hintKeys   = "the credentials come from the environment, the shared file or the machine's role, as docs/operating/archive-buckets.md says: are they those of this server?"
	hintOld    = "the credentials have run out: renew what the environment, the shared file or the machine's role gives"
	hintClock  = "this machine's clock and the server's differ by more than it allows: set the clock (timedatectl)"
	hintRegion = "archive.region is not the one that the bucket is in"
	hintRoom   = "the server has no room left, or the bucket's quota is used up"
	hintLock   = "archive.lock needs a bucket that was made with object lock; make a new one, or leave it out"
	hintBusy   = "the server asks for fewer requests; if that goes on, set the rate `archive`"
)

// verdicts are the answers that mean something to us, by code. Of all others the
// status decides.
func verdicts() map[string]verdict {
	refusedKeys := verdict{class: tidegate.Misuse, is: tidegate.ErrDenied, hint: hintKeys}
	expired := verdict{class: tidegate.Misuse, is: tidegate.ErrDenied, hint: hintOld}
	busy := verdict{class: tidegate.Transient, hint: hintBusy}
	full := verdict{class: tidegate.Transient, is: tidegate.ErrFull, hint: hintRoom}
	region := verdict{class: tidegate.Misuse, hint: hintRegion}
	again := verdict{class: tidegate.Transient}
	missing := verdict{class: tidegate.Permanent, is: tidegate.ErrNotFound}
	return map[string]verdict{
		"NoSuchKey":                            missing,
		"NotFound":                             missing, // to a HEAD, where a library puts a name to it
		"NoSuchVersion":                        missing,
		"AccessDenied":                         {class: tidegate.Misuse, is: tidegate.ErrDenied, hint: hintDenied},
		"InvalidAccessKeyId":                   refusedKeys,
		"SignatureDoesNotMatch":                refusedKeys,
		"InvalidToken":                         refusedKeys,
		"XAdminUserNotFound":                   refusedKeys, // versitygw, with status 404
		"ExpiredToken":                         expired,
		"TokenRefreshRequired":                 expired,
		"RequestTimeTooSkewed":                 {class: tidegate.Misuse, hint: hintClock},
		"RequestExpired":                       {class: tidegate.Misuse, hint: hintClock},
		"SlowDown":                             busy,
		"SlowDownRead":                         busy, // MinIO
		"SlowDownWrite":                        busy,
		"TooManyRequests":                      busy,
		"Throttling":                           busy,
		"ThrottlingException":                  busy,
		"RequestLimitExceeded":                 busy,
		"InternalError":                        again,
		"ServiceUnavailable":                   again,
		"RequestTimeout":                       again, // 400: the server has waited for the body
		"OperationAborted":                     again,
		"ConditionalRequestConflict":           again, // of two at the same moment; the next answer is a clear one
		"NoSuchUpload":                         again, // the server has lost it, or somebody has tidied up
		"IncompleteBody":                       again,
		"BadDigest":                            again, // damaged on the way
		"InvalidDigest":                        again,
		"XAmzContentSHA256Mismatch":            again,
		"InvalidPart":                          again,
		"XMinioStorageFull":                    full,
		"XMinioAdminBucketQuotaExceeded":       full,
		"QuotaExceeded":                        full,
		"InsufficientStorage":                  full,
		"PermanentRedirect":                    region,
		"AuthorizationHeaderMalformed":         region,
		"IllegalLocationConstraintException":   region,
		"NotImplemented":                       {class: tidegate.Misuse, is: tidegate.ErrUnsupported},
		"ObjectLockConfigurationNotFoundError": {class: tidegate.Misuse, is: tidegate.ErrUnsupported, hint: hintLock},
	}
}

// byStatus judges an answer whose code says nothing. A 404 with a code that is not
// known is no object that is missing: something else is.
func byStatus(status int) verdict {
	switch {
	case status < http.StatusMultipleChoices:
		return verdict{class: tidegate.Transient} // a success whose answer broke off
	case status == http.StatusForbidden:
		return verdict{class: tidegate.Misuse, is: tidegate.ErrDenied, hint: hintDenied}
	case status == http.StatusUnauthorized:
		return verdict{class: tidegate.Misuse, is: tidegate.ErrDenied, hint: hintKeys}
	case status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect:
		return verdict{class: tidegate.Misuse, hint: hintRegion}
	case status == http.StatusInsufficientStorage:
		return verdict{class: tidegate.Transient, is: tidegate.ErrFull, hint: hintRoom}
	case status == http.StatusNotImplemented:
		return verdict{class: tidegate.Misuse, is: tidegate.ErrUnsupported}
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return verdict{class: tidegate.Transient, hint: hintBusy}
	case status == http.StatusRequestTimeout, status >= http.StatusInternalServerError:
		return verdict{class: tidegate.Transient}
	}
	return verdict{class: tidegate.Permanent}
}

// fail says of an error what may be done about it. One that has been judged already
// stays as it is.
func (b *Bucket) fail(ctx context.Context, op, name string, err error) error {
	var judged *tidegate.Error
	if errors.As(err, &judged) {
		return err
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	f, answered := b.fault(err)
	switch {
	case !answered:
		return b.failUnanswered(op, name, err)
	case f.Code == "NoSuchBucket":
		return b.noBucket(op, name, err)
	}
	v, known := verdicts()[f.Code]
	switch {
	case known:
	case f.Code == "" && f.Status == http.StatusNotFound:
		v = verdicts()["NoSuchKey"]
	default:
		v = byStatus(f.Status)
	}
	if v.is != nil {
		err = fmt.Errorf("%w: %w", v.is, err)
	}
	return &tidegate.Error{Op: op, Subject: name, Class: v.class, Hint: v.hint, Err: err}
}

// failPut is fail, and knows what a condition or a lock that was asked for may be
// answered with.
func (b *Bucket) failPut(ctx context.Context, op, name string, c Conditions, err error) error {
	f, ok := b.fault(err)
	switch {
	case !ok:
	case f.Code == "PreconditionFailed" || f.Status == http.StatusPreconditionFailed:
		return bucket.Conflict(name, "the condition does not hold")
	case c.IfMatch != "" && f.Code == "NoSuchKey":
		return bucket.Conflict(name, "it is not there any more")
	case !c.RetainUntil.IsZero() && f.Status == http.StatusBadRequest && strings.Contains(strings.ReplaceAll(strings.ToLower(f.Message), " ", ""), "objectlock"):
		return &tidegate.Error{Op: op, Subject: name, Class: tidegate.Misuse, Hint: hintLock, Err: fmt.Errorf("lock it: %w: %w", tidegate.ErrUnsupported, err)}
	}
	return b.fail(ctx, op, name, err)
}

// failUnanswered judges an error without an answer: of the network, unless TLS says
// that it is the wrong server.
func (b *Bucket) failUnanswered(op, name string, err error) error {
	e := &tidegate.Error{Op: op, Subject: name, Class: tidegate.Transient, Err: err}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		e.Class, e.Hint = tidegate.Misuse, "archive.ca names the authorities that may have signed the certificate of "+b.cfg.Endpoint
	}
	return e
}

// noBucket is the error of a bucket that is not there. It is not ErrNotFound: that
// an object is missing could be taken for an answer.
func (b *Bucket) noBucket(op, name string, err error) error {
	return &tidegate.Error{
		Op: op, Subject: name, Class: tidegate.Misuse, Err: fmt.Errorf("bucket %s: %w", b.cfg.Bucket, err),
		Hint: "make the bucket " + b.cfg.Bucket + " first, with object lock if archive.lock is wanted; it is not made by itself",
	}
}

// NoCredentials is the error of a chain that has none.
func NoCredentials(err error) error {
	return &tidegate.Error{
		Op: "find credentials for the archive", Class: tidegate.Misuse, Err: fmt.Errorf("%w: %w", tidegate.ErrDenied, err),
		Hint: "they come from the environment, the shared file or the machine's role, as docs/operating/archive-buckets.md says",
	}
}
