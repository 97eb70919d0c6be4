package fence_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// rehearse plays a scene, and says where it stopped.
func rehearse(t *testing.T, scene func(*stage)) {
	t.Helper()
	if why := play(scene); why != "" {
		t.Error(why)
	}
}

// drained is what an agent does when it reads SWITCHING: it drains, seals the
// handover, waits for its standbys and hands over.
func (a *author) drained() error {
	a.w.OnRecord(a.s.key.Record)
	a.seal(1)
	a.ship(a.s.names()...)
	a.commit()
	return a.handOver()
}

func TestSwitchoverLosesNothing(t *testing.T) {
	for _, gate := range []fence.GateRecord{
		armed, openGate,
		{State: fence.GateDegraded, Mode: tidegate.ModeSync},
		{State: fence.GateBlindOK, Mode: tidegate.ModeSync},
	} {
		t.Run(string(gate.State)+" "+string(gate.Mode), func(t *testing.T) {
			rehearse(t, func(s *stage) {
				s.cast(3, 2, 0, gate)
				w := s.begin()
				w.seal(3)
				w.ship("n0", "n1", "n2")
				w.lease(10*time.Second, 0, "n0", "n1", "n2")
				began := s.wall()
				c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
				r := s.key.Record
				s.want(r.State == fence.StateSwitching && r.Target.Node == "n1" && r.Deadline == began.Add(30*time.Second).UnixNano(), "%+v", r)
				s.want(c.extra == 30*time.Second, "drains for %s", c.extra)
				s.pass(time.Second)
				s.must(w.drained())
				s.want(w.w.Sealed(tidegate.LogPos{Epoch: 1, Seq: 5}) != nil, "seals after the handover")
				s.want(!w.leased(), "a lease outlives the handover")
				c.step(fence.HandedOver{})
				c.run()
				p := c.plan()
				s.want(p.Step == fence.StepDone && s.key.Record.Holder.Node == "n1" && s.key.Record.Head.Seq == 4, "%s (%v) with head %s", p.Step, p.Refusal, s.key.Record.Head)
				s.want(c.awaits == nil, "waits for leases: %v", c.awaits)
				s.want(len(c.told) == 1 && c.told[0].Kind == fence.LossZero, "%v", c.told)
				s.want(p.Times.T0.Equal(began) && p.Times.S1.Equal(began) && p.Times.S5.Equal(began.Add(time.Second)) && !p.Times.T2.Before(p.Times.S5), "%+v", p.Times)
				next := s.author()
				next.seal(2)
				next.ship("n0", "n1", "n2")
				s.want(next.w.Durable() == 6, "D %s", next.w.Durable())
				// A later failover knows nothing of a handover that is over.
				s.want(fence.PredictLoss(s.key.Record).Why != "the writer has handed over", "claims the old handover")
			})
		})
	}
}

// TestSwitchoverTakenUpAnywhere kills the controller after each of its effects in
// turn; another one goes on with the plan as it was last saved.
func TestSwitchoverTakenUpAnywhere(t *testing.T) {
	for n := 0; ; n++ {
		finished := false
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			w := s.begin()
			w.seal(3)
			w.ship("n0", "n1", "n2")
			p := s.draft(fence.KindSwitchover, "n1#1")
			c := &pilot{s: s, dies: n + 1, saved: p}
			c.start(p)
			left := true
			for range 12 {
				if left && s.key.Record.State == fence.StateSwitching {
					s.must(w.drained())
					left = false
				}
				c.leg()
			}
			finished = c.over()
			next := &pilot{s: s, saved: c.saved}
			next.start(c.saved)
			for range 12 {
				if left && s.key.Record.State == fence.StateSwitching {
					s.must(w.drained())
					left = false
				}
				next.leg()
			}
			r := s.key.Record
			s.want(next.plan().Step == fence.StepDone && r.State == fence.StateActive && r.Holder.Node == "n1" && r.Head.Seq == 4 && r.Epoch == 2,
				"killed after %d effects: %s (%v), %s epoch %s head %s", n, next.plan().Step, next.plan().Refusal, r.State, r.Epoch, r.Head)
		})
		if finished || t.Failed() {
			if n < 12 && !t.Failed() {
				t.Fatalf("finished after %d effects", n)
			}
			return
		}
	}
}

