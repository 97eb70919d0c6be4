package agent

import (
	"context"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper/drop"
)

// Times of the looks at the bucket that streams would cross by: seven requests each.
const (
	readyEvery   = 10 * time.Minute
	readyAgain   = time.Minute // after one that failed
	readyTimeout = 30 * time.Second
)

// foundUnready names the finding that nothing could cross by the archive.
const foundUnready = "crossing-unready"

// readiness is whether streams could cross by the archive, as was last tried: before
// they have to. Its methods may be called concurrently.
type readiness struct {
	mu     sync.Mutex
	failed error // of the last try; nil: it went well, or there was none
}

// keep tries the bucket until ctx ends.
func (r *readiness) keep(ctx context.Context, d *drop.Drop, agent tidegate.NodeName) error {
	if d == nil {
		return nil
	}
	for {
		timer := time.NewTimer(r.try(ctx, d, agent))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// try tries it once, and returns when to do so again.
func (r *readiness) try(ctx context.Context, d *drop.Drop, agent tidegate.NodeName) time.Duration {
	attempt, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := d.Check(attempt, agent)
	if ctx.Err() != nil {
		return 0 // it was cut off
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = err
	if err != nil {
		return readyAgain
	}
	return readyEvery
}

// finding tells an operator, while the link still carries the stream, that nothing else would.
func (r *readiness) finding(st *CrossingStatus) (f local.Finding, some bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st == nil || st.Lane != string(laneLive) || r.failed == nil {
		return f, false
	}
	return local.Finding{
		Name: foundUnready, Severity: local.SeverityWarning, Class: tidegate.ClassOf(r.failed),
		Text: "if the live crossing failed now, nothing would get across by the archive either: " + r.failed.Error(),
		Hint: tidegate.HintOf(r.failed),
	}, true
}
