package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/tidegate/tidegate"
)

// StallDefault is how long a request may stand still. It is long for a server that
// puts a large object together, and short for an operator who waits.
const StallDefault = 30 * time.Second

// Stall returns b with every request given up in which nothing moves for so long:
// no byte of a body is taken or given, and no answer comes. That is a transient
// error. How long a request may take as a whole is the caller's context's to say.
func Stall(b Bucket, after time.Duration) Bucket { return &stalling{b, after} }

type stalling struct {
	Bucket

	after time.Duration
}

var errStalled = errors.New("stalled")

// watch ends a context when nothing moves.
type watch struct {
	after   time.Duration
	timer   *time.Timer
	stalled func() bool
	end     context.CancelCauseFunc
}

func (s *stalling) watch(ctx context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{after: s.after, end: cancel}
	w.stalled = func() bool { return errors.Is(context.Cause(ctx), errStalled) }
	w.timer = time.AfterFunc(s.after, func() { cancel(errStalled) })
	return ctx, w
}

func (w *watch) moved() { w.timer.Reset(w.after) }
func (w *watch) pause() { w.timer.Stop() }
func (w *watch) close() { w.timer.Stop(); w.end(nil) }

// judge says that a request has stalled, and not that its context has ended, which
// would look like the caller's.
func (w *watch) judge(op, name string, err error) error {
	if err == nil || errors.Is(err, io.EOF) || !w.stalled() {
		return err
	}
	return &tidegate.Error{
		Op: op, Subject: name, Class: tidegate.Transient,
		Err: fmt.Errorf("nothing has moved for %s", w.after),
	}
}

// Put implements [Bucket].
func (s *stalling) Put(ctx context.Context, name string, body Body, o PutOptions) (Object, error) {
	ctx, w := s.watch(ctx)
	defer w.close()
	obj, err := s.Bucket.Put(ctx, name, movingBody{body, w}, o)
	return obj, w.judge("put object", name, err)
}

type movingBody struct {
	Body

	w *watch
}

func (m movingBody) ReadAt(p []byte, off int64) (int, error) {
	m.w.moved()
	return m.Body.ReadAt(p, off)
}

// Get implements [Bucket].
func (s *stalling) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	ctx, w := s.watch(ctx)
	r, err := s.Bucket.Get(ctx, name, off, n)
	w.pause()
	if err != nil {
		w.close()
		return nil, w.judge("get object", name, err)
	}
	return &movingReader{tagged: tagged{r}, name: name, w: w}, nil
}

// movingReader is watched while it is read, and not while its reader is busy.
type movingReader struct {
	tagged

	name string
	w    *watch
}

func (m *movingReader) Read(p []byte) (int, error) {
	m.w.moved()
	n, err := m.ReadCloser.Read(p)
	m.w.pause()
	return n, m.w.judge("get object", m.name, err)
}

func (m *movingReader) Close() error {
	err := m.ReadCloser.Close()
	m.w.close()
	return err
}

// tagged passes on the tag of the reader that it wraps.
type tagged struct{ io.ReadCloser }

// Tag implements [Tagged]; empty where the driver's reader knows none.
func (t tagged) Tag() string { return TagOf(t.ReadCloser) }

// TagOf returns the tag of the object that a Get reads, or "" where it is not known.
func TagOf(r io.Reader) string {
	if t, ok := r.(Tagged); ok {
		return t.Tag()
	}
	return ""
}

// Stat implements [Bucket].
func (s *stalling) Stat(ctx context.Context, name string) (Object, error) {
	ctx, w := s.watch(ctx)
	defer w.close()
	o, err := s.Bucket.Stat(ctx, name)
	return o, w.judge("stat object", name, err)
}

// Remove implements [Bucket].
func (s *stalling) Remove(ctx context.Context, name string) error {
	ctx, w := s.watch(ctx)
	defer w.close()
	return w.judge("remove object", name, s.Bucket.Remove(ctx, name))
}

// List implements [Bucket].
func (s *stalling) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		ctx, w := s.watch(ctx)
		defer w.close()
		for o, err := range s.Bucket.List(ctx, prefix, after) {
			w.pause()
			if !yield(o, w.judge("list objects", prefix, err)) {
				return
			}
			w.moved()
		}
	}
}
