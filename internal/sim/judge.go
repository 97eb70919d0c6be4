package sim

import (
	"math"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/mutate"
)

// recTruth is what is really so about one record.
type recTruth struct {
	size     int32
	durable  bool // W nodes have had it fsynced
	acked    bool
	sync     bool // acked under a promise that no failover loses it
	ackEpoch tidegate.Epoch
	ackAt    time.Duration
	lib      *libStream
}

// term is one epoch's gate as the registry last had it.
type term struct {
	gate    fence.GateRecord
	lies    bool // the registry went back since: what it says may be less than what was agreed
	demoted bool
}

// turn is one opening of an epoch at another node, with what was claimed of it.
type turn struct {
	epoch   tidegate.Epoch
	head    *entry
	kind    fence.PlanKind
	plan    tidegate.ID
	unclean bool
	old     fence.GateRecord // what it was decided by
	claim   *fence.LossStatement
}

// submitted draws the record of a client's operation.
func (o *oracle) submitted(ls *libStream, m *mSubmit) record {
	t := o.streams[ls.i]
	t.records = append(t.records, recTruth{size: m.size})
	return record{id: int32(len(t.records) - 1), kind: m.kind, class: m.class, size: m.size, digest: o.w.rng.Uint64()}
}

// durable marks what an entry carries.
func (t *truth) durable(e *entry) {
	for i := range e.recs {
		if id := e.recs[i].id; id >= 0 {
			t.records[id].durable = true
		}
	}
}

// activated and closed frame the time in which a library may release.
func (o *oracle) activated(*libStream) {}

func (o *oracle) closed(*libStream) {}

// ackedRecord judges one release, at the instant it happens: I10, I11, I12, I13,
// I16, I17.
func (o *oracle) ackedRecord(ls *libStream, x waiter) {
	t := o.streams[ls.i]
	r := &t.records[x.rec.id]
	r.acked, r.ackEpoch, r.ackAt, r.lib = true, ls.epoch, o.w.now, ls
	o.w.res.Acked++
	if x.rec.n > int64(ls.j.synced) {
		o.w.fail("I12", "stream %d: record %d released before it was durable on its own disk", ls.i, x.rec.id)
	}
	m := t.terms[ls.epoch]
	if m == nil {
		o.w.fail("I12", "stream %d: record %d released under epoch %s, which was never opened", ls.i, x.rec.id, ls.epoch)
		return
	}
	if m.demoted {
		o.w.fail("I17", "stream %d: record %d released after epoch %s was handed over", ls.i, x.rec.id, ls.epoch)
	}
	armed := m.gate.State == fence.GateArmed && !m.lies
	bounds, _ := m.gate.Mode.Bounds(m.gate.Bounds)
	r.sync = x.class == classSync || armed && bounds == tidegate.Bounds{} || x.class == classBounded && ls.ceiling.Bounds() == unbounded
	if r.sync && !r.durable {
		o.w.fail("I10", "stream %d: record %d of class %d released under %s/%s, and is not durable", ls.i, x.rec.id, x.class, m.gate.State, m.gate.Mode)
	}
	if r.durable {
		return
	}
	t.pending = append(t.pending, x.rec.id)
	if armed {
		o.within(ls.i, ls, bounds, "I11")
	}
	o.leased(ls, x, m)
}

// within: I11, what a library has released and is not durable lies within b.
func (o *oracle) within(stream int, ls *libStream, b tidegate.Bounds, invariant string) {
	t := o.streams[stream]
	t.pending = slices.DeleteFunc(t.pending, func(id int32) bool { return t.records[id].durable })
	var n, bytes int64
	var first, last time.Duration
	from, to := t.between(ls.epoch)
	for _, id := range t.pending {
		r := &t.records[id]
		if r.ackEpoch < from || r.ackEpoch >= to {
			continue
		}
		if n == 0 {
			first = r.ackAt
		}
		n, bytes, last = n+1, bytes+int64(r.size), r.ackAt
	}
	// The clock that the bound is counted by may be slow by as much as it drifts.
	window := last - first - (last-first)/1000
	if n > b.Records || bytes > b.Bytes || window > b.Window {
		o.w.fail(invariant, "stream %d: epoch %s has released %d records, %d bytes over %s that are not durable; its record allows %d, %d, %s",
			stream, ls.epoch, n, bytes, last-first, b.Records, b.Bytes, b.Window)
	}
}

// between returns the epochs of one place: from the change of role at or before
// epoch to the next one. Writers that follow one another there share its bounds.
func (t *truth) between(epoch tidegate.Epoch) (from, to tidegate.Epoch) {
	to = math.MaxUint64
	for i := range t.turns {
		if u := t.turns[i].epoch; u <= epoch {
			from = u
		} else {
			return from, u
		}
	}
	return from, to
}

