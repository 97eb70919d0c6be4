package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
)

// active is one host whose service is active, with a record that has gone all
// the way. The gate in force is set by settings, before the agent starts.
func active(t *testing.T, settings func(*fakeGate)) (*world, *host) {
	t.Helper()
	w := newWorld(t, "s1")
	w.gate.change(settings)
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(1))
	return w, n
}

func degrading(g *fakeGate) {
	g.policy = tidegate.Policy{Reaction: tidegate.ReactDegrade, Grace: 100 * time.Millisecond}
}

// The record says degraded before anything leaves unprotected, and armed only
// after bounds hold again. (I13)
func TestDegradationIsRecordedFirst(t *testing.T) {
	w, n := active(t, degrading)
	reached, let := make(chan fence.GateRecord, 8), make(chan struct{})
	w.gate.change(func(g *fakeGate) {
		g.record = func(next fence.GateRecord) { reached <- next; <-let }
	})
	w.log.is(&w.log.mute, true)
	d := n.writer("durable", func(s *WriterStatus) bool { return s.Durable == n.j.End() }).DurableSeq
	end := n.append(3)
	next := <-reached
	if next.State != fence.GateDegraded || next.SinceSeq != d+1 {
		t.Fatalf("recorded %+v, want degraded from batch %d on", next, d+1)
	}
	n.held(end) // the answer is not there yet
	let <- struct{}{}
	n.await(end)
	n.writer("degraded", func(s *WriterStatus) bool {
		return s.Gate.Record == fence.GateDegraded && s.Gate.State == machine.Degraded.String()
	})

	w.log.is(&w.log.mute, false)
	n.writer("all durable", func(s *WriterStatus) bool { return s.Durable == end })
	w.clk.jump(2 * machine.RearmMin)
	if next := <-reached; next.State != fence.GateArmed || next.Mode != tidegate.ModeSync {
		t.Fatalf("recorded %+v, want armed", next)
	}
	st := n.writer("arming", func(s *WriterStatus) bool { return s.Gate.Want == machine.WantArmed.String() })
	if st.Gate.State != machine.Arming.String() {
		t.Errorf("asked for armed in state %s", st.Gate.State)
	}
	w.log.is(&w.log.mute, true)
	n.held(n.append(1)) // enforced before it is on record
	close(let)
	w.log.is(&w.log.mute, false)
	n.writer("armed", func(s *WriterStatus) bool { return s.Gate.Record == fence.GateArmed && s.Recorded })
	n.await(n.j.End())
}

// A failover that has taken the record makes the degradation fail: nothing is
// released, ever. (I13)
func TestDegradationLosesAgainstFailover(t *testing.T) {
	w, n := active(t, degrading)
	w.log.is(&w.log.mute, true)
	w.gate.change(func(g *fakeGate) {
		g.record = func(fence.GateRecord) {
			g.mu.Lock()
			g.record = nil
			g.mu.Unlock()
			g.grant(fence.Holder{Node: "w1", Site: "west", UUID: tidegate.NewID()}, fence.KindFailover)
		}
	})
	end := n.append(1)
	n.state(StateFenced)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := n.j.Await(ctx, end); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("await: %v, want fenced", err)
	}
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	if slices.Contains(w.gate.states(), fence.GateDegraded) {
		t.Errorf("recorded %v", w.gate.states())
	}
}

// The brake's record is the gate's: the agent obeys it and arms nothing under it.
func TestBrake(t *testing.T) {
	w, n := active(t, func(*fakeGate) {})
	w.log.is(&w.log.mute, true)
	end := n.append(1)
	n.held(end)
	w.gate.change(func(g *fakeGate) {
		g.rec.Gate.State = fence.GateDegraded
		g.brake = &pb.Brake{Reason: "DR is down for a week", Actor: "ann"}
	})
	n.await(end)
	w.log.is(&w.log.mute, false)
	n.writer("all durable", func(s *WriterStatus) bool { return s.Durable == end })
	w.clk.jump(2 * machine.RearmMin)
	st := n.writer("state told", func(s *WriterStatus) bool { return s.Gate.Known && s.Exposure.Known })
	if st.Gate.Brake != "ann: DR is down for a week" || st.Gate.State != machine.Degraded.String() {
		t.Errorf("status %+v", st.Gate)
	}
	w.gate.mu.Lock()
	recorded := len(w.gate.recorded)
	w.gate.mu.Unlock()
	if recorded != 0 {
		t.Errorf("%d records under the brake", recorded)
	}
	w.gate.change(func(g *fakeGate) { g.brake = nil })
	n.writer("brake lifted", func(s *WriterStatus) bool { return s.Gate.Brake == "" })
	w.gate.wait(t, "armed again", func(g *fakeGate) bool {
		w.clk.jump(machine.RearmMin / 4)
		return slices.Contains(g.states(), fence.GateArmed)
	})
}

// With leave to degrade blindly the gate opens though nobody can be asked; that
// leave is on record before.
func TestDegradeBlind(t *testing.T) {
	w, n := active(t, func(g *fakeGate) {
		g.policy = tidegate.Policy{Reaction: tidegate.ReactDegradeBlind, Grace: 100 * time.Millisecond}
	})
	n.writer("leave recorded", func(s *WriterStatus) bool { return s.Gate.Record == fence.GateBlindOK })
	w.gate.stop()
	w.log.is(&w.log.mute, true)
	n.await(n.append(1))
	if st := n.agent.Status().Streams[0].Writer; st.Gate.Record != fence.GateBlindOK || st.Recorded {
		t.Errorf("status %+v", st)
	}
}

