package replay

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
)

// dueAt says when a record of source time at is due, at a multiple of the source's pace
// that is above 0, where the record of time since is due at began. A record of before
// since is due at once.
func dueAt(began tidegate.Instant, since, at time.Time, speed float64) tidegate.Instant {
	d := at.Sub(since)
	if d <= 0 {
		return began
	}
	return began + tidegate.Instant(float64(d)/speed)
}

// pace keeps all streams of a replay on one time: it begins when each of them has been
// fed what lies before since, or has ended. Safe for concurrent use.
type pace struct {
	clk   clock.Clock
	speed float64 // of the source's clock; 0: as fast as it goes
	since time.Time

	arrived chan struct{} // one value per stream that came, or ended
	ready   chan struct{} // closed when all have
	began   tidegate.Instant
}

func newPace(clk clock.Clock, speed float64, since time.Time, streams int) *pace {
	return &pace{clk: clk, speed: speed, since: since, arrived: make(chan struct{}, streams), ready: make(chan struct{})}
}

// arrive is called once per stream.
func (p *pace) arrive() { p.arrived <- struct{}{} }

// run waits for the streams, and ends with ctx.
func (p *pace) run(ctx context.Context) error {
	for range cap(p.arrived) {
		select {
		case <-p.arrived:
		case <-ctx.Done():
			return nil
		}
	}
	p.began = p.clk.Boot()
	close(p.ready)
	return nil
}

// wait returns how long a record of that time is to wait yet, once the pace has begun.
func (p *pace) wait(ctx context.Context, at time.Time) (time.Duration, error) {
	if p.speed == 0 {
		return 0, nil
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return time.Duration(dueAt(p.began, p.since, at, p.speed) - p.clk.Boot()), nil
}
