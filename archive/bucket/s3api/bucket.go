package s3api

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// Bucket is a bucket on a server, or what lies under a prefix there; it implements
// [bucket.Bucket].
type Bucket struct {
	api    API
	cfg    Config
	prefix string // of keys; empty or ending in a slash
}

// New returns the bucket of cfg, spoken with through api.
func New(api API, cfg Config) *Bucket {
	b := &Bucket{api: api, cfg: cfg.SetDefaults()}
	if b.cfg.Prefix != "" {
		b.prefix = b.cfg.Prefix + "/"
	}
	return b
}

func (b *Bucket) String() string {
	s := "s3://" + b.cfg.Bucket + "/" + b.prefix
	if b.cfg.Endpoint != "" {
		s += " at " + b.cfg.Endpoint
	}
	return s
}

func (b *Bucket) key(name string) string { return b.prefix + name }

// Get implements [bucket.Bucket].
func (b *Bucket) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	const op = "get object"
	if err := bucket.CheckGet(name, off); err != nil {
		return nil, err
	}
	if n == 0 { // there is no such range
		if _, err := b.Stat(ctx, name); err != nil {
			return nil, err
		}
		return io.NopCloser(strings.NewReader("")), nil
	}
	body, tag, err := b.api.Get(ctx, b.key(name), off, n)
	if f, ok := b.fault(err); ok && (f.Code == "InvalidRange" || f.Status == 416) {
		return io.NopCloser(strings.NewReader("")), nil // from the end on
	}
	if err != nil {
		return nil, b.fail(ctx, op, name, err)
	}
	return &reader{body: body, tag: tag, fail: func(err error) error { return b.fail(ctx, op, name, err) }}, nil
}

// reader is the body of a Get.
type reader struct {
	body io.ReadCloser
	tag  string
	fail func(error) error
}

// Tag implements [bucket.Tagged].
func (r *reader) Tag() string { return r.tag }

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, r.fail(err)
	}
	return n, err
}

func (r *reader) Close() error { return r.body.Close() }

// Stat implements [bucket.Bucket].
func (b *Bucket) Stat(ctx context.Context, name string) (bucket.Object, error) {
	const op = "stat object"
	if err := bucket.CheckName(op, name); err != nil {
		return bucket.Object{}, err
	}
	h, err := b.head(ctx, op, name)
	if err != nil {
		return bucket.Object{}, err
	}
	return bucket.Object{Name: name, Size: h.Size, Tag: h.Tag, Modified: h.Modified, RetainUntil: h.RetainUntil}, nil
}

// head asks for an object. The answer to a HEAD has no body, so it does not tell a
// missing object from a missing bucket or worse, which must not look like the former:
// a list, whose answer has one, does.
func (b *Bucket) head(ctx context.Context, op, name string) (Head, error) {
	h, err := b.api.Head(ctx, b.key(name))
	if err == nil {
		return h, nil
	}
	err = b.fail(ctx, op, name, err)
	if !errors.Is(err, tidegate.ErrNotFound) {
		return Head{}, err
	}
	for _, missing := range b.api.List(ctx, b.key(name), "", 1) {
		if missing != nil {
			return Head{}, b.fail(ctx, op, name, missing)
		}
		break
	}
	return Head{}, err
}

// versionsMax bounds how many versions of one object a Remove removes.
const versionsMax = 10_000

// Remove implements [bucket.Bucket].
func (b *Bucket) Remove(ctx context.Context, name string) error {
	const op = "remove object"
	if err := bucket.CheckName(op, name); err != nil {
		return err
	}
	for range versionsMax {
		h, err := b.head(ctx, op, name)
		if errors.Is(err, tidegate.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.api.Delete(ctx, b.key(name), h.Version); err != nil {
			return b.failRemove(ctx, op, name, h, err)
		}
		if h.Version == "" {
			return nil
		}
	}
	return &tidegate.Error{Op: op, Subject: name, Class: tidegate.Transient, Err: errors.New("there are still more versions of it")}
}

// failRemove tells a lock from a lack of rights: servers answer both alike.
func (b *Bucket) failRemove(ctx context.Context, op, name string, h Head, err error) error {
	f, ok := b.fault(err)
	if ok && !h.RetainUntil.IsZero() && f.Status >= 400 && f.Status < 500 {
		return &tidegate.Error{
			Op: op, Subject: name, Class: tidegate.Refused, Err: err,
			Hint: "it is locked until " + h.RetainUntil.UTC().Format(time.RFC3339),
		}
	}
	return b.fail(ctx, op, name, err)
}

func (b *Bucket) fault(err error) (Fault, bool) {
	if err == nil {
		return Fault{}, false
	}
	return b.api.Fault(err)
}
