package local

import (
	"context"
	"errors"
	"sync"

	"github.com/tidegate/tidegate"
)

// Pair runs a session's two halves; the first to end ends the other, and closes
// the connection. recv gets the outer ctx: what it began, such as a promotion, is
// not cut short by a daemon that hangs up. A session never ends without an error.
func (c *Conn) Pair(ctx context.Context, recv, send func(context.Context) error) error {
	sendCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var errs [2]error
	var wg sync.WaitGroup
	half := func(i int, ctx context.Context, f func(context.Context) error) {
		wg.Go(func() {
			errs[i] = f(ctx)
			cancel()
			_ = c.Close() // unblocks the other half
		})
	}
	half(0, ctx, recv)
	half(1, sendCtx, send)
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	return errSessionOver
}

var errSessionOver = &tidegate.Error{Op: "local session", Class: tidegate.Transient, Err: errors.New("ended")}
