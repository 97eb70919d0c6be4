package s3api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/buckettest"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
)

// part is small: there is no server here that minds.
const part = 100 << 10

func TestConformance(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) buckettest.Place {
		s := newServer()
		t.Cleanup(func() {
			if len(s.uploads) != 0 {
				t.Errorf("%d uploads are left", len(s.uploads))
			}
		})
		return buckettest.Place{
			Open: func(*testing.T) bucket.Bucket {
				return s3api.New(s, s3api.Config{Bucket: "b", Prefix: "/some/prefix/", PartBytes: part, Page: 10})
			},
			Large: 2*part + 17,
			Page:  10,
		}
	})
}

// failing answers every request with one error.
type failing struct {
	*server

	err error
}

func (f failing) Put(context.Context, string, *io.SectionReader, s3api.Conditions) (string, error) {
	return "", f.err
}

func (f failing) CreateUpload(context.Context, string, s3api.Conditions) (string, error) {
	return "", f.err
}

func (f failing) Get(context.Context, string, int64, int64) (io.ReadCloser, string, error) {
	return nil, "", f.err
}

func (f failing) List(context.Context, string, string, int) iter.Seq2[s3api.Entry, error] {
	return func(yield func(s3api.Entry, error) bool) { yield(s3api.Entry{}, f.err) }
}

// Head has no body, and so no code.
func (f failing) Head(context.Context, string) (s3api.Head, error) {
	if a := (answer{}); errors.As(f.err, &a) {
		return s3api.Head{}, refuse(a.Status, "")
	}
	return s3api.Head{}, f.err
}

func TestAnswersAndWhatTheyMean(t *testing.T) {
	for _, c := range []struct {
		err   error
		class tidegate.Class
		is    error  // nil: neither ErrNotFound nor ErrConflict nor ErrFull
		hint  string // part of it
	}{
		{refuse(404, "NoSuchBucket"), tidegate.Misuse, nil, "make the bucket b"},
		{refuse(403, "AccessDenied"), tidegate.Misuse, tidegate.ErrDenied, "policy"},
		{refuse(403, "InvalidAccessKeyId"), tidegate.Misuse, tidegate.ErrDenied, "credentials"},
		{refuse(403, "SignatureDoesNotMatch"), tidegate.Misuse, tidegate.ErrDenied, "credentials"},
		{refuse(400, "ExpiredToken"), tidegate.Misuse, tidegate.ErrDenied, "run out"},
		{refuse(403, "RequestTimeTooSkewed"), tidegate.Misuse, nil, "clock"},
		{refuse(404, "XAdminUserNotFound"), tidegate.Misuse, tidegate.ErrDenied, "credentials"},
		{refuse(404, "SomethingNew"), tidegate.Permanent, nil, ""},
		{refuse(301, "PermanentRedirect"), tidegate.Misuse, nil, "archive.region"},
		{refuse(400, "AuthorizationHeaderMalformed"), tidegate.Misuse, nil, "archive.region"},
		{refuse(503, "SlowDown"), tidegate.Transient, nil, "fewer requests"},
		{refuse(503, ""), tidegate.Transient, nil, "fewer requests"},
		{refuse(500, "InternalError"), tidegate.Transient, nil, ""},
		{refuse(502, ""), tidegate.Transient, nil, ""},
		{refuse(400, "RequestTimeout"), tidegate.Transient, nil, ""},
		{refuse(409, "ConditionalRequestConflict"), tidegate.Transient, nil, ""},
		{refuse(400, "BadDigest"), tidegate.Transient, nil, ""},
		{refuse(200, ""), tidegate.Transient, nil, ""},
		{refuse(507, "XMinioStorageFull"), tidegate.Transient, tidegate.ErrFull, "no room"},
		{refuse(501, "NotImplemented"), tidegate.Misuse, tidegate.ErrUnsupported, ""},
		{refuse(400, "InvalidArgument"), tidegate.Permanent, nil, ""},
		{errors.New("dial tcp: connection refused"), tidegate.Transient, nil, ""},
		{io.ErrUnexpectedEOF, tidegate.Transient, nil, ""},
		{&tls.CertificateVerificationError{Err: errors.New("unknown authority")}, tidegate.Misuse, nil, "archive.ca"},
		{fmt.Errorf("sign: %w", s3api.NoCredentials(errors.New("none"))), tidegate.Misuse, tidegate.ErrDenied, "environment"},
	} {
		b := s3api.New(failing{newServer(), c.err}, s3api.Config{Bucket: "b", PartBytes: part})
		_, put := b.Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{})
		_, parts := b.Put(t.Context(), "it", bytes.NewReader(make([]byte, part+1)), bucket.PutOptions{})
		_, get := b.Get(t.Context(), "it", 0, -1)
		var list error
		for _, list = range b.List(t.Context(), "", "") {
		}
		for what, err := range map[string]error{"put": put, "parts": parts, "get": get, "list": list} {
			if tidegate.ClassOf(err) != c.class || !strings.Contains(tidegate.HintOf(err), c.hint) || c.hint == "" && tidegate.HintOf(err) != "" {
				t.Errorf("%s: %v: class %q, hint %q; want %q, %q", what, c.err, tidegate.ClassOf(err), tidegate.HintOf(err), c.class, c.hint)
			}
			for _, is := range []error{tidegate.ErrNotFound, tidegate.ErrConflict, tidegate.ErrFull, tidegate.ErrUnsupported} {
				if errors.Is(err, is) != errors.Is(c.is, is) {
					t.Errorf("%s: %v is %v", what, err, is)
				}
			}
		}
		if _, err := b.Stat(t.Context(), "it"); errors.Is(err, tidegate.ErrNotFound) {
			t.Errorf("stat: %v is taken for an object that is missing", c.err)
		}
		if err := b.Remove(t.Context(), "it"); err == nil {
			t.Errorf("remove: %v is taken for an object that is missing", c.err)
		}
	}
}

func TestLockThatABucketCannotKeep(t *testing.T) {
	fault := answer{s3api.Fault{Status: http.StatusBadRequest, Code: "InvalidRequest", Message: "Bucket is missing Object Lock Configuration"}}
	b := s3api.New(failing{newServer(), fault}, s3api.Config{Bucket: "b"})
	_, err := b.Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{RetainUntil: time.Now()})
	if tidegate.ClassOf(err) != tidegate.Misuse || !errors.Is(err, tidegate.ErrUnsupported) || !strings.Contains(tidegate.HintOf(err), "object lock") {
		t.Errorf("%v", err)
	}
}

// A server that forgets conditions is found out.
type forgetful struct{ *server }

func (f forgetful) Put(ctx context.Context, key string, body *io.SectionReader, _ s3api.Conditions) (string, error) {
	return f.server.Put(ctx, key, body, s3api.Conditions{})
}

func TestProbeFindsOutWhoForgetsConditions(t *testing.T) {
	b := s3api.New(forgetful{newServer()}, s3api.Config{Bucket: "b"})
	f, err := bucket.Probe(t.Context(), b)
	if err != nil || f != (bucket.Features{}) {
		t.Errorf("%+v, %v", f, err)
	}
	for _, want := range []bucket.Features{{IfAbsent: true}, {IfMatch: true}} {
		err := bucket.Require(t.Context(), b, want)
		if tidegate.ClassOf(err) != tidegate.Misuse || !errors.Is(err, tidegate.ErrUnsupported) || tidegate.HintOf(err) == "" {
			t.Errorf("%+v: %v", want, err)
		}
	}
	if err := bucket.Require(t.Context(), b, bucket.Features{}); err != nil {
		t.Error(err)
	}
}
