package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
)

// CanaryEvery is the pause between two attempts of a write that is not accepted yet: how
// far the time of its acceptance may be off.
const CanaryEvery = 5 * time.Millisecond

// Fault is a cause of a context's end that lies with the asked service, and not with
// somebody who had enough.
type Fault struct{ Err error }

func (f Fault) Error() string { return f.Err.Error() }

func (f Fault) Unwrap() error { return f.Err }

// Canary writes until that is accepted. It has failed when ctx ended before, by a
// [Fault]; when ctx ended otherwise, what would have come is not known. The error, which
// has both the cause and the last answer, is of those two.
func (k *Asker) Canary(ctx context.Context, c *Canary) (evidence.Check, error) {
	out := evidence.Check{Name: c.Name, Kind: "canary", Wanted: c.Write.Wanted()}
	began := k.clk.Boot()
	tick := time.NewTicker(CanaryEvery)
	defer tick.Stop()
	attempts, last := 0, error(nil)
	for {
		attempts++
		got, err := k.Ask(ctx, &c.Write)
		if err == nil {
			took := time.Duration(k.clk.Boot() - began)
			out.Got, out.Outcome, out.Took = &got, evidence.CheckPassed, &took
			return out, nil
		}
		if ctx.Err() == nil {
			last = err // the one that ctx ended says nothing
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			cause := context.Cause(ctx)
			out.Outcome, out.Why = evidence.CheckUnknown, "the drill ended before it was accepted"
			if _, is := errors.AsType[Fault](cause); is {
				out.Outcome, out.Why = evidence.CheckFailed, fmt.Sprintf("not accepted in %d attempts: %s", attempts, evidence.Sentence(cause))
			}
			if last != nil {
				out.Why += ": " + evidence.Sentence(last)
				cause = fmt.Errorf("%w: %w", cause, last)
			}
			return out, fmt.Errorf("canary %s: %w", c.Name, cause)
		}
	}
}
