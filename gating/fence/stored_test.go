package fence_test

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// TestStoredAndLost: W members had stored what counts for nothing yet, the writer has let
// it go, and their disks are lost. It can feed nobody; nor could a term that began anew
// begin, for R members that know what they had are missing. Its own end would gain nothing:
// an operator forces a plan, which ends it, and the log goes on from what is left.
func TestStoredAndLost(t *testing.T) {
	why := play(func(s *stage) {
		s.cast(3, 2, 0, armed)
		w := s.begin()
		w.seal(10)
		for _, name := range []tidegate.NodeName{"n0", "n1"} {
			p := s.nodes[name]
			s.want(w.append(p), "%s takes nothing", name)
			k, ok := p.durable()
			s.want(ok && k.Stored == 10, "%s says %+v", name, k)
			k.Durable, k.Chain = 0, tidegate.Chain{} // its shell counts nothing before the base is whole
			w.ack(k)
		}
		s.want(w.w.Durable() == 0 && w.w.Floor() == 11, "D is %s, kept from %s", w.w.Durable(), w.w.Floor())
		for _, name := range []tidegate.NodeName{"n0", "n1"} {
			s.nodes[name].wipe()
			s.nodes[name].watch(true)
		}
		for range 2 * len(s.nodes) {
			relay, _ := w.w.Relay()
			if relay == "" {
				w.w.Start()
				relay, _ = w.w.Relay()
			}
			p := s.nodes[relay]
			w.w.RelayUp(p.meta.Member(), p.end(), p.end())
			_, up := w.w.Relay()
			s.want(!up, "%s is fed, and lacks what nobody has", relay)
		}
		c := s.fly(s.draft(fence.KindAcquire, "p0#2")).run()
		s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleFenceQuorum, "%s: %v", c.plan().Step, c.plan().Refusal)

		p := s.takeover("n2#1")
		p.Force, p.Shrink, p.AttestPrimaryDown = true, true, true
		c = s.fly(p).run()
		s.want(c.plan().Step == fence.StepDone, "forced: %s: %v", c.plan().Step, c.plan().Refusal)
		w.w.OnRecord(s.key.Record)
		_, over := w.w.Fenced()
		s.want(over, "the writer goes on beside epoch %s", s.key.Record.Epoch)
		next := s.author()
		next.seal(1)
		next.ship(s.names()...)
		s.want(next.w.Durable() == 1, "D is %s", next.w.Durable())
	})
	if why != "" {
		t.Error(why)
	}
}
