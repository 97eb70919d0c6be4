package fence_test

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/mutate"
)

// story is one counterexample of PROTOCOL 4.11: what happens when the rule does
// not hold. It is played with all rules, and must come to its end; a build with
// the tag `mutate` plays it without the rule as well, and it must not.
type story struct {
	rule mutate.Rule
	name string
	play func(*stage)
}

var stories = []story{
	{mutate.PromiseOnDisk, "a promise is forgotten in a crash", forgottenPromise},
	{mutate.AckAfterSync, "an acknowledged page cache is lost", lostPageCache},
	{mutate.EpochFirst, "a longer log of an older epoch", longerLog},
	{mutate.AdoptedEpoch, "a node that merely promised looks newer", merelyPromised},
	{mutate.AdoptQuorum, "opened from one copy", oneCopy},
	{mutate.EpochCheck, "a fenced node still takes the old writer's batch", fencedAppend},
	{mutate.ChainCheck, "a record after a divergent one", divergentPrefix},
	{mutate.Limbo, "an empty node says that there is nothing", emptyVote},
	{mutate.ReadEpoch, "a node that lost its disk obeys whom it had sworn off", amnesia},
	{mutate.CaughtUp, "re-seeded and still empty", emptyMember},
	{mutate.FenceQuorum, "one answer is not a quorum", oneAnswer},
	{mutate.ChoiceRecorded, "two controllers of one plan choose two heads", twoHeads},
	{mutate.ActivateCompare, "two controllers, one survivor each", twoSurvivors},
	{mutate.NoAckAfterFence, "acknowledged after the promise", ackAfterPromise},
	{mutate.PromiseHolder, "one epoch, two holders", twoHolders},
	{mutate.HeardEpoch, "the registry goes back and claims too much", restoredClaim},
	{mutate.AcquireOwn, "a service that was left behind takes the stream from its neighbour", leftBehind},
	{mutate.ChoiceKnown, "an epoch that was reserved again passes for one that was never written", reservedAgain},
	{mutate.UncleanSticks, "a choice without a quorum, given up, beats a better log", abandonedChoice},
	{mutate.UncleanSticks, "a choice without a quorum, forgotten by a registry that went back", forgottenChoice},
	{mutate.UncleanSticks, "cut for a choice without a quorum, and down before it was adopted", cutAndDown},
	{mutate.EpochFirst, "about to be cut, and as good as those it was to be cut to", aboutToBeCut},
	{mutate.TruncateCommon, "cut to what was known committed", cutToCommit},
	{mutate.ApplyCommitted, "applied ahead of commit, then cut", appliedAhead},
	{mutate.ConfigOverlap, "members replaced without overlap", noOverlap},
	{mutate.RouteAfterFence, "clients before the fence", routeFirst},
	{mutate.HandoverLossless, "handed over more than there is", handedTooMuch},
	{mutate.SwitchAbort, "called off after the demotion", abortAfterDemotion},
	{mutate.LeaseAwaited, "opened while the zombie has its lease", leaseRuns},
	{mutate.LeaseFence, "a node breaks its word", brokenWord},
	{mutate.LeaseKept, "an attestation outlives its plan", attestedBefore},
	{mutate.LeaseAfterRestart, "a restart forgets the word", forgottenWord},
	{mutate.LeaseNoRenew, "renewed for ever", renewedForEver},
	{mutate.LeaseCounted, "counted from the answer", countedLate},
}

// TestStories: with every rule in place each story comes to its end.
func TestStories(t *testing.T) {
	for _, s := range stories {
		t.Run(s.rule.String(), func(t *testing.T) {
			if why := play(s.play); why != "" {
				t.Errorf("%s: %s", s.name, why)
			}
		})
	}
}

// --- promises, acknowledgements, choice ---

