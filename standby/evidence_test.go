package standby

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/shipper"
)

// What the writer last said it had released, and the log does not hold, comes
// with the promise: no later loss statement may deny it.
func TestFenceTellsWhatBeaconsProve(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(10, 100) // one record each
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 10 })
	tell := func(b shipper.Beacon) {
		t.Helper()
		b.Epoch, b.Generation, b.Boot, b.Wall = 1, 1, clock.System().Boot(), time.Now()
		if err := w.conn.SendBeacon(b); err != nil {
			t.Fatal(err)
		}
		for _, n := range []tidegate.NodeName{"dr1", "dr2"} {
			c.until("beacon at "+string(n), func() bool {
				at := c.nodes[n].status().BeaconHead
				return at != nil && *at == b.L
			})
		}
	}
	tell(shipper.Beacon{L: 1001, D: 1000, Exposed: -1})
	if e := c.nodes["dr1"].status().Evidence; e.ReleasedKnown || e.BlindKnown {
		t.Errorf("evidence %+v although A was not told", e)
	}
	tell(shipper.Beacon{AKnown: true, A: 900, L: 1002, D: 700, Exposed: 2})
	for _, n := range []tidegate.NodeName{"dr1", "dr2"} {
		if e := c.nodes[n].status().Evidence; !e.ReleasedKnown || e.Beyond != 0 {
			t.Errorf("%s: evidence %+v, want nothing beyond the log", n, e)
		}
	}
	next := tidegate.Position(1003)
	c.until("a beacon after clocks were compared", func() bool {
		tell(shipper.Beacon{AKnown: true, A: 900, L: next, D: 700, Exposed: 2})
		next++
		return c.nodes["dr1"].status().Evidence.BlindKnown
	})
	// Nine records beyond position 700: three of them arrived.
	tell(shipper.Beacon{AKnown: true, A: 1600, L: 1700, D: 700, Exposed: 9})
	w.close()
	for _, n := range []tidegate.NodeName{"dr1", "dr2"} {
		r, err := c.nodes[n].n.Fence(c.ctx(), fenceAsk(2, tidegate.NewID()))
		if err != nil || r.Refused {
			t.Fatalf("fence %s: %+v, %v", n, r, err)
		}
		if !r.Evidence.ReleasedKnown || r.Evidence.Beyond != 6 {
			t.Errorf("%s: evidence %+v, want six records released beyond the log", n, r.Evidence)
		}
	}
}

func TestWitnessDatesWhatTheLogCovers(t *testing.T) {
	said := func(at tidegate.Instant, a tidegate.Position) beaconState {
		return beaconState{known: true, at: at, last: shipper.Beacon{Epoch: 1, Generation: 1, AKnown: true, A: a, Boot: at}}
	}
	end := func(w *witness, p tidegate.Position) { w.appended(&batch.Header{Generation: 1, Next: p}) }
	var w witness
	w.hear(said(1, 50))
	if w.covered.known {
		t.Error("covered by a log whose end is not known")
	}
	end(&w, 50)
	w.hear(said(2, 80))
	if w.covered.at != 1 {
		t.Errorf("covered as of %d, want 1: the log ends before what was released at 2", w.covered.at)
	}
	w.hear(said(3, 90))
	end(&w, 85)
	if w.covered.at != 2 || len(w.waiting) != 1 {
		t.Errorf("covered as of %d, %d wait; want 2 and one", w.covered.at, len(w.waiting))
	}
	for i := range tidegate.Instant(10 * beaconsMax) {
		w.hear(said(4+i, 1000))
	}
	if len(w.waiting) > beaconsMax {
		t.Errorf("%d beacons wait, want at most %d", len(w.waiting), beaconsMax)
	}
	other := said(99, 10)
	other.last.Epoch = 2
	w.hear(other)
	if len(w.waiting) != 0 || w.covered.at != 99 {
		t.Errorf("beacons of an older epoch still wait: %d, covered as of %d", len(w.waiting), w.covered.at)
	}
	w.cut()
	if w.covered.known {
		t.Error("a log that was cut still covers")
	}
}

// A log that ends before what was durable elsewhere lacks at least one record
// besides those that were exposed.
func TestEvidenceOfAShortLog(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(1, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 1 })
	s := c.nodes["dr1"].n.stream(theStream)
	evidence := func(b shipper.Beacon) fence.Evidence {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.beacon = beaconState{known: true, last: b}
		return s.evidence()
	}
	b := shipper.Beacon{Epoch: 1, Generation: 1, AKnown: true, A: 500, L: 500, D: 400, Exposed: 1}
	if e := evidence(b); e.Beyond != 2 {
		t.Errorf("evidence %+v, want at least two", e)
	}
	b.Exposed = -1
	if e := evidence(b); e.Beyond != 1 {
		t.Errorf("evidence %+v, want at least one", e)
	}
	b.Epoch = 7
	if e := evidence(b); e.ReleasedKnown {
		t.Errorf("evidence %+v from a beacon of another term", e)
	}
}
