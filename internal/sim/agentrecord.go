package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/mutate"
	"github.com/tidegate/tidegate/rpo"
)

// Messages about leases and handovers, through a gate.
type (
	mRenew struct {
		stream int
		by     fence.Promise
		asked  tidegate.Instant
	}
	mRenewed struct {
		stream int
		by     fence.Promise
		ttl    time.Duration
		asked  tidegate.Instant
	}
	mLeaseAsk struct {
		stream int
		req    fence.LeaseRequest
		number uint64
	}
	mLeaseGrant struct {
		stream int
		reply  fence.LeaseReply
		number uint64
	}
)

// leases is what the writer holds: the gate's output lease, beside the nodes',
// which the core counts.
type leases struct {
	gate  tidegate.Instant
	asked tidegate.Instant
}

// recordOf is what the library is told of the record.
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

// recorded returns the bounds that the record promises, unbounded when none.
func recorded(g fence.GateRecord) (tidegate.Bounds, bool) {
	b, err := g.Mode.Bounds(g.Bounds)
	if g.State != fence.GateArmed || err != nil {
		return unbounded, false
	}
	return b, true
}

func tightest(a, b tidegate.Bounds) tidegate.Bounds {
	return tidegate.Bounds{Records: min(a.Records, b.Records), Bytes: min(a.Bytes, b.Bytes), Window: min(a.Window, b.Window)}
}

// record returns the newest record of the writer's own epoch.
func (as *agentStream) record() *fence.EpochRecord {
	if r := as.known.rec; r != nil && r.Epoch == as.w.Epoch() && r.Holder == as.a.self {
		return r
	}
	return nil
}

// tell gives the library its part, its bounds and D, when they are new.
func (as *agentStream) tell() {
	t := told{role: roleIdle}
	switch rec := as.record0(); {
	case rec != nil && as.proven && (rec.State == fence.StateActive || rec.State == fence.StateSwitching || rec.State == fence.StateDemoted):
		bounds, _ := recorded(rec.Gate)
		t = told{
			role: roleActive, epoch: as.w.Epoch(), d: as.base.next, bounds: as.enforced(bounds),
			record: recordOf(rec.Gate), wish: as.known.wish, brake: as.known.wish.brake,
			lease: rec.Gate.Lease > 0 && !rec.Gate.Holds(), until: max(as.lease.gate, as.w.LeaseUntil()),
			drain: rec.State != fence.StateActive, over: rec.State == fence.StateDemoted,
		}
		if as.hand.given {
			t.lease, t.until = true, 0 // handed over until the record says otherwise: nothing beyond D
		}
	case as.fenced && as.known.rec.State == fence.StateActive && as.known.rec.Holder.Site != as.a.m.site:
		t = told{role: roleFenced, epoch: as.known.rec.Epoch}
	}
	if t == as.told && as.grant > 0 || !as.a.lib.up {
		return
	}
	as.told = t
	as.grant++
	as.a.send(&as.a.lib.host, &mGrant{as.i, as.grant, t})
}

// claim is what a change of the record that may be under way would promise: until
// the record has moved past the revision that it was compared with, it holds.
type claim struct {
	revision int64
	bounds   tidegate.Bounds
}

// enforced returns the bounds that hold: what the record, the operator, and a change
// under way all allow.
func (as *agentStream) enforced(recorded tidegate.Bounds) tidegate.Bounds {
	b := tightest(recorded, as.known.wish.effective())
	if as.claimed.revision == as.known.revision {
		b = tightest(b, as.claimed.bounds)
	}
	return b
}

// record0 is record, or nil while this agent is not the writer.
func (as *agentStream) record0() *fence.EpochRecord {
	if !as.writing() {
		return nil
	}
	return as.record()
}

// obeyed reports whether the library's last word was said under the newest grant.
func (as *agentStream) obeyed() bool { return as.prog != nil && as.prog.grant == as.grant }

func within(e rpo.Exposure, b tidegate.Bounds) bool {
	return e.Known && e.Records <= b.Records && e.Bytes <= b.Bytes && e.Window <= b.Window
}

