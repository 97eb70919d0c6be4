package standby

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
)

// beaconsMax bounds the beacons that wait for the log to reach them. Beyond it
// every other one goes, and the blind window is a little wider than it need be.
const beaconsMax = 256

// witness compares the writer's beacons with the end of the log: what was
// released, and is it here? Guarded by the stream's mu.
//
// Invariant: waiting ascends by time and by A, and everything in it is of one
// epoch and generation.
type witness struct {
	known   bool // the end is: a batch was appended since the start or the last cut
	gen     tidegate.Generation
	next    tidegate.Position // end of the log
	waiting []beaconState     // their A is beyond the end
	covered beaconState       // newest one whose A was within the log
}

// appended takes the log's new end.
func (w *witness) appended(h *batch.Header) {
	w.known, w.gen, w.next = true, h.Generation, h.Next
	w.settle()
}

// cut forgets what a log that was cut had covered.
func (w *witness) cut() { *w = witness{} }

func (w *witness) hear(b beaconState) {
	if !b.last.AKnown {
		return // it proves nothing
	}
	if n := len(w.waiting); n > 0 {
		if l := w.waiting[n-1].last; l.Epoch != b.last.Epoch || l.Generation != b.last.Generation || l.A > b.last.A {
			w.waiting = w.waiting[:0]
		}
	}
	if len(w.waiting) == beaconsMax {
		kept := w.waiting[:0]
		for i := 1; i < len(w.waiting); i += 2 {
			kept = append(kept, w.waiting[i])
		}
		w.waiting = kept
	}
	w.waiting = append(w.waiting, b)
	w.settle()
}

func (w *witness) settle() {
	n := 0
	for n < len(w.waiting) && w.holds(w.waiting[n]) {
		w.covered = w.waiting[n]
		n++
	}
	w.waiting = w.waiting[:copy(w.waiting, w.waiting[n:])]
}

// holds reports whether everything that b calls released is in the log.
func (w *witness) holds(b beaconState) bool {
	return w.known && b.last.Generation == w.gen && b.last.A <= w.next
}

// evidence is what the node can tell of releases that its log does not hold.
// Lower bounds are too low at worst, upper bounds too high; mu is held.
func (s *stream) evidence() fence.Evidence {
	var e fence.Evidence
	w, b := &s.witness, s.beacon
	if c := w.covered; c.known {
		e.Blind, e.BlindKnown = c.blind(s.n.deps.Clock.Boot())
	}
	// A beacon of an earlier term speaks of what an earlier failover counted.
	if !b.known || !b.last.AKnown || !w.known || b.last.Generation != w.gen || b.last.Epoch != s.core.Adopted().Epoch {
		return e
	}
	e.ReleasedKnown = true
	switch {
	case w.holds(b):
	case b.last.D > w.next: // records that were durable elsewhere, and what was released beyond them
		e.Beyond = max(0, b.last.Exposed) + 1
	default:
		e.Beyond = max(1, b.last.Exposed-s.replay.behind(b.last.D))
	}
	return e
}