// leased: I16, with leases and without anybody's word, the old holder's outputs
// beyond D are over before the next epoch opens.
func (o *oracle) leased(ls *libStream, x waiter, m *term) {
	if !ls.out.Unbounded && ls.ceiling.Bounds() != unbounded {
		return // it has not heard that it may do more, and its own bounds hold it
	}
	t := o.streams[ls.i]
	for i := range t.turns {
		u := &t.turns[i]
		if u.epoch <= ls.epoch || u.kind != fence.KindFailover || t.holders[u.epoch] == t.holders[ls.epoch] {
			continue // a lease is the holder's, under whichever epoch
		}
		p := o.w.reg.saved(u.plan)
		if u.old.LeaseBinds() && !u.old.Holds() && p != nil && !p.AttestPrimaryDown {
			o.w.fail("I16", "stream %d: record %d released under epoch %s, although epoch %s waited for its leases", ls.i, x.rec.id, ls.epoch, u.epoch)
		}
		return
	}
}

// delivered: I16, a sink never takes something of a lower epoch after a higher.
func (o *oracle) delivered(m *mResult) {
	if m.epoch < o.sinks[m.stream] {
		o.w.fail("I16", "stream %d: a client took an answer of epoch %s after one of %s", m.stream, m.epoch, o.sinks[m.stream])
	}
	o.sinks[m.stream], o.toldAt[m.stream] = m.epoch, o.w.now
}

// sinkAt returns when a client was told of something last.
func (o *oracle) sinkAt(stream int) time.Duration { return o.toldAt[stream] }

// routed: clients are sent only where an epoch is open.
func (o *oracle) routed(h fence.Holder, epoch tidegate.Epoch) {
	o.w.log("route", "", "lead", "%s epoch %s", h, epoch)
	for _, t := range o.streams {
		if t.holders[epoch] == h.UUID {
			return
		}
	}
	o.w.fail("I16", "route leads to %s under epoch %s, which is not open", h, epoch)
}

// arming: I13, nobody arms a gate that an operator holds open.
func (o *oracle) arming(as *agentStream, from, to fence.GateState) {
	if from == fence.GateDegraded && to == fence.GateArmed && as.known.wish.brake {
		o.w.fail("I13", "stream %d: the writer of epoch %s arms a gate whose brake is on", as.i, as.w.Epoch())
	}
}

// gateRecorded: what the record says of the gate is true of what is released
// already: I11, I13.
func (o *oracle) gateRecorded(stream int, old, rec fence.EpochRecord) {
	t := o.streams[stream]
	m := t.terms[rec.Epoch]
	if m == nil {
		m = &term{}
		t.terms[rec.Epoch] = m
	}
	changed := old.Epoch == rec.Epoch && old.Gate != rec.Gate
	if m.gate = rec.Gate; changed && rec.Gate.State == fence.GateArmed && !rec.Restored {
		m.lies = false
	}
	m.demoted = rec.State == fence.StateDemoted && rec.Epoch > 0
	if rec.Gate.State != fence.GateArmed || m.lies || !changed {
		return
	}
	bounds, _ := rec.Gate.Mode.Bounds(rec.Gate.Bounds)
	for _, l := range o.w.libs {
		if ls := l.streams[stream]; ls.epoch == rec.Epoch {
			o.within(stream, ls, bounds, "I13")
		}
	}
}

// handedOver: I17, the demotion token speaks the truth.
func (o *oracle) handedOver(stream int, rec fence.EpochRecord) {
	t, h := o.streams[stream], rec.Handover
	if rec.Epoch == 0 || h == nil || mutate.Broken(mutate.HandoverLossless) {
		return // broken: the false token is what the rule is there to notice
	}
	e := t.entries[h.Head.Chain]
	have := 0
	for _, m := range rec.Config.Members {
		if s := o.w.standbyOn(m.Node); e != nil && e.synced&(1<<s.i) != 0 {
			have++
		}
	}
	s := o.w.standbyOn(rec.Target.Node)
	switch {
	case have < rec.Config.W:
		o.w.fail("I17", "stream %d: handed over at %s, which %d members have", stream, h.Head, have)
	case s != nil && t.nodes[s.i].applied < int(h.Head.Seq):
		o.w.fail("I17", "stream %d: handed over at %s, the target has applied %d", stream, h.Head, t.nodes[s.i].applied)
	}
}

// restored: what the registry says now may be less than what was agreed under the
// epochs that it remembers.
func (o *oracle) restored(stream int, _, _ fence.EpochRecord) {
	for _, m := range o.streams[stream].terms {
		m.lies, m.demoted = true, false
	}
}