func forgottenPromise(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0")
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	n1 := s.nodes["n1"]
	n1.held = true
	c.deliver("fence", "n1") // no answer before the promise is on disk
	n1.crash()
	w.ship("n1") // and so the crash, which forgets it, forgets nothing that anybody relied on
	c.deliver("fence", "n2")
	s.want(c.plan().Step == fence.StepFence, "%s after one promise", c.plan().Step)
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func lostPageCache(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	for _, n := range []tidegate.NodeName{"n0", "n1"} {
		p := s.nodes[n]
		w.append(p) // in memory
		if a, ok := p.ack(); ok {
			w.ack(a)
		}
	}
	s.want(w.w.Durable() == 0, "D is %s and nothing was fsynced", w.w.Durable())
	s.nodes["n0"].crash()
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	c.deliver("fence", "n0", "n2")
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 0, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func longerLog(s *stage) {
	s.cast(3, 2, 0, armed)
	w1 := s.begin()
	w1.seal(2)
	w1.ship("n0") // never released
	c := s.fly(s.draft(fence.KindFailover, "n1#1"))
	s.nodes["n0"].up = false
	c.run()
	w2 := s.author()
	w2.seal(1)
	w2.ship("n1", "n2")
	s.nodes["n0"].up = true
	c = s.fly(s.draft(fence.KindFailover, "n0#1"))
	c.deliver("fence", "n0", "n1") // n0 has more batches, of an older epoch
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Epoch == 2, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func merelyPromised(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0", "n1")
	first := s.fly(s.draft(fence.KindFailover, "n2#1"))
	first.deliver("fence", "n2") // promises epoch 2, and has nothing
	c := s.fly(s.draft(fence.KindFailover, "n0#1"))
	c.deliver("fence", "n0", "n2")
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func oneCopy(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0")
	c := s.fly(s.draft(fence.KindFailover, "n0#1"))
	c.deliver("fence", "n0", "n1")
	c.deliver("adopt", "n0")
	if s.key.Record.State == fence.StateActive {
		w2 := s.author() // its head is committed by definition: it is exposed with it
		for seq := tidegate.Seq(1); seq <= w2.w.End().Seq; seq++ {
			w2.expose(seq)
		}
	}
	s.nodes["n0"].up = false
	c2 := s.fly(s.draft(fence.KindFailover, "n1#1"))
	c2.run()
	s.want(c2.plan().Step == fence.StepDone, "%s", c2.plan().Step)
}

func fencedAppend(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0")
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	c.deliver("fence", "n1")
	w.ship("n1")
	_, fenced := w.w.Fenced()
	s.want(fenced, "the old writer goes on after a refusal")
	c.deliver("fence", "n2")
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}

func divergentPrefix(s *stage) {
	s.cast(3, 2, 0, armed)
	w1 := s.begin()
	w1.seal(1)
	w1.ship("n0")
	s.nodes["n0"].up = false
	s.fly(s.draft(fence.KindFailover, "n1#1")).run()
	w2 := s.author()
	w2.seal(1)
	w2.ship("n1")
	s.nodes["n0"].up, s.nodes["n2"].up = true, false
	c := s.fly(s.draft(fence.KindFailover, "n1#2")).run() // n0's log is as long, and another one
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
	w3 := s.author()
	w3.seal(1)
	w3.ship("n0", "n1")
	s.want(w3.w.Durable() == 2, "D is %s", w3.w.Durable())
}

func emptyVote(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0", "n1")
	s.nodes["n0"].wipe()
	s.nodes["n0"].watch(true)
	s.nodes["n1"].up = false
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	c.run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleFenceQuorum, "%s: %v", c.plan().Step, c.plan().Refusal)
	s.nodes["n1"].up = true
	c = s.fly(s.draft(fence.KindFailover, "n2#1")).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func amnesia(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	seen := s.key.Record
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	c.deliver("fence", "n0", "n2") // R promises of epoch 2
	n0 := s.nodes["n0"]
	n0.wipe()
	s.want(!n0.readopt(seen, "n1"), "a node that lost its disk adopts before it has read the record")
	n0.watch(true)
	s.want(!n0.readopt(seen, "n1"), "a node that has read of epoch 2 adopts epoch 1")
	w.seal(1)
	w.ship("n0", "n1")
	s.want(w.w.Durable() == 0, "D is %s after R promises", w.w.Durable())
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}

func emptyMember(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0", "n1")
	n0 := s.nodes["n0"]
	n0.wipe()
	n0.watch(true)
	s.want(n0.readopt(s.key.Record, "n1"), "not adopted")
	exit := func() int {
		if a, ok := n0.ack(); ok {
			w.ack(a)
		}
		due := w.w.CaughtUp()
		for _, m := range due {
			rec, err := s.key.Record.ExitLimbo(fence.Promise{Epoch: w.w.Epoch(), Holder: w.self.UUID}, m)
			s.must(err)
			s.put(rec)
			w.w.OnRecord(rec)
			n0.watch(false)
		}
		return len(due)
	}
	left := exit() // it has the epoch, and none of its batches
	s.nodes["n1"].up = false
	c := s.fly(s.draft(fence.KindFailover, "n2#1")).run()
	s.want(left == 0, "an empty node counts again")
	s.want(c.plan().Step == fence.StepRefused, "%s from an empty node and one that lagged", c.plan().Step)
	s.nodes["n1"].up = true
	c = s.fly(s.draft(fence.KindFailover, "n2#1")).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func oneAnswer(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0", "n1")
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	c.deliver("fence", "n2")
	s.want(c.plan().Step == fence.StepFence, "%s after one answer", c.plan().Step)
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func twoHeads(s *stage) {
	s.cast(3, 2, 0, armed)
	w1 := s.begin()
	w1.seal(1)
	w1.ship("n0") // never released
	c := s.fly(s.draft(fence.KindFailover, "n1#1"))
	other := s.fly(c.plan()) // another gate takes up the same plan
	s.want(other.plan().Step == fence.StepFence, "%s", other.plan().Step)
	c.deliver("fence", "n1", "n2")
	other.deliver("fence", "n0", "n1")
	c.deliver("adopt", "n1", "n2")
	other.deliver("adopt", "n0")
	c.run()
	other.run()
	r := s.key.Record
	s.want(r.State == fence.StateActive && r.Epoch == 2, "%s epoch %s", r.State, r.Epoch)
	w2 := s.author()
	w2.seal(2)
	w2.ship("n1", "n2")
	for _, n := range []tidegate.NodeName{"n0"} {
		if t := s.nodes[n].n.Adopted(); t.Epoch == 2 && t.StartSeq != r.StartSeq {
			s.fail("I2: epoch 2 begins at %s on %s and at %s in the record", t.StartSeq, n, r.StartSeq)
		}
	}
	next := s.fly(s.draft(fence.KindFailover, "n0#1"))
	next.deliver("fence", "n0", "n1")
	next.run()
	s.want(next.plan().Step == fence.StepDone, "%s", next.plan().Step)
}

func twoSurvivors(s *stage) {
	s.cast(2, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0", "n1")
	a := s.draft(fence.KindFailover, "n0#1")
	a.Shrink = true
	first := s.fly(a)
	first.deliver("fence", "n0")
	first.deliver("adopt", "n0")
	s.want(first.plan().Step == fence.StepAdopt, "%s", first.plan().Step)
	s.nodes["n0"].up = false // and here its gate does not hear of anybody for a while
	b := s.draft(fence.KindFailover, "n1#1")
	b.Shrink = true
	second := s.fly(b).run()
	s.want(second.plan().Step == fence.StepDone && s.key.Record.Epoch == 3, "%s", second.plan().Step)
	w3 := s.author()
	w3.seal(1)
	w3.ship("n1")
	first.deadline() // opens with its one survivor, if nothing compares
	s.want(s.key.Record.Epoch == 3, "epoch %s is open over epoch 3", s.key.Record.Epoch)
	s.want(first.plan().Step == fence.StepGone, "%s", first.plan().Step)
}

func ackAfterPromise(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.append(s.nodes["n1"])
	c := s.fly(s.draft(fence.KindFailover, "n2#1"))
	c.deliver("fence", "n1")
	if a, ok := s.nodes["n1"].ack(); ok {
		w.ack(a)
	}
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

// --- the registry ---

func twoHolders(s *stage) {
	s.cast(3, 2, 0, armed)
	s.begin()
	s.save()
	old := s.fly(s.draft(fence.KindAcquire, "p0#2")) // epoch 2: promised, not adopted
	old.deliver("fence")
	s.restore()
	w := s.acquire("p0#3") // would be epoch 2 again
	w.seal(1)
	w.ship("n0", "n1")
	old.deliver("adopt") // the word of a registry that is no more
	p := s.takeover("n1#1")
	p.AttestPrimaryDown = true
	c := s.fly(p).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func restoredClaim(s *stage) {
	s.cast(3, 2, 0, armed)
	s.begin()
	s.save() // armed
	w := s.acquire("p0#2")
	rec, err := s.key.Record.OpenGate()
	s.must(err)
	s.put(rec)
	w.open = true
	w.seal(1) // released, and nobody has it
	s.restore()
	c := s.fly(s.draft(fence.KindFailover, "n1#1")).run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleRPOBound, "%s (%v): %v, and a batch was lost", c.plan().Step, c.plan().Refusal, c.plan().Loss)
	p := s.draft(fence.KindFailover, "n1#1")
	p.AcceptLoss, p.AttestPrimaryDown = true, true
	c = s.fly(p).run()
	s.want(c.plan().Step == fence.StepDone && c.told[0].Kind == fence.LossUnknown, "%s: I23: %v claimed", c.plan().Step, c.told)
}

func reservedAgain(s *stage) {
	s.cast(3, 2, 0, armed)
	s.begin()
	s.save() // armed, epoch 1
	s.fly(s.draft(fence.KindFailover, "n1#1")).run()
	w := s.author() // of epoch 2
	rec, err := s.key.Record.OpenGate()
	s.must(err)
	s.put(rec)
	w.seal(1) // released, and nobody has it
	s.restore()
	s.fly(s.draft(fence.KindFailover, "n1#1")) // epoch 2 for the same run once more; it asks nobody
	c := s.fly(s.draft(fence.KindFailover, "n2#1")).run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleRPOBound, "I23: %s (%v): %v claimed, and a batch was lost", c.plan().Step, c.plan().Refusal, c.told)
	c = s.fly(s.takeover("n2#1")).run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RulePrimaryFence, "%s: %v", c.plan().Step, c.plan().Refusal)
	p := s.takeover("n2#1")
	p.AttestPrimaryDown = true
	c = s.fly(p).run()
	s.want(c.plan().Step == fence.StepDone && c.told[0].Kind == fence.LossUnknown, "%s: I23: %v claimed", c.plan().Step, c.told)
}

func leftBehind(s *stage) {
	s.cast(3, 2, 0, fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeBounded, Bounds: tidegate.Bounds{Records: 8, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}})
	s.begin()
	branch := func(e tidegate.Epoch) *tidegate.Epoch { return &e }
	s.want(s.fly(s.takeover("n0#1")).run().plan().Step == fence.StepDone, "n0 was not brought up") // epoch 2; its agent never writes
	s.want(s.fly(s.takeover("n1#1")).run().plan().Step == fence.StepDone, "n1 was not brought up") // epoch 3
	w := s.author()
	w.seal(1)
	w.expose(1) // within its bounds, and not durable
	p := s.draft(fence.KindAcquire, "n0#2")
	p.Streams[0].Branch = branch(2)
	c := s.fly(p).run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleBranch, "%s: %v", c.plan().Step, c.plan().Refusal)
	w.ship("n0", "n1")
	for _, x := range []struct {
		run string
		at  tidegate.Epoch
	}{
		{"n1#2", 2}, // brought up while its service was active still: it holds the stream
		{"n2#1", 3}, // of the same cluster as n1
	} {
		p = s.draft(fence.KindAcquire, x.run)
		p.Streams[0].Branch = branch(x.at)
		c = s.fly(p).run()
		s.want(c.plan().Step == fence.StepDone, "%s: %s %v", x.run, c.plan().Step, c.plan().Refusal)
	}
}

// --- choices without a quorum ---

// insist drafts a failover of somebody who knows that the primary is gone.
func (s *stage) insist(target string) fence.Plan {
	p := s.takeover(target)
	p.AttestPrimaryDown = true
	return p
}

// force lets n1 alone choose the head, for a target that is not there: nothing is
// opened.
func (s *stage) force() *pilot {
	s.nodes["n0"].up = false
	p := s.insist("n0#1")
	p.Force = true
	c := s.fly(p)
	c.deliver("fence")
	c.deadline()
	c.deliver("adopt")
	s.want(c.plan().Step == fence.StepAdopt && s.key.Record.Unclean, "%s", c.plan().Step)
	s.nodes["n0"].up = true
	return c
}

func abandonedChoice(s *stage) {
	s.cast(2, 1, 0, armed)
	w := s.begin()
	w.seal(2)
	w.ship("n0")
	s.force()
	c := s.fly(s.draft(fence.KindFailover, "n0#1")).run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleRPOBound, "%s (%v): what n1 had before is not known", c.plan().Step, c.plan().Refusal)
	c = s.fly(s.takeover("n1#1")).run() // R have promised: no attestation is needed
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 2, "%s with head %s, and n0 has 2", c.plan().Step, s.key.Record.Head)
	s.want(s.key.Record.Unclean && c.told[0].Kind == fence.LossUnknown && len(c.told[0].Missing) == 1, "I23: %v claimed", c.told)
}

func forgottenChoice(s *stage) {
	s.cast(2, 1, 0, armed)
	w := s.begin()
	w.seal(2)
	w.ship("n0")
	s.save()
	s.force()
	s.restore()
	s.nodes["n0"].up = true
	c := s.fly(s.draft(fence.KindFailover, "n1#1")).run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleRPOBound, "%s (%v) from %s: n0 has 2, durable", c.plan().Step, c.plan().Refusal, s.key.Record.Head)
	c = s.fly(s.insist("n1#1")).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Unclean && c.told[0].Kind == fence.LossUnknown, "%s: I23: %v claimed", c.plan().Step, c.told)
}