func TestAbort(t *testing.T) {
	abort := fence.Abort{Actor: "operator/alice", Reason: "not today"}
	t.Run("while the writer drains", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			w := s.begin()
			c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
			w.w.OnRecord(s.key.Record)
			w.seal(1)
			c.step(abort)
			p := c.plan()
			s.want(p.Step == fence.StepRefused && p.Refusal.Rule == fence.RuleAborted && p.Attempts == 0, "%s: %v", p.Step, p.Refusal)
			r := s.key.Record
			s.want(r.State == fence.StateActive && r.Epoch == 1 && r.Target == (fence.Holder{}) && r.Deadline == 0 && r.Kind == fence.KindAcquire, "%+v", r)
			w.w.OnRecord(r)
			s.want(w.handOver() != nil, "hands over what was called off")
			w.seal(1)
			w.ship("n0", "n1")
			s.want(w.w.Durable() == 2, "D %s", w.w.Durable())
			// Whoever takes the plan up finds it called off.
			p.Step, p.Refusal = fence.StepDrain, nil
			again := s.fly(p)
			s.want(again.plan().Step == fence.StepRefused && s.key.Record.State == fence.StateActive, "%s", again.plan().Step)
		})
	})
	t.Run("before anything was done", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			s.begin()
			c := s.flyFrozen(s.draft(fence.KindSwitchover, "n1#1"), true)
			c.step(abort) // S1 is on its way
			c.frozen = false
			c.thaw()
			s.want(c.plan().Step == fence.StepRefused && s.key.Record.State == fence.StateActive, "%s, %s", c.plan().Step, s.key.Record.State)
		})
	})
	t.Run("saved by a gate that died", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			s.begin()
			p := s.fly(s.draft(fence.KindSwitchover, "n1#1")).plan()
			p.Abort = &fence.AbortAsked{Actor: abort.Actor, Reason: abort.Reason}
			c := s.fly(p)
			s.want(c.plan().Step == fence.StepRefused && s.key.Record.State == fence.StateActive, "%s, %s", c.plan().Step, s.key.Record.State)
		})
	})
	t.Run("after the demotion", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			w := s.begin()
			c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
			s.must(w.drained())
			c.step(abort) // neither side knows of the other
			s.want(c.tooLate != "" && c.plan().Step == fence.StepFence, "%q at %s", c.tooLate, c.plan().Step)
			c.tooLate = ""
			c.step(abort)
			s.want(c.tooLate != "", "called off in %s", c.plan().Step)
			c.run()
			s.want(c.plan().Step == fence.StepDone, "%s: %v", c.plan().Step, c.plan().Refusal)
		})
	})
	t.Run("a failover under way", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			s.begin()
			c := s.fly(s.draft(fence.KindFailover, "n1#1"))
			c.step(abort)
			s.want(c.tooLate != "", "a failover was called off at %s", c.plan().Step)
			c.run()
			s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
		})
	})
	t.Run("the time is up", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			w := s.begin()
			c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
			rec, err := s.key.Record.OpenGate() // another change of the key in between
			s.must(err)
			s.put(rec)
			s.pass(30 * time.Second)
			c.deadline()
			s.want(c.plan().Step == fence.StepDrain && c.timer && c.extra == 0, "%s, timer %v, %s more", c.plan().Step, c.timer, c.extra)
			c.deadline()
			s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleDrain, "%s: %v", c.plan().Step, c.plan().Refusal)
			s.want(s.key.Record.State == fence.StateActive && s.key.Record.Gate.State == fence.GateDegraded, "%+v", s.key.Record)
			w.w.OnRecord(s.key.Record)
			w.seal(1)
		})
	})
}

