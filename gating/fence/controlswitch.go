package fence

import (
	"fmt"
	"time"

	"github.com/tidegate/tidegate/internal/mutate"
)

// drainAgain is when a deadline of the drain that came while the keys were being
// read is looked at again.
const drainAgain = 250 * time.Millisecond

// --- S0 to S5: the writer hands over ---

// switchObjection is S0, as far as the records tell; the gate's rules look at
// lag, health and freezes before.
func (c *Controller) switchObjection(s *StreamPlan) *Refusal {
	r, first := &s.Record, &c.p.Streams[0].Record
	again := r.Plan == c.p.ID && c.p.Attempts > 0
	switch handed := r.handedOver(); {
	case again && handed == nil:
		return &Refusal{
			Rule: RuleHandover, Why: "the registry has gone back in time: where the writer stopped is not known for certain",
			Hint: "fail over instead, or let the old writer's agent acquire",
		}
	case (handed == nil) != (first.handedOver() == nil):
		return &Refusal{Rule: RuleRecord, Why: fmt.Sprintf("it is %s, and another stream of the service %s", r.State, first.State), Hint: "fail over"}
	case handed != nil && (r.Plan == c.p.ID || c.p.Preempt):
		return c.unreached(s) // the writer has gone already: on to F1
	case !c.p.Preempt && !again && (r.Moving() || r.State == StateSwitching):
		return &Refusal{Rule: RuleUnderway, Why: fmt.Sprintf("plan %s moves the stream; it is %s", r.Plan, r.State)}
	case r.State != StateActive && r.State != StateSwitching:
		return &Refusal{Rule: RuleRecord, Why: fmt.Sprintf("the stream is %s: there is no writer that could hand it over", r.State), Hint: "start the service, or fail over"}
	case r.Holder != first.Holder:
		return &Refusal{Rule: RuleRecord, Why: fmt.Sprintf("its writer is %s, and that of another stream %s", r.Holder, first.Holder), Hint: "wait until one agent holds them all"}
	case r.Holder.Node == c.p.Target.Node:
		return &Refusal{Rule: RuleTarget, Why: fmt.Sprintf("node %s is the writer already", c.p.Target.Node)}
	}
	return c.unreached(s)
}

func (c *Controller) unreached(s *StreamPlan) *Refusal {
	if s.reaches(c.p.Target.Node) {
		return nil
	}
	return &Refusal{Rule: RuleTarget, Why: fmt.Sprintf("node %s is not a member", c.p.Target.Node), Hint: "make it one first, in a new configuration"}
}

// switching is S1: SWITCHING on every stream, which asks the writer to drain.
func (c *Controller) switching() {
	next := clonePlan(c.p)
	t := Txn{Token: c.nextToken(), Step: StepSwitching}
	for i := range next.Streams {
		s := &next.Streams[i]
		s.Record = s.Record.switchTo(c.p.ID, c.p.Target, c.now.Add(c.p.Drain).UnixNano())
		s.Record.Since = c.now.UnixNano()
	}
	next.Step = StepDrain
	stamp(&next.Times.S1, c.now)
	stamp(&next.Times.T0, c.now)
	stamp(&next.Times.T1, c.now)
	c.p.Step = StepSwitching
	c.txn(t, next)
}

// resumeSwitch goes on where the keys say that this plan stands, before F1.
func (c *Controller) resumeSwitch() {
	count := map[State]int{}
	for i := range c.p.Streams {
		count[c.p.Streams[i].Record.State]++
	}
	switch all := len(c.p.Streams); {
	case count[StateDemoted] == all:
		c.handedOver()
	case c.p.Attempts > 0:
		c.refuse(Refusal{
			Rule: RuleRecord, Why: "the registry has gone back in time, to before the writer handed over",
			Hint: "fail over, or rebuild the registry from the standbys",
		})
	case count[StateSwitching] == all:
		c.drain()
	case count[StateActive] == all:
		c.refuse(c.calledOff())
	default:
		c.refuse(Refusal{Rule: RuleRecord, Why: "the streams of the service do not stand together", Hint: "run a new plan"})
	}
}

// drain is S2 to S4, which are the writer's: wait until it has handed over.
func (c *Controller) drain() {
	c.p.Step = StepDrain
	if c.p.Abort != nil {
		c.abort()
		return
	}
	if c.draining {
		return
	}
	// Once, and never longer than asked for: the deadline is on the wall clock of
	// the gate that set it, which may not be this one's, or may have been put back.
	c.draining = true
	left := time.Unix(0, c.p.Streams[0].Record.Deadline).Sub(c.now)
	c.emit(SetDeadline{StepDrain, min(max(0, left), c.p.Drain)})
}

// handedOver is S5, done: from here there is only forward.
func (c *Controller) handedOver() {
	stamp(&c.p.Times.S5, c.now)
	if c.p.Abort != nil {
		c.p.Abort = nil
		c.emit(AbortRefused{c.tooLate()})
	}
	c.decide()
}

// abort writes ACTIVE back. The writer's own DEMOTED may be first; then the
// revisions differ, and it goes forward.
func (c *Controller) abort() {
	next := clonePlan(c.p)
	t := Txn{Token: c.nextToken(), Step: StepAbort}
	for i := range next.Streams {
		s := &next.Streams[i]
		r, err := s.Record.AbortSwitch(c.p.ID)
		if err != nil {
			c.readKeys()
			return
		}
		r.Since = c.now.UnixNano()
		s.Record = r
	}
	off := c.calledOff()
	next.Step, next.Refusal = StepRefused, &off
	c.p.Step = StepAbort
	c.txn(t, next)
	if mutate.Broken(mutate.SwitchAbort) {
		c.unconditional()
	}
}

// calledOff is the refusal of a plan that was ended before its point of no return.
func (c *Controller) calledOff() Refusal {
	if a := c.p.Abort; a != nil {
		return Refusal{
			Rule: RuleAborted, Why: fmt.Sprintf("called off by %s: %s", a.Actor, a.Reason),
			Hint: "nothing was changed; give the command again when it is wanted",
		}
	}
	return Refusal{
		Rule: RuleDrain, Why: fmt.Sprintf("the writer had not handed over after %s", c.p.Drain),
		Hint: "see what keeps it or the target busy, then switch over again with a longer drain",
	}
}

func (c *Controller) abortAsked(ev Abort) {
	if why := c.tooLate(); why != "" {
		c.emit(AbortRefused{why})
		return
	}
	c.p.Abort = &AbortAsked{ev.Actor, ev.Reason}
	c.then.Abort = c.p.Abort // for the transaction that may be out
	c.save()
	if c.p.Step == StepDrain && c.wait == 0 {
		c.abort()
	}
}

// tooLate says why the plan cannot be called off any more; "" while it can.
func (c *Controller) tooLate() string {
	if c.p.Attempts > 0 || c.p.Step == StepReserve {
		return "a new epoch has been reserved, and the nodes are being asked to promise it: the old writer may be fenced already"
	}
	for i := range c.p.Streams {
		if r := &c.p.Streams[i].Record; r.Plan == c.p.ID && r.State == StateDemoted {
			return "the writer has handed over and has stopped: there is only forward, or another plan that promotes the old site again"
		}
	}
	return ""
}
