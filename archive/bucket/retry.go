package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/retry"
)

// RetryConfig says how [Retry] tries again. The zero value means the defaults.
type RetryConfig struct {
	Policy retry.Policy
	// For is how long a request is tried again without any success before its last
	// error is returned; 0 means RetryForDefault. It ends sooner with its context.
	For time.Duration
	// Failed is told of every attempt that is followed by another one, on the
	// goroutine that tries; nil: nobody is.
	Failed func(op, name string, err error)
}

// RetryForDefault outlasts the restart of a server.
const RetryForDefault = 2 * time.Minute

// Retry returns b with every request that failed transiently made again. A body that
// broke off is read on from where it was, as long as it is the same object by its
// tag. A conditional Put that may have happened and then meets a conflict is
// resolved by looking at what is there: if these are the bytes, it was this Put.
func Retry(b Bucket, c RetryConfig) Bucket {
	if c.For == 0 {
		c.For = RetryForDefault
	}
	return &retrying{b, c}
}

type retrying struct {
	Bucket

	c RetryConfig
}

// attempts is one operation, tried until it may not be.
type attempts struct {
	c        RetryConfig
	op, name string
	wait     *retry.Backoff
	since    time.Time // of the first failure in a row; zero: none
}

func (r *retrying) attempts(op, name string) *attempts {
	return &attempts{c: r.c, op: op, name: name, wait: r.c.Policy.Backoff()}
}

// again waits for the next attempt, or returns the error to give up with.
func (a *attempts) again(ctx context.Context, err error) error {
	if tidegate.ClassOf(err) != tidegate.Transient || ctx.Err() != nil {
		return err
	}
	if a.since.IsZero() {
		a.since = time.Now()
	}
	if time.Since(a.since) >= a.c.For {
		return err
	}
	if a.c.Failed != nil {
		a.c.Failed(a.op, a.name, err)
	}
	if end := a.wait.Wait(ctx); end != nil {
		return fmt.Errorf("%w: %w", end, err)
	}
	return nil
}

// moved says that something has succeeded.
func (a *attempts) moved() {
	a.since = time.Time{}
	a.wait.Reset()
}

// do tries until there is an outcome.
func (a *attempts) do(ctx context.Context, attempt func() error) error {
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		if err := a.again(ctx, err); err != nil {
			return err
		}
	}
}

// Put implements [Bucket].
func (r *retrying) Put(ctx context.Context, name string, body Body, o PutOptions) (Object, error) {
	var obj Object
	unsure := false // whether an attempt before this one has stored it
	err := r.attempts("put object", name).do(ctx, func() (err error) {
		obj, err = r.Bucket.Put(ctx, name, body, o)
		if errors.Is(err, tidegate.ErrConflict) && unsure {
			conflict := err
			obj, err = r.resolve(ctx, name, body, conflict)
			switch gone := errors.Is(err, tidegate.ErrNotFound); {
			case gone && o.IfAbsent:
				err = &tidegate.Error{Op: "put object", Subject: name, Class: tidegate.Transient, Err: errRemoved}
			case gone:
				err = conflict
			}
		}
		unsure = unsure || err != nil && tidegate.ClassOf(err) == tidegate.Transient
		return err
	})
	return obj, err
}

// errRemoved says that what a Put was in conflict with is not there any more: whoever was
// to read it has, and has removed it. The condition holds now.
var errRemoved = errors.New("the object that was there has been removed meanwhile")

// resolve finds out whether a conflict is with an earlier attempt of the same Put;
// tidegate.ErrNotFound when there is nothing any more.
func (r *retrying) resolve(ctx context.Context, name string, body Body, conflict error) (Object, error) {
	o, err := r.Bucket.Stat(ctx, name)
	if err != nil {
		return Object{}, err
	}
	if o.Size != body.Size() {
		return Object{}, conflict
	}
	there, err := r.Bucket.Get(ctx, name, 0, -1)
	if err != nil {
		return Object{}, err
	}
	same, err := equal(there, io.NewSectionReader(body, 0, body.Size()))
	if err := errors.Join(err, there.Close()); err != nil {
		return Object{}, err
	}
	if !same {
		return Object{}, conflict
	}
	return o, nil
}

