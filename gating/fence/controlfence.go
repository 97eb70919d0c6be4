package fence

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// --- F2 ---

func (c *Controller) fence() {
	c.p.Step, c.settled, c.leased = StepFence, false, 0
	for i := range c.p.Streams {
		c.p.Streams[i].Replies, c.p.Streams[i].Adopters = nil, nil
	}
	c.sendFences()
	c.emit(SetDeadline{Step: StepFence})
}

func (c *Controller) sendFences() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		for _, m := range s.Record.Config.Members {
			if !slices.ContainsFunc(s.Replies, func(r FenceReply) bool { return r.Member.Node == m.Node && s.counts(r) }) {
				c.emit(SendFence{m, FenceRequest{
					Stream: s.Stream, Epoch: s.Record.Epoch, Holder: s.Record.Holder.UUID, Attested: !c.leaseMatters(&s.Record),
				}})
			}
		}
	}
}

// counts reports whether a reply speaks for a member that knows what it had.
func (s *StreamPlan) counts(r FenceReply) bool {
	if mutate.Broken(mutate.Limbo) {
		return true
	}
	return !r.Limbo && s.Record.Config.Names(r.Member)
}

// need returns how many counting replies a clean choice takes.
func (s *StreamPlan) need() int {
	if mutate.Broken(mutate.FenceQuorum) {
		return 1
	}
	return s.Record.Config.Quorum().R()
}

func (c *Controller) onFence(r FenceReply) {
	s := c.stream(r.Stream)
	if s == nil || s.Record.Epoch == 0 {
		return
	}
	want := s.Record.Promise()
	foreign := r.Refused && !r.Promise.lessOrEqual(want)
	// FENCING means that nobody was asked to adopt: a log that has adopted the
	// epoch got it from a registry that has since gone back in time.
	again := c.p.Step == StepFence && r.Promise == want && r.History.Last().Epoch >= want.Epoch && !mutate.Broken(mutate.AdoptedEpoch) && !mutate.Broken(mutate.ChoiceRecorded)
	switch {
	case c.p.Step != StepFence && c.p.Step != StepChoose && c.p.Step != StepLease && c.p.Step != StepAdopt:
	case r.Leased > 0:
		c.leased = max(c.leased, r.Leased)
	case foreign:
		c.outbid(s, r.Promise)
	case again:
		c.outbid(s, Promise{Epoch: r.History.Last().Epoch})
	case (c.p.Step == StepFence || c.p.Step == StepChoose) && c.wait == 0 && !r.Refused && r.Promise == want:
		s.Replies = slices.DeleteFunc(s.Replies, func(x FenceReply) bool { return x.Member.Node == r.Member.Node })
		s.Replies = append(s.Replies, r)
		slices.SortFunc(s.Replies, func(a, b FenceReply) int { return compareNodes(a.Member, b.Member) })
		if c.p.Step == StepChoose {
			c.maybeConfirmed()
			return
		}
		c.maybeChoose()
	}
}

func (p Promise) lessOrEqual(q Promise) bool { return p.Epoch < q.Epoch || p == q }

// outbid goes back to the keys: somebody has heard of a higher epoch.
func (c *Controller) outbid(s *StreamPlan, p Promise) {
	if p.Epoch > s.Heard.Epoch {
		s.Heard = p
	}
	if c.wait == 0 {
		c.readKeys()
	}
}

func (c *Controller) clean(s *StreamPlan) bool { return s.counting() >= s.need() }

func (s *StreamPlan) counting() int {
	n := 0
	for _, r := range s.Replies {
		if s.counts(r) {
			n++
		}
	}
	return n
}

// knowing returns how many of the replies that count are of members that have not
// given up anything either: R of them have whatever was durable.
func (s *StreamPlan) knowing() int {
	n := 0
	for _, r := range s.Replies {
		if s.counts(r) && !s.Record.gaveUp(r.History) {
			n++
		}
	}
	return n
}

// told reports whether more replies could make the choice no cleaner.
func (s *StreamPlan) told() bool {
	return s.knowing() >= s.need() || s.counting() == len(s.Record.Config.Members)
}

// vouched reports whether the writer itself said that there is nothing beyond head.
func (r *EpochRecord) vouched(head tidegate.LogPos) bool {
	h := r.handedOver()
	return h != nil && h.Head == head
}

// maybeChoose goes on when every stream has its quorum. Where records beyond D
// may have been released, one more tick is given to the other members: the best
// of all logs loses least.
func (c *Controller) maybeChoose() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		sync := s.Record.Gate.State == GateArmed && s.Record.Gate.Mode == tidegate.ModeSync || s.Record.handedOver() != nil
		if !c.clean(s) || !s.told() || !sync && !c.settled && s.counting() < len(s.Record.Config.Members) {
			return
		}
	}
	c.choose()
}

// --- F3 ---

