package standby

import (
	"errors"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/shipper"
)

func (w *writer) grants() map[tidegate.NodeName]shipper.LeaseGrant {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[tidegate.NodeName]shipper.LeaseGrant{}
	for n, g := range w.lent {
		out[n] = g
	}
	return out
}

// An ask reaches every member through the relay, and every member's own grant
// comes back; while it runs no other holder gets a promise, unless somebody
// attests that none is needed.
func TestMembersLendLeasesThroughTheRelay(t *testing.T) {
	c := newClusterWith(t, 2, nil, map[tidegate.NodeName]tidegate.SiteName{"p1": "north"}, "dr1", "dr2", "dr3", "p1")
	w := c.start1()
	w.attach("dr1")
	c.until("the learner follows", func() bool { return c.nodes["p1"].status().History.Last().Epoch == 1 })
	ask := shipper.LeaseAsk{TTL: 20 * time.Second, Seqno: 7}
	if err := w.conn.SendBeacon(shipper.Beacon{Epoch: 1, Generation: 1, Wall: time.Unix(1, 0), Lease: ask}); err != nil {
		t.Fatal(err)
	}
	c.until("three grants", func() bool { return len(w.grants()) == 3 })
	for _, m := range w.rec.Config.Members {
		if got, want := w.grants()[m.Node], (shipper.LeaseGrant{Node: m.Node, Incarnation: m.Incarnation, Epoch: 1, TTL: ask.TTL, Seqno: 7}); got != want {
			t.Errorf("granted %+v, want %+v", got, want)
		}
		if l := c.nodes[m.Node].status().Lease; l == nil || l.Epoch != 1 || l.Remaining <= 0 || l.Remaining > ask.TTL {
			t.Errorf("%s shows lease %+v", m.Node, l)
		}
	}
	req := fenceAsk(2, tidegate.NewID())
	for _, restart := range []bool{false, true} {
		if restart {
			if err := c.nodes["dr2"].stop(); err != nil {
				t.Fatal(err)
			}
			c.nodes["dr2"].start()
			c.until("dr2 is back", func() bool { return c.nodes["dr2"].n.stream(theStream) != nil })
		}
		r, err := c.nodes["dr2"].n.Fence(c.ctx(), req)
		if err != nil || r.Leased <= 0 || r.Leased > ask.TTL || r.Promise.Epoch != 1 {
			t.Fatalf("fence of a node that has lent a lease (restarted %v): %+v, %v", restart, r, err)
		}
	}
	// What was asked of a writer before counts no more, and is not asked again.
	other := shipper.Beacon{Epoch: 9, Generation: 1, Wall: time.Unix(1, 0), Lease: shipper.LeaseAsk{TTL: time.Second, Seqno: 8}}
	if err := w.conn.SendBeacon(other); err != nil {
		t.Fatal(err)
	}
	req.Attested = true
	for _, n := range []tidegate.NodeName{"dr1", "dr2"} {
		if r, err := c.nodes[n].n.Fence(c.ctx(), req); err != nil || r.Leased != 0 || r.Promise.Epoch != 2 {
			t.Errorf("attested fence of %s: %+v, %v", n, r, err)
		}
	}
	for n, g := range w.grants() {
		if g.Seqno != 7 {
			t.Errorf("%s granted %+v under another epoch", n, g)
		}
	}
}

// A lease runs out while nobody says anything to the node but the fence that waits
// for it: a writer that was cut off sends no beacons.
func TestLeaseRunsOutInSilence(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	ask := shipper.LeaseAsk{TTL: 300 * time.Millisecond, Seqno: 1}
	if err := w.conn.SendBeacon(shipper.Beacon{Epoch: 1, Generation: 1, Wall: time.Unix(1, 0), Lease: ask}); err != nil {
		t.Fatal(err)
	}
	c.until("a grant", func() bool { return len(w.grants()) == 1 })
	w.close()
	req := fenceAsk(2, tidegate.NewID())
	c.until("the promise of the next epoch", func() bool {
		r, err := c.nodes["dr1"].n.Fence(c.ctx(), req)
		return err == nil && r.Leased == 0 && r.Promise.Epoch == 2
	})
}

// A configured node that the epoch does not count follows where the stream is
// written elsewhere, and rests where it is written beside it.
func TestLearnersFollowAndCountForNothing(t *testing.T) {
	c := newClusterWith(t, 2, nil, map[tidegate.NodeName]tidegate.SiteName{"p1": "east", "n1": "north"}, "dr1", "dr2", "p1", "n1")
	w := c.start1() // held by app1 at east
	w.attach("dr1")
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("the learner has it", func() bool { return w.acked("n1") == 10 && w.durable() == 10 })
	st := c.nodes["n1"].status()
	if !st.Learner || st.Resting || !streamMessage(st, tidegate.ID{}).GetLearner() {
		t.Errorf("n1: %+v", st)
	}
	rests := c.nodes["p1"].status()
	if !rests.Learner || !rests.Resting || rests.Received.Seq != 0 || rests.Promise.Epoch != 0 {
		t.Errorf("p1 beside the writer: %+v", rests)
	}
	// A learner is nobody whose ack makes a batch durable.
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("dr1 and the learner have it", func() bool { return w.acked("dr1") == 15 && w.acked("n1") == 15 })
	if d := w.durable(); d != 10 {
		t.Errorf("durable %s with one member of two", d)
	}
	c.nodes["dr2"].start()
	c.until("durable again", func() bool { return w.durable() == 15 })
	w.close()

	// The stream goes to the other site: now p1 follows, through dr1 or dr2.
	w2 := c.writer(c.activate(fence.Holder{Node: "dr1", Site: "west", UUID: tidegate.NewID()}))
	w2.pos = w.pos
	w2.attach("dr2")
	w2.seal(5, 100)
	if err := w2.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("both learners have it", func() bool { return w2.acked("p1") == 20 && w2.acked("n1") == 20 })
	if st := c.nodes["p1"].status(); !st.Learner || st.Resting || st.History.Last().Epoch != 2 {
		t.Errorf("p1 at the other site: %+v", st)
	}
	w2.same(20, "p1", "n1")
}

// A node that has not promised the epoch is not copied from: its log may be what
// the epoch left behind.
func TestNobodyCopiesFromWhoHasNotPromised(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all have it", func() bool { return w.acked("dr1") == 10 && w.acked("dr2") == 10 && w.acked("dr3") == 10 })
	w.close()
	n := c.nodes["dr3"].n
	if r, err := n.Fence(c.ctx(), fenceAsk(2, tidegate.NewID())); err != nil || r.Refused {
		t.Fatalf("fence: %+v, %v", r, err)
	}
	_, err := n.askChain(c.ctx(), theStream, "dr2", 5)
	if !errors.Is(err, fence.ErrNotAdopted) {
		t.Errorf("chain asked of a node under the old promise: %v", err)
	}
	_, err = n.stream(theStream).fetch(c.ctx(), fence.Fetch{Source: "dr2", From: tidegate.LogPos{Seq: 4}, To: tidegate.LogPos{Seq: 10}})
	if !errors.Is(err, fence.ErrNotAdopted) {
		t.Errorf("copied from a node under the old promise: %v", err)
	}
}