func cutAndDown(s *stage) {
	s.cast(2, 1, 0, armed)
	w := s.begin()
	w.seal(2)
	w.ship("n0")
	c := s.force()
	n0 := s.nodes["n0"]
	n0.held = true
	c.tick()
	c.deliver("adopt", "n0")
	for range 3 { // the promise, the intent, the cut; the term that says so is not opened
		next := n0.waiting[0]
		n0.waiting = n0.waiting[1:]
		next()
	}
	s.want(n0.end().Seq == 0, "n0 ends at %s", n0.end())
	n0.crash()
	c = s.fly(s.insist("n1#1")).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Unclean && c.told[0].Kind == fence.LossUnknown, "%s: I23: %v claimed", c.plan().Step, c.told)
	s.author().seal(1)
	c = s.fly(s.draft(fence.KindFailover, "n0#1")).run() // once an epoch is open, what holds counts again
	s.want(c.plan().Step == fence.StepDone && !s.key.Record.Unclean && c.told[0].Kind == fence.LossZero, "%s: %v", c.plan().Step, c.told)
}

// aboutToBeCut: what a node writes down before it is cut must not make its log look
// like the one that it was to get.
func aboutToBeCut(s *stage) {
	s.cast(3, 2, 0, armed)
	w1 := s.begin()
	w1.seal(3)
	w1.ship("n0") // never released
	s.nodes["n0"].up = false
	p := s.insist("n1#1")
	p.Force = true
	c := s.fly(p)
	c.deliver("fence", "n1")
	c.deadline()
	c.run() // n2 adopts as well
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Unclean, "%s", c.plan().Step)
	w2 := s.author()
	w2.seal(1)
	w2.ship("n1", "n2")
	n0 := s.nodes["n0"]
	n0.up, n0.held = true, true
	n0.readopt(s.key.Record, "n1")
	for range 2 { // the promise, the intent; not the cut
		next := n0.waiting[0]
		n0.waiting = n0.waiting[1:]
		next()
	}
	n0.crash()
	s.nodes["n2"].up = false
	c = s.fly(s.draft(fence.KindFailover, "n1#2")).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Epoch == 2, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

