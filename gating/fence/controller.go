package fence

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
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
// F4: the old writer stops by itself when its gate is armed in sync or bounded
// mode ([GateRecord.Holds]), and has stopped when it handed over; an acquire
// needs no wait because the source's own consensus elected the service that
// asks, and a deposed leader cannot commit there. Otherwise, where the record
// names a lease, its word runs out: the registry's, after F1 no gate renews it,
// with the event LeaseOver; the nodes', because a node promises only when its own
// is out, so that R promises end what W nodes gave. All else needs an attestation.
//
// Not safe for concurrent use.
//
// A switchover goes before F1 through SWITCHING, which asks the writer to drain,
// and DEMOTED, which the writer itself writes as its last act (S5). Both compete
// on the keys with everything else: a failover or a start of the writer that
// comes first supersedes the switchover, and an abort that comes after DEMOTED
// fails. From F1 on it is a failover that expects exactly the head that was
// handed over, and refuses any other.
type Controller struct {
	p         Plan
	now       time.Time
	token     uint64
	wait      uint64        // token of the outstanding ReadKeys or Txn; 0 none
	then      Plan          // the plan as it stands once the outstanding Txn commits
	settled   bool          // a tick passed since the fence quorum was reached
	asked     bool          // AwaitLease is out
	recheck   bool          // read the keys at the next tick
	verifying bool          // Verify is out
	draining  bool          // the deadline of S2 is set
	contested int           // times the target refused the active epoch as fenced
	leased    time.Duration // longest lease that a fence was answered with since the deadline was set
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
// wall clock; it is recorded, tells how much of a drain's time is left, and no
// safety rests on it. The slice belongs to the caller.
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
		if _, attest := c.leaseDoubt(); !attest {
			c.leaseOver()
		}
	case Attested:
		c.attested()
	case Abort:
		c.abortAsked(ev)
	case HandedOver:
		if c.p.Step == StepDrain && c.wait == 0 {
			c.readKeys()
		}
	case Promoted:
		c.onPromoted(ev)
	case Verified:
		if c.p.Step == StepApply && c.verifying {
			stamp(&c.p.Times.T7, now)
			c.route()
		}
	case Unverified:
		if c.p.Step == StepApply && c.verifying {
			c.p.Unverified = ev.Why
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
