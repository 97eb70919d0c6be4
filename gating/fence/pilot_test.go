package fence_test

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// pilot is one controller. What it reads and writes in the registry happens at
// once, unless it is frozen; what it sends waits until the story delivers it.
type pilot struct {
	s       *stage
	ctl     *fence.Controller
	mail    []letter
	awaits  *fence.AwaitLease
	tooLate string        // of an abort
	extra   time.Duration // of the last deadline
	timer   bool          // it has not come yet
	frozen  bool          // a transaction waits
	stuck   []fence.Txn
	told    []fence.LossStatement
	saved   fence.Plan // as another gate would take it up
	dies    int        // before its effect of this number; 0: never
}

// letter is one request to one node.
type letter struct {
	node tidegate.NodeName
	kind string // fence, adopt, promote
	ask  func(p *player) fence.ControlEvent
}

// draft returns a plan of a service with the one stream.
func (s *stage) draft(kind fence.PlanKind, target string) fence.Plan {
	return fence.Plan{
		ID: s.id("plan" + string(kind) + target + time.Duration(len(s.ids)).String()), Service: "books", Kind: kind, Target: s.holder(target),
		Drain: 30 * time.Second, Streams: []fence.StreamPlan{{Stream: s.stream, Name: "a"}},
	}
}

// fly starts a controller of a plan.
func (s *stage) fly(p fence.Plan) *pilot { return s.flyFrozen(p, false) }

func (s *stage) flyFrozen(p fence.Plan, frozen bool) *pilot {
	c := &pilot{s: s, frozen: frozen}
	c.start(p)
	return c
}

// start goes through the plan's record, as a gate would.
func (c *pilot) start(p fence.Plan) {
	b, err := p.Marshal()
	c.s.must(err)
	p, err = fence.ParsePlan(b)
	c.s.must(err)
	c.ctl, err = fence.NewController(p)
	c.s.must(err)
	c.saved = p
	c.do(c.ctl.Start(c.s.wall()))
}

func (s *stage) wall() time.Time { return time.Unix(0, int64(s.now)) }

func (c *pilot) plan() fence.Plan { return c.ctl.Plan() }

func (c *pilot) over() bool { return c.plan().Finished() }

func (c *pilot) step(ev fence.ControlEvent) {
	if c.dies >= 0 {
		c.do(c.ctl.Step(c.s.wall(), ev))
	}
}

func (c *pilot) do(effects []fence.ControlEffect) {
	for _, e := range effects {
		if c.dies == 1 {
			c.dies = -1
		}
		if c.dies < 0 {
			return
		}
		if c.dies > 0 {
			c.dies--
		}
		switch e := e.(type) {
		case fence.SavePlan:
			c.saved = e.Plan
		case fence.ReadKeys:
			k := c.s.key
			k.Record = k.Record.Clone()
			c.step(fence.KeysRead{Token: e.Token, Keys: []fence.KeyState{k}})
		case fence.Txn:
			c.stuck = append(c.stuck, e)
			if !c.frozen {
				c.thaw()
			}
		case fence.SendFence:
			c.post(letter{e.Member.Node, "fence", func(p *player) fence.ControlEvent {
				if r, ok := p.ask(func(call uint64) fence.NodeEvent { return fence.FenceAsked{Call: call, Req: e.Req, Now: c.s.now} }).(fence.ReplyFence); ok {
					return fence.FenceReplied{Reply: r.Reply}
				}
				return nil
			}})
		case fence.SendAdopt:
			c.post(letter{e.Member.Node, "adopt", func(p *player) fence.ControlEvent {
				if r, ok := p.ask(func(call uint64) fence.NodeEvent { return fence.AdoptAsked{Call: call, Req: e.Req} }).(fence.ReplyAdopt); ok {
					return fence.AdoptReplied{Reply: r.Reply}
				}
				return nil
			}})
		case fence.SendPromote:
			c.post(letter{e.Node, "promote", func(p *player) fence.ControlEvent {
				if r, ok := p.ask(func(call uint64) fence.NodeEvent { return fence.PromoteAsked{Call: call, Req: e.Req} }).(fence.ReplyPromote); ok {
					return fence.Promoted{Stream: c.s.stream, Applied: r.Reply.Accepted, Class: r.Reply.Class}
				}
				return nil
			}})
		case fence.AwaitLease:
			c.awaits = &e
		case fence.SetDeadline:
			c.extra, c.timer = e.Extra, true
		case fence.AbortRefused:
			c.tooLate = e.Why
		case fence.Report:
			c.told = e.Loss
		case fence.SwitchRoute:
			// A later epoch may have been reserved since: the route carries its own.
			if r := c.s.key.Record; c.s.issued[e.Epoch] != e.Holder {
				c.s.fail("G7: clients are sent to %s for epoch %s while the stream is %s in epoch %s", e.Holder, e.Epoch, r.State, r.Epoch)
			}
			c.step(fence.RouteSwitched{Epoch: e.Epoch})
		}
	}
}

// post keeps the newest letter of a kind to a node.
func (c *pilot) post(l letter) {
	c.mail = slices.DeleteFunc(c.mail, func(m letter) bool { return m.node == l.node && m.kind == l.kind })
	c.mail = append(c.mail, l)
}

// thaw carries out the transaction that waits.
func (c *pilot) thaw() {
	for len(c.stuck) > 0 {
		e := c.stuck[0]
		c.stuck = c.stuck[1:]
		p := e.Puts[0]
		if p.IfRevision != c.s.key.Revision && p.IfRevision != -1 {
			c.step(fence.TxnDone{Token: e.Token})
			continue
		}
		c.s.put(p.Record)
		c.saved = e.Plan
		c.step(fence.TxnDone{Token: e.Token, Committed: true, Revision: c.s.key.Revision})
	}
}

// deliver brings the waiting letters of a kind to the named nodes, or to all,
// and their answers back.
func (c *pilot) deliver(kind string, names ...tidegate.NodeName) {
	var due, rest []letter
	for _, l := range c.mail {
		if l.kind == kind && (len(names) == 0 || slices.Contains(names, l.node)) && c.s.nodes[l.node].up {
			due = append(due, l)
		} else {
			rest = append(rest, l)
		}
	}
	c.mail = rest
	for _, l := range due {
		if ev := l.ask(c.s.nodes[l.node]); ev != nil {
			c.step(ev)
		}
	}
}

func (c *pilot) tick() { c.step(fence.Tick{}) }

func (c *pilot) deadline() {
	c.timer = false
	c.step(fence.Deadline{Step: c.plan().Step})
}

// leg is one round of all that a gate does by itself.
func (c *pilot) leg() {
	for _, kind := range []string{"fence", "adopt", "promote"} {
		c.deliver(kind)
	}
	if !c.over() {
		c.tick()
	}
}

// run lets the controller come to an end by itself, with the nodes that are up.
func (c *pilot) run() *pilot {
	for i := 0; i < 12 && !c.over(); i++ {
		c.leg()
		if i%3 == 2 && !c.over() && c.plan().Step != fence.StepDrain {
			c.deadline()
		}
	}
	return c
}

// begin opens the first epoch, of p0, and returns its writer.
func (s *stage) begin() *author { return s.acquire("p0#1") }

func (s *stage) acquire(run string) *author {
	c := s.fly(s.draft(fence.KindAcquire, run)).run()
	s.want(c.plan().Step == fence.StepDone, "acquire by %s: %s %v", run, c.plan().Step, c.plan().Refusal)
	return s.author()
}
