package journal

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
)

// bubbleClock is the virtual time of a test's bubble.
type bubbleClock struct{ began time.Time }

func (c bubbleClock) Boot() tidegate.Instant {
	return tidegate.Instant(time.Since(c.began) + time.Second)
}
func (c bubbleClock) Wall() time.Time { return time.Now() }

// site is an active service in virtual time, whose agent and link the test plays.
type site struct {
	t     *testing.T
	j     *Journal
	began time.Time
	grant local.DaemonProgress
	links sync.WaitGroup
	mu    sync.Mutex
	cut   bool // the link carries nothing
}

// inBubble runs f beside a journal that is tended and active under epoch 1.
func inBubble(t *testing.T, grant local.DaemonProgress, f func(*site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, began: time.Now(), grant: grant}
		cfg := testConfig()
		cfg.Clock = bubbleClock{s.began}
		j, err := OpenFS(vfs.NewMem(), "/j", cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.j = j
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = j.tend(ctx) })
		if err := j.Activate(); err != nil {
			t.Fatal(err)
		}
		j.gate.hold(1)
		s.tell()
		f(s)
		cancel()
		wg.Wait()
		s.links.Wait()
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}

// tell gives the library the present grant.
func (s *site) tell() {
	s.mu.Lock()
	m := s.grant
	s.mu.Unlock()
	m.Epoch, m.DKnown = 1, true
	s.j.gate.grant(&m)
}

// change changes the grant and tells it.
func (s *site) change(f func(*local.DaemonProgress)) {
	s.mu.Lock()
	f(&s.grant)
	s.grant.Grant++
	s.mu.Unlock()
	s.tell()
}

// ship makes what is durable here durable at the other site after delay, for as
// long as ctx lives and the link is not cut.
func (s *site) ship(ctx context.Context, delay time.Duration) {
	s.links.Go(func() {
		for at := tidegate.Position(0); ; {
			if s.j.WaitDurable(ctx, at+1) != nil {
				return
			}
			at = s.j.Durable()
			wait(ctx, delay)
			s.mu.Lock()
			cut := s.cut
			if !cut {
				s.grant.D = max(s.grant.D, at)
			}
			s.mu.Unlock()
			if !cut {
				s.tell()
			}
		}
	})
}

func (s *site) setCut(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = on
}

// wait lets virtual time pass.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func terms(mode tidegate.Mode, b tidegate.Bounds, p tidegate.Policy) local.DaemonProgress {
	m := progress(1, 0, mode, b)
	m.Record, m.Policy = machine.RecordArmed, p
	return m
}

const noBound = tidegate.Unbounded

// TestLinkKilledUnderBounded is the promise of T: after the link is gone,
// outputs leave for T, and then work is refused within 100 ms.
func TestLinkKilledUnderBounded(t *testing.T) {
	const window = 2 * time.Second
	grant := terms(tidegate.ModeBounded, bounds(noBound, noBound, window), tidegate.Policy{Reaction: tidegate.ReactReject})
	inBubble(t, grant, func(s *site) {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		s.ship(ctx, 20*time.Millisecond)
		var (
			acks    []time.Duration
			next    []tidegate.Position
			refused time.Duration
			why     error
		)
		for why == nil {
			at := time.Since(s.began)
			if at > 5*time.Second {
				s.setCut(true)
			}
			r, err := s.j.Append(ctx, payload(len(acks)), testTime)
			if err != nil {
				refused, why = time.Since(s.began), err
				break
			}
			// A client waits for its answer no longer than this.
			await, done := context.WithTimeout(ctx, 10*time.Millisecond)
			if s.j.Await(await, r.Next) == nil {
				acks, next = append(acks, time.Since(s.began)), append(next, r.Next)
			}
			done()
			wait(ctx, time.Millisecond)
		}
		d := s.j.Status().D
		var first, last time.Duration
		for i, at := range acks {
			if next[i] > d && first == 0 {
				first = at
			}
			last = at
		}
		if first == 0 || last-first > window {
			s.t.Errorf("acknowledged for %s beyond what is durable, at most %s", last-first, window)
		}
		if closed := first + window; refused < closed || refused > closed+100*time.Millisecond {
			s.t.Errorf("refused %s after T was reached, want within 100 ms", refused-closed)
		}
		var c *Closed
		if !errors.As(why, &c) || !errors.Is(why, tidegate.ErrGateClosed) || tidegate.ClassOf(why) != tidegate.Transient {
			s.t.Fatalf("refused with %v", why)
		}
		if c.Utilisation < 1 || !c.Exposure.Known || c.Exposure.Age < window || c.RetryAfter < time.Second || c.Reason == "" || !c.DKnown || c.D != d {
			s.t.Errorf("%+v", c)
		}
		// The link comes back: work is taken again, and what waited leaves.
		s.setCut(false)
		s.change(func(m *local.DaemonProgress) { m.D = s.j.End() })
		r, err := s.j.Append(ctx, payload(0), testTime)
		if err == nil {
			err = s.j.Await(ctx, r.Next)
		}
		if err != nil {
			s.t.Error(err)
		}
	})
}

