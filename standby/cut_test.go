package standby

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// What an adopt cuts lies where docs/formats/deltalog.md says.
func TestCutLiesInTheStreamsQuarantine(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(20, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all acked", func() bool { return w.durable() == 20 })
	w.close()
	nd := c.nodes["dr1"]
	head, _, err := nd.n.stream(theStream).log.At(10)
	if err != nil {
		t.Fatal(err)
	}
	r, err := nd.n.Adopt(c.ctx(), fence.AdoptRequest{
		Stream: theStream, Epoch: 2, Holder: tidegate.NewID(), History: w.rec.History, Head: head, Source: "dr1", Reason: fence.ReasonDiverged, Unclean: true,
	})
	if err != nil || !r.Adopted {
		t.Fatal(r, err)
	}
	got, err := nd.fs.List(quarantineDir(nd.dir, theStream))
	want := []string{fmt.Sprintf("2-%s-%s-diverged", tidegate.Seq(11), tidegate.Seq(20))}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("quarantine of the stream has %q, %v; want %q", got, err, want)
	}
}

// A cut must not come between a sync and the core's knowledge of it: batches that
// were cut and copied anew would be acknowledged by the sync of their first copy.
func TestNoCutBetweenASyncAndItsAck(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	n := c.nodes["dr1"].n
	s := n.stream(theStream)
	// The node's own syncs stand still, so that this one is the only one.
	n.syncer.running.Lock()
	defer n.syncer.running.Unlock()
	w.attach("dr1")
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("received", func() bool { return s.log.End().Seq == 5 })

	s.mu.Lock()
	synced := make(chan error, 1)
	go func() { synced <- s.groupSync(nil) }() // awaited below
	c.until("synced", func() bool { return s.log.Durable().Seq == 5 })
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
		if s.syncing.TryLock() {
			s.syncing.Unlock()
			t.Error("a cut could begin although the core does not know of the sync")
			break
		}
	}
	s.mu.Unlock()
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
}
