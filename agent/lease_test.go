package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

const testLease = 2 * time.Second

func open(g *fakeGate) {
	g.mode, g.lease = tidegate.ModeOpen, testLease
	g.rec.Gate = fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeOpen, Lease: testLease}
}

var errNoLease = &tidegate.Error{Op: "renew lease", Class: tidegate.Fenced, Err: errors.New("a change of writer has begun")}

// An open gate lets go only under a lease, and goes on as long as it is renewed.
func TestOpenGateNeedsALease(t *testing.T) {
	w, n := active(t, open)
	w.log.is(&w.log.mute, true)
	st := n.writer("lease", func(s *WriterStatus) bool { return s.Lease != nil && s.Lease.Remaining > 0 })
	if st.Lease.By != "registry" || st.Lease.Remaining > testLease-leaseMargin(testLease) {
		t.Errorf("lease %+v", st.Lease)
	}
	w.gate.mu.Lock()
	before := w.gate.renewals
	w.gate.mu.Unlock()
	for range 3 {
		n.await(n.append(1))
		w.clk.jump(testLease / 2)
		before++
		w.gate.wait(t, "renewed", func(g *fakeGate) bool { return g.renewals >= before })
	}
}

// A process or a machine that slept through its lease wakes up silent.
func TestNothingLeavesAfterTheLease(t *testing.T) {
	w, n := active(t, open)
	w.log.is(&w.log.mute, true)
	n.writer("lease", func(s *WriterStatus) bool { return s.Lease != nil && s.Lease.Remaining > 0 })
	end := n.append(1)
	n.await(end)
	w.gate.change(func(g *fakeGate) { g.renew = func() error { return errNoLease } })
	w.clk.jump(time.Hour)
	end = n.append(1)
	n.held(end)
	st := n.writer("refused", func(s *WriterStatus) bool { return s.Lease != nil && s.Lease.Error != "" })
	if st.Lease.Remaining != 0 || st.Lease.By != "" {
		t.Errorf("lease %+v", st.Lease)
	}
	if p := n.agent.Status().Pauses; p.Count == 0 || p.Longest < 59*time.Minute {
		t.Errorf("pauses %+v", p)
	}
	// Durable outputs leave without a lease: that is what D is for.
	w.log.is(&w.log.mute, false)
	n.await(end)
	w.log.is(&w.log.mute, true)
	end = n.append(1)
	n.held(end)
	w.gate.change(func(g *fakeGate) { g.renew = nil })
	n.await(end)
}

// While no gate answers, the standby nodes' word does. A gate that said no is not
// to be got round.
func TestNodesLendWhenNoGateAnswers(t *testing.T) {
	w, n := active(t, open)
	w.log.is(&w.log.lends, true)
	w.log.is(&w.log.mute, true)
	n.writer("lease", func(s *WriterStatus) bool { return s.Lease != nil && s.Lease.Remaining > 0 })
	w.gate.stop()
	w.clk.jump(testLease)
	n.await(n.append(1))
	n.writer("lent", func(s *WriterStatus) bool { return s.Lease.By == "nodes" })
	w.clk.jump(testLease / 2)
	n.await(n.append(1))
	w.log.is(&w.log.lends, false)
	w.clk.jump(testLease)
	n.held(n.append(1))
}

func TestNodesAreNotAskedAfterARefusal(t *testing.T) {
	w, n := active(t, open)
	w.log.is(&w.log.lends, true)
	w.log.is(&w.log.mute, true)
	w.gate.change(func(g *fakeGate) { g.renew = func() error { return errNoLease } })
	n.writer("refused", func(s *WriterStatus) bool { return s.Lease != nil && s.Lease.Error != "" })
	w.log.mu.Lock()
	lent := w.log.lent
	w.log.mu.Unlock()
	w.clk.jump(time.Hour)
	n.held(n.append(1))
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if w.log.lent != lent {
		t.Errorf("nodes lent %d times after the gate's refusal", w.log.lent-lent)
	}
}

// A service that stops being active gives its lease back, and only then.
func TestLeaseIsGivenBackWhenNothingLeaves(t *testing.T) {
	w, n := active(t, open)
	n.writer("lease", func(s *WriterStatus) bool { return s.Lease != nil && s.Lease.Remaining > 0 })
	w.gate.mu.Lock()
	released := w.gate.released
	w.gate.mu.Unlock()
	if released != 0 {
		t.Errorf("given back %d times while the service works", released)
	}
	n.j.Deactivate()
	w.gate.wait(t, "given back", func(g *fakeGate) bool { return g.released == 1 })
}

// The lease counts from before the call.
func TestLeaseCountsFromBeforeTheCall(t *testing.T) {
	w := newWorld(t, "s1")
	slow := make(chan struct{})
	w.gate.change(func(g *fakeGate) {
		open(g)
		g.renew = func() error {
			w.clk.jump(testLease - leaseMargin(testLease)) // the answer takes as long as the lease
			select {
			case <-slow:
				w.clk.jump(-(testLease - leaseMargin(testLease)))
			default:
			}
			return nil
		}
	})
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(1))
	w.gate.wait(t, "renewed", func(g *fakeGate) bool { return g.renewals > 0 })
	w.log.is(&w.log.mute, true)
	end := n.append(1)
	n.held(end)
	close(slow)
	n.await(end)
}

func TestLeaseMargin(t *testing.T) {
	if got, want := leaseMargin(10*time.Second), 255*time.Millisecond; got != want {
		t.Errorf("margin of 10 s is %s, want %s", got, want)
	}
}