// The brake on a stream that may degrade blindly leaves its record as it is, and
// opens at once: nobody waits for the grace.
func TestBrakeOnABlindGate(t *testing.T) {
	w, n := active(t, func(g *fakeGate) {
		g.policy = tidegate.Policy{Reaction: tidegate.ReactDegradeBlind, Grace: time.Hour}
	})
	n.writer("leave recorded", func(s *WriterStatus) bool { return s.Gate.Record == fence.GateBlindOK })
	w.log.is(&w.log.mute, true)
	end := n.append(1)
	n.held(end)
	w.gate.change(func(g *fakeGate) { g.brake = &pb.Brake{Reason: "DR is down for a week", Actor: "ann"} })
	n.await(end)
}

// What the record may say next, and when.
func TestNextGate(t *testing.T) {
	armed := func(m tidegate.Mode) fence.GateRecord { return fence.GateRecord{State: fence.GateArmed, Mode: m} }
	state := func(s fence.GateState) fence.GateRecord { return fence.GateRecord{State: s, Mode: tidegate.ModeSync} }
	type terms struct {
		have   fence.GateRecord
		mode   tidegate.Mode
		policy tidegate.Reaction
		brake  bool
		lease  time.Duration
		obeyed bool
		want   machine.Want
		gate   machine.State
	}
	for name, tc := range map[string]struct {
		in   terms
		want fence.GateState // "": nothing is due
	}{
		"as wanted":                         {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeSync, obeyed: true}, ""},
		"nobody said what is wanted":        {terms{have: state(fence.GateUnknown), obeyed: true}, ""},
		"unknown, not obeyed yet":           {terms{have: state(fence.GateUnknown), mode: tidegate.ModeSync}, ""},
		"unknown, obeyed":                   {terms{have: state(fence.GateUnknown), mode: tidegate.ModeSync, obeyed: true}, fence.GateArmed},
		"unknown, brake":                    {terms{have: state(fence.GateUnknown), mode: tidegate.ModeSync, obeyed: true, brake: true}, ""},
		"loosening is recorded at once":     {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeOpen}, fence.GateArmed},
		"tightening waits":                  {terms{have: armed(tidegate.ModeOpen), mode: tidegate.ModeSync}, ""},
		"tightening obeyed":                 {terms{have: armed(tidegate.ModeOpen), mode: tidegate.ModeSync, obeyed: true}, fence.GateArmed},
		"asked to degrade":                  {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeSync, policy: tidegate.ReactDegrade, obeyed: true, want: machine.WantDegraded}, fence.GateDegraded},
		"asked before this term":            {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeSync, policy: tidegate.ReactDegrade, want: machine.WantDegraded}, ""},
		"asked though the policy blocks":    {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeSync, policy: tidegate.ReactBlock, obeyed: true, want: machine.WantDegraded}, ""},
		"degraded stays":                    {terms{have: state(fence.GateDegraded), mode: tidegate.ModeSync, obeyed: true}, ""},
		"degraded, asked to arm":            {terms{have: state(fence.GateDegraded), mode: tidegate.ModeSync, obeyed: true, want: machine.WantArmed, gate: machine.Arming}, fence.GateArmed},
		"degraded, arm not obeyed":          {terms{have: state(fence.GateDegraded), mode: tidegate.ModeSync, want: machine.WantArmed, gate: machine.Arming}, ""},
		"degraded, brake":                   {terms{have: state(fence.GateDegraded), mode: tidegate.ModeSync, obeyed: true, want: machine.WantArmed, gate: machine.Arming, brake: true}, ""},
		"blind leave given":                 {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeSync, policy: tidegate.ReactDegradeBlind}, fence.GateBlindOK},
		"blind leave taken back":            {terms{have: state(fence.GateBlindOK), mode: tidegate.ModeSync, policy: tidegate.ReactBlock, obeyed: true, gate: machine.Flowing}, fence.GateArmed},
		"blind leave in use":                {terms{have: state(fence.GateBlindOK), mode: tidegate.ModeSync, policy: tidegate.ReactBlock, obeyed: true, gate: machine.Degraded}, ""},
		"lease on a gate that holds":        {terms{have: armed(tidegate.ModeSync), mode: tidegate.ModeSync, lease: time.Second}, fence.GateArmed},
		"lease on an open gate, not obeyed": {terms{have: armed(tidegate.ModeOpen), mode: tidegate.ModeOpen, lease: time.Second}, ""},
		"lease on an open gate, obeyed":     {terms{have: armed(tidegate.ModeOpen), mode: tidegate.ModeOpen, lease: time.Second, obeyed: true}, fence.GateArmed},
	} {
		t.Run(name, func(t *testing.T) {
			in := tc.in
			w := unproven(t, streamView{})
			w.ring = newRing(1<<20, facts{seq: 7})
			w.meter.begin(1, w.ring.durable)
			w.terms, w.wantMode, w.wantLease = in.have, in.mode, in.lease
			w.want, _ = in.mode.Bounds(tidegate.Bounds{})
			w.policy.Reaction, w.brake.on = in.policy, in.brake
			w.note(local.DaemonProgress{Grant: 5})
			p := local.LibraryProgress{AKnown: true, Want: in.want, Gate: in.gate}
			if p.Gate == 0 {
				p.Gate = machine.Flowing
			}
			if in.obeyed {
				p.Grant = 5
			}
			w.meter.library(2, &p)
			next, why, due := w.nextGate(3)
			if due != (tc.want != "") || due && (next.State != tc.want || why == "") {
				t.Errorf("next %+v (%s), due %v; want %q", next, why, due, tc.want)
			}
			if due && tc.want == fence.GateDegraded && next.SinceSeq != 8 {
				t.Errorf("degraded since %s, want the first batch that is not durable", next.SinceSeq)
			}
		})
	}
}
