package bucket

import (
	"context"
	"io"

	"github.com/tidegate/tidegate/internal/rates"
)

// Limit returns b with its bytes, in both directions together, held to a limiter's
// rate. An object that is put goes whole and what follows it waits; what is got waits
// piece by piece. It belongs inside of [Retry], so that what is sent again counts
// again, and outside of [Stall], to which waiting would look like standing still.
func Limit(b Bucket, l *rates.Limiter) Bucket { return &limited{b, l} }

type limited struct {
	Bucket

	l *rates.Limiter
}

// Put implements [Bucket].
func (l *limited) Put(ctx context.Context, name string, body Body, o PutOptions) (Object, error) {
	if err := CheckPut(name, o); err != nil {
		return Object{}, err
	}
	if err := l.l.Wait(ctx, int(body.Size())); err != nil {
		return Object{}, err
	}
	return l.Bucket.Put(ctx, name, body, o)
}

// Get implements [Bucket].
func (l *limited) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := l.l.Wait(ctx, 0); err != nil {
		return nil, err
	}
	r, err := l.Bucket.Get(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return &limitedReader{tagged{r}, func(n int) error { return l.l.Wait(ctx, n) }}, nil
}

type limitedReader struct {
	tagged

	wait func(n int) error
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if n > 0 {
		if stop := l.wait(n); stop != nil {
			return n, stop
		}
	}
	return n, err
}
