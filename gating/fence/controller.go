package fence

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Controller carries out one plan: F0 to F9 of PROTOCOL 4.6 over all streams of
// a service.
//
// What must not be forgotten lives in the epoch records, never only in the
// plan: F1 reserves the epoch (FENCING), F3 writes the chosen head (RECOVERING)
// before anybody is asked to adopt it, F6 opens the epoch (ACTIVE). Each is one
// transaction over every stream, compared with the revisions that were read. So
// the keys alone say where a plan stands, and a second controller with the same
// plan goes on in the same epoch:
//
//	FENCING     ask for promises again; they are idempotent, and no log has adopted the epoch
//	RECOVERING  confirm the promises, then ask for adoption of the recorded head; idempotent too
//	ACTIVE      promote, route, report
//
// It starts again at F1 with a higher epoch only when a node has heard of one
// (and no other plan holds the keys: then this plan is superseded and opens
// nothing). Any number of controllers may run the same plan at once: they make
// the same requests, and one of their transactions wins.
//
// F4 without leases: the old writer stops by itself when its gate is armed in
// sync or bounded mode ([GateRecord.Holds]); an acquire needs no wait because
// the source's own consensus elected the service that asks, and a deposed leader
// cannot commit there. Otherwise LeaseOver or an attestation is needed.
//
// Not safe for concurrent use.
type Controller struct {
	p         Plan
	now       time.Time
	token     uint64
	wait      uint64 // token of the outstanding ReadKeys or Txn; 0 none
	then      Plan   // the plan as it stands once the outstanding Txn commits
	settled   bool   // a tick passed since the fence quorum was reached
	asked     bool   // AwaitLease is out
	recheck   bool   // read the keys at the next tick
	verifying bool   // Verify is out
	contested int    // times the target refused the active epoch as fenced
	out       []ControlEffect
}

// NewController takes up a plan: a new one (Step empty), or one that another
// controller saved at any step.
func NewController(p Plan) (*Controller, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if p.Step == "" {
		p.Step = StepDecide
	}
	return &Controller{p: clonePlan(p)}, nil
}

// Start returns the first effect (ReadKeys), nothing for a finished plan. now is
// the wall clock.
func (c *Controller) Start(now time.Time) []ControlEffect {
	c.now = now
	if !c.p.Finished() {
		c.readKeys()
	}
	return c.take()
}

// Step takes one event and returns what must be done, in order. now is the
// wall clock; it is recorded and decides nothing. The slice belongs to the caller.
func (c *Controller) Step(now time.Time, ev ControlEvent) []ControlEffect {
	c.now = now
	switch ev := ev.(type) {
	case Journey:
		stamp(&c.p.Times.T8, ev.At)
		c.save()
		return c.take()
	case Reconstituted:
		stamp(&c.p.Times.T9, now)
		c.save()
		return c.take()
	}
	if c.p.Finished() {
		return nil
	}
	switch ev := ev.(type) {
	case KeysRead:
		if ev.Token == c.wait {
			c.wait = 0
			c.onKeys(ev.Keys)
		}
	case TxnDone:
		if ev.Token == c.wait {
			c.wait = 0
			c.onTxn(ev)
		}
	case TxnUnknown:
		// It may have happened, or may yet happen: only the keys can tell.
		if ev.Token == c.wait {
			c.readKeys()
		}
	case FenceReplied:
		c.onFence(ev.Reply)
	case AdoptReplied:
		c.onAdopt(ev.Reply)
	case LeaseOver:
		c.leaseOver()
	case Attested:
		c.p.AttestPrimaryDown = true
		c.leaseOver()
	case Promoted:
		c.onPromoted(ev)
	case Verified:
		if c.p.Step == StepApply && c.verifying {
			c.route()
		}
	case RouteSwitched:
		if c.p.Step == StepRoute {
			c.report()
		}
	case Tick:
		c.tick()
	case Deadline:
		c.deadline(ev.Step)
	}
	return c.take()
}

// Plan returns the plan as it stands: a copy.
func (c *Controller) Plan() Plan { return clonePlan(c.p) }

