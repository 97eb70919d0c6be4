package fence_test

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// TestPairsOfCommands lets every ordered pair of an operator's, an agent's and a
// gate's commands meet: the first does k moves, the second m, then the first
// comes to its end, then the second; for every k and m. A move is one message,
// one transaction or one tick. The stage checks after each that one holder has
// each epoch, that the key never goes back and that nothing released is missing;
// here, that whoever lost was told so, and that nobody claims too much.
func TestPairsOfCommands(t *testing.T) {
	for _, a := range commands {
		for _, b := range commands {
			t.Run(a.name+" then "+b.name, func(t *testing.T) {
				t.Parallel()
				for k := 0; ; k++ {
					spent := false
					for m := 0; ; m++ {
						done := false
						why := play(func(s *stage) { spent, done = duel(s, a, b, k, m) })
						if why != "" {
							t.Fatalf("%d moves, then %d: %s", k, m, why)
						}
						if done {
							break
						}
						if testing.Short() && m == 0 {
							m = 1000 // at once, or to the end
						}
					}
					if spent {
						break
					}
				}
			})
		}
	}
}

// command is something that competes on the key.
type command struct {
	name  string
	begin func(d *court) contender
}

// contender carries a command out move by move; false when it is over.
type contender interface{ move() bool }

var commands = []command{
	{"failover", func(d *court) contender { return d.plan(fence.KindFailover, "n1#1") }},
	{"takeover", func(d *court) contender {
		p := d.s.draft(fence.KindFailover, "n2#1")
		p.AcceptLoss, p.Force, p.AttestPrimaryDown, p.Shrink = true, true, true, true
		return d.fly(p)
	}},
	{"switchover to n1", func(d *court) contender { return d.plan(fence.KindSwitchover, "n1#2") }},
	{"switchover to n2", func(d *court) contender { return d.plan(fence.KindSwitchover, "n2#2") }},
	{"abort", func(d *court) contender { return &aborter{d} }},
	{"reconfigure", func(d *court) contender {
		p := d.s.draft(fence.KindReconfigure, "p0#1")
		p.Streams[0].Wanted = d.s.wanted(2, "n0", "n1", "n3")
		return d.fly(p)
	}},
	{"degrade", func(d *court) contender {
		return &gateSwap{court: d, next: func(r fence.EpochRecord) (fence.EpochRecord, error) { return r.OpenGate() }}
	}},
	{"arm", func(d *court) contender {
		return &gateSwap{court: d, next: func(r fence.EpochRecord) (fence.EpochRecord, error) {
			g := r.Gate
			g.State = fence.GateArmed
			return r.SetGate(d.writer.promise(), r.Gate, g)
		}}
	}},
	{"acquire", func(d *court) contender { return d.plan(fence.KindAcquire, "p0#2") }},
}

// court is where a duel takes place: the stage, the writer that was there
// before, and the plans that were begun.
type court struct {
	s      *stage
	writer *author
	drains bool // the writer has read SWITCHING and releases nothing new
	gone   bool // the writer has handed over
	plans  []*flyer
}

func duel(s *stage, a, b command, k, m int) (spent, done bool) {
	gate := armed
	if a.name == "arm" || b.name == "arm" {
		gate.State = fence.GateDegraded
	}
	s.cast(3, 2, 1, gate)
	s.nodes["n3"].watch(true)
	d := &court{s: s, writer: s.begin()}
	d.write()
	first := a.begin(d)
	spent = exhaust(first, k)
	d.write()
	second := b.begin(d)
	done = exhaust(second, m)
	d.write()
	exhaust(first, 200)
	exhaust(second, 200)
	exhaust(first, 200) // what waited for the other
	d.verdict()
	return spent, done
}

// exhaust lets c do at most n moves; true when it is over.
func exhaust(c contender, n int) bool {
	for range n {
		if !c.move() {
			return true
		}
	}
	return false
}

// write is the old writer at work: one more batch, released if it becomes durable.
func (d *court) write() {
	d.writer.w.OnRecord(d.writer.recordSeen())
	if _, fenced := d.writer.w.Fenced(); fenced || d.gone || d.drains {
		return
	}
	d.writer.seal(1)
	d.writer.ship("n0", "n1", "n2")
}

// recordSeen is the key, which the writer watches.
func (a *author) recordSeen() fence.EpochRecord { return a.s.key.Record.Clone() }

func (a *author) promise() fence.Promise {
	return fence.Promise{Epoch: a.w.Epoch(), Holder: a.self.UUID}
}

func (d *court) plan(kind fence.PlanKind, target string) contender {
	return d.fly(d.s.draft(kind, target))
}

func (d *court) fly(p fence.Plan) contender {
	f := &flyer{d: d, pilot: d.s.flyFrozen(p, true)}
	d.plans = append(d.plans, f)
	return f
}

// flyer carries a plan out move by move; in the drain the writer does its part.
type flyer struct {
	*pilot
	d     *court
	token *fence.KeyState // the handover as it will be written, and over what
	idle  int
}

func (f *flyer) move() bool {
	if f.over() {
		return false
	}
	switch {
	case len(f.stuck) > 0:
		f.thaw()
	case len(f.mail) > 0:
		f.idle = 0
		l := f.mail[0]
		f.deliver(l.kind, l.node)
	case f.plan().Step == fence.StepDrain && f.d.handOver(f):
	case f.idle < 3:
		f.idle++
		f.tick()
	default:
		f.idle = 0
		f.deadline()
	}
	return !f.over()
}