// settle brings the record to what the operator and the library's gate want: a
// loosening is recorded before it acts, a tightening after.
func (as *agentStream) settle() {
	rec := as.record0()
	if rec == nil || !as.proven || as.pending || as.prog == nil || rec.State != fence.StateActive {
		return
	}
	for _, m := range as.w.CaughtUp() {
		by := fence.Promise{Epoch: as.w.Epoch(), Holder: as.a.self.UUID}
		as.swap("exit limbo", func(_ int, r fence.EpochRecord) (fence.EpochRecord, error) {
			next, err := r.ExitLimbo(by, m)
			if err == nil {
				as.a.w.oracle.exitsLimbo(as.i, next, m)
			}
			return next, err
		})
		return
	}
	if g, due := as.gateDue(rec); due {
		as.a.w.oracle.arming(as, rec.Gate.State, g.State)
		if b, armed := recorded(g); armed {
			if as.claimed.revision == as.known.revision {
				b = tightest(b, as.claimed.bounds)
			}
			as.claimed = claim{as.known.revision, b}
		}
		by, was := fence.Promise{Epoch: as.w.Epoch(), Holder: as.a.self.UUID}, rec.Gate
		as.swap("record gate", func(_ int, r fence.EpochRecord) (fence.EpochRecord, error) { return r.SetGate(by, was, g) })
	}
}

// gateDue returns the gate's part as it should be, and whether that is to be
// recorded now.
func (as *agentStream) gateDue(rec *fence.EpochRecord) (g fence.GateRecord, due bool) {
	want := as.known.wish
	armed := fence.GateArmed
	if want.policy.Reaction == tidegate.ReactDegradeBlind {
		armed = fence.GateBlindOK
	}
	g = fence.GateRecord{State: armed, Mode: want.mode, Bounds: want.bounds, SinceSeq: as.w.End().Seq + 1, Lease: want.lease}
	same := rec.Gate
	same.SinceSeq = g.SinceSeq
	enforced := as.obeyed() && within(as.prog.exposure, want.effective()) || mutate.Broken(mutate.RearmEnforced)
	switch {
	case as.prog.want == machine.WantDegraded && rec.Gate.State == fence.GateArmed && as.obeyed():
		same.State = fence.GateDegraded
		return same, true
	case rec.Gate.State == fence.GateDegraded:
		arm := as.prog.want == machine.WantArmed && as.obeyed() && (!want.brake || mutate.Broken(mutate.BrakeHolds))
		return g, arm && enforced
	case same == g:
		return g, false
	case rec.Gate.Lease > g.Lease && rec.Gate.Mode == g.Mode && rec.Gate.State == g.State:
		return g, true // a longer lease than is counted only costs time
	}
	have, _ := recorded(rec.Gate)
	if have.LooserThan(want.effective()) || rec.Gate.State != fence.GateArmed && g.State == fence.GateArmed {
		return g, enforced && as.prog.state != machine.Degraded
	}
	return g, true
}

// swap asks a gate for one change of the stream's record.
func (as *agentStream) swap(what string, next func(int, fence.EpochRecord) (fence.EpochRecord, error)) {
	as.pending = true
	uuid := as.a.self.UUID
	as.a.send(as.a.anyGate(), &mChange{
		what: what, streams: []int{as.i}, revisions: []int64{as.known.revision}, next: next,
		from: &as.a.host, uuid: uuid,
	})
}

// renew asks for leases well before the old ones are over: the gate for its own,
// the nodes for theirs through whatever way is open.
func (as *agentStream) renew() {
	rec := as.record0()
	if rec == nil || rec.Gate.Lease == 0 || rec.State == fence.StateDemoted {
		return
	}
	now := as.a.m.boot()
	ttl := rec.Gate.Lease
	if as.lease.asked > 0 && time.Duration(now-as.lease.asked) < ttl/4 {
		return
	}
	as.lease.asked = now
	by := fence.Promise{Epoch: as.w.Epoch(), Holder: as.a.self.UUID}
	as.a.send(as.a.anyGate(), &mRenew{as.i, by, now})
	number := as.w.AskLease(now, ttl)
	for _, m := range rec.Config.Members {
		if s := as.a.w.standbyOn(m.Node); s != nil {
			as.a.send(&s.host, &mLeaseAsk{as.i, fence.LeaseRequest{Stream: rec.Stream, Epoch: by.Epoch, Holder: by.Holder, TTL: ttl}, number})
		}
	}
}

