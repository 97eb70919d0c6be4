package fence_test

import (
	"fmt"
	"testing"

	"github.com/tidegate/tidegate/gating/fence"
)

// TestControllerKilledAnywhere kills the gate after every single effect of a
// failover. Another one then takes the plan up, or a new plan is made: both must
// end with the stream open at the new place, with all that was durable.
func TestControllerKilledAnywhere(t *testing.T) {
	for _, second := range []string{"resume", "failover n1#1", "failover n2#1"} {
		t.Run(second, func(t *testing.T) {
			for n := 0; ; n++ {
				c := &cluster{names: map[[16]byte]string{}}
				for _, cmd := range []string{"quiet", "cluster n=3 w=2", "acquire p0#1", "write batches=5"} {
					c.command(t, cmd)
				}
				c.plan = nil
				c.command(t, fmt.Sprintf("failover n1#1 after=%d", n))
				if c.plan != nil && c.plan.Finished() {
					if n < 10 {
						t.Fatalf("finished after %d effects", n)
					}
					return
				}
				before := c.key.Record.Epoch
				if c.plan == nil && second == "resume" {
					continue // nothing had been decided
				}
				c.command(t, second)
				r := c.key.Record
				if r.State != fence.StateActive || r.Head.Seq != 5 || c.w.Epoch() != r.Epoch {
					t.Fatalf("killed after %d effects: record %s epoch %s head %s", n, r.State, r.Epoch, r.Head)
				}
				if second == "resume" && r.Epoch != before {
					t.Errorf("killed after %d effects: resumed in epoch %s, reserved was %s", n, r.Epoch, before)
				}
				c.command(t, "write batches=3")
				if d := c.w.Durable(); d != 8 {
					t.Fatalf("killed after %d effects: D %d", n, d)
				}
			}
		})
	}
}

// TestRefusedAcquireElsewhere: after a failover the old site cannot take the
// streams back by itself.
func TestRefusedAcquireElsewhere(t *testing.T) {
	c := &cluster{names: map[[16]byte]string{}}
	for _, cmd := range []string{"quiet", "cluster n=3 w=2", "acquire p0#1", "failover n1#1"} {
		c.command(t, cmd)
	}
	epoch := c.key.Record.Epoch
	c.command(t, "acquire p0#2")
	if c.key.Record.Epoch != epoch || c.plan.Refusal == nil || c.plan.Refusal.Rule != fence.RuleSameSite {
		t.Fatalf("epoch %s after %s, refusal %v", c.key.Record.Epoch, epoch, c.plan.Refusal)
	}
}
