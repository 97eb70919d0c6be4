package fence

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

func compareNodes(a, b Member) int { return strings.Compare(string(a.Node), string(b.Node)) }

// --- F5 ---

func (c *Controller) adopt() {
	c.p.Step = StepAdopt
	stamp(&c.p.Times.T3Lease, c.now)
	c.save()
	c.sendAdopts()
	c.emit(SetDeadline{Step: StepAdopt})
}

func (c *Controller) sendAdopts() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		for _, m := range s.askedToAdopt() {
			if !slices.ContainsFunc(s.Adopters, func(r AdoptReply) bool { return r.Member.Node == m.Node }) {
				c.emit(SendAdopt{m, adoptRequest(s.Record, s.source(m.Node))})
			}
		}
	}
}

// askedToAdopt returns the members of the old and of the wanted configuration.
func (s *StreamPlan) askedToAdopt() []Member {
	ms := slices.Clone(s.config().Members)
	for _, m := range s.Record.Config.Members {
		if s.config().Index(m.Node) < 0 {
			ms = append(ms, m)
		}
	}
	SortMembers(ms)
	return ms
}

// source returns whom node should copy from: the log that was chosen, or any
// that has adopted it already.
func (s *StreamPlan) source(node tidegate.NodeName) tidegate.NodeName {
	if len(s.Adopters) > 0 && s.Adopters[0].Member.Node != node &&
		!slices.ContainsFunc(s.Adopters, func(r AdoptReply) bool { return r.Member.Node == s.Record.Source }) {
		return s.Adopters[0].Member.Node
	}
	return s.Record.Source
}

func (c *Controller) onAdopt(r AdoptReply) {
	s := c.stream(r.Stream)
	if s == nil || c.p.Step != StepAdopt {
		return
	}
	want := s.Record.Promise()
	switch {
	case !r.Promise.lessOrEqual(want):
		c.outbid(s, r.Promise)
	case c.wait == 0 && r.Adopted && r.Epoch == want.Epoch && r.Holder == want.Holder && r.Durable.Seq >= s.Record.Head.Seq:
		s.Adopters = slices.DeleteFunc(s.Adopters, func(x AdoptReply) bool { return x.Member.Node == r.Member.Node })
		s.Adopters = append(s.Adopters, r)
		slices.SortFunc(s.Adopters, func(a, b AdoptReply) int { return compareNodes(a.Member, b.Member) })
		c.maybeActivate()
	}
}

// adopted reports whether the stream may be opened: W adopters among the wanted
// members, the target of a failover among them. (I14)
func (c *Controller) adopted(s *StreamPlan) bool {
	w := s.config().W
	if mutate.Broken(mutate.AdoptQuorum) {
		w = 1
	}
	return len(c.joined(s)) >= w && c.targetAdopted(s)
}

// joined returns the adopters that belong to the wanted configuration.
func (c *Controller) joined(s *StreamPlan) []Member {
	var ms []Member
	for _, r := range s.Adopters {
		if s.config().Index(r.Member.Node) >= 0 {
			ms = append(ms, r.Member)
		}
	}
	return ms
}

func (c *Controller) targetAdopted(s *StreamPlan) bool {
	return c.p.Kind != KindFailover ||
		slices.ContainsFunc(s.Adopters, func(r AdoptReply) bool { return r.Member.Node == c.p.Target.Node })
}

func (c *Controller) maybeActivate() {
	for i := range c.p.Streams {
		if !c.adopted(&c.p.Streams[i]) {
			return
		}
	}
	c.activate()
}

// --- F6 ---

// activate opens the epoch on every stream in one transaction. A stream with
// fewer than W adopters (the caller has decided that it may) gets them as its
// whole configuration: later fences ask exactly those.
func (c *Controller) activate() {
	next := clonePlan(c.p)
	t := Txn{Token: c.nextToken(), Step: StepActivate}
	for i := range next.Streams {
		s := &next.Streams[i]
		joined := c.joined(s)
		cfg := s.config().Clone()
		if len(joined) < cfg.W && !mutate.Broken(mutate.AdoptQuorum) {
			cfg = Config{Members: joined, W: min(cfg.W, len(joined))}
		}
		for _, m := range joined {
			cfg.Members[cfg.Index(m.Node)] = m
		}
		r := &s.Record
		r.Shrunk = len(cfg.Members) < len(s.config().Members) || r.Shrunk && s.Wanted == nil
		r.State, r.Config, r.ActiveEpoch, r.Active = StateActive, cfg, r.Epoch, r.Holder
		r.History = r.History.With(Term{r.Epoch, r.StartSeq, r.Holder.UUID})
		r.Since = c.now.UnixNano()
	}
	next.Step = StepApply
	stamp(&next.Times.T4, c.now)
	c.p.Step = StepActivate
	c.txn(t, next)
	if mutate.Broken(mutate.ActivateCompare) {
		t := c.out[len(c.out)-1].(Txn)
		for i := range t.Puts {
			t.Puts[i].IfRevision = -1 // the simulator's store takes this as "always"
		}
	}
}

