package fence

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// Moving reports whether a plan other than a start of the writer has the stream
// in its hands: the writer at its old place has been asked to go, or is gone.
// While that plan is not over nobody acquires the stream ([Plan.Preempt]).
func (r EpochRecord) Moving() bool {
	switch r.State {
	case StateFencing, StateRecovering:
		return r.Kind == KindFailover || r.Kind == KindSwitchover
	case StateDemoted:
		return r.Handover != nil
	case StateActive, StateSwitching:
	}
	return false
}

// handedOver returns what the writer of the epoch before vouched for when it gave
// the stream up, while no writer has followed it; nil when it did not.
func (r EpochRecord) handedOver() *Handover {
	switch r.State {
	case StateDemoted, StateFencing, StateRecovering:
		if !r.Restored {
			return r.Handover
		}
	case StateActive, StateSwitching:
		// A handover in the record is how this epoch began.
	}
	return nil
}

// switchTo returns the record of S1: the holder drains, to hand over to target.
func (r EpochRecord) switchTo(plan tidegate.ID, target Holder, deadline int64) EpochRecord {
	r = r.Clone()
	r.State, r.Plan, r.Target, r.Deadline, r.Handover = StateSwitching, plan, target, deadline, nil
	return r
}

// HandOver returns the record of S5, SWITCHING to DEMOTED: the demotion token.
// The active holder asks for it as its last act, for all streams of the service
// in one transaction, compared with the revisions that it saw SWITCHING at. It
// has stopped, everything it released lies within h, W members hold h, and the
// target has applied it and came to the same state. From here there is only
// forward: nothing writes under this epoch again.
func (r EpochRecord) HandOver(by Promise, h Handover) (EpochRecord, error) {
	refuse := func(format string, a ...any) (EpochRecord, error) {
		return EpochRecord{}, &tidegate.Error{Op: "hand over", Subject: r.Stream.String(), Class: tidegate.Refused, Err: fmt.Errorf(format, a...)}
	}
	switch {
	case r.Promise() != by:
		return EpochRecord{}, &tidegate.Error{Op: "hand over", Subject: r.Stream.String(), Class: tidegate.Fenced, Err: tidegate.ErrFenced}
	case r.State != StateSwitching:
		return refuse("stream is %s, not SWITCHING: the switchover was called off, or is over", r.State)
	case h.Head.Epoch != r.Epoch || h.Head.Seq < r.StartSeq:
		return refuse("handover batch %s: want one of epoch %s, from %s on", h.Head, r.Epoch, r.StartSeq)
	}
	r = r.Clone()
	r.State, r.Deadline, r.Handover = StateDemoted, 0, &h
	return r, r.Validate()
}

// AbortSwitch returns the record with the switchover of plan called off:
// SWITCHING to ACTIVE, as if nothing had been asked. Never after the demotion.
func (r EpochRecord) AbortSwitch(plan tidegate.ID) (EpochRecord, error) {
	if r.State != StateSwitching || r.Plan != plan {
		return EpochRecord{}, &tidegate.Error{
			Op: "abort switchover", Subject: r.Stream.String(), Class: tidegate.Refused,
			Err: fmt.Errorf("stream is %s by plan %s", r.State, r.Plan),
		}
	}
	r = r.Clone()
	r.State, r.Target, r.Deadline = StateActive, Holder{}, 0
	return r, nil
}

// OpenGate returns the record with its gate degraded by the brake, for one
// compare-and-swap by any gate: the record says so before the writer opens.
// Everything from the start of the epoch on counts as unprotected, because the
// gate does not know what has been released.
func (r EpochRecord) OpenGate() (EpochRecord, error) {
	g := r.Gate
	if g.State == GateArmed {
		g.SinceSeq = r.StartSeq
	}
	if g.State != GateBlindOK { // that claims less still
		g.State = GateDegraded
	}
	return r.SetGate(r.Promise(), r.Gate, g)
}