func TestSwitchoverGivesWay(t *testing.T) {
	t.Run("to a failover", func(t *testing.T) {
		for _, mode := range []string{"draining", "demoted"} {
			rehearse(t, func(s *stage) {
				s.cast(3, 2, 0, armed)
				w := s.begin()
				w.seal(1)
				w.ship("n0", "n1")
				c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
				if mode == "demoted" {
					s.must(w.drained())
				}
				f := s.fly(s.draft(fence.KindFailover, "n2#1")).run() // the primary is lost meanwhile
				c.run()
				r := s.key.Record
				s.want(f.plan().Step == fence.StepDone && c.plan().Step == fence.StepGone && r.Holder.Node == "n2", "%s: failover %s, switchover %s, holder %s", mode, f.plan().Step, c.plan().Step, r.Holder)
				s.want(f.told[0].Kind == fence.LossZero, "%s: %v", mode, f.told)
			})
		}
	})
	t.Run("to the writer's new start", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			s.begin()
			c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
			s.acquire("p0#2")
			c.tick()
			s.want(c.plan().Step == fence.StepGone, "%s", c.plan().Step)
		})
	})
	t.Run("but not to the old site after the demotion", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			w := s.begin()
			c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
			s.must(w.drained())
			a := s.fly(s.draft(fence.KindAcquire, "p0#2"))
			s.want(a.plan().Step == fence.StepRefused && a.plan().Refusal.Rule == fence.RuleUnderway, "%s: %v", a.plan().Step, a.plan().Refusal)
			// The standbys are out of reach: the plan ends, and another promotes the old site again.
			for _, n := range s.names() {
				s.nodes[n].up = false
			}
			c.tick()
			c.deadline()
			s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleFenceQuorum, "%s: %v", c.plan().Step, c.plan().Refusal)
			for _, n := range s.names() {
				s.nodes[n].up = true
			}
			p := s.draft(fence.KindAcquire, "p0#2")
			p.Preempt = true
			a = s.fly(p).run()
			s.want(a.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1 && s.key.Record.Holder.Node == "p0", "%s: %v", a.plan().Step, a.plan().Refusal)
		})
	})
	t.Run("or another switchover goes on from the handover", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, armed)
			w := s.begin()
			s.fly(s.draft(fence.KindSwitchover, "n1#1"))
			b := s.fly(s.draft(fence.KindSwitchover, "n2#1"))
			s.want(b.plan().Step == fence.StepRefused && b.plan().Refusal.Rule == fence.RuleUnderway, "%s: %v", b.plan().Step, b.plan().Refusal)
			s.must(w.drained())
			p := s.draft(fence.KindSwitchover, "n2#1") // the first one's gate is gone, and its plan with it
			p.Preempt = true
			b = s.fly(p).run()
			s.want(b.plan().Step == fence.StepDone && s.key.Record.Holder.Node == "n2" && b.told[0].Kind == fence.LossZero, "%s: %v", b.plan().Step, b.plan().Refusal)
		})
	})
}

func TestSwitchoverRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		before func(s *stage)
		target string
		rule   string
	}{
		"no writer yet":      {func(s *stage) {}, "n1#1", fence.RuleRecord},
		"not a member":       {func(s *stage) { s.begin() }, "x9#1", fence.RuleTarget},
		"the writer itself":  {func(s *stage) { s.begin() }, "p0#1", fence.RuleTarget},
		"a failover did not": {func(s *stage) { s.begin(); s.fly(s.draft(fence.KindFailover, "n2#1")) }, "n1#1", fence.RuleUnderway},
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(s *stage) {
				s.cast(3, 2, 0, armed)
				tt.before(s)
				was := s.key
				c := s.fly(s.draft(fence.KindSwitchover, tt.target))
				s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == tt.rule, "%s: %v", c.plan().Step, c.plan().Refusal)
				s.want(s.key.Revision == was.Revision, "the key was changed")
			})
		})
	}
}

// A stream that never had a writer is no obstacle to a failover of its service,
// and nothing can be lost of it, whatever its mode.
func TestFailoverOfAStreamWithoutWriter(t *testing.T) {
	for _, gate := range []fence.GateRecord{armed, openGate, {State: fence.GateUnknown, Mode: tidegate.ModeSync}} {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, gate)
			c := s.fly(s.draft(fence.KindFailover, "n1#1")).run()
			s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 0 && s.key.Record.Epoch == 1, "%s: %v", c.plan().Step, c.plan().Refusal)
			s.want(c.told[0].Kind == fence.LossZero, "%v", c.told)
			w := s.author()
			w.seal(2)
			w.ship("n0", "n1", "n2")
			s.want(w.w.Durable() == 2, "D %s", w.w.Durable())
		})
	}
	// A registry that has gone back to before the first writer lies.
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 0, armed)
		s.save()
		w := s.begin()
		w.seal(2)
		w.ship("n0", "n1")
		s.restore()
		c := s.fly(s.draft(fence.KindFailover, "n1#1")).run()
		s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleRPOBound, "%s: %v", c.plan().Step, c.plan().Refusal)
		p := s.takeover("n1#1")
		p.AttestPrimaryDown = true
		c = s.fly(p).run()
		s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 2 && c.told[0].Kind == fence.LossUnknown, "%s at %s: %v", c.plan().Step, s.key.Record.Head, c.told)
	})
}