// TestFlappingLink cuts and mends the link ten times a second: what is shown
// changes at most once in five seconds, whatever the gate does.
func TestFlappingLink(t *testing.T) {
	for _, mode := range []tidegate.Mode{tidegate.ModeBounded, tidegate.ModeSync} {
		t.Run(string(mode), func(t *testing.T) {
			grant := terms(mode, bounds(20, noBound, 150*time.Millisecond), tidegate.Policy{Reaction: tidegate.ReactReject})
			inBubble(t, grant, func(s *site) {
				ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
				defer cancel()
				s.ship(ctx, 5*time.Millisecond)
				last, looked, changed, changes := s.j.Status().Gate, time.Now(), time.Time{}, 0
				for i := 0; ctx.Err() == nil; i++ {
					s.setCut(i/4%2 == 0)
					if r, err := s.j.Append(ctx, payload(i), testTime); err == nil {
						await, done := context.WithTimeout(ctx, 20*time.Millisecond)
						_ = s.j.Await(await, r.Next) // a client that gives up
						done()
					}
					if got := s.j.Status().Gate; got != last {
						if !changed.IsZero() && time.Since(changed) < machine.FlowHold {
							s.t.Fatalf("%s after %s: %s to %s", time.Since(changed), time.Since(s.began), last, got)
						}
						// It changed after the look before this one.
						last, changed, changes = got, looked, changes+1
					}
					looked = time.Now()
					wait(ctx, 25*time.Millisecond)
				}
				if mode == tidegate.ModeBounded && changes == 0 {
					s.t.Error("nothing was shown")
				}
			})
		})
	}
}

// TestRejectWithoutAgent: the policy holds although nobody is there to ask.
func TestRejectWithoutAgent(t *testing.T) {
	grant := terms(tidegate.ModeSync, tidegate.Bounds{}, tidegate.Policy{Reaction: tidegate.ReactReject, Grace: 3 * time.Second})
	inBubble(t, grant, func(s *site) {
		ctx := s.t.Context()
		s.j.gate.release(true)
		if _, err := s.j.Append(ctx, payload(0), testTime); err != nil {
			s.t.Fatal(err)
		}
		wait(ctx, machine.StallAfter+3*time.Second-10*time.Millisecond)
		if _, err := s.j.Append(ctx, payload(1), testTime); err != nil {
			s.t.Fatalf("refused within the grace: %v", err)
		}
		wait(ctx, 100*time.Millisecond)
		if _, err := s.j.Append(ctx, payload(2), testTime); !errors.Is(err, tidegate.ErrGateClosed) {
			s.t.Fatalf("append %v, want refused", err)
		}
		// Back again: what waited is released, and work is taken.
		s.j.gate.hold(1)
		s.change(func(m *local.DaemonProgress) { m.D = s.j.End() })
		if err := s.j.Await(ctx, s.j.End()); err != nil {
			s.t.Error(err)
		}
		if _, err := s.j.Append(ctx, payload(3), testTime); err != nil {
			s.t.Error(err)
		}
	})
}

// TestDegradeAndRearm: outputs leave unprotected only between the record's two
// words, and arming is asked for only once everything released is durable.
func TestDegradeAndRearm(t *testing.T) {
	p := tidegate.Policy{Reaction: tidegate.ReactDegrade, Grace: time.Second, Rearm: 10 * time.Second}
	inBubble(t, terms(tidegate.ModeSync, tidegate.Bounds{}, p), func(s *site) {
		ctx := s.t.Context()
		r, err := s.j.Append(ctx, payload(0), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		released := make(chan error, 1)
		s.links.Go(func() { released <- s.j.Await(ctx, r.Next) })
		wait(ctx, 3*time.Second)
		st := s.j.Status()
		if st.Want != machine.WantDegraded || st.A != 0 || st.Gate != machine.Asked && st.Gate != machine.Blocked {
			s.t.Fatalf("%+v", st)
		}
		s.change(func(m *local.DaemonProgress) { m.Record = machine.RecordDegraded })
		if err := <-released; err != nil {
			s.t.Fatal(err)
		}
		if st = s.j.Status(); st.Gate != machine.Degraded || st.A != r.Next {
			s.t.Fatalf("%+v", st)
		}
		// Durability that is asked for is kept in a degraded stream, too.
		short, cancel := context.WithTimeout(ctx, time.Second)
		if err := s.j.AwaitDurability(short, r.Next, tidegate.ModeSync); !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("sync in a degraded stream: %v", err)
		}
		cancel()
		// The link is back, under load.
		load, stop := context.WithCancel(ctx)
		s.ship(load, 10*time.Millisecond)
		s.links.Go(func() {
			for load.Err() == nil {
				if r, err := s.j.Append(load, payload(1), testTime); err == nil {
					_ = s.j.Await(load, r.Next) // ends with load
				}
				wait(load, 3*time.Millisecond)
			}
		})
		wait(ctx, 9*time.Second)
		if st = s.j.Status(); st.Gate != machine.Degraded {
			s.t.Errorf("%s before the rearm time", st.Gate)
		}
		wait(ctx, 2*time.Second)
		if st = s.j.Status(); st.Want != machine.WantArmed || st.Exposure.Records != 0 {
			s.t.Errorf("want %s in %s, exposure %+v", st.Want, st.Gate, st.Exposure)
		}
		s.change(func(m *local.DaemonProgress) { m.Record = machine.RecordArmed })
		if st = s.j.Status(); st.Gate != machine.Flowing || st.Want != machine.WantNone || st.Exposure.Records != 0 {
			s.t.Errorf("%+v", st)
		}
		stop()
	})
}

