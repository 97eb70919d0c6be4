package journal

import (
	"context"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
)

// TestBoundedArmsUnderLoad: with bounds there is always something released beyond
// D while work goes on. That lies within what an armed record promises, and does
// not keep the gate from being armed again.
func TestBoundedArmsUnderLoad(t *testing.T) {
	grant := terms(tidegate.ModeBounded, bounds(1000, noBound, 2*time.Second), tidegate.Policy{Reaction: tidegate.ReactDegrade})
	grant.Record = machine.RecordDegraded
	inBubble(t, grant, func(s *site) {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		s.ship(ctx, 30*time.Millisecond)
		for began := time.Now(); time.Since(began) < 30*time.Second; {
			r, err := s.j.Append(ctx, []byte("x"), testTime)
			if err != nil {
				s.t.Fatal(err)
			}
			if err := s.j.Await(ctx, r.Next); err != nil {
				s.t.Fatal(err)
			}
			if s.j.Status().Want == machine.WantArmed {
				return
			}
			wait(ctx, time.Millisecond)
		}
		s.t.Errorf("not armed again under load: %+v", s.j.Status())
	})
}
