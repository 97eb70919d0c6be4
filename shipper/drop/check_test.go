package drop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// partial is a bucket that does one thing otherwise.
type partial struct {
	bucket.Bucket

	put    func(name string, o bucket.PutOptions) (bucket.PutOptions, error)
	get    func(name string, r io.ReadCloser, err error) (io.ReadCloser, error)
	remove func(name string) error
}

func (p partial) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if p.put != nil {
		var err error
		if o, err = p.put(name, o); err != nil {
			return bucket.Object{}, err
		}
	}
	return p.Bucket.Put(ctx, name, body, o)
}

func (p partial) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := p.Bucket.Get(ctx, name, off, n)
	if p.get != nil {
		return p.get(name, r, err)
	}
	return r, err
}

func (p partial) Remove(ctx context.Context, name string) error {
	if p.remove != nil {
		if err := p.remove(name); err != nil {
			return err
		}
	}
	return p.Bucket.Remove(ctx, name)
}

// TestCheck: whatever would keep sessions from crossing is found, and a bucket that is
// fit is left as it was.
func TestCheck(t *testing.T) {
	denied := &tidegate.Error{Op: "ask", Class: tidegate.Misuse, Err: tidegate.ErrDenied}
	for name, c := range map[string]struct {
		b    partial
		says string // empty: it is fit
	}{
		"fit":    {partial{}, ""},
		"no put": {partial{put: func(_ string, o bucket.PutOptions) (bucket.PutOptions, error) { return o, denied }}, "access denied"},
		"no conditions": {
			partial{put: func(string, bucket.PutOptions) (bucket.PutOptions, error) { return bucket.PutOptions{}, nil }}, "put once more",
		},
		"denied instead of not there": {partial{get: func(_ string, r io.ReadCloser, err error) (io.ReadCloser, error) {
			if errors.Is(err, tidegate.ErrNotFound) {
				return nil, denied
			}
			return r, err
		}}, "not there was answered with: ask: access denied"},
		"other bytes": {partial{get: func(_ string, r io.ReadCloser, err error) (io.ReadCloser, error) {
			if err != nil {
				return r, err
			}
			return io.NopCloser(strings.NewReader("x")), r.Close()
		}}, "other bytes"},
		"no remove": {partial{remove: func(string) error { return denied }}, "access denied"},
	} {
		t.Run(name, func(t *testing.T) {
			c.b.Bucket = memory(t)
			d := New(c.b, Config{})
			for range 2 { // also behind what a check has left
				err := d.Check(t.Context(), "east1")
				if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || tidegate.HintOf(err) == "") {
					t.Errorf("%v, want %q", err, c.says)
				}
			}
			if c.says != "" && d.Failures() != 2 {
				t.Errorf("%d failures counted", d.Failures())
			}
			if left := names(t, c.b.Bucket); c.says == "" && len(left) > 0 {
				t.Errorf("%q is left", left)
			}
		})
	}
	// What another check has left, cut off, is in nobody's way; nor is it taken for a piece.
	b := memory(t)
	if _, err := b.Put(t.Context(), checkName("east1"), bytes.NewReader([]byte("x")), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := parsePiece("east1", checkName("east1")); err == nil {
		t.Error("it is taken for a piece")
	}
	if err := New(b, Config{}).Check(t.Context(), "east1"); err != nil {
		t.Error(err)
	}
}
