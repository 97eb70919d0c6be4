package fence

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// --- where the keys stand ---

func (c *Controller) onKeys(keys []KeyState) {
	mine, switching, state, overtaken := 0, 0, State(""), tidegate.ID{}
	for _, k := range keys {
		s := c.stream(k.Stream)
		if s == nil {
			continue
		}
		if k.Revision == 0 || k.Record.Validate() != nil {
			c.refuse(Refusal{Rule: RuleRecord, Stream: s.Name, Why: "the stream has no readable epoch record", Hint: "add the stream, or rebuild the registry from the standbys"})
			return
		}
		switch {
		case k.Record.Plan == c.p.ID && k.Record.Holder == c.p.Target:
			mine++
			state = k.Record.State
		case k.Record.Plan == c.p.ID:
			switching++ // S1 has been written, and F1 has not
		case (c.p.Attempts > 0 || s.Record.Plan == c.p.ID) && k.Record.Epoch >= s.Record.Epoch:
			overtaken = k.Record.Plan
		}
		s.Revision, s.Record = k.Revision, k.Record.Clone()
	}
	switch {
	case !overtaken.IsZero():
		c.p.Step = StepGone
		c.save()
		c.emit(Superseded{overtaken})
	case mine == len(c.p.Streams):
		c.resume(state)
	case switching > 0:
		c.resumeSwitch()
	default:
		c.decide()
	}
}

// resume goes on in the epoch that this plan has already reserved.
func (c *Controller) resume(state State) {
	c.p.Attempts = max(c.p.Attempts, 1)
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		h, own := s.Heard, s.Heard.Epoch == s.Record.Epoch
		if h == s.Record.Promise() || own && h.Holder.IsZero() && state != StateFencing {
			s.Heard = Promise{} // another controller of this plan was ahead, and the keys say so
		}
		if state != StateActive && s.Heard.Epoch >= s.Record.Epoch {
			c.decide()
			return
		}
	}
	switch state {
	case StateFencing:
		c.fence()
	case StateRecovering:
		c.confirm()
	case StateActive:
		if c.contested >= 3 { // not one late reply of an earlier attempt
			c.refuse(Refusal{
				Rule: RuleRecord, Why: "the epoch is active in the registry, but the target has promised a higher one: the registry has gone back in time",
				Hint: "run a new failover, or rebuild the registry from the standbys",
			})
			return
		}
		c.activated()
	case StateSwitching, StateDemoted:
		c.refuse(Refusal{
			Rule: RuleRecord, Why: "the streams are " + string(state) + " of their new holder by this plan: another change of writer has begun under its name",
			Hint: "run a new plan",
		})
	}
}

// --- F0, F1 ---

func (c *Controller) decide() {
	if c.p.Abort != nil && c.tooLate() == "" {
		c.refuse(c.calledOff())
		return
	}
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		if r := c.objection(s); r != nil {
			r.Stream = s.Name
			c.refuse(*r)
			return
		}
	}
	switch {
	case c.p.Attempts >= AttemptsMax:
		c.refuse(Refusal{Rule: RuleAttempts, Why: fmt.Sprintf("epochs reserved %d times", c.p.Attempts), Hint: "see which controller or plan competes"})
	case c.p.Kind == KindSwitchover && c.p.Streams[0].Record.handedOver() == nil:
		c.switching()
	default:
		c.reserve()
	}
}

// objection is F0: what stands against the plan before anything is changed.
func (c *Controller) objection(s *StreamPlan) *Refusal {
	switch c.p.Kind {
	case KindAcquire:
		return c.acquireObjection(s)
	case KindReconfigure:
		return c.reconfigureObjection(s)
	case KindSwitchover:
		return c.switchObjection(s)
	case KindFailover:
	}
	if !s.reaches(c.p.Target.Node) {
		return &Refusal{Rule: RuleTarget, Why: fmt.Sprintf("node %s is not a member", c.p.Target.Node)}
	}
	now := s.Record
	now.Restored = now.Restored || c.goneBack()
	loss := PredictLoss(now)
	if c.p.AcceptLoss || loss.Kind == LossZero || loss.Kind == LossAtMost && !loss.Bounds.LooserThan(c.p.MaxLoss) {
		return nil
	}
	return &Refusal{Rule: RuleRPOBound, Why: fmt.Sprintf("loss %s: %s", loss.Kind, loss.Why), Hint: "accept the loss explicitly"}
}

// acquireObjection: an agent that starts takes streams only where they live, and
// not out of the hands of a plan that moves them. A switchover that has only
// asked its writer to go is not in its way: that writer is gone.
//
// An acquire waits for no lease and claims no loss, because the source's own
// consensus decided it. Being at the same site is no proof of that: a service that
// was brought up by a promotion, and left behind by the next one before its agent
// ever wrote, is a cluster of its own, and does not have what was released since.
// Its log tells. The node that holds the stream is its source in any case: there a
// promotion may have found the service active, with nothing to begin.
func (c *Controller) acquireObjection(s *StreamPlan) *Refusal {
	r := &s.Record
	switch {
	case s.Branch != nil && *s.Branch < r.Branch && r.Active.Node != c.p.Target.Node && !mutate.Broken(mutate.AcquireOwn):
		return &Refusal{
			Rule: RuleBranch, Why: fmt.Sprintf("the service on node %s went its own way at epoch %s, the stream was brought up elsewhere at %s", c.p.Target.Node, *s.Branch, r.Branch),
			Hint: "restart the service, so that it follows, or use failover or switchover to move the stream to it",
		}
	case r.ActiveEpoch > 0 && r.Active.Site != c.p.Target.Site:
		return &Refusal{Rule: RuleSameSite, Why: fmt.Sprintf("the stream lives at site %s", r.Active.Site), Hint: "use failover to move a service"}
	case r.Moving() && !c.p.Preempt:
		return &Refusal{Rule: RuleUnderway, Why: fmt.Sprintf("plan %s moves the stream; it is %s", r.Plan, r.State)}
	}
	return nil
}