// --- cutting and applying ---

func cutToCommit(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(2)
	w.ship("n0", "n1") // released; the nodes have not heard that it is committed
	s.nodes["n2"].up = false
	c := s.fly(s.draft(fence.KindFailover, "n1#1"))
	c.deliver("fence")
	c.deliver("adopt")
	for _, n := range []tidegate.NodeName{"n0", "n1"} {
		s.nodes[n].crash()
	}
	s.nodes["n2"].up = true
	c = s.fly(s.draft(fence.KindFailover, "n2#1")).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 2, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func appliedAhead(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0")
	w.commit()
	s.want(s.nodes["n0"].n.ApplyTo() == 0, "n0 may apply to %s", s.nodes["n0"].n.ApplyTo())
	c := s.fly(s.draft(fence.KindFailover, "n1#1"))
	s.nodes["n0"].up = false
	c.run()
	s.nodes["n0"].up = true
	s.want(s.nodes["n0"].readopt(s.key.Record, "n1"), "n0 does not adopt")
}

// --- configurations ---

func noOverlap(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	w.seal(1)
	w.ship("n0", "n1")
	p := s.draft(fence.KindReconfigure, "p0#1")
	p.Streams[0].Wanted = &fence.Config{Members: []fence.Member{s.nodes["n2"].meta.Member()}, W: 1}
	s.nodes["n2"].up = false
	s.fly(p).run()
	s.nodes["n2"].up = true
	f := s.draft(fence.KindFailover, "n2#1")
	c := s.fly(f).run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Head.Seq == 1, "%s with head %s", c.plan().Step, s.key.Record.Head)
}

