package standby

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/rates"
)

// limits are what the operator's files hold back on this node.
type limits struct {
	files   *rates.Rates
	receive *rates.Limiter // the credit that writers and relays are given back
	copying *rates.Limiter // batches read from other nodes' logs
	apply   *rates.Limiter // batches handed to the libraries
	archive *rates.Limiter // what is asked of the archive's bucket
}

func newLimits(cfg Config, deps Deps) limits {
	files := rates.New(cfg.RatesDir, deps.Clock, deps.Log, rates.For(rates.DaemonStandby))
	deps.Registry.MustRegister(files)
	return limits{
		files: files, receive: files.Limiter(rates.Receive), copying: files.Limiter(rates.Copy), apply: files.Limiter(rates.Apply),
		archive: files.Limiter(rates.Archive),
	}
}

// grant gives back the credit that the rate of receiving allows. It never waits:
// the session must go on being read, and is, several times a second. What is
// held back stays owed; a peer that has used up its credit stops by itself.
func (f *feed) grant() error {
	if f.owed == 0 {
		return nil
	}
	if ok, _ := f.s.n.limits.receive.Take(f.owed); !ok {
		return nil
	}
	n := f.owed
	f.owed = 0
	return f.conn.Grant(n)
}

// admitApply waits until n bytes may be given to the library. A promotion is not
// held back: nobody is served before it is over.
func (l *library) admitApply(ctx context.Context, n int) error {
	for {
		l.s.mu.Lock()
		ordered := l.s.apply.promotion != nil && l.s.apply.promotion.promise == l.s.core.Promise()
		l.s.mu.Unlock()
		if ordered {
			return nil
		}
		ok, after := l.s.n.limits.apply.Take(n)
		if ok {
			return nil
		}
		if err := l.conn.Flush(); err != nil { // what was admitted before does not wait with it
			return &tidegate.Error{Op: "send batches to library", Class: tidegate.Transient, Err: err}
		}
		timer := time.NewTimer(after)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