// handOver is the writer's next move in a drain: it drains, reads the key, then
// writes DEMOTED over what it read; false when there is nothing for it to do.
func (d *court) handOver(f *flyer) bool {
	r := d.s.key.Record
	_, fenced := d.writer.w.Fenced()
	switch {
	case fenced || d.gone || r.State != fence.StateSwitching || r.Promise() != d.writer.promise():
		d.drains = false
		return false
	case !d.drains:
		d.drains = true
		d.writer.seal(1)
		d.writer.ship("n0", "n1", "n2")
	case f.token == nil:
		rec, err := r.HandOver(d.writer.promise(), fence.Handover{Head: d.writer.w.End()})
		d.s.want(err == nil && d.writer.w.Durable() == d.writer.w.End().Seq, "hand over: %v, D %s", err, d.writer.w.Durable())
		f.token = &fence.KeyState{Revision: d.s.key.Revision, Record: rec}
	default:
		if f.token.Revision == d.s.key.Revision {
			d.s.put(f.token.Record)
			d.gone = true
		}
		f.token = nil
	}
	return true
}

// aborter calls off whatever was begun first.
type aborter struct{ d *court }

func (a *aborter) move() bool {
	if len(a.d.plans) > 0 && !a.d.plans[0].over() {
		a.d.plans[0].step(fence.Abort{Actor: "operator", Reason: "test"})
	}
	return false
}

// gateSwap reads the key, then writes its gate over what it read.
type gateSwap struct {
	*court
	next func(fence.EpochRecord) (fence.EpochRecord, error)
	read *fence.KeyState
	over bool
}

func (g *gateSwap) move() bool {
	switch {
	case g.over:
		return false
	case g.read == nil:
		rec, err := g.next(g.s.key.Record)
		if err != nil {
			g.s.want(tidegate.ClassOf(err) == tidegate.Fenced, "%v", err)
			g.over = true
			return false
		}
		g.read = &fence.KeyState{Revision: g.s.key.Revision, Record: rec}
		return true
	}
	if g.over = true; g.read.Revision == g.s.key.Revision {
		g.s.put(g.read.Record)
	}
	return false
}

// verdict is what must be so when everybody is done.
func (d *court) verdict() {
	r := d.s.key.Record
	winner := 0
	for _, f := range d.plans {
		p := f.plan()
		switch p.Step {
		case fence.StepDone:
			if r.Plan == p.ID {
				winner++
			}
			for _, l := range f.told {
				rec := p.Streams[0].Record
				d.s.want(l.Kind != fence.LossZero || rec.Gate.State == fence.GateArmed || rec.Handover != nil,
					"I23: zero claimed with a gate %s", rec.Gate.State)
			}
		case fence.StepRefused:
			d.s.want(p.Refusal != nil && p.Refusal.Why != "", "refused without a reason")
		case fence.StepGone:
			d.s.want(r.Plan != p.ID, "superseded, and the key is its own")
		default:
			d.s.fail("%s stops at %s", p.Kind, p.Step)
		}
	}
	d.s.want(winner <= 1, "two plans think that they made epoch %s", r.Epoch)
	switch r.State {
	case fence.StateActive:
	case fence.StateSwitching, fence.StateDemoted, fence.StateFencing, fence.StateRecovering:
		d.s.fail("the stream is left %s in epoch %s by a %s", r.State, r.Epoch, r.Kind)
	}
	w := d.writer
	w.w.OnRecord(r)
	if _, fenced := w.w.Fenced(); fenced {
		w = d.s.author()
	}
	was := w.w.Durable()
	w.seal(1)
	w.ship("n0", "n1", "n2")
	d.s.want(w.w.Durable() > was, "D stays at %s", was)
}

// TestTwoControllersOfOnePlan: any number of gates may carry out the same plan;
// they end in the same epoch.
func TestTwoControllersOfOnePlan(t *testing.T) {
	for _, kind := range []fence.PlanKind{fence.KindFailover, fence.KindSwitchover, fence.KindReconfigure, fence.KindAcquire} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			target := map[fence.PlanKind]string{fence.KindReconfigure: "p0#1", fence.KindAcquire: "p0#2"}[kind]
			if target == "" {
				target = "n1#1"
			}
			for k := range 28 {
				for m := 0; m < 28; m += 3 {
					why := play(func(s *stage) {
						s.cast(3, 2, 1, armed)
						s.nodes["n3"].watch(true)
						d := &court{s: s, writer: s.begin()}
						d.write()
						p := s.draft(kind, target)
						if kind == fence.KindReconfigure {
							p.Streams[0].Wanted = s.wanted(2, "n0", "n1", "n3")
						}
						first := &flyer{d: d, pilot: s.flyFrozen(p, true)}
						exhaust(first, k)
						second := &flyer{d: d, pilot: &pilot{s: s, frozen: true}}
						second.start(first.saved)
						exhaust(second, m)
						exhaust(first, 200)
						exhaust(second, 200)
						r := s.key.Record
						for _, f := range []*flyer{first, second} {
							s.want(f.plan().Step == fence.StepDone, "%s: %v", f.plan().Step, f.plan().Refusal)
						}
						s.want(r.State == fence.StateActive && r.Epoch == 2 && r.Plan == p.ID, "%s epoch %s", r.State, r.Epoch)
					})
					if why != "" {
						t.Fatalf("%d moves, then %d: %s", k, m, why)
					}
				}
			}
		})
	}
}
