package standby

import (
	"testing"

	"github.com/tidegate/tidegate"
)

func TestBatchesReachDurableOnAllNodesThroughOneRelay(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(200, 700)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 200 })
	for _, n := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
		c.until("ack of "+string(n), func() bool { return w.acked(n) == 200 })
		c.until("commit at "+string(n), func() bool { return c.nodes[n].status().Commit == 200 })
	}
	w.same(200, "dr1", "dr2", "dr3")
}