func (c *Controller) choose() {
	back := false
	for i := range c.p.Streams {
		if s := &c.p.Streams[i]; s.stray() {
			s.Heard, back = Promise{Epoch: s.Record.Epoch}, true
		}
	}
	if back {
		c.decide()
		return
	}
	next := clonePlan(c.p)
	for i := range next.Streams {
		s := &next.Streams[i]
		clean := c.clean(s)
		best := s.best(c.p.Target.Node, clean)
		r := &s.Record
		r.Few = !clean
		if clean && s.knowing() < s.need() && !r.vouched(best.Durable) {
			// R have answered, and some of them are what an earlier choice without R
			// has left of them: it stays in doubt until an epoch is opened.
			if clean = false; c.promotes() && !c.p.AcceptLoss && !c.p.Force {
				c.refuse(gaveUp(s))
				return
			}
		}
		if longer, ok := s.contradicted(best); clean && ok && !r.vouched(best.Durable) {
			if clean = false; c.promotes() && !c.p.AcceptLoss && !c.p.Force {
				c.refuse(contradiction(s, best, longer))
				return
			}
		}
		if h := r.handedOver(); c.p.Kind == KindSwitchover && (h == nil || best.Durable != h.Head) && !mutate.Broken(mutate.HandoverLossless) {
			c.refuse(notHandedOver(s, best.Durable))
			return
		}
		r.State, r.Head, r.StartSeq = StateRecovering, best.Durable, best.Durable.Seq+1
		r.History, r.Source, r.Unclean, r.Since = r.told(best.History, best.Durable.Seq).Clone(), best.Member.Node, !clean, c.now.UnixNano()
		r.Missing = s.missing()
		if !clean && !c.promotes() {
			// The same site goes on, and may have released what its standbys lack:
			// no claim before it has brought them to it and armed its gate again.
			r.Gate.State = GateUnknown
		}
		r.Chosen = append(r.Chosen[max(0, len(r.Chosen)-choicesMax+1):], Choice{Term{r.Epoch, r.StartSeq, r.Holder.UUID}, r.Unclean})
		r.Before, r.Forgot = r.Gate, r.Restored
		s.Evidence = s.evidence(best)
	}
	next.Step = StepLease
	stamp(&next.Times.T3, c.now)
	t := Txn{Token: c.nextToken(), Step: StepChoose}
	c.p.Step = StepChoose
	if mutate.Broken(mutate.ChoiceRecorded) {
		c.wait, c.p = 0, next
		c.lease()
		return
	}
	c.txn(t, next)
}

// gaveUp: an earlier plan was told to go on without a quorum, and did not open its
// epoch. This one was not told so.
func gaveUp(s *StreamPlan) Refusal {
	return Refusal{
		Rule: RuleRPOBound, Stream: s.Name,
		Why:  fmt.Sprintf("loss %s: members have adopted a head that was chosen without a quorum, and %d of %d know what they had, want %d", LossUnknown, s.knowing(), len(s.Record.Config.Members), s.need()),
		Hint: "bring members back that did not take part in it, or accept the loss explicitly",
	}
}

// contradicted returns a log that is longer than the best one, which has it only by
// an epoch that the record knows nothing of and in which nothing was sealed. A
// registry that went back has forgotten whether that head was chosen with a quorum:
// then it has what was durable, and the longer log a tail that never was. Without,
// it is the other way round.
func (s *StreamPlan) contradicted(best FenceReply) (longer FenceReply, ok bool) {
	last := best.History.Last()
	if _, known := s.Record.choice(last); known || last.Epoch <= s.Record.ActiveEpoch || best.Durable.Seq >= last.StartSeq || mutate.Broken(mutate.UncleanSticks) {
		return FenceReply{}, false
	}
	for _, r := range s.Replies {
		if s.counts(r) && r.Durable.Seq > best.Durable.Seq {
			return r, true
		}
	}
	return FenceReply{}, false
}

func contradiction(s *StreamPlan, best, longer FenceReply) Refusal {
	return Refusal{
		Rule: RuleRPOBound, Stream: s.Name,
		Why: fmt.Sprintf("loss %s: node %s has adopted epoch %s at %s, of which the registry knows nothing, and the older log of node %s goes on to %s",
			LossUnknown, best.Member.Node, best.History.Last().Epoch, best.Durable.Seq, longer.Member.Node, longer.Durable.Seq),
		Hint: "if the older log is the true one, set the other aside with `tidegate standby set-aside`; or accept the loss explicitly",
	}
}

// notHandedOver: the writer vouched for one head, its standbys have another. One
// of them is wrong, and nothing is opened on a guess.
func notHandedOver(s *StreamPlan, best tidegate.LogPos) Refusal {
	h := "nothing for certain"
	if s.Record.Handover != nil {
		h = s.Record.Handover.Head.String()
	}
	return Refusal{
		Rule: RuleHandover, Stream: s.Name, Why: fmt.Sprintf("the writer handed over at %s, the best log of the standbys ends at %s", h, best),
		Hint: "look at both sites before anything else; a failover, or a start of the old writer, goes on from what the standbys have",
	}
}