func clonePlan(p Plan) Plan {
	p.Streams = slices.Clone(p.Streams)
	for i := range p.Streams {
		s := &p.Streams[i]
		s.Record = s.Record.Clone()
		s.Replies, s.Adopters = slices.Clone(s.Replies), slices.Clone(s.Adopters)
	}
	p.Loss = slices.Clone(p.Loss)
	return p
}

func (c *Controller) take() []ControlEffect {
	out := c.out
	c.out = nil
	return out
}

func (c *Controller) emit(e ControlEffect) { c.out = append(c.out, e) }

func (c *Controller) save() { c.emit(SavePlan{clonePlan(c.p)}) }

func stamp(t *time.Time, now time.Time) {
	if t.IsZero() {
		*t = now
	}
}

func (c *Controller) nextToken() uint64 {
	c.token++
	c.wait = c.token
	return c.token
}

func (c *Controller) stream(id tidegate.StreamID) *StreamPlan {
	for i := range c.p.Streams {
		if c.p.Streams[i].Stream == id {
			return &c.p.Streams[i]
		}
	}
	return nil
}

func (c *Controller) readKeys() {
	e := ReadKeys{Token: c.nextToken()}
	for i := range c.p.Streams {
		e.Streams = append(e.Streams, c.p.Streams[i].Stream)
	}
	c.emit(e)
}

func (c *Controller) refuse(r Refusal) {
	c.p.Step, c.p.Refusal = StepRefused, &r
	c.save()
	c.emit(Refuse{r})
}

// --- where the keys stand ---

func (c *Controller) onKeys(keys []KeyState) {
	mine, state, overtaken := 0, State(""), tidegate.ID{}
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
		case c.p.Attempts > 0 && k.Record.Epoch >= s.Record.Epoch:
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
	default:
		c.refuse(Refusal{Rule: RuleRecord, Why: "unexpected state " + string(state)})
	}
}

// --- F0, F1 ---

func (c *Controller) decide() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		if r := c.objection(s); r != nil {
			r.Stream = s.Name
			c.refuse(*r)
			return
		}
	}
	if c.p.Attempts >= AttemptsMax {
		c.refuse(Refusal{Rule: RuleAttempts, Why: fmt.Sprintf("epochs reserved %d times", c.p.Attempts), Hint: "see which controller or plan competes"})
		return
	}
	c.reserve()
}

// objection is F0: what stands against the plan before anything is changed.
func (c *Controller) objection(s *StreamPlan) *Refusal {
	r := &s.Record
	if c.p.Kind == KindAcquire {
		under := (r.State == StateFencing || r.State == StateRecovering) && r.Kind == KindFailover
		switch {
		case r.ActiveEpoch > 0 && r.Active.Site != c.p.Target.Site:
			return &Refusal{Rule: RuleSameSite, Why: fmt.Sprintf("the stream lives at site %s", r.Active.Site), Hint: "use failover to move a service"}
		case under && !c.p.Preempt:
			return &Refusal{Rule: RuleUnderway, Why: fmt.Sprintf("plan %s moves the stream to %s", r.Plan, r.Holder.Node)}
		}
		return nil
	}
	if cfg := s.config(); cfg.Index(c.p.Target.Node) < 0 {
		return &Refusal{Rule: RuleTarget, Why: fmt.Sprintf("node %s is not a member", c.p.Target.Node)}
	}
	loss := predictLoss(r.Gate, r.Restored)
	if c.p.AcceptLoss || loss.Kind == LossZero || loss.Kind == LossAtMost && !loss.Bounds.LooserThan(c.p.MaxLoss) {
		return nil
	}
	return &Refusal{Rule: RuleRPOBound, Why: fmt.Sprintf("loss %s: %s", loss.Kind, loss.Why), Hint: "accept the loss explicitly"}
}

// config returns the configuration that the plan wants to reach.
func (s *StreamPlan) config() Config {
	if s.Wanted != nil {
		return *s.Wanted
	}
	return s.Record.Config
}