// --- the same writer, another configuration ---

func (s *stage) wanted(w int, names ...tidegate.NodeName) *fence.Config {
	cfg := &fence.Config{W: w}
	for _, n := range names {
		cfg.Members = append(cfg.Members, s.nodes[n].meta.Member())
	}
	fence.SortMembers(cfg.Members)
	return cfg
}

// TestReconfigureUnderLoad: acks of the old epoch are in flight, the nodes stand
// at different ends, and nothing that was released is lost; what had been sealed
// beyond the head is sealed again.
func TestReconfigureUnderLoad(t *testing.T) {
	for cut := range 4 { // how much n0, n1 and n2 have when the fence comes
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			rehearse(t, func(s *stage) {
				s.cast(3, 2, 2, armed)
				w := s.begin()
				w.seal(2)
				w.ship("n0", "n1", "n2")
				w.seal(cut)
				w.ship("n0") // its ack counts now
				late := []fence.Ack{}
				for _, n := range []tidegate.NodeName{"n1", "n2"} {
					if n == "n1" || cut > 1 {
						p := s.nodes[n]
						w.append(p)
						if a, ok := p.durable(); ok {
							late = append(late, a) // in flight
						}
					}
				}
				w.seal(1) // nobody has it
				p := s.draft(fence.KindReconfigure, "p0#1")
				p.Streams[0].Wanted = s.wanted(2, "n1", "n3", "n4")
				c := s.fly(p)
				c.deliver("fence", "n0")
				for _, a := range late {
					w.ack(a) // the old writer may count them as long as it does not know
				}
				c.run()
				w.w.OnRecord(s.key.Record)
				_, over := w.w.Fenced()
				s.want(over, "the old writer goes on")
				r := s.key.Record
				s.want(c.plan().Step == fence.StepDone && r.Epoch == 2 && r.Holder == w.self && r.Config.Index("n3") >= 0 && r.Config.Index("n0") < 0, "%s: %v; %+v", c.plan().Step, c.plan().Refusal, r)
				s.want(r.Kind == fence.KindReconfigure && r.Head.Seq >= 2, "head %s", r.Head)
				again := s.author()
				again.seal(3)
				for _, a := range late {
					again.ack(a) // and the new one counts none of them
				}
				s.want(again.w.Durable() == r.Head.Seq, "D %s after acks of the old epoch, head %s", again.w.Durable(), r.Head)
				for _, n := range []tidegate.NodeName{"n3", "n4"} {
					s.nodes[n].watch(true)
				}
				again.ship("n3", "n4")
				s.want(again.w.Durable() == r.Head.Seq+3, "D %s", again.w.Durable())
				// What is left of the old members' logs is out of the game.
				f := s.fly(s.draft(fence.KindFailover, "n3#1")).run()
				s.want(f.plan().Step == fence.StepDone && s.key.Record.Head.Seq == r.Head.Seq+3, "%s: %v", f.plan().Step, f.plan().Refusal)
			})
		})
	}
}

func TestReconfigureKeepsTheOldMembers(t *testing.T) {
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 2, armed)
		w := s.begin()
		w.seal(2)
		w.ship("n0", "n1")
		s.nodes["n3"].up, s.nodes["n4"].up = false, false
		p := s.draft(fence.KindReconfigure, "p0#1")
		p.Streams[0].Wanted = s.wanted(2, "n2", "n3", "n4")
		c := s.fly(p).run()
		r := s.key.Record
		s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleConfig, "%s: %v", c.plan().Step, c.plan().Refusal)
		s.want(r.State == fence.StateActive && r.Epoch == 2 && r.Config.Index("n0") == 0 && r.Config.W == 2 && !r.Shrunk, "%+v", r)
		again := s.author()
		again.seal(1)
		again.ship("n0", "n1")
		s.want(again.w.Durable() == 3, "D %s", again.w.Durable())
	})
}

