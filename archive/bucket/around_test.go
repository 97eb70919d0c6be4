package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/buckettest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/vfs"
)

func memory(t *testing.T) bucket.Bucket {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	return dir.New(mem, "/archive")
}

func TestConformanceOfWhatGoesAround(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) buckettest.Place {
		inner := memory(t)
		return buckettest.Place{
			Open: func(*testing.T) bucket.Bucket {
				return bucket.Lock(bucket.Retry(bucket.Stall(unlocking{inner}, time.Hour), bucket.RetryConfig{}), time.Hour, time.Now)
			},
			Large: 200 << 10,
			Page:  10,
		}
	})
}

// unlocking takes locks for granted.
type unlocking struct{ bucket.Bucket }

func (u unlocking) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	o.RetainUntil = time.Time{}
	return u.Bucket.Put(ctx, name, body, o)
}

// faulty is a bucket whose operations do what a test says first.
type faulty struct {
	bucket.Bucket

	before func(ctx context.Context, op string) error // an error is the outcome
	after  func(op string) error                      // as before, once it has happened
	read   func(n int) (int, error)                   // of a body: how much to give, and then?
	tag    string
}

func (f *faulty) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if f.before != nil {
		if err := f.before(ctx, "put"); err != nil {
			return bucket.Object{}, err
		}
	}
	obj, err := f.Bucket.Put(ctx, name, body, o)
	if f.after != nil {
		err = errors.Join(err, f.after("put"))
	}
	return obj, err
}

func (f *faulty) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if f.before != nil {
		if err := f.before(ctx, "get"); err != nil {
			return nil, err
		}
	}
	r, err := f.Bucket.Get(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return &faultyReader{r, f, f.tag}, nil
}

func (f *faulty) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		for o, err := range f.Bucket.List(ctx, prefix, after) {
			if fault := f.before(ctx, "list"); fault != nil {
				yield(bucket.Object{}, fault)
				return
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

type faultyReader struct {
	io.ReadCloser

	f   *faulty
	tag string
}

func (r *faultyReader) Tag() string { return r.tag }

func (r *faultyReader) Read(p []byte) (int, error) {
	n, fault := r.f.read(len(p))
	n, err := r.ReadCloser.Read(p[:n])
	if fault != nil && (n > 0 || errors.Is(fault, context.Canceled)) {
		err = fault
	}
	return n, err
}

func transient(text string) error {
	return &tidegate.Error{Op: "try", Class: tidegate.Transient, Err: errors.New(text)}
}

func put(t *testing.T, b bucket.Bucket, name, text string) {
	t.Helper()
	if _, err := b.Put(t.Context(), name, strings.NewReader(text), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestRetryGoesOnUntilItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := 20
		var told []string
		f := &faulty{Bucket: memory(t), before: func(context.Context, string) error {
			if left--; left >= 0 {
				return transient("slow down")
			}
			return nil
		}}
		b := bucket.Retry(f, bucket.RetryConfig{For: time.Hour, Failed: func(op, name string, err error) {
			told = append(told, fmt.Sprint(op, " ", name, ": ", err))
		}})
		put(t, b, "it", "text")
		if len(told) != 20 || told[0] != "put object it: try: slow down" {
			t.Errorf("told: %q", told)
		}
	})
}

func TestRetryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Bucket: memory(t), before: func(context.Context, string) error { return transient("slow down") }}
		start := time.Now()
		_, err := bucket.Retry(f, bucket.RetryConfig{}).Get(t.Context(), "it", 0, -1)
		if took := time.Since(start); tidegate.ClassOf(err) != tidegate.Transient || took < bucket.RetryForDefault || took > bucket.RetryForDefault+time.Minute {
			t.Errorf("after %s: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start = time.Now()
		_, err = bucket.Retry(f, bucket.RetryConfig{}).Get(ctx, "it", 0, -1)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "slow down") || took != 3*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		f.before = func(context.Context, string) error {
			return &tidegate.Error{Op: "try", Class: tidegate.Misuse, Err: errors.New("denied")}
		}
		start = time.Now()
		_, err = bucket.Retry(f, bucket.RetryConfig{}).Get(t.Context(), "it", 0, -1)
		if took := time.Since(start); tidegate.ClassOf(err) != tidegate.Misuse || took != 0 {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// An answer that got lost must not make a Put lose against itself.
func TestRetryKnowsItsOwnPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lose := true
		f := &faulty{Bucket: memory(t), read: func(n int) (int, error) { return n, nil }, after: func(string) error {
			if lose {
				lose = false
				return transient("connection reset")
			}
			return nil
		}}
		b := bucket.Retry(f, bucket.RetryConfig{})
		absent := bucket.PutOptions{IfAbsent: true}
		mine := bytes.NewReader(bytes.Repeat([]byte("mine"), 50_000))
		o, err := b.Put(t.Context(), "it", mine, absent)
		if err != nil || o.Size != mine.Size() {
			t.Errorf("%+v, %v", o, err)
		}
		lose = true
		_, err = b.Put(t.Context(), "it", bytes.NewReader(bytes.Repeat([]byte("hers"), 50_000)), absent)
		if !errors.Is(err, tidegate.ErrConflict) || tidegate.ClassOf(err) == tidegate.Transient {
			t.Errorf("somebody else's of that size: %v", err)
		}
		lose = true
		next, err := b.Put(t.Context(), "it", strings.NewReader("next"), bucket.PutOptions{IfMatch: o.Tag})
		if err != nil || next.Size != 4 || next.Tag == "" {
			t.Errorf("%+v, %v", next, err)
		}
	})
}

