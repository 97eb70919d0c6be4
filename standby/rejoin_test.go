package standby

import (
	"errors"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Two nodes that lost their disks must not wait for each other's empty logs
// while a third one has everything.
func TestLostNodesDoNotWaitForEachOther(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(20, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all have all", func() bool { return w.acked("dr1") == 20 && w.acked("dr2") == 20 && w.acked("dr3") == 20 })
	w.close()
	c.activate(fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()})
	lost := []*node{c.nodes["dr2"], c.nodes["dr3"]}
	for _, nd := range lost {
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.dir = t.TempDir() + "/data"
		if _, err := Format(nd.fs, nd.dir, nd.name); err != nil {
			t.Fatal(err)
		}
	}
	for _, nd := range lost {
		nd.start()
	}
	for _, nd := range lost {
		c.until(string(nd.name)+" has copied the log", func() bool {
			return nd.n.stream(theStream) != nil && nd.status().Durable.Seq == 20 && nd.status().History.Last().Epoch == 2
		})
	}
	w.same(20, "dr1", "dr2", "dr3")
}

// A source that lacks what is asked of it says so; nobody waits for it to grow.
func TestCopyFromShortLogIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1", "dr2")
	c.start1()
	n := c.nodes["dr1"].n
	if _, err := n.askChain(c.ctx(), theStream, "dr2", 1); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("chain at 1 of an empty log: %v", err)
	}
	e := fence.Fetch{Source: "dr2", To: tidegate.LogPos{Epoch: 1, Seq: 5}}
	if _, err := n.stream(theStream).fetch(c.ctx(), e); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("copy of an empty log: %v", err)
	}
}
