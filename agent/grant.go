package agent

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/rates"
)

// unbounded is what a record stands for that promises nothing.
var unbounded = tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}

// recorded returns the bounds that the gate's record promises, and whether it
// promises any.
func recorded(g fence.GateRecord) (tidegate.Bounds, bool) {
	if g.State != fence.GateArmed {
		return unbounded, false
	}
	b, err := g.Mode.Bounds(g.Bounds)
	if err != nil {
		return unbounded, false
	}
	return b, true
}

// tightest is the component-wise minimum: what both the record and the
// operator allow. It makes both orders come out right at once: a loosening acts
// only when the record has it, a tightening before the record does.
func tightest(a, b tidegate.Bounds) tidegate.Bounds {
	return tidegate.Bounds{Records: min(a.Records, b.Records), Bytes: min(a.Bytes, b.Bytes), Window: min(a.Window, b.Window)}
}

// modeOf names the mode that bounds amount to.
func modeOf(b tidegate.Bounds) tidegate.Mode {
	switch b {
	case tidegate.Bounds{}:
		return tidegate.ModeSync
	case unbounded:
		return tidegate.ModeOpen
	}
	return tidegate.ModeBounded
}

// effective returns the bounds that an armed gate enforces, and whether they are
// the record's; mu is held.
func (w *writer) effective() (b tidegate.Bounds, isRecord bool) {
	rec, armed := recorded(w.terms)
	if w.wantMode == "" {
		if !armed {
			return tidegate.Bounds{}, false // nobody has allowed anything
		}
		return rec, true
	}
	b = tightest(rec, w.want)
	if w.claimed.revision == w.revision && w.claimed.revision != 0 {
		// The record may say so at any moment: only the record, or its refusal,
		// permits more again, whatever the operator wants by now.
		b = tightest(b, w.claimed.bounds)
	}
	return b, armed && b == rec
}

// claim is what a change of the record that may be under way would promise: it
// holds until the record has moved past the revision that it was compared with.
type claim struct {
	revision int64
	bounds   tidegate.Bounds
}

// claiming notes that the record was asked to say next; mu is held.
func (w *writer) claiming(next fence.GateRecord) {
	b, armed := recorded(next)
	if !armed {
		return
	}
	if w.claimed.revision == w.revision {
		b = tightest(b, w.claimed.bounds)
	}
	w.claimed = claim{w.revision, b}
}

// recordOf says what the record permits the library.
func recordOf(g fence.GateRecord) machine.Record {
	switch g.State {
	case fence.GateArmed:
		return machine.RecordArmed
	case fence.GateDegraded:
		return machine.RecordDegraded
	case fence.GateBlindOK:
		return machine.RecordBlindOK
	case fence.GateUnknown:
	}
	return machine.RecordUnknown
}

// nextGrant returns what the library may release, once the term is proven. The
// bounds are those of an armed gate whatever the record says: the machine beside
// the ceiling knows when they do not hold.
func (w *writer) nextGrant(now tidegate.Instant) (local.DaemonProgress, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ring == nil || w.ended {
		return local.DaemonProgress{}, false
	}
	b, isRecord := w.effective()
	p := local.DaemonProgress{
		D: w.ring.durable.next, DKnown: !w.opening(), Epoch: w.epoch, Mode: modeOf(b), Bounds: b, Recorded: isRecord,
		Record: recordOf(w.terms), Policy: w.policy, Brake: w.brake.on,
		Drain: w.phase != fence.StateActive, HandedOver: w.phase == fence.StateDemoted,
	}
	if !w.opening() {
		p.Applied = min(w.furthest(), p.D)
	}
	if l := w.lease(now); l.needed {
		p.LeaseNeeded, p.LeaseUntil = true, l.until
	}
	if rate, limited := w.s.agent.rates.Limiter(rates.Admit).Rate(); limited {
		p.RateLimited, p.Rate = true, uint64(rate)
	}
	return p, true
}

// opening reports whether D has yet to reach the generation that this term has opened:
// what the source let go before it began is in its base, which W standby nodes do not
// have, so that no position in it is durable. mu is held.
func (w *writer) opening() bool { return w.entry > 0 && w.ring.durable.seq < w.entry }

// grantNumbers are the grants with which each part of what the library is told
// was new: a library that reports one of them, or a later one, obeys that part.
// They are counted through the life of the stream, so that what was said of one
// term is never taken for another's.
type grantNumbers struct {
	bounds, record, policy, lease, drain uint64
}

// note remembers what changed with a grant that is about to be sent.
func (w *writer) note(p local.DaemonProgress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.sent.Grant == 0
	mark := func(n *uint64, changed bool) {
		if first || changed {
			*n = p.Grant
		}
	}
	mark(&w.since.bounds, p.Bounds != w.sent.Bounds)
	mark(&w.since.record, p.Record != w.sent.Record)
	mark(&w.since.policy, p.Policy != w.sent.Policy || p.Brake != w.sent.Brake)
	mark(&w.since.lease, p.LeaseNeeded != w.sent.LeaseNeeded)
	mark(&w.since.drain, p.Drain != w.sent.Drain || p.HandedOver != w.sent.HandedOver)
	w.sent = p
}

// obeyed reports whether what the library says now, it says under the grant n or
// a later one; mu is held.
func (w *writer) obeyed(n uint64) bool {
	return n > 0 && w.meter.heard && w.meter.lib.Grant >= n
}