func (c *Controller) reserve() {
	next := clonePlan(c.p)
	txn := Txn{Token: c.nextToken(), Step: StepReserve}
	for i := range next.Streams {
		s := &next.Streams[i]
		r := s.Record.Clone()
		if s.Heard.Epoch > r.Epoch || s.Heard.Epoch == r.Epoch && s.Heard.Epoch > 0 {
			// A node has sworn to an epoch that the key does not know: the
			// registry has gone back in time, and its gate record with it.
			r.Restored, r.Gate.State = true, GateUnknown
		}
		r.Epoch = max(r.Epoch, s.Heard.Epoch) + 1
		r.Holder, r.State, r.Plan, r.Kind = c.p.Target, StateFencing, c.p.ID, c.p.Kind
		r.Unclean, r.Source, r.Missing, r.Since = false, "", nil, c.now.UnixNano()
		s.Record, s.Replies, s.Adopters, s.Heard = r, nil, nil, Promise{}
	}
	next.Attempts++
	next.Step = StepFence
	stamp(&next.Times.T2, c.now)
	c.p.Step = StepReserve
	c.txn(txn, next)
}

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
	case StepFence:
		c.fence()
	case StepLease:
		c.lease()
	case StepApply:
		c.activated()
	}
}

// --- F2 ---

func (c *Controller) fence() {
	c.p.Step, c.settled = StepFence, false
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
				c.emit(SendFence{m, FenceRequest{Stream: s.Stream, Epoch: s.Record.Epoch, Holder: s.Record.Holder.UUID}})
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

// maybeChoose goes on when every stream has its quorum. Where records beyond D
// may have been released, one more tick is given to the other members: the best
// of all logs loses least.
func (c *Controller) maybeChoose() {
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		sync := s.Record.Gate.State == GateArmed && s.Record.Gate.Mode == tidegate.ModeSync
		if !c.clean(s) || !sync && !c.settled && s.counting() < len(s.Record.Config.Members) {
			return
		}
	}
	c.choose()
}

// --- F3 ---

func (c *Controller) choose() {
	next := clonePlan(c.p)
	for i := range next.Streams {
		s := &next.Streams[i]
		clean := c.clean(s)
		best := s.best(c.p.Target.Node, clean)
		r := &s.Record
		r.State, r.Head, r.StartSeq = StateRecovering, best.Durable, best.Durable.Seq+1
		r.History, r.Source, r.Unclean, r.Since = best.History.Clone(), best.Member.Node, !clean, c.now.UnixNano()
		r.Missing = s.missing()
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

// best returns the reply with the greatest (adopted epoch, durable); of equals
// the target's, which then copies nothing, else the first by name.
func (s *StreamPlan) best(target tidegate.NodeName, clean bool) FenceReply {
	var best *FenceReply
	for i := range s.Replies {
		r := &s.Replies[i]
		if clean && !s.counts(*r) {
			continue
		}
		if best == nil || r.better(best) || !best.better(r) && r.Member.Node == target {
			best = r
		}
	}
	return *best
}

func (r *FenceReply) better(o *FenceReply) bool {
	a, b := r.History.Last().Epoch, o.History.Last().Epoch
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
		c.p.Streams[i].Adopters = nil
	}
	if why := c.leaseDoubt(); why != "" {
		c.asked = true
		c.save()
		c.emit(AwaitLease{Why: why})
		c.emit(SetDeadline{Step: StepLease})
		return
	}
	c.adopt()
}

// state makes the loss statements of a failover from the records.
func (c *Controller) state() {
	c.p.Loss = nil
	for i := range c.p.Streams {
		if c.p.Kind == KindFailover {
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

// leaseDoubt says why the old writer's outputs are not provably over; "" when
// they are, or when it does not matter.
func (c *Controller) leaseDoubt() string {
	if c.p.Kind == KindAcquire || c.p.AttestPrimaryDown {
		return ""
	}
	for i := range c.p.Streams {
		s := &c.p.Streams[i]
		if s.Record.ActiveEpoch > 0 && !s.Record.Gate.Holds() {
			return fmt.Sprintf("stream %s: gate is %s in mode %s and there is no lease", s.Name, s.Record.Gate.State, s.Record.Gate.Mode)
		}
	}
	return ""
}

func (c *Controller) leaseOver() {
	if c.p.Step == StepLease && c.wait == 0 && c.asked {
		c.adopt()
	}
}