func routeFirst(s *stage) {
	s.cast(3, 2, 0, armed)
	s.begin()
	c := s.fly(s.draft(fence.KindFailover, "n1#1")).run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}

// --- handing over ---

func handedTooMuch(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
	w.seal(2)
	w.ship("n0") // durable on one of two
	s.must(w.handOver())
	s.nodes["n0"].up = false
	c.run()
	s.want(c.plan().Step == fence.StepRefused && c.plan().Refusal.Rule == fence.RuleHandover, "%s: %v", c.plan().Step, c.plan().Refusal)
	s.want(s.key.Record.State == fence.StateFencing, "%s: something was opened on a guess", s.key.Record.State)
}

func abortAfterDemotion(s *stage) {
	s.cast(3, 2, 0, armed)
	w := s.begin()
	c := s.fly(s.draft(fence.KindSwitchover, "n1#1"))
	s.want(s.key.Record.State == fence.StateSwitching && c.plan().Step == fence.StepDrain, "%s at %s", s.key.Record.State, c.plan().Step)
	w.seal(1)
	w.ship("n0", "n1", "n2")
	s.must(w.handOver())
	c.deadline() // the controller has not seen it
	c.run()
	s.want(c.plan().Step == fence.StepDone && s.key.Record.Holder.Node == "n1", "%s of %s", c.plan().Step, s.key.Record.Holder)
	s.want(len(c.told) == 1 && c.told[0].Kind == fence.LossZero, "%v", c.told)
}

