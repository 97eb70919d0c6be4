package s3test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/s3api"
	"github.com/tidegate/tidegate/internal/retry"
)

// stall is how long these tests let a request stand still: a loaded machine may be
// slower, and then one more attempt is made.
const stall = 2 * time.Second

// steady is a driver as it is used: what fails transiently is done again.
func steady(b bucket.Bucket) bucket.Bucket {
	return bucket.Retry(bucket.Stall(b, stall), bucket.RetryConfig{Policy: retry.Policy{First: 10 * time.Millisecond, Max: 200 * time.Millisecond}})
}

func content(size int64) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i>>12) ^ byte(i)
	}
	return data
}

func mustPut(t *testing.T, b bucket.Bucket, name string, data []byte, o bucket.PutOptions) bucket.Object {
	t.Helper()
	obj, err := b.Put(t.Context(), name, bytes.NewReader(data), o)
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return obj
}

func mustGet(t *testing.T, b bucket.Bucket, name string, want []byte) {
	t.Helper()
	r, err := b.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("get %s: %d bytes, %v; want %d", name, len(got), err, len(want))
	}
}

// wantMisuse asks for an error that an operator can do something about, and that
// nobody takes for an object that is missing.
func wantMisuse(t *testing.T, what string, err error, hint string) {
	t.Helper()
	if tidegate.ClassOf(err) != tidegate.Misuse || errors.Is(err, tidegate.ErrNotFound) || !strings.Contains(tidegate.HintOf(err), hint) {
		t.Errorf("%s: class %q, hint %q: %v", what, tidegate.ClassOf(err), tidegate.HintOf(err), err)
	}
}

// each tries everything that a bucket does.
func each(t *testing.T, b bucket.Bucket, check func(what string, err error)) {
	t.Helper()
	ctx := t.Context()
	_, err := b.Put(ctx, "it", strings.NewReader("x"), bucket.PutOptions{})
	check("put", err)
	_, err = b.Put(ctx, "it", bytes.NewReader(content(s3api.PartBytesMin+1)), bucket.PutOptions{})
	check("put parts", err)
	_, err = b.Get(ctx, "it", 0, -1)
	check("get", err)
	_, err = b.Stat(ctx, "it")
	check("stat", err)
	check("remove", b.Remove(ctx, "it"))
	for _, err := range b.List(ctx, "", "") {
		check("list", err)
	}
}