// TestDrain: no new work, what is in flight is finished, and the end is final.
func TestDrain(t *testing.T) {
	inBubble(t, terms(tidegate.ModeSync, tidegate.Bounds{}, tidegate.Policy{}), func(s *site) {
		ctx := s.t.Context()
		drained := func() bool {
			s.j.seal()
			var m local.LibraryProgress
			s.j.gate.progress(&m)
			return m.Drained
		}
		r, err := s.j.Append(ctx, payload(0), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		a, err := s.j.Admit(ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		released := make(chan error, 1)
		s.links.Go(func() { released <- s.j.Await(ctx, r.Next) })
		synctest.Wait()
		if drained() {
			s.t.Error("drained before anybody asked")
		}
		s.change(func(m *local.DaemonProgress) { m.Drain = true })
		var c *Closed
		if _, err := s.j.Append(ctx, payload(1), testTime); !errors.Is(err, tidegate.ErrDraining) || !errors.As(err, &c) || c.State != machine.OuterDraining {
			s.t.Errorf("append while draining: %v", err)
		}
		if _, err := s.j.Admit(ctx); !errors.Is(err, tidegate.ErrDraining) {
			s.t.Errorf("admit while draining: %v", err)
		}
		s.change(func(m *local.DaemonProgress) { m.D = r.Next })
		if err := <-released; err != nil {
			s.t.Fatal(err)
		}
		if drained() {
			s.t.Error("drained with work admitted")
		}
		late, err := s.j.SubmitAt(ctx, r.Next, payload(1), testTime)
		if err != nil {
			s.t.Fatalf("admitted work was refused: %v", err)
		}
		a.Done()
		if err := s.j.WaitDurable(ctx, late.Next); err != nil {
			s.t.Fatal(err)
		}
		s.change(func(m *local.DaemonProgress) { m.D = late.Next })
		if drained() {
			s.t.Error("drained although nobody has asked for the last output yet")
		}
		wait(ctx, settleAfter)
		if !drained() {
			s.t.Fatal("never drained")
		}
		if _, err := s.j.SubmitAt(ctx, late.Next, payload(2), testTime); !errors.Is(err, tidegate.ErrDraining) {
			s.t.Errorf("append after the end was final: %v", err)
		}
		// Given up: everything goes on.
		s.change(func(m *local.DaemonProgress) { m.Drain = false })
		if drained() {
			s.t.Error("drained after the handover was given up")
		}
		if r, err = s.j.Append(ctx, payload(2), testTime); err != nil {
			s.t.Fatal(err)
		}
		s.change(func(m *local.DaemonProgress) { m.D, m.Drain, m.HandedOver = r.Next, true, true })
		if err := s.j.Await(ctx, r.Next); !errors.Is(err, tidegate.ErrDraining) {
			s.t.Errorf("await after the handover: %v", err)
		}
		s.change(func(m *local.DaemonProgress) { m.Drain, m.HandedOver = false, false })
		if st := s.j.Status(); st.Gate != machine.HandedOver {
			s.t.Errorf("a handover was taken back: %s", st.Gate)
		}
		s.j.Deactivate()
		_, err = s.j.Append(ctx, payload(3), testTime)
		if c, ok := errors.AsType[*Closed](err); !ok || c.Exposure.Known || c.Exposure.Records != noBound {
			s.t.Errorf("refused, and an exposure that is not known told as one: %v (%+v)", err, c)
		}
	})
}

// TestLease: an open stream stops beyond D when its lease is over.
func TestLease(t *testing.T) {
	grant := terms(tidegate.ModeOpen, tidegate.Bounds{}, tidegate.Policy{})
	grant.LeaseNeeded = true
	inBubble(t, grant, func(s *site) {
		ctx := s.t.Context()
		lease := func(d time.Duration) {
			s.change(func(m *local.DaemonProgress) { m.LeaseUntil = s.j.cfg.Clock.Boot() + tidegate.Instant(d) })
		}
		lease(time.Second)
		s.j.gate.release(true) // the agent is lost: the lease alone says how long
		r, err := s.j.Append(ctx, payload(0), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := s.j.Await(ctx, r.Next); err != nil {
			s.t.Fatal(err)
		}
		wait(ctx, time.Second)
		if r, err = s.j.Append(ctx, payload(1), testTime); err != nil {
			s.t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := s.j.Await(short, r.Next); !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("released without a lease: %v", err)
		}
		s.j.gate.hold(1)
		lease(time.Second)
		if err := s.j.Await(ctx, r.Next); err != nil {
			s.t.Error(err)
		}
	})
}

// TestLeaseEndsWithTheActivity: while nothing is active here the agent gives the
// lease back, so a new activity waits for what it is told from then on.
func TestLeaseEndsWithTheActivity(t *testing.T) {
	grant := terms(tidegate.ModeOpen, tidegate.Bounds{}, tidegate.Policy{})
	inBubble(t, grant, func(s *site) {
		ctx := s.t.Context()
		lease := func(m *local.DaemonProgress) {
			m.LeaseNeeded, m.LeaseUntil = true, s.j.cfg.Clock.Boot()+tidegate.Instant(time.Minute)
		}
		s.change(lease)
		s.j.Deactivate()
		if err := s.j.Activate(); err != nil {
			s.t.Fatal(err)
		}
		r, err := s.j.Append(ctx, payload(0), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := s.j.Await(short, r.Next); !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("released under a lease that may have been given back: %v", err)
		}
		s.change(lease)
		if err := s.j.Await(ctx, r.Next); err != nil {
			s.t.Error(err)
		}
	})
}

// TestIdleReleasesNothingUnprotected: once the agent has said that it does not
// hold the epoch, not even what was granted before leaves; it may have given
// the lease back.
func TestIdleReleasesNothingUnprotected(t *testing.T) {
	grant := terms(tidegate.ModeOpen, tidegate.Bounds{}, tidegate.Policy{})
	inBubble(t, grant, func(s *site) {
		ctx := s.t.Context()
		a, err := s.j.Append(ctx, payload(0), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := s.j.Append(ctx, payload(1), testTime)
		if err != nil {
			s.t.Fatal(err)
		}
		s.change(func(m *local.DaemonProgress) { m.D = a.Next })
		s.j.gate.release(false)
		if st := s.j.Status(); st.Gate != machine.Off {
			s.t.Errorf("gate %s", st.Gate)
		}
		if err := s.j.Await(ctx, a.Next); err != nil {
			s.t.Errorf("what is durable: %v", err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := s.j.Await(short, b.Next); !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("released without the epoch: %v", err)
		}
		s.j.gate.hold(1)
		s.tell()
		if err := s.j.Await(ctx, b.Next); err != nil {
			s.t.Error(err)
		}
	})
}

// TestIsolatedStream: without agent and without link a stream goes on only if
// its record has allowed it beforehand, and only while a lease it needs runs.
func TestIsolatedStream(t *testing.T) {
	for _, c := range []struct {
		name     string
		reaction tidegate.Reaction
		record   machine.Record
		goes     bool
	}{
		{"blind and allowed", tidegate.ReactDegradeBlind, machine.RecordBlindOK, true},
		{"blind, not allowed", tidegate.ReactDegradeBlind, machine.RecordArmed, false},
		{"degrade", tidegate.ReactDegrade, machine.RecordArmed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			const lease = 10 * time.Second
			grant := terms(tidegate.ModeSync, tidegate.Bounds{}, tidegate.Policy{Reaction: c.reaction, Grace: time.Second})
			grant.Record = c.record
			inBubble(t, grant, func(s *site) {
				ctx := s.t.Context()
				s.change(func(m *local.DaemonProgress) {
					m.LeaseNeeded, m.LeaseUntil = true, s.j.cfg.Clock.Boot()+tidegate.Instant(lease)
				})
				s.j.gate.release(true)
				released := func(i int) bool {
					r, err := s.j.Append(ctx, payload(i), testTime)
					if err != nil {
						s.t.Fatal(err)
					}
					short, cancel := context.WithTimeout(ctx, 5*time.Second)
					defer cancel()
					return s.j.Await(short, r.Next) == nil
				}
				if got := released(0); got != c.goes {
					s.t.Errorf("released %v, want %v", got, c.goes)
				}
				wait(ctx, lease)
				if released(1) {
					s.t.Error("released without a lease")
				}
			})
		})
	}
}