// --- leases ---

// openGate is a gate that holds nobody, with leases.
var openGate = fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeOpen, Lease: 10 * time.Second}

func (s *stage) takeover(target string) fence.Plan {
	p := s.draft(fence.KindFailover, target)
	p.AcceptLoss = true
	return p
}

func leaseRuns(s *stage) {
	s.cast(3, 2, 0, openGate)
	w := s.begin()
	w.lease(10*time.Second, 0, "n0", "n1")
	s.want(w.leased(), "two of three words, and no lease")
	c := s.fly(s.takeover("n2#1"))
	c.deliver("fence")
	c.step(fence.LeaseOver{}) // the registry's; it comes too early to count
	for range 40 {
		c.tick()
		c.deliver("fence")
		c.deliver("adopt")
		if c.awaits != nil {
			c.step(fence.LeaseOver{})
		}
		s.pass(time.Second / 2)
	}
	c.run()
	s.want(c.plan().Step == fence.StepDone && c.awaits != nil, "%s", c.plan().Step)
}

func brokenWord(s *stage) {
	s.cast(3, 2, 0, openGate)
	w := s.begin()
	w.lease(10*time.Second, 0, "n0", "n1")
	c := s.fly(s.takeover("n2#1"))
	c.deliver("fence")
	c.step(fence.LeaseOver{})
	c.deliver("adopt")
	s.want(c.plan().Step == fence.StepFence, "%s while two nodes have given their word", c.plan().Step)
	c.deadline()
	s.want(c.plan().Step == fence.StepFence && c.extra > 9*time.Second, "%s, patience of %s more: the words run longer", c.plan().Step, c.extra)
	s.pass(10 * time.Second)
	c.tick()
	c.deliver("fence")
	c.step(fence.LeaseOver{})
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}