// fleeting loses the answer to a Put, and what was put as soon as somebody looks at it.
type fleeting struct {
	bucket.Bucket

	lost bool
}

func (f *fleeting) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	obj, err := f.Bucket.Put(ctx, name, body, o)
	if err == nil && !f.lost {
		f.lost = true
		return obj, transient("the answer is lost")
	}
	return obj, err
}

func (f *fleeting) Stat(ctx context.Context, name string) (bucket.Object, error) {
	if err := f.Bucket.Remove(ctx, name); err != nil {
		return bucket.Object{}, err
	}
	return f.Bucket.Stat(ctx, name)
}

// A Put whose answer was lost, and whose object was read and removed while it was found
// out whether it had happened, is in conflict with nobody.
func TestRetryOfAPutThatWasReadAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory(t)
		if _, err := bucket.Retry(&fleeting{Bucket: inner}, bucket.RetryConfig{}).Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{IfAbsent: true}); err != nil {
			t.Error(err)
		}
		hers := &fleeting{Bucket: inner, lost: true}
		if _, err := bucket.Retry(hers, bucket.RetryConfig{}).Put(t.Context(), "it", strings.NewReader("y"), bucket.PutOptions{IfAbsent: true}); !errors.Is(err, tidegate.ErrConflict) {
			t.Errorf("somebody else's: %v", err)
		}
	})
}

func TestRetryReadsOnWhereABodyBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := strings.Repeat("0123456789", 1000)
		f := &faulty{Bucket: memory(t), tag: "one", read: func(n int) (int, error) { return min(n, 7), transient("reset") }}
		put(t, f, "it", text)
		b := bucket.Retry(f, bucket.RetryConfig{})
		for _, c := range []struct{ off, n int64 }{{0, -1}, {0, 10_000}, {5, 20_000}, {77, 50}} {
			r, err := b.Get(t.Context(), "it", c.off, c.n)
			if err != nil {
				t.Fatal(err)
			}
			want := text[c.off:]
			if c.n >= 0 {
				want = want[:min(c.n, int64(len(want)))]
			}
			got, err := io.ReadAll(r)
			if err != nil || string(got) != want {
				t.Errorf("%d, %d: %d bytes, %v; want %d", c.off, c.n, len(got), err, len(want))
			}
			r.Close()
		}
	})
}

func TestRetryNeverMixesTwoObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tag := range []string{"one", ""} {
			f := &faulty{Bucket: memory(t), tag: tag}
			put(t, f, "it", "the first text")
			f.read = func(int) (int, error) {
				f.read = func(n int) (int, error) { return n, nil }
				if tag != "" {
					f.tag = "two"
				}
				return 3, transient("reset")
			}
			r, err := bucket.Retry(f, bucket.RetryConfig{}).Get(t.Context(), "it", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err == nil || string(got) != "the" {
				t.Errorf("tag %q: %q, %v", tag, got, err)
			}
		}
	})
}

func TestRetryListsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory(t)
		var want, got []string
		for i := range 20 {
			want = append(want, fmt.Sprintf("a/%02d", i))
			put(t, inner, want[i], "x")
		}
		calls := 0
		f := &faulty{Bucket: inner, before: func(context.Context, string) error {
			if calls++; calls%4 == 0 {
				return transient("reset")
			}
			return nil
		}}
		for o, err := range bucket.Retry(f, bucket.RetryConfig{}).List(t.Context(), "a/", "") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, o.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}

func TestStallGivesUpWhatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		f := &faulty{Bucket: memory(t), before: hang}
		b := bucket.Stall(f, 5*time.Second)
		check := func(what string, err error, after time.Duration, start time.Time) {
			t.Helper()
			if took := time.Since(start); tidegate.ClassOf(err) != tidegate.Transient || errors.Is(err, context.Canceled) || took != after {
				t.Errorf("%s: after %s: %v", what, took, err)
			}
		}
		start := time.Now()
		_, err := b.Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{})
		check("put", err, 5*time.Second, start)
		start = time.Now()
		_, err = b.Get(t.Context(), "it", 0, -1)
		check("get", err, 5*time.Second, start)
		f.before = nil
		put(t, b, "it", "0123456789")

		// It moves, if slowly, and its reader takes its time; then it stands still.
		reads := 0
		done := make(chan struct{})
		f.read = func(int) (int, error) {
			if reads++; reads > 6 {
				<-done
				return 0, context.Canceled
			}
			time.Sleep(4 * time.Second)
			return 1, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := b.Get(ctx, "it", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for range 6 {
			if n, err := r.Read(make([]byte, 5)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			time.Sleep(time.Minute)
		}
		start = time.Now()
		time.AfterFunc(6*time.Second, func() { close(done) })
		_, err = r.Read(make([]byte, 5))
		check("read", err, 6*time.Second, start)
		r.Close()

		// The caller's own end is the caller's.
		f.before = hang
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = b.Get(ctx, "it", 0, -1)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}