// best returns the reply with the greatest (adopted epoch, durable); of equals
// the target's, which then copies nothing, else the first by name. An epoch that
// began with less than what was durable, and was never opened, makes no log better
// than one that has not adopted it.
func (s *StreamPlan) best(target tidegate.NodeName, clean bool) FenceReply {
	var best *FenceReply
	for i := range s.Replies {
		r := &s.Replies[i]
		if clean && !s.counts(*r) {
			continue
		}
		if best == nil || s.better(r, best) || !s.better(best, r) && r.Member.Node == target {
			best = r
		}
	}
	return *best
}

func (s *StreamPlan) better(r, o *FenceReply) bool {
	a, b := s.Record.told(r.History, r.Durable.Seq).Last().Epoch, s.Record.told(o.History, o.Durable.Seq).Last().Epoch
	if a != b && !mutate.Broken(mutate.EpochFirst) {
		return a > b
	}
	return r.Durable.Seq > o.Durable.Seq
}

// confirm asks for the promises again before a recorded choice is taken up by a
// controller that did not make it: R members that still stand by this epoch show
// that the record is not an old one, put back from a backup after a higher epoch
// had been opened elsewhere.
func (c *Controller) confirm() {
	c.p.Step = StepChoose
	for i := range c.p.Streams {
		c.p.Streams[i].Replies = nil
	}
	c.sendFences()
	c.emit(SetDeadline{Step: StepChoose})
}

func (c *Controller) maybeConfirmed() {
	for i := range c.p.Streams {
		if s := &c.p.Streams[i]; !c.clean(s) && !s.Record.Unclean {
			return
		}
	}
	c.lease()
}

// --- F4 ---

func (c *Controller) lease() {
	c.p.Step, c.asked = StepLease, false
	c.state()
	for i := range c.p.Streams {
		c.p.Streams[i].Adopters, c.p.Streams[i].Declined = nil, nil
	}
	if why, attest := c.leaseDoubt(); why != "" {
		lease := time.Duration(0)
		for i := range c.p.Streams {
			if !attest {
				lease = max(lease, c.p.Streams[i].Record.Gate.Lease)
			}
		}
		c.asked = true
		c.save()
		c.emit(AwaitLease{why, lease})
		c.emit(SetDeadline{StepLease, lease})
		return
	}
	c.adopt()
}

// state makes the loss statements of a failover from the records.
func (c *Controller) state() {
	c.p.Loss = nil
	for i := range c.p.Streams {
		if c.promotes() {
			c.p.Loss = append(c.p.Loss, c.p.Streams[i].loss(c.silence()))
		}
	}
}

// silence bounds from above how long the old writer may have gone on releasing
// after the nodes gave their evidence, which was after F1.
func (c *Controller) silence() time.Duration {
	end := c.p.Times.T3Lease
	if end.IsZero() {
		end = c.now
	}
	return max(0, end.Sub(c.p.Times.T2))
}

// leaseMatters reports whether the old writer of r may put something out although
// it is cut off: because it holds a lease and may still hold one, or because it is
// not cut off. Without R promises W nodes are left that may serve it, and a gate
// that holds stops nothing then. What is known of its outputs otherwise is not
// weakened by leases that it has and does not need.
func (c *Controller) leaseMatters(r *EpochRecord) bool {
	return c.promotes() && !c.p.AttestPrimaryDown && r.ActiveEpoch > 0 && r.handedOver() == nil && (r.Few || !r.Gate.Holds()) &&
		!mutate.Broken(mutate.LeaseAwaited)
}

// leaseDoubt says why the old writer's outputs are not provably over; "" when
// they are, or when it does not matter. attest: only an attestation helps, no
// lease that runs out does. Without R promises a node that nobody reached may be
// renewing its own.
func (c *Controller) leaseDoubt() (why string, attest bool) {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		r := &s.Record
		if !c.leaseMatters(r) {
			continue
		}
		g := r.Gate
		switch {
		case r.Few:
			return fmt.Sprintf("stream %s: fewer than %d members have promised not to serve the old writer, and the others may", s.Name, s.need()), true
		case !g.LeaseBinds():
			return fmt.Sprintf("stream %s: gate is %s in mode %s and no lease binds it", s.Name, g.State, g.Mode), true
		}
		why = fmt.Sprintf("stream %s: gate is %s in mode %s; its lease of %s may run", s.Name, g.State, g.Mode, g.Lease)
	}
	return why, false
}

func (c *Controller) leaseOver() {
	if c.p.Step == StepLease && c.wait == 0 && c.asked {
		c.adopt()
	}
}

func (c *Controller) attested() {
	c.p.AttestPrimaryDown = true
	c.then.AttestPrimaryDown = true // for the transaction that may be out
	if c.p.Step == StepFence && c.wait == 0 {
		c.sendFences()
	}
	c.leaseOver()
}
