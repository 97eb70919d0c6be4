package journal

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// TestSoftZoneSlowsWorkDown: half of the bound used, and work comes in at the
// pace at which the other site takes it, in the order in which it asked.
func TestSoftZoneSlowsWorkDown(t *testing.T) {
	grant := terms(tidegate.ModeBounded, bounds(1000, noBound, noBound), tidegate.Policy{})
	inBubble(t, grant, func(s *site) {
		ctx := s.t.Context()
		release := func(n int) Range {
			var last Range
			for i := range n {
				r, err := s.j.Append(ctx, payload(i), testTime)
				if err != nil {
					s.t.Fatal(err)
				}
				last = r
			}
			if err := s.j.Await(ctx, last.Next); err != nil {
				s.t.Fatal(err)
			}
			return last
		}
		mid := release(100)
		release(899)
		wait(ctx, 200*time.Millisecond)
		s.change(func(m *local.DaemonProgress) { m.D = mid.Next })
		began, n := time.Now(), 50
		release(n)
		// 100 records in 200 ms, and nine tenths of the bound used: a fifth of 500/s.
		if took := time.Since(began); took < 300*time.Millisecond || took > time.Second {
			s.t.Errorf("%d records took %s", n, took)
		}
		// A waiter can give up, and whoever comes after it is served.
		gone, cancel := context.WithCancel(ctx)
		s.change(func(m *local.DaemonProgress) { m.RateLimited, m.Rate = true, 0 })
		results := make(chan error, 3)
		for _, c := range []context.Context{gone, gone, ctx} {
			s.links.Go(func() {
				_, err := s.j.Append(c, payload(0), testTime)
				results <- err
			})
			synctest.Wait()
		}
		cancel()
		for range 2 {
			if err := <-results; !errors.Is(err, context.Canceled) {
				s.t.Errorf("cancelled append: %v", err)
			}
		}
		wait(ctx, time.Hour)
		select {
		case err := <-results:
			s.t.Errorf("appended at a rate of 0: %v", err)
		default:
		}
		s.change(func(m *local.DaemonProgress) { m.RateLimited, m.Rate = false, 0 })
		if err := <-results; err != nil {
			s.t.Error(err)
		}
	})
}

// Waiting work is refused at once when a drain begins, and ends with the journal.
func TestWaitingWorkLearnsOfTheEnd(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(*site)
		want error
	}{
		"drain": {func(s *site) { s.change(func(m *local.DaemonProgress) { m.Drain = true }) }, tidegate.ErrDraining},
		"fence": {func(s *site) { s.j.gate.fence(9) }, tidegate.ErrFenced},
		"stop":  {func(s *site) { s.j.gate.stop(errClosed) }, tidegate.ErrStopped},
	} {
		t.Run(name, func(t *testing.T) {
			grant := terms(tidegate.ModeSync, tidegate.Bounds{}, tidegate.Policy{})
			grant.RateLimited = true
			inBubble(t, grant, func(s *site) {
				results := make(chan error, 5)
				for range cap(results) {
					s.links.Go(func() {
						_, err := s.j.Append(s.t.Context(), payload(0), testTime)
						results <- err
					})
				}
				wait(s.t.Context(), time.Second)
				end.do(s)
				began := time.Now()
				for range cap(results) {
					if err := <-results; !errors.Is(err, end.want) {
						s.t.Errorf("%v, want %v", err, end.want)
					}
				}
				if took := time.Since(began); took > lookEvery {
					s.t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestAdmissionAllocatesNothing(t *testing.T) {
	inBubble(t, terms(tidegate.ModeSync, tidegate.Bounds{}, tidegate.Policy{}), func(s *site) {
		flowing := testing.AllocsPerRun(1000, func() {
			if err := s.j.gate.admit(s.t.Context(), 1); err != nil {
				s.t.Fatal(err)
			}
		})
		s.change(func(m *local.DaemonProgress) { m.RateLimited, m.Rate = true, math.MaxUint64 })
		limited := testing.AllocsPerRun(1000, func() {
			if err := s.j.gate.admit(s.t.Context(), 1); err != nil {
				s.t.Fatal(err)
			}
		})
		if flowing != 0 || limited != 0 {
			s.t.Errorf("%v allocations while flowing, %v at a rate", flowing, limited)
		}
	})
}

func TestAwaitDurabilityRefusesNonsense(t *testing.T) {
	inBubble(t, terms(tidegate.ModeOpen, tidegate.Bounds{}, tidegate.Policy{}), func(s *site) {
		if err := s.j.AwaitDurability(s.t.Context(), 0, "ajar"); tidegate.ClassOf(err) != tidegate.Misuse {
			s.t.Error(err)
		}
		r, err := s.j.Append(s.t.Context(), payload(0), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := s.j.AwaitDurability(s.t.Context(), r.Next, tidegate.ModeOpen); err != nil {
			s.t.Error(err)
		}
		// An open stream has no bounds to hold: bounded is sync there.
		for _, mode := range []tidegate.Mode{tidegate.ModeBounded, tidegate.ModeSync} {
			short, cancel := context.WithTimeout(s.t.Context(), time.Second)
			if err := s.j.AwaitDurability(short, r.Next, mode); !errors.Is(err, context.DeadlineExceeded) {
				s.t.Errorf("%s in an open stream: %v", mode, err)
			}
			cancel()
		}
		s.change(func(m *local.DaemonProgress) { m.D = r.Next })
		if err := s.j.AwaitDurability(s.t.Context(), r.Next, tidegate.ModeSync); err != nil {
			s.t.Error(err)
		}
	})
}
