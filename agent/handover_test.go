package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/machine"
)

// switchTo asks the writer to hand over, as S1 does.
func (g *fakeGate) switchTo(target fence.Holder) {
	g.change(func(g *fakeGate) {
		g.rec.State, g.rec.Target, g.rec.Plan = fence.StateSwitching, target, tidegate.NewID()
		g.rec.Deadline = time.Now().Add(time.Minute).UnixNano()
	})
}

// handover waits until a handover batch is the last of the log, and returns it.
func (w *world) handover() batch.Header {
	w.t.Helper()
	var h batch.Header
	w.log.wait(w.t, "handover shipped", func(d *dr) bool {
		if len(d.headers) == 0 {
			return false
		}
		h = d.headers[len(d.headers)-1]
		return h.Kind == batch.KindHandover
	})
	return h
}

func TestSwitchover(t *testing.T) {
	w, n := active(t, func(*fakeGate) {})
	end := n.append(5)
	w.gate.switchTo(fence.Holder{Node: "s1", Site: "west", UUID: tidegate.NewID()})
	h := w.handover()
	if h.Next != end {
		t.Errorf("handed over at %s, the log ends at %s", h.Next, end)
	}
	n.await(end) // what was taken is answered
	_, err := n.j.Append(t.Context(), []byte("late"), time.Unix(1, 0))
	if !errors.Is(err, tidegate.ErrDraining) {
		t.Errorf("append while draining: %v", err)
	}
	w.gate.mu.Lock()
	early := len(w.gate.handed)
	w.gate.mu.Unlock()
	if early != 0 {
		t.Error("given up before the target has applied the handover")
	}
	w.log.mu.Lock()
	w.log.applied = h.Seq
	w.log.mu.Unlock()
	w.gate.wait(t, "handed over", func(g *fakeGate) bool { return len(g.handed) > 0 })
	w.gate.mu.Lock()
	to, err := fencewire.Handover(w.gate.handed[0].GetStreams()[0].GetHandover())
	w.gate.mu.Unlock()
	if err != nil || to.Head != h.Pos() || to.Position != end || !to.StateKnown || to.StateDigest != stateAt(end) {
		t.Errorf("handed over %+v (%v), want %s at %s", to, err, h.Pos(), end)
	}
	n.writer("library sealed", func(s *WriterStatus) bool { return s.Gate.State == machine.HandedOver.String() })
	w.log.mu.Lock()
	if last := w.log.headers[len(w.log.headers)-1]; last.Pos() != h.Pos() {
		t.Errorf("%s was shipped after the handover", last.Pos())
	}
	w.log.mu.Unlock()

	w.gate.grant(fence.Holder{Node: "w1", Site: "west", UUID: tidegate.NewID()}, fence.KindSwitchover)
	if st := n.state(StateFenced); st.Error != "" {
		t.Errorf("error %q", st.Error)
	}
	n.leftNothing(end)
}

// The answer to the handover is lost, and the next writer is there before the
// view tells: still nothing was left behind.
func TestHandoverWhoseAnswerIsLost(t *testing.T) {
	w, n := active(t, func(g *fakeGate) { g.lose = &fence.Holder{Node: "w1", Site: "west", UUID: tidegate.NewID()} })
	end := n.append(5)
	w.gate.switchTo(fence.Holder{Node: "w1", Site: "west", UUID: tidegate.NewID()})
	n.state(StateFenced)
	n.leftNothing(end)
}

// leftNothing checks that what the next writer ships from end on is not held
// against the log here.
func (h *host) leftNothing(end tidegate.Position) {
	t, w, n := h.w.t, h.w, h
	t.Helper()
	w.log.seal(t, end, []byte("not a record, but nobody looks"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*n.agent.cfg.Limits.ProofWait)
	defer cancel()
	n.agent.streams[0].awaitProgress(ctx, 10, time.Minute)
	if o := n.agent.Status().Streams[0].Observer; o == nil || o.Diverged != "" {
		t.Errorf("observer %+v", o)
	}
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	if len(w.gate.bundles) != 0 {
		t.Errorf("%d bundles in quarantine", len(w.gate.bundles))
	}
}

// Called off, the same epoch goes on, and a second try begins anew.
func TestSwitchoverCalledOff(t *testing.T) {
	w, n := active(t, func(*fakeGate) {})
	target := fence.Holder{Node: "s1", Site: "west", UUID: tidegate.NewID()}
	end := n.append(1)
	w.gate.switchTo(target)
	first := w.handover()
	w.gate.change(func(g *fakeGate) { g.rec.State, g.rec.Target, g.rec.Deadline = fence.StateActive, fence.Holder{}, 0 })
	w.gate.wait(t, "taking work again", func(*fakeGate) bool {
		r, err := n.j.Append(t.Context(), []byte("more"), time.Unix(1, 0))
		if err == nil {
			end = r.Next
		}
		return err == nil
	})
	n.await(end)
	w.gate.switchTo(target)
	w.log.wait(t, "second handover", func(d *dr) bool {
		h := d.headers[len(d.headers)-1]
		if h.Kind != batch.KindHandover || h.Seq == first.Seq {
			return false
		}
		d.applied = h.Seq
		return h.Next == end
	})
	w.gate.wait(t, "handed over", func(g *fakeGate) bool { return len(g.handed) > 0 })
}

// Another standby set for the same writer: a new epoch, and the service notices
// nothing.
func TestReconfigure(t *testing.T) {
	w, n := active(t, func(*fakeGate) {})
	before := n.state(StateWriting)
	w.gate.change(func(g *fakeGate) {
		g.rec.State, g.rec.Epoch, g.rec.Kind = fence.StateFencing, g.rec.Epoch+1, fence.KindReconfigure
	})
	w.gate.wait(t, "term over", func(*fakeGate) bool { return n.agent.Status().Streams[0].Writer == nil })
	w.gate.change(func(g *fakeGate) { g.rec.Epoch-- }) // grant counts on
	holder := fence.Holder{Node: "n1", Site: "east", UUID: n.agent.Holder()}
	w.gate.grant(holder, fence.KindReconfigure)
	st := n.state(StateWriting)
	if st.Epoch != before.Epoch+1 || st.Error != "" {
		t.Errorf("epoch %s (%s), was %s", st.Epoch, st.Error, before.Epoch)
	}
	n.await(n.append(3))
	n.shipped(n.j.End())
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	if w.gate.acquired != 1 {
		t.Errorf("asked for an epoch %d times, want once", w.gate.acquired)
	}
}