func TestReconfigureRefused(t *testing.T) {
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 0, armed)
		s.begin()
		c := s.fly(s.draft(fence.KindReconfigure, "p0#2")) // not the writer of today
		s.want(c.plan().Refusal != nil && c.plan().Refusal.Rule == fence.RuleTarget, "%v", c.plan().Refusal)
		s.fly(s.draft(fence.KindSwitchover, "n1#1"))
		c = s.fly(s.draft(fence.KindReconfigure, "p0#1"))
		s.want(c.plan().Refusal != nil && c.plan().Refusal.Rule == fence.RuleRecord, "%v", c.plan().Refusal)
	})
}

// TestFailback: the old site comes back as a learner, is made a member once it
// has caught up, and is switched over to, with the others as its members.
func TestFailback(t *testing.T) {
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 1, armed) // n3 is the standby of the old site's node
		w := s.begin()
		w.seal(2)
		w.ship("n0", "n1", "n2")
		s.want(s.fly(s.draft(fence.KindFailover, "n1#1")).run().plan().Step == fence.StepDone, "no failover")
		w2 := s.author()
		w2.seal(2)
		w2.ship("n0", "n1", "n2")
		learner := s.nodes["n3"]
		learner.watch(true)
		s.want(learner.readopt(s.key.Record, "n1"), "a learner does not adopt")
		if a, ok := learner.ack(); ok {
			w2.ack(a)
		}
		status := func() fence.PeerStatus {
			for _, p := range w2.w.Peers() {
				if p.Member.Node == "n3" {
					return p
				}
			}
			return fence.PeerStatus{}
		}
		s.want(status().Learner && !status().Named && !status().CaughtUp, "%+v", status())
		w2.ship("n3")
		s.want(status().CaughtUp && status().Durable == 4 && len(w2.w.CaughtUp()) == 0, "%+v, %v", status(), w2.w.CaughtUp())
		w2.seal(1)
		w2.ship("n3")
		s.want(w2.w.Durable() == 4, "a learner counts: D %s", w2.w.Durable())
		w2.ship("n0")
		s.want(w2.w.Durable() == 4, "a learner counts: D %s", w2.w.Durable())

		p := s.draft(fence.KindReconfigure, "n1#1")
		p.Streams[0].Wanted = s.wanted(2, "n0", "n1", "n2", "n3")
		p.Streams[0].Wanted.W = 3
		s.want(s.fly(p).run().plan().Step == fence.StepDone, "no reconfiguration")
		w3 := s.author()
		learner.watch(true)
		s.want(!learner.n.Limbo(), "named, and in limbo")
		back := s.draft(fence.KindSwitchover, "n3#1")
		back.Streams[0].Wanted = s.wanted(2, "n0", "n1", "n2") // the target is not one of its own members
		c := s.fly(back)
		s.must(w3.drained())
		c.run()
		r := s.key.Record
		s.want(c.plan().Step == fence.StepDone && r.Holder.Node == "n3" && r.Config.Index("n3") < 0 && len(r.Config.Members) == 3 && !r.Shrunk, "%s: %v; %+v", c.plan().Step, c.plan().Refusal, r)
		w4 := s.author()
		w4.seal(1)
		w4.ship("n0", "n1")
		s.want(w4.w.Durable() == w4.w.End().Seq, "D %s of %s", w4.w.Durable(), w4.w.End())
	})
}

// The wanted members are out of reach and the others are not: a failover opens
// with those that it has.
func TestFailoverTakesWhoeverAdopted(t *testing.T) {
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 2, armed)
		w := s.begin()
		w.seal(1)
		w.ship("n0", "n1")
		s.nodes["n3"].up, s.nodes["n4"].up = false, false
		p := s.draft(fence.KindFailover, "n1#1")
		p.Shrink = true
		p.Streams[0].Wanted = s.wanted(2, "n3", "n4")
		c := s.fly(p).run()
		r := s.key.Record
		s.want(c.plan().Step == fence.StepDone && len(r.Config.Members) == 3 && r.Config.W == 2, "%s: %v; %+v", c.plan().Step, c.plan().Refusal, r.Config)
	})
}