func attestedBefore(s *stage) {
	s.cast(3, 2, 0, openGate)
	w := s.begin()
	w.lease(10*time.Second, 0, "n0", "n1")
	p := s.takeover("n1#1")
	p.AttestPrimaryDown = true // by mistake
	first := s.fly(p)
	first.deliver("fence")
	first.tick() // the head is chosen
	first.deliver("adopt", "n0")
	c := s.fly(s.takeover("n2#1")) // and called back: the next one is to wait
	c.deliver("fence")
	c.step(fence.LeaseOver{})
	c.deliver("adopt")
	s.want(c.plan().Step == fence.StepFence, "%s while two nodes have given their word", c.plan().Step)
	s.nodes["n1"].crash() // nor does a restart forget it
	s.pass(9 * time.Second)
	c.tick()
	c.deliver("fence")
	s.want(c.plan().Step == fence.StepFence, "%s while two nodes have given their word", c.plan().Step)
	s.pass(time.Second)
	c.tick()
	c.deliver("fence")
	c.tick()
	c.step(fence.LeaseOver{})
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}

func forgottenWord(s *stage) {
	s.cast(3, 2, 0, openGate)
	w := s.begin()
	w.lease(10*time.Second, 0, "n0", "n1")
	s.nodes["n0"].crash()
	s.nodes["n1"].crash()
	c := s.fly(s.takeover("n2#1"))
	c.deliver("fence")
	c.step(fence.LeaseOver{})
	c.deliver("adopt")
	s.want(c.plan().Step == fence.StepFence, "%s: the words are forgotten", c.plan().Step)
	s.pass(10 * time.Second)
	c.tick()
	c.deliver("fence")
	c.step(fence.LeaseOver{})
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}

func renewedForEver(s *stage) {
	s.cast(3, 2, 0, openGate)
	w := s.begin()
	s.want(w.lease(10*time.Second, 0, "n0", "n1", "n2") == 3, "no lease")
	c := s.fly(s.takeover("n2#1"))
	for range 30 { // the writer hears the nodes and asks on, and no gate
		c.tick()
		c.deliver("fence")
		c.step(fence.LeaseOver{})
		c.deliver("adopt")
		w.lease(10*time.Second, 0, "n0", "n1", "n2")
		s.pass(time.Second / 2)
	}
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s after 15 s of a lease of 10 s", c.plan().Step)
}

func countedLate(s *stage) {
	s.cast(3, 2, 0, openGate)
	w := s.begin()
	w.lease(10*time.Second, 8*time.Second, "n0", "n1") // the grants are on their way for 8 s
	s.pass(3 * time.Second)
	s.want(!w.leased(), "a lease of 10 s runs 11 s after it was asked for")
	c := s.fly(s.takeover("n2#1"))
	c.deliver("fence")
	c.step(fence.LeaseOver{})
	c.run()
	s.want(c.plan().Step == fence.StepDone, "%s", c.plan().Step)
}