func (c *Controller) reconfigureObjection(s *StreamPlan) *Refusal {
	r := &s.Record
	switch {
	case r.Plan == c.p.ID:
		return nil // at it again, above an epoch that was heard of
	case r.State != StateActive:
		return &Refusal{Rule: RuleRecord, Why: fmt.Sprintf("the stream is %s, and has no writer that could go on", r.State), Hint: "wait until it has one again"}
	case r.Holder != c.p.Target:
		return &Refusal{Rule: RuleTarget, Why: fmt.Sprintf("the writer is %s, not %s", r.Holder, c.p.Target), Hint: "run the plan again with the writer of today"}
	}
	return nil
}

// config returns the configuration that the plan wants to reach.
func (s *StreamPlan) config() Config {
	if s.Wanted != nil {
		return *s.Wanted
	}
	return s.Record.Config
}

// reaches reports whether node is asked to adopt: a member now, or one to be.
func (s *StreamPlan) reaches(node tidegate.NodeName) bool {
	return s.config().Index(node) >= 0 || s.Record.Config.Index(node) >= 0
}

// goneBack reports whether a node has sworn to an epoch that the key does not
// know: the registry has gone back in time, and its gate record with it.
func (s *StreamPlan) goneBack() bool {
	return s.Heard.Epoch >= max(s.Record.Epoch, 1) && !mutate.Broken(mutate.HeardEpoch)
}

// goneBack reports whether it is so for any stream of the plan: they lie in one
// registry, and what it has forgotten of one it may have forgotten of all.
func (c *Controller) goneBack() bool {
	return slices.ContainsFunc(c.p.Streams, func(s StreamPlan) bool { return s.goneBack() })
}

// stray reports whether a log has adopted an epoch in which no head was chosen
// since the active one: one was, before the registry went back, and a plan that
// reached no node that would have refused it has gone above it since.
func (s *StreamPlan) stray() bool {
	r := &s.Record
	for _, reply := range s.Replies {
		t := reply.History.Last()
		if _, known := r.choice(t); t.Epoch > r.ActiveEpoch && !known {
			return !r.Restored && !mutate.Broken(mutate.HeardEpoch) && !mutate.Broken(mutate.AdoptedEpoch) && !mutate.Broken(mutate.ChoiceRecorded)
		}
	}
	return false
}

func (c *Controller) reserve() {
	next := clonePlan(c.p)
	txn := Txn{Token: c.nextToken(), Step: StepReserve}
	for i := range next.Streams {
		s := &next.Streams[i]
		r := s.Record.Clone()
		r.Handover = r.handedOver()
		if c.goneBack() {
			r.Restored, r.Gate.State, r.Handover = true, GateUnknown, nil
		}
		r.Epoch = max(r.Epoch, s.Heard.Epoch) + 1
		r.Holder, r.State, r.Plan, r.Kind = c.p.Target, StateFencing, c.p.ID, c.p.Kind
		if mutate.Broken(mutate.ChoiceKnown) {
			r.Chosen = append(r.Chosen, Choice{Term: Term{r.Epoch, r.StartSeq, r.Holder.UUID}})
		}
		r.Target, r.Deadline = Holder{}, 0
		r.Unclean, r.Few, r.Source, r.Missing, r.Since = false, false, "", nil, c.now.UnixNano()
		s.Record, s.Replies, s.Adopters, s.Heard = r, nil, nil, Promise{}
	}
	next.Attempts++
	next.Step = StepFence
	stamp(&next.Times.T2, c.now)
	c.p.Step = StepReserve
	c.txn(txn, next)
	if mutate.Broken(mutate.RouteAfterFence) && c.promotes() {
		c.switchRoute()
	}
}

// promotes reports whether the plan brings a standby's service up.
func (c *Controller) promotes() bool { return c.p.Kind == KindFailover || c.p.Kind == KindSwitchover }

func (c *Controller) txn(t Txn, next Plan) {
	for i := range next.Streams {
		t.Puts = append(t.Puts, Put{
			Stream: next.Streams[i].Stream, IfRevision: c.p.Streams[i].Revision, Record: next.Streams[i].Record.Clone(),
		})
	}
	c.then = next
	t.Plan = clonePlan(next)
	c.emit(t)
}

// unconditional makes the last transaction one that compares nothing; broken
// builds only. The simulator's store takes -1 as "always".
func (c *Controller) unconditional() {
	t := c.out[len(c.out)-1].(Txn)
	for i := range t.Puts {
		t.Puts[i].IfRevision = -1
	}
}

func (c *Controller) onTxn(ev TxnDone) {
	if !ev.Committed {
		c.readKeys()
		return
	}
	c.p = c.then
	for i := range c.p.Streams {
		c.p.Streams[i].Revision = ev.Revision
	}
	switch c.p.Step {
	case StepDrain:
		c.drain()
	case StepRefused:
		c.emit(Refuse{*c.p.Refusal})
	case StepFence:
		c.fence()
	case StepLease:
		c.lease()
	case StepApply:
		c.activated()
	}
}
