package fence_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// A directory that was lost had given its word; the one that takes its place
// keeps it, also when the holder has not heard that the record names it.
func TestWipedNodeKeepsItsWord(t *testing.T) {
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 0, openGate)
		w := s.begin()
		w.seal(1)
		w.ship("n0", "n1")
		w.lease(10*time.Second, 0, "n0", "n1")
		n1 := s.nodes["n1"]
		n1.wipe()
		n1.watch(true)
		s.want(n1.readopt(s.key.Record, "n0"), "not adopted")
		w.ship("n1")
		for _, m := range w.w.CaughtUp() {
			rec, err := s.key.Record.ExitLimbo(w.promise(), m)
			s.must(err)
			s.put(rec) // and the answer is lost
		}
		n1.watch(false)
		s.want(!n1.n.Limbo() && w.leased(), "limbo %v, lease %v", n1.n.Limbo(), w.leased())
		c := s.fly(s.takeover("n2#1"))
		c.deliver("fence")
		s.want(c.plan().Step == fence.StepFence, "%s", c.plan().Step)
		s.pass(10 * time.Second)
		c.tick()
		c.deliver("fence")
		s.want(c.plan().Step == fence.StepLease && c.awaits.Lease == openGate.Lease, "%s", c.plan().Step)
		c.step(fence.LeaseOver{})
		c.run()
		s.want(c.plan().Step == fence.StepDone, "%s: %v", c.plan().Step, c.plan().Refusal)
	})
}

// What needs no lease is not kept waiting by one, and what no lease binds is not
// settled by one.
func TestLeasesAndGates(t *testing.T) {
	gate := func(st fence.GateState, m tidegate.Mode, lease time.Duration) fence.GateRecord {
		return fence.GateRecord{State: st, Mode: m, Lease: lease, Bounds: tidegate.Bounds{Records: 5}}
	}
	const ttl = 10 * time.Second
	for _, tt := range []struct {
		gate  fence.GateRecord
		waits bool // for the words of the nodes
		await time.Duration
		only  bool // only an attestation helps
	}{
		{gate(fence.GateArmed, tidegate.ModeSync, ttl), false, 0, false},
		{gate(fence.GateArmed, tidegate.ModeBounded, ttl), false, 0, false},
		{gate(fence.GateArmed, tidegate.ModeOpen, ttl), true, ttl, false},
		{gate(fence.GateDegraded, tidegate.ModeSync, ttl), true, ttl, false},
		{gate(fence.GateDegraded, tidegate.ModeSync, 0), true, 0, true},
		{gate(fence.GateBlindOK, tidegate.ModeSync, ttl), true, 0, true},
		{gate(fence.GateUnknown, tidegate.ModeSync, ttl), true, 0, true},
	} {
		t.Run(fmt.Sprint(tt.gate.State, tt.gate.Mode, tt.gate.Lease), func(t *testing.T) {
			rehearse(t, func(s *stage) {
				s.cast(3, 2, 0, tt.gate)
				w := s.begin()
				w.lease(ttl, 0, "n0", "n1", "n2")
				w.open = false // what it may do is not the question here
				c := s.fly(s.takeover("n1#1"))
				c.deliver("fence")
				s.want((c.plan().Step == fence.StepFence) == tt.waits, "%s", c.plan().Step)
				if !tt.waits {
					c.run()
					s.want(c.plan().Step == fence.StepDone && c.awaits == nil, "%s", c.plan().Step)
					return
				}
				s.pass(ttl)
				c.tick()
				c.deliver("fence")
				s.want(c.plan().Step == fence.StepLease && c.awaits != nil && c.awaits.Lease == tt.await, "%s: %+v", c.plan().Step, c.awaits)
				c.step(fence.LeaseOver{})
				s.want((c.plan().Step == fence.StepLease) == tt.only, "%s after the leases", c.plan().Step)
				c.step(fence.Attested{})
				c.run()
				s.want(c.plan().Step == fence.StepDone, "%s: %v", c.plan().Step, c.plan().Refusal)
			})
		})
	}
	t.Run("attested in F2", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, openGate)
			w := s.begin()
			w.lease(ttl, 0, "n0", "n1", "n2")
			w.open = false
			c := s.fly(s.takeover("n1#1"))
			c.deliver("fence")
			c.step(fence.Attested{})
			c.run()
			s.want(c.plan().Step == fence.StepDone && c.awaits == nil, "%s: %v", c.plan().Step, c.plan().Refusal)
		})
	})
	t.Run("no quorum, no end of leases", func(t *testing.T) {
		rehearse(t, func(s *stage) {
			s.cast(3, 2, 0, openGate)
			s.begin().open = false
			s.nodes["n1"].up, s.nodes["n2"].up = false, false
			p := s.takeover("n0#1")
			p.Force, p.Shrink = true, true
			c := s.fly(p)
			c.deliver("fence")
			c.deadline()
			s.want(c.plan().Step == fence.StepLease && c.awaits.Lease == 0, "%s: %+v", c.plan().Step, c.awaits)
			c.step(fence.LeaseOver{})
			s.want(c.plan().Step == fence.StepLease, "%s: nodes that nobody reached may renew", c.plan().Step)
			c.step(fence.Attested{})
			c.run()
			s.want(c.plan().Step == fence.StepDone, "%s: %v", c.plan().Step, c.plan().Refusal)
		})
	})
}