// equal compares what two readers give.
func equal(x, y io.Reader) (bool, error) {
	const piece = 64 << 10
	p, q := make([]byte, piece), make([]byte, piece)
	for {
		n, errX := io.ReadFull(x, p)
		m, errY := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, failure(errX, errY)
		}
		if errX != nil || errY != nil {
			return failure(errX, errY) == nil, failure(errX, errY)
		}
	}
}

// failure drops what only says that a reader has come to its end.
func failure(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, io.EOF) && err != io.ErrUnexpectedEOF { //nolint:errorlint // ReadFull's own, and not one that a reader has wrapped
			return err
		}
	}
	return nil
}

// Stat implements [Bucket].
func (r *retrying) Stat(ctx context.Context, name string) (o Object, err error) {
	err = r.attempts("stat object", name).do(ctx, func() (err error) {
		o, err = r.Bucket.Stat(ctx, name)
		return err
	})
	return o, err
}

// Remove implements [Bucket].
func (r *retrying) Remove(ctx context.Context, name string) error {
	return r.attempts("remove object", name).do(ctx, func() error { return r.Bucket.Remove(ctx, name) })
}

// List implements [Bucket]. After a failure it goes on behind the last object given.
func (r *retrying) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		a := r.attempts("list objects", prefix)
		for {
			var failed error
			for o, err := range r.Bucket.List(ctx, prefix, after) {
				if err != nil {
					failed = err
					break
				}
				a.moved()
				after = o.Name
				if !yield(o, nil) {
					return
				}
			}
			if failed == nil {
				return
			}
			if err := a.again(ctx, failed); err != nil {
				yield(Object{}, err)
				return
			}
		}
	}
}

// Get implements [Bucket].
func (r *retrying) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	a := r.attempts("get object", name)
	open := func(at int64) (body io.ReadCloser, err error) {
		rest := n
		if n >= 0 {
			rest = n - at
		}
		err = a.do(ctx, func() (err error) {
			body, err = r.Bucket.Get(ctx, name, off+at, rest)
			return err
		})
		return body, err
	}
	body, err := open(0)
	if err != nil {
		return nil, err
	}
	again := func(err error) error { return a.again(ctx, err) }
	return &resuming{tagged: tagged{body}, a: a, open: open, again: again, name: name}, nil
}

// resuming is a body that is opened again where it broke off.
type resuming struct {
	tagged

	a     *attempts
	open  func(at int64) (io.ReadCloser, error)
	again func(error) error
	name  string
	at    int64 // bytes given
	broke error // why the body cannot be read on; nil: it can
}

func (r *resuming) Read(p []byte) (int, error) {
	for {
		if r.broke != nil {
			if err := r.resume(); err != nil {
				return 0, err
			}
		}
		n, err := r.ReadCloser.Read(p)
		r.at += int64(n)
		if n > 0 {
			r.a.moved()
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if tidegate.ClassOf(err) != tidegate.Transient || r.Tag() == "" {
			return n, err
		}
		r.broke = err
		if n > 0 {
			return n, nil
		}
	}
}

// resume opens the rest of the body.
func (r *resuming) resume() error {
	if err := r.again(r.broke); err != nil {
		return err
	}
	body, err := r.open(r.at)
	if err != nil {
		return err
	}
	if tag := TagOf(body); tag != r.Tag() {
		// At the very end there is no body, and nothing is missing.
		if n, err := body.Read(make([]byte, 1)); tag != "" || n > 0 || !errors.Is(err, io.EOF) {
			return errors.Join(&tidegate.Error{
				Op: "get object", Subject: r.name, Class: tidegate.Transient,
				Err: errors.New("it was replaced while it was read"),
			}, body.Close())
		}
	}
	_ = r.ReadCloser.Close() // it broke, which is known
	r.tagged, r.broke = keepTag(body, r.Tag()), nil
	return nil
}

func keepTag(r io.ReadCloser, tag string) tagged { return tagged{knownTag{r, tag}} }

type knownTag struct {
	io.ReadCloser

	tag string
}

func (k knownTag) Tag() string { return k.tag }