func opened(t *testing.T, open Open, cfg s3api.Config, around func(http.RoundTripper) http.RoundTripper) bucket.Bucket {
	t.Helper()
	b, err := open(t.Context(), cfg, around)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// damaged lets every fault befall small and large objects.
func damaged(t *testing.T, s *Server, cfg s3api.Config, open Open) {
	p := NewProxy(t, s)
	cfg.Endpoint, cfg.Prefix = p.URL, "damaged"
	b := steady(opened(t, open, cfg, nil))
	for _, size := range []int64{2000, s3api.PartBytesMin + 1717} {
		data := content(size)
		for _, f := range []Fault{Refuse, Hang, CutRequest, CutAnswer, Flip} {
			for _, o := range []bucket.PutOptions{{}, {IfAbsent: true}} {
				name := strings.ReplaceAll(string(f), " ", "-")
				if err := b.Remove(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				p.Do(f, map[Fault]int{Refuse: 7, Hang: 1, CutRequest: 2, CutAnswer: 2, Flip: 1}[f])
				mustPut(t, b, name, data, o)
				if p.Hit() == 0 {
					t.Errorf("%s: befell nothing", f)
				}
				mustGet(t, b, name, data)
			}
		}
		mustPut(t, b, "it", data, bucket.PutOptions{})
		for _, f := range []Fault{Refuse, Hang, CutBody, StallBody} {
			p.Do(f, map[Fault]int{Refuse: 7, Hang: 1, CutBody: 3, StallBody: 1}[f])
			mustGet(t, b, "it", data)
			if p.Hit() == 0 {
				t.Errorf("%s: befell nothing", f)
			}
		}
	}
	for _, f := range []Fault{Refuse, CutBody} {
		p.Do(f, 3)
		n := 0
		for _, err := range b.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 6 {
			t.Errorf("%s: %d objects listed", f, n)
		}
	}
	if n := s.Uploads(t, cfg); n != 0 && s.Kind != MinIO {
		t.Logf("%d uploads are left unfinished, of those that were cut off", n) // that is what the bucket's life cycle is for
	}
}

// killed kills the server while it is sent an object, and starts it again.
func killed(t *testing.T, s *Server, cfg s3api.Config, open Open) {
	p := NewProxy(t, s)
	cfg.Endpoint, cfg.Prefix = p.URL, "killed"
	b := steady(opened(t, open, cfg, nil))
	before := content(3000)
	mustPut(t, b, "before", before, bucket.PutOptions{IfAbsent: true})
	for name, size := range map[string]int64{"small": 1 << 20, "large": 2*s3api.PartBytesMin + 1} {
		data := content(size)
		dead := make(chan struct{})
		p.AtHalf(func() {
			s.Kill()
			close(dead)
		})
		var again sync.WaitGroup
		again.Go(func() {
			<-dead
			s.Again(t)
		})
		mustPut(t, b, name, data, bucket.PutOptions{IfAbsent: true})
		again.Wait()
		mustGet(t, b, name, data)
		mustGet(t, b, "before", before)
	}
}

// strangers are those who may not, and the bucket that is not there.
func strangers(t *testing.T, cfg s3api.Config, open Open) {
	none := cfg
	none.Bucket = "there-is-none"
	each(t, opened(t, open, none, nil), func(what string, err error) { wantMisuse(t, "no bucket: "+what, err, "make the bucket") })

	late := opened(t, open, cfg, func(next http.RoundTripper) http.RoundTripper { return skewed{next, -time.Hour} })
	_, err := late.Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{})
	wantMisuse(t, "clock: put", err, "set the clock")
	for _, err := range late.List(t.Context(), "", "") {
		wantMisuse(t, "clock: list", err, "set the clock")
	}

	Credentials(t, User, "another secret")
	each(t, opened(t, open, cfg, nil), func(what string, err error) { wantMisuse(t, "another secret: "+what, err, "credentials") })
	Credentials(t, "nobody", Secret)
	each(t, opened(t, open, cfg, nil), func(what string, err error) { wantMisuse(t, "nobody: "+what, err, "credentials") })
}

// skewed signs requests by a clock that is wrong.
type skewed struct {
	next http.RoundTripper
	by   time.Duration
}

func (s skewed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	err := v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: User, SecretAccessKey: Secret}, r,
		r.Header.Get("X-Amz-Content-Sha256"), "s3", s3api.RegionDefault, time.Now().Add(s.by))
	if err != nil {
		return nil, err
	}
	return s.next.RoundTrip(r)
}

// locked puts under object lock.
func locked(t *testing.T, s *Server, plain s3api.Config, open Open) {
	until := time.Now().Add(time.Hour)
	b := opened(t, open, s.Bucket(t, "locked", true), nil)
	for name, size := range map[string]int64{"small": 10, "large": s3api.PartBytesMin + 1} {
		data := content(size)
		o := mustPut(t, b, name, data, bucket.PutOptions{IfAbsent: true, RetainUntil: until})
		at, err := b.Stat(t.Context(), name)
		if err != nil || at.RetainUntil.Before(until) || at.RetainUntil.After(until.Add(2*time.Second)) || !o.RetainUntil.Equal(at.RetainUntil) {
			t.Errorf("%s: locked until %s, %v; want %s", name, at.RetainUntil, err, until)
		}
		err = b.Remove(t.Context(), name)
		if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(tidegate.HintOf(err), "locked until") {
			t.Errorf("remove: %v, hint %q", err, tidegate.HintOf(err))
		}
		_, err = b.Put(t.Context(), name, strings.NewReader("x"), bucket.PutOptions{IfAbsent: true})
		if !errors.Is(err, tidegate.ErrConflict) {
			t.Errorf("put again: %v", err)
		}
		mustGet(t, b, name, data)
	}
	// What is not locked has versions all the same, and goes with all of them.
	for range 3 {
		mustPut(t, b, "lease", content(5), bucket.PutOptions{})
	}
	if err := b.Remove(t.Context(), "lease"); err != nil {
		t.Error(err)
	}
	if _, err := b.Stat(t.Context(), "lease"); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("an older version came to light: %v", err)
	}
	_, err := opened(t, open, plain, nil).Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{RetainUntil: until})
	wantMisuse(t, "a bucket without lock", err, "object lock")
	if !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("a bucket without lock: %v", err)
	}
}

// gone is a server that does not answer at all: an error that is transient, with the
// context's end.
func gone(t *testing.T, s *Server, cfg s3api.Config, open Open) {
	s.Kill()
	b := opened(t, open, cfg, nil)
	each(t, b, func(what string, err error) {
		if tidegate.ClassOf(err) != tidegate.Transient || errors.Is(err, tidegate.ErrNotFound) {
			t.Errorf("%s: class %q: %v", what, tidegate.ClassOf(err), err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := steady(b).Stat(ctx, "it"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