func (a *agent) leaseMessage(_ *host, msg any) {
	switch m := msg.(type) {
	case *mRenewed:
		as := a.streams[m.stream]
		if as.w == nil || m.by.Holder != a.self.UUID || m.by.Epoch != as.w.Epoch() {
			return
		}
		from := m.asked
		if mutate.Broken(mutate.LeaseCounted) {
			from = a.m.boot()
		}
		as.lease.gate = max(as.lease.gate, from+tidegate.Instant(m.ttl-fence.LeaseMargin(m.ttl)))
		as.tell()
	case *mLeaseGrant:
		as := a.streams[m.stream]
		if as.w != nil && m.reply.Granted {
			as.w.OnLease(m.reply.Member, m.reply.Epoch, m.number, a.m.boot())
			as.tell()
		}
	}
}

// --- handover ---

// handing is how far a planned handover has come.
type handing struct {
	plan    tidegate.ID
	last    *entry       // the handover batch
	given   bool         // DEMOTED was asked for
	applied tidegate.Seq // by the target
	state   uint64       // of its state machine, there
}

// handOver drives S2 to S5: the library has drained, the handover batch is sealed
// behind everything, it is durable, and the target has applied it and came to the
// same state. All streams of the service go in one transaction.
func (as *agentStream) handOver() {
	rec := as.record0()
	if rec == nil {
		return
	}
	if rec.State != fence.StateSwitching {
		if rec.State == fence.StateActive {
			as.hand = handing{}
		}
		return
	}
	if as.hand.plan != rec.Plan {
		as.hand = handing{plan: rec.Plan}
	}
	last := as.last()
	drained := as.proven && as.prog != nil && as.prog.drained && as.obeyed() && last.next == as.prog.l
	if !drained {
		return
	}
	if as.hand.last == nil || as.hand.last != last {
		h := last.seal(entHandover, as.w.Epoch(), as.a.self.UUID, nil, as.a.w.rng.Uint64())
		if as.sealed(h) {
			as.hand.last = h
			as.ship()
		}
		return
	}
	as.a.giveUp()
}

func (as *agentStream) mayGiveUp() bool {
	h := &as.hand
	if h.last == nil || !as.writing() || as.record() == nil || as.record().State != fence.StateSwitching {
		return false
	}
	durable := as.w.Durable() >= h.last.pos.Seq || mutate.Broken(mutate.HandoverDurable)
	applied := h.applied >= h.last.pos.Seq && h.state == as.a.lib.streams[as.i].state.hash || mutate.Broken(mutate.HandoverApplied)
	return durable && applied && as.prog != nil && as.prog.drained
}

func (a *agent) giveUp() {
	m := &mChange{what: "hand over", from: &a.host, uuid: a.self.UUID}
	heads := make([]fence.Handover, len(a.streams))
	by := make([]fence.Promise, len(a.streams))
	for i, as := range a.streams {
		if !as.mayGiveUp() || as.pending {
			return
		}
		m.streams, m.revisions = append(m.streams, i), append(m.revisions, as.known.revision)
		heads[i] = fence.Handover{Head: as.hand.last.pos, Position: as.hand.last.next, StateKnown: true}
		put(heads[i].StateDigest[:8], a.lib.streams[i].state.hash)
		by[i] = fence.Promise{Epoch: as.w.Epoch(), Holder: a.self.UUID}
	}
	m.next = func(i int, r fence.EpochRecord) (fence.EpochRecord, error) { return r.HandOver(by[i], heads[i]) }
	for _, as := range a.streams {
		as.pending, as.hand.given = true, true // whatever the answer: a library that restarts has forgotten that it was drained
		as.tell()
	}
	a.send(a.anyGate(), m)
}
