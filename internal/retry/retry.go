package retry

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tidegate/tidegate"
)

// Policy says how long to wait between attempts. The zero value is the default.
type Policy struct {
	First time.Duration  // upper end of the first wait; 0 means 100 ms
	Max   time.Duration  // upper end of every later wait; 0 means 10 s
	Rand  func() float64 // in [0, 1), for tests; nil means math/rand
}

// Defaults of [Policy]. The first wait is long enough for a restarting process
// on the same machine, the longest is one that an operator still watches out.
const (
	FirstDefault = 100 * time.Millisecond
	MaxDefault   = 10 * time.Second
)

// Backoff counts the attempts of one operation.
type Backoff struct {
	policy Policy
	upper  time.Duration
}

// Backoff returns a fresh counter.
func (p Policy) Backoff() *Backoff {
	if p.First <= 0 {
		p.First = FirstDefault
	}
	if p.Max <= 0 {
		p.Max = max(MaxDefault, p.First)
	}
	if p.Rand == nil {
		p.Rand = rand.Float64
	}
	return &Backoff{policy: p}
}

// Next returns how long to wait before the next attempt: uniform between 0 and
// an upper end that doubles up to the policy's Max. Full jitter keeps nodes
// that lost the same peer from coming back in step.
func (b *Backoff) Next() time.Duration {
	switch {
	case b.upper == 0:
		b.upper = b.policy.First
	case b.upper > b.policy.Max/2:
		b.upper = b.policy.Max
	default:
		b.upper *= 2
	}
	return time.Duration(b.policy.Rand() * float64(b.upper))
}

// Reset makes the next wait the first one again; call it after a success that
// lasted.
func (b *Backoff) Reset() { b.upper = 0 }

// Wait sleeps for Next, or until ctx ends, whose error it returns then.
func (b *Backoff) Wait(ctx context.Context) error {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return ctx.Err()
	}
}

// Do calls op until it returns nil or an error that is not transient, which it
// returns, or until ctx ends; then it returns op's last error.
func (p Policy) Do(ctx context.Context, op func(context.Context) error) error {
	b := p.Backoff()
	for {
		err := op(ctx)
		if err == nil || tidegate.ClassOf(err) != tidegate.Transient {
			return err
		}
		if b.Wait(ctx) != nil {
			return err
		}
	}
}