// turned notes an epoch that was opened.
func (o *oracle) turned(stream int, rec fence.EpochRecord, head *entry) {
	t := o.streams[stream]
	for e := head; e.pos.Seq > 0; e = e.prev() {
		t.durable(e)
	}
	if rec.Kind != fence.KindFailover && rec.Kind != fence.KindSwitchover {
		o.wentOn(stream, rec, head)
		return
	}
	u := turn{epoch: rec.Epoch, head: head, kind: rec.Kind, plan: rec.Plan, unclean: rec.Unclean || rec.Restored, old: rec.Gate}
	if rec.Kind == fence.KindSwitchover && (rec.Handover == nil || rec.Handover.Head != rec.Head) {
		o.w.fail("I17", "stream %d: switchover opened epoch %s from %s, handed over was %+v", stream, rec.Epoch, rec.Head, rec.Handover)
	}
	t.turns = append(t.turns, u)
}

// wentOn: I23, a writer that another one follows at the same place makes no loss
// statement: whatever was released there is in the log, or in the new one's journal.
// A record that says of itself that it knows nothing of the past is believed.
func (o *oracle) wentOn(stream int, rec fence.EpochRecord, head *entry) {
	t := o.streams[stream]
	if rec.Restored || rec.Unclean {
		return
	}
	from, _ := t.between(rec.Epoch)
	have := make([]bool, len(t.records))
	for e := head; e.pos.Seq > 0; e = e.prev() {
		for i := range e.recs {
			if id := e.recs[i].id; id >= 0 {
				have[id] = true
			}
		}
	}
	for _, l := range o.w.libs {
		if l.m.name == rec.Holder.Node {
			for i := range l.streams[stream].j.recs {
				if id := l.streams[stream].j.recs[i].id; id >= 0 {
					have[id] = true
				}
			}
		}
	}
	for id := range t.records {
		if r := &t.records[id]; r.acked && !have[id] && r.ackEpoch >= from {
			o.w.fail("I23", "stream %d: record %d was released under epoch %s, and %s, who acquired epoch %s, does not have it", stream, id, r.ackEpoch, rec.Holder, rec.Epoch)
			return
		}
	}
}

// reported keeps what a plan claims of its loss.
func (o *oracle) reported(p fence.Plan, loss []fence.LossStatement) {
	for i, l := range loss {
		r := p.Streams[i].Record
		// What the old writer itself gave as its end needs no quorum; whether zero is
		// true is judged at the end, like every claim.
		if l.Kind == fence.LossZero && r.Unclean && (r.Handover == nil || r.Handover.Head != r.Head) {
			o.w.fail("I23", "stream %d: zero loss claimed over an unclean recovery", i)
		}
		t := o.streams[i]
		for k := range t.turns {
			if t.turns[k].epoch == r.Epoch {
				t.turns[k].claim = &l
			}
		}
	}
}

// atEnd: I15, I17 and I23, when everything that was going to be released is.
func (o *oracle) atEnd() {
	for i, t := range o.streams {
		from := tidegate.Epoch(0)
		for k := range t.turns {
			o.judgeTurn(i, t, &t.turns[k], from)
			from = t.turns[k].epoch
		}
	}
}

func (o *oracle) judgeTurn(stream int, t *truth, u *turn, from tidegate.Epoch) {
	kept := make([]bool, len(t.records))
	for e := u.head; e.pos.Seq > 0; e = e.prev() {
		for i := range e.recs {
			if id := e.recs[i].id; id >= 0 {
				kept[id] = true
			}
		}
	}
	var n, bytes int64
	var first, last time.Duration
	for id := range t.records {
		r := &t.records[id]
		if !r.acked || kept[id] || r.ackEpoch < from || r.ackEpoch >= u.epoch {
			continue
		}
		if n == 0 || r.ackAt < first {
			first = r.ackAt
		}
		n, bytes, last = n+1, bytes+int64(r.size), max(last, r.ackAt)
		if r.sync && !u.unclean {
			o.w.fail("I15", "stream %d: record %d was released in sync under epoch %s, and epoch %s begins without it", stream, id, r.ackEpoch, u.epoch)
		}
	}
	o.w.res.Lost += int(n)
	if u.kind == fence.KindSwitchover && n > 0 {
		o.w.fail("I17", "stream %d: %d released records are not in what was handed over to epoch %s", stream, n, u.epoch)
	}
	if u.claim == nil {
		return
	}
	window := last - first - (last-first)/1000
	switch l := u.claim; l.Kind {
	case fence.LossZero:
		if n > 0 {
			o.w.fail("I23", "stream %d: epoch %s claims zero loss, %d released records are not in its log", stream, u.epoch, n)
		}
	case fence.LossAtMost:
		if n > l.Bounds.Records || bytes > l.Bounds.Bytes || window > l.Bounds.Window {
			o.w.fail("I23", "stream %d: epoch %s claims at most %d records, %d bytes, %s; lost are %d, %d, %s",
				stream, u.epoch, l.Bounds.Records, l.Bounds.Bytes, l.Bounds.Window, n, bytes, last-first)
		}
	case fence.LossUnknown:
	}
}