// --- F7, F8, F9 ---

func (c *Controller) activated() {
	stamp(&c.p.Times.T5, c.now)
	if c.p.Kind == KindAcquire {
		c.p.Step = StepDone
		c.save()
		c.emit(Finished{})
		return
	}
	c.p.Step = StepApply
	c.state()
	for i := range c.p.Streams {
		// A saved plan's word on the target is not trusted: it may have restarted.
		c.p.Streams[i].Promoted, c.p.Streams[i].Applied = false, false
	}
	c.save()
	c.sendPromotes()
	c.emit(SetDeadline{Step: StepApply})
}

func (c *Controller) sendPromotes() {
	for i := range c.p.Streams {
		if s := &c.p.Streams[i]; !s.Applied {
			r := s.Record
			c.emit(SendPromote{c.p.Target.Node, PromoteRequest{s.Stream, r.Epoch, r.Holder.UUID, r.Head}})
		}
	}
}

func (c *Controller) onPromoted(ev Promoted) {
	s := c.stream(ev.Stream)
	if s == nil || c.p.Step != StepApply {
		return
	}
	if ev.Class == tidegate.Fenced {
		if !c.recheck {
			c.recheck = true // another plan has probably gone on: the keys will tell
			c.contested++
		}
		return
	}
	s.Promoted = s.Promoted || ev.Class == ""
	s.Applied = s.Applied || ev.Class == "" && ev.Applied
	for i := range c.p.Streams {
		if !c.p.Streams[i].Applied {
			return
		}
	}
	if c.verifying {
		return
	}
	stamp(&c.p.Times.T6, c.now)
	if c.p.Verify {
		c.verifying = true
		c.save()
		c.emit(Verify{})
		return
	}
	c.route()
}

func (c *Controller) route() {
	if c.verifying {
		stamp(&c.p.Times.T7, c.now)
	}
	c.p.Step = StepRoute
	c.save()
	c.switchRoute()
}

func (c *Controller) switchRoute() {
	e := SwitchRoute{Service: c.p.Service, Holder: c.p.Target}
	for i := range c.p.Streams {
		e.Epoch = max(e.Epoch, c.p.Streams[i].Record.Epoch)
	}
	c.emit(e)
}

func (c *Controller) report() {
	c.p.Step = StepDone
	c.save()
	c.emit(Report{slices.Clone(c.p.Loss)})
	c.emit(Finished{})
}

// --- time ---

func (c *Controller) tick() {
	if c.wait != 0 {
		return // a transaction or a read is out; its shell answers in any case
	}
	if c.recheck {
		c.recheck = false
		c.readKeys()
		return
	}
	switch c.p.Step {
	case StepFence:
		c.sendFences()
		ready := true
		for i := range c.p.Streams {
			ready = ready && c.clean(&c.p.Streams[i])
		}
		if ready && c.settled {
			c.choose()
			return
		}
		c.settled = ready
	case StepChoose:
		c.sendFences()
	case StepAdopt:
		c.sendAdopts()
	case StepApply:
		c.sendPromotes()
	case StepRoute:
		c.switchRoute()
	}
}

func (c *Controller) deadline(step PlanStep) {
	if step != c.p.Step {
		return
	}
	if c.wait != 0 {
		c.emit(SetDeadline{Step: step}) // the keys come first
		return
	}
	switch step {
	case StepFence, StepChoose:
		c.fenceDeadline()
	case StepLease:
		c.refuse(Refusal{Rule: RulePrimaryFence, Why: c.leaseDoubt(), Hint: "make sure that the primary is down, then attest it"})
	case StepAdopt:
		c.adoptDeadline()
	}
}

func (c *Controller) fenceDeadline() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		if c.clean(s) || c.p.Force && len(s.Replies) > 0 {
			continue
		}
		c.refuse(Refusal{
			Rule: RuleFenceQuorum, Stream: s.Name,
			Why:  fmt.Sprintf("%d of %d members answered that know what they had, want %d", s.counting(), len(s.Record.Config.Members), s.need()),
			Hint: "bring members back, or force and accept unknown loss",
		})
		return
	}
	if c.p.Step == StepChoose {
		c.lease()
		return
	}
	c.choose()
}

func (c *Controller) adoptDeadline() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		if c.adopted(s) || c.p.Shrink && len(c.joined(s)) > 0 && c.targetAdopted(s) {
			continue
		}
		c.refuse(Refusal{
			Rule: RuleAdoptQuorum, Stream: s.Name,
			Why:  fmt.Sprintf("%d members reached %s, want %d with the target among them", len(c.joined(s)), s.Record.Head.Seq, s.config().W),
			Hint: "bring members back and run the plan again",
		})
		return
	}
	c.activate()
}