// Until it hears of a reconfiguration the writer goes by words of the members
// before; the record says so to the next plan, which asks others.
func TestReconfigurationInheritsWords(t *testing.T) {
	rehearse(t, func(s *stage) {
		s.cast(3, 2, 2, openGate)
		w := s.begin()
		w.lease(10*time.Second, 0, "n0", "n1")
		p := s.draft(fence.KindReconfigure, "p0#1")
		p.Streams[0].Wanted = s.wanted(2, "n2", "n3", "n4")
		s.want(s.fly(p).run().plan().Step == fence.StepDone && s.key.Record.Inherited, "%+v", s.key.Record)
		s.want(w.leased(), "it has not heard of it")
		s.want(w.lease(10*time.Second, 0, "n0", "n1", "n2") == 0, "renewed under the old epoch")
		for _, n := range []tidegate.NodeName{"n2", "n3", "n4"} {
			s.nodes[n].watch(true)
		}
		c := s.fly(s.takeover("n3#1"))
		s.want(c.plan().Streams[0].Record.Inherited, "forgotten at F1")
		c.deliver("fence")     // members that were named since the words were given know nothing of them, and wait all the same
		s.pass(openGate.Lease) // since F1
		c.tick()
		c.deliver("fence")
		c.step(fence.LeaseOver{})
		c.run()
		s.want(c.plan().Step == fence.StepDone && !s.key.Record.Inherited, "%s: %v", c.plan().Step, c.plan().Refusal)
	})
}

// A grant that comes late, behind many asks, counts from when it was asked for; one that
// nobody has asked for, or for whose ask the time is over, counts for nothing.
func TestLateGrant(t *testing.T) {
	w, cfg := oneWriter(t, 1, 1)
	const ttl, every = 30 * time.Second, tidegate.Instant(200 * time.Millisecond)
	now := tidegate.Instant(time.Hour)
	first := w.AskLease(now, ttl)
	for i := range tidegate.Instant(100) { // 20 s
		w.AskLease(now+every*(i+1), ttl)
	}
	w.OnLease(cfg.Members[0], 3, first, now+100*every)
	if want := now + tidegate.Instant(ttl-fence.LeaseMargin(ttl)); w.LeaseUntil() != want {
		t.Errorf("until %d, want %d", w.LeaseUntil(), want)
	}
	for _, number := range []uint64{0, first + 101} {
		v, _ := oneWriter(t, 1, 1)
		v.OnLease(cfg.Members[0], 3, number, now)
		for range 101 {
			v.AskLease(now, ttl)
		}
		if v.OnLease(cfg.Members[0], 3, number, now); v.LeaseUntil() != 0 {
			t.Errorf("ask %d was granted: until %d", number, v.LeaseUntil())
		}
	}
	last := w.AskLease(now+tidegate.Instant(time.Hour), time.Minute)
	w.OnLease(cfg.Members[0], 3, first+1, now+tidegate.Instant(time.Hour))
	w.OnLease(cfg.Members[0], 3, last, now+tidegate.Instant(time.Hour))
	if want := now + tidegate.Instant(time.Hour+time.Minute-fence.LeaseMargin(time.Minute)); w.LeaseUntil() != want {
		t.Errorf("until %d, want %d", w.LeaseUntil(), want)
	}
}
