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
				c.emit(SendAdopt{m, adoptRequest(s.Record, s.source(m.Node), s.adoptedBy(m))})
			}
		}
	}
}

// adoptedBy returns the epoch that a member's log has adopted, as it said last; 0
// when it has not answered.
func (s *StreamPlan) adoptedBy(m Member) tidegate.Epoch {
	for _, r := range s.Replies {
		if r.Member == m {
			return s.Record.told(r.History, r.Durable.Seq).Last().Epoch
		}
	}
	return 0
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
	case !r.Adopted && r.Class == tidegate.Refused:
		s.Declined = slices.DeleteFunc(s.Declined, func(x AdoptReply) bool { return x.Member.Node == r.Member.Node })
		s.Declined = append(s.Declined, r)
	}
}

// adopted reports whether the stream may be opened: W adopters among the wanted
// members, and the target of a promotion among the adopters. (I14)
//
// Why a configuration may be replaced as a whole (I4): until ACTIVE commits, the
// record names the old members, R of whom have promised this epoch, so that
// nothing of an older one becomes durable any more, and any later plan asks
// them. Once it has committed, later plans ask the new members; W of them hold
// the chosen log through H under this epoch, R of them meet that W, and a log
// that adopted this epoch is better than any that did not. So whichever
// configuration a later plan finds in the key, its fence quorum meets every
// acknowledgement that was ever given under it or before it. It takes both: W
// of the new members at H before the commit, and one key for members and epoch.
func (c *Controller) adopted(s *StreamPlan) bool {
	w := s.config().W
	if mutate.Broken(mutate.AdoptQuorum) {
		w = 1
	}
	joined := len(s.joined(s.config()))
	if mutate.Broken(mutate.ConfigOverlap) {
		joined = len(s.Adopters)
	}
	return joined >= w && c.targetAdopted(s)
}

// joined returns the adopters that belong to cfg.
func (s *StreamPlan) joined(cfg Config) []Member {
	var ms []Member
	for _, r := range s.Adopters {
		if cfg.Index(r.Member.Node) >= 0 {
			ms = append(ms, r.Member)
		}
	}
	return ms
}

func (c *Controller) targetAdopted(s *StreamPlan) bool {
	return !c.promotes() ||
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

// opened returns the configuration that the epoch is opened with: the wanted one
// when W of it adopted. Otherwise the caller has decided what may be: a
// reconfiguration keeps the old one, of which W adopted, and anything else gets
// those that adopted, wherever they stand, as its whole configuration.
func (c *Controller) opened(s *StreamPlan) Config {
	cfg := s.config().Clone()
	if len(s.joined(cfg)) < cfg.W && !mutate.Broken(mutate.AdoptQuorum) && !mutate.Broken(mutate.ConfigOverlap) {
		if c.p.Kind == KindReconfigure {
			cfg = s.Record.Config.Clone()
		} else {
			cfg = Config{W: min(cfg.W, len(s.Adopters))}
			for _, r := range s.Adopters {
				cfg.Members = append(cfg.Members, r.Member)
			}
		}
	}
	for _, m := range s.joined(cfg) {
		cfg.Members[cfg.Index(m.Node)] = m
	}
	return cfg
}

// activate opens the epoch on every stream in one transaction.
func (c *Controller) activate() {
	next := clonePlan(c.p)
	t := Txn{Token: c.nextToken(), Step: StepActivate}
	for i := range next.Streams {
		s := &next.Streams[i]
		cfg := c.opened(s)
		r := &s.Record
		if c.promotes() && (r.Active.Node != r.Holder.Node || r.Restored) { // who else was brought up is forgotten
			r.Branch = r.Epoch
		}
		r.Shrunk = len(cfg.Members) < len(s.config().Members) || r.Shrunk && s.Wanted == nil
		r.State, r.Config, r.ActiveEpoch, r.Active = StateActive, cfg, r.Epoch, r.Holder
		if r.Unclean {
			r.Forced = r.Epoch
		}
		r.Inherited = c.p.Kind == KindReconfigure && r.Gate.Lease > 0
		r.History, r.Chosen = r.History.With(Term{r.Epoch, r.StartSeq, r.Holder.UUID}), nil
		r.Since = c.now.UnixNano()
	}
	next.Step = StepApply
	stamp(&next.Times.T4, c.now)
	c.p.Step = StepActivate
	c.txn(t, next)
	if mutate.Broken(mutate.ActivateCompare) {
		c.unconditional()
	}
}

// --- F7, F8, F9 ---

func (c *Controller) activated() {
	stamp(&c.p.Times.T5, c.now)
	if !c.promotes() {
		if r := c.notReached(); r != nil {
			c.refuse(*r)
			return
		}
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

// notReached says that a reconfiguration went on with the old configuration.
func (c *Controller) notReached() *Refusal {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		if c.p.Kind != KindReconfigure || s.Wanted == nil {
			continue
		}
		same := len(s.Wanted.Members) == len(s.Record.Config.Members) && s.Wanted.W == s.Record.Config.W
		for _, m := range s.Wanted.Members {
			same = same && s.Record.Config.Index(m.Node) >= 0
		}
		if !same {
			return &Refusal{
				Rule: RuleConfig, Stream: s.Name, Why: fmt.Sprintf("fewer than %d of the wanted members reached the head; the writer goes on with the old ones", s.Wanted.W),
				Hint: "let the new members catch up first",
			}
		}
	}
	return nil
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
		c.emit(Verify{Holder: c.p.Target, Epoch: c.epoch()})
		return
	}
	c.route()
}

func (c *Controller) route() {
	c.p.Step = StepRoute
	c.save()
	c.switchRoute()
}

func (c *Controller) switchRoute() {
	c.emit(SwitchRoute{Service: c.p.Service, Holder: c.p.Target, Epoch: c.epoch()})
}

// epoch is the highest of the plan's streams.
func (c *Controller) epoch() (e tidegate.Epoch) {
	for i := range c.p.Streams {
		e = max(e, c.p.Streams[i].Record.Epoch)
	}
	return e
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
			ready = ready && c.clean(&c.p.Streams[i]) && c.p.Streams[i].told()
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
	case StepDrain:
		c.readKeys()
	}
}

