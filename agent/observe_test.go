package agent

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

// A standby node that missed its adopt still shows what the active epoch has left
// out. That says nothing about a copy that went the way of the epoch.
func TestObserverDoesNotJudgeByABatchLeftOut(t *testing.T) {
	w := newWorld(t, "s1")
	n1 := w.host("east", "n1").openJournal().startAgent()
	if err := n1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	fork := n1.append(10)
	n1.await(fork)
	n1.shipped(fork)
	w.log.mu.Lock()
	head, kept := w.log.end(), len(w.log.sealed)
	w.log.mu.Unlock()
	left := n1.append(5)
	n1.await(left)
	n1.shipped(left)
	n1.stopA()

	d2 := w.host("west", "d2").openJournal().copyOf(n1, fork)
	r, err := d2.j.Append(t.Context(), bytes.Repeat([]byte("west"), 200), time.Unix(2000, 0))
	if err != nil {
		t.Fatal(err)
	}
	end := r.Next
	next := fence.Holder{Node: "d1", Site: "west", UUID: tidegate.NewID()}
	w.gate.mu.Lock()
	w.gate.rec.Epoch, w.gate.rec.ActiveEpoch, w.gate.rec.Holder = 2, 2, next
	w.gate.rec.Head, w.gate.rec.StartSeq = head, head.Seq+1
	w.gate.rec.History = w.gate.rec.History.With(fence.Term{Epoch: 2, StartSeq: head.Seq + 1, Holder: next.UUID})
	w.gate.revision++
	w.gate.shout()
	w.gate.mu.Unlock()
	d2.startAgent()
	w.gate.wait(t, "a node that is passed over", func(*fakeGate) bool {
		st := d2.agent.Status().Streams[0]
		return st.State == StateDiverged || st.Error != ""
	})
	if st := d2.agent.Status().Streams[0]; st.State == StateDiverged {
		t.Fatalf("diverged: %s", st.Observer.Diverged)
	}

	// The node adopts the epoch, and its writer ships what d2 has too.
	c, err := capture.New(vfs.OS(), filepath.Join(d2.dir, "journal")).Follow(t.Context(), fork)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Read(end, 1<<20)
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	w.log.mu.Lock()
	w.log.sealed, w.log.headers = w.log.sealed[:kept:kept], w.log.headers[:kept:kept]
	w.log.mu.Unlock()
	w.log.adopt(fence.Promise{Epoch: 2, Holder: next.UUID})
	w.log.seal(t, fork, u.Payload)
	w.gate.wait(t, "the comparison", func(*fakeGate) bool {
		o := d2.agent.Status().Streams[0].Observer
		return o != nil && o.CaughtUp && o.ProvenSeq == head.Seq+1
	})
	d2.stopA()
	if len(w.gate.bundles) != 0 {
		t.Errorf("reported %v, nothing was left behind here", w.gate.bundles)
	}
}