func (c *Controller) deadline(step PlanStep) {
	if step != c.p.Step {
		return
	}
	if c.wait != 0 {
		again := SetDeadline{Step: step} // the keys come first
		if step == StepDrain {
			again.Extra = drainAgain
		}
		c.emit(again)
		return
	}
	switch step {
	case StepDrain:
		c.draining = false // the abort may come second to something else, and must be tried again
		c.abort()
	case StepFence, StepChoose:
		c.fenceDeadline()
	case StepLease:
		why, _ := c.leaseDoubt()
		c.refuse(Refusal{Rule: RulePrimaryFence, Why: why, Hint: "make sure that the primary is down, then attest it"})
	case StepAdopt:
		c.adoptDeadline()
	case StepApply:
		c.readKeys() // another plan may have moved the streams since, and the target not know
	}
}

func (c *Controller) fenceDeadline() {
	if c.leased > 0 {
		// Nodes wait for leases that they gave to run out: they will promise then.
		c.emit(SetDeadline{c.p.Step, c.leased})
		c.leased = 0
		return
	}
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
		old := c.p.Kind == KindReconfigure && len(s.joined(s.Record.Config)) >= s.Record.Config.W
		if c.adopted(s) || old || c.p.Shrink && len(s.Adopters) > 0 && c.targetAdopted(s) {
			continue
		}
		c.refuse(s.fewAdopters())
		return
	}
	c.activate()
}

// fewAdopters is the refusal of a plan whose head too few have reached. A node that
// knows more to be committed than was chosen does not come round: an unclean choice
// was made without it, of which the registry knows nothing (any more).
func (s *StreamPlan) fewAdopters() Refusal {
	r := Refusal{
		Rule: RuleAdoptQuorum, Stream: s.Name,
		Why:  fmt.Sprintf("%d members reached %s, want %d with the target among them", len(s.joined(s.config())), s.Record.Head.Seq, s.config().W),
		Hint: "bring members back and run the plan again",
	}
	for _, d := range s.Declined {
		r.Why += fmt.Sprintf("; node %s: %s", d.Member.Node, d.Why)
		r.Hint = fmt.Sprintf("two logs contradict one another: find out which may go, node %s's or that of those who adopted; stop its nodes, run `tidegate standby set-aside %s` there, start them and run the plan again", d.Member.Node, s.Stream)
	}
	return r
}
