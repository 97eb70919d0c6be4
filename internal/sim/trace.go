package sim

import (
	"fmt"

	"github.com/tidegate/tidegate/gating/fence"
)

// log writes one line of the trace: time, from, to, kind, details.
func (w *world) log(from, to, kind, format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%12.6f %-6s %-6s %-11s %s\n", w.now.Seconds(), from, to, kind, fmt.Sprintf(format, args...))
	}
}

func (w *world) logMsg(from, to *host, kind string, msg any) {
	if w.trace != nil {
		w.log(from.addr, to.addr, kind, "%s", w.describe(msg))
	}
}

// describe renders a message without a single address in it: a trace is equal
// on every run of its seed.
func (w *world) describe(msg any) string {
	switch m := msg.(type) {
	case *mFence:
		return fmt.Sprintf("fence s%d %s attested %v", w.short(m.req.Stream), fence.Promise{Epoch: m.req.Epoch, Holder: m.req.Holder}, m.req.Attested)
	case *mAdopt:
		return fmt.Sprintf("adopt s%d %s head %s source %s", w.short(m.req.Stream), fence.Promise{Epoch: m.req.Epoch, Holder: m.req.Holder}, m.req.Head, m.req.Source)
	case *mPromote:
		return fmt.Sprintf("promote s%d epoch %s head %s", w.short(m.req.Stream), m.req.Epoch, m.req.Head)
	case *mReply:
		return w.describe(m.msg)
	case *mFenceReply:
		r := m.reply
		return fmt.Sprintf("fenced s%d refused %v leased %s promise %s adopted %s durable %s limbo %v", w.short(r.Stream), r.Refused, r.Leased, r.Promise, r.History.Last().Epoch, r.Durable, r.Limbo)
	case *mAdoptReply:
		r := m.reply
		return fmt.Sprintf("adopted s%d %v epoch %s promise %s durable %s %s", w.short(r.Stream), r.Adopted, r.Epoch, r.Promise, r.Durable, r.Why)
	case *mPromoteReply:
		return fmt.Sprintf("promoted s%d %v applied %v %s", w.short(m.stream), m.reply.Accepted, m.applied, m.reply.Why)
	case *mDescribe:
		return fmt.Sprintf("describe s%d", m.stream)
	case *mDescribed:
		return fmt.Sprintf("described s%d adopted %s promise %s", m.stream, m.adopted, m.promise)
	case *mRoute:
		return fmt.Sprintf("route to %s epoch %s", m.holder, m.epoch)
	case *mRouted:
		return fmt.Sprintf("routed epoch %s", m.epoch)
	case *mTxn:
		return fmt.Sprintf("txn %d %s epoch %s", m.token, m.puts[0].Record.State, m.puts[0].Record.Epoch)
	case *mTxnDone:
		return fmt.Sprintf("txn %d committed %v", m.done.Token, m.done.Committed)
	case *mSave:
		return fmt.Sprintf("save %.8s %s", m.plan.ID, m.plan.Step)
	case *mRead:
		return fmt.Sprintf("read %d", m.token)
	case *mKeys:
		return "keys " + m.view.String()
	case *mChanged:
		return "changed " + m.view.String()
	case *mView:
		return fmt.Sprintf("view fresh %v %s", m.fresh, m.view)
	case *mSwap:
		return fmt.Sprintf("swap %s %v at %v", m.what, m.streams, m.revisions)
	case *mSwapped:
		return fmt.Sprintf("swapped %s %v", m.req.what, m.ok)
	case *mChange:
		return fmt.Sprintf("change %s %v at %v", m.what, m.streams, m.revisions)
	case *mGranted:
		return fmt.Sprintf("granted s%d %v rev %d", m.stream, m.ok, m.revision)
	case *mAcquire:
		return fmt.Sprintf("acquire %s", m.holder)
	case *mWatch:
		return fmt.Sprintf("watch %d", m.gen)
	case *mSet:
		return fmt.Sprintf("set s%d", m.stream)
	}
	return w.describeData(msg)
}

func (v *view) String() string {
	s := fmt.Sprintf("rev %d", v.revision)
	for i := range v.keys {
		r := &v.keys[i].Record
		s += fmt.Sprintf(" [%s %s %s]", r.State, r.Epoch, r.Gate.State)
	}
	return s
}

// describeData renders messages of the data plane.
func (w *world) describeData(msg any) string {
	switch m := msg.(type) {
	case *mAttach:
		return fmt.Sprintf("attach s%d epoch %s dial %d", m.stream, m.epoch, m.dial)
	case *mAttached:
		return fmt.Sprintf("attached s%d received %s durable %s dial %d", m.stream, m.received, m.durable, m.dial)
	case *mAppend:
		return fmt.Sprintf("append s%d epoch %s after %s +%d commit %d", m.stream, m.epoch, m.prev, len(m.entries), m.commit)
	case *mNack:
		return fmt.Sprintf("nack s%d end %s fit %v", m.stream, m.end, m.fit)
	case *mRefused:
		return fmt.Sprintf("refused s%d promise %s", m.stream, m.promise)
	case *mAck:
		return fmt.Sprintf("ack s%d %s epoch %s received %d durable %d applied %d stamp %x", m.stream, m.ack.Node, m.ack.Epoch, m.ack.Received, m.ack.Durable, m.ack.Applied, m.ack.Stamp)
	case *mReadLog:
		return fmt.Sprintf("read s%d [%d,%d]", m.stream, m.from, m.to)
	case *mLog:
		return fmt.Sprintf("log s%d %d batches", m.stream, len(m.entries))
	case *mRenew:
		return fmt.Sprintf("renew s%d %s", m.stream, m.by)
	case *mRenewed:
		return fmt.Sprintf("renewed s%d %s for %s", m.stream, m.by, m.ttl)
	case *mLease:
		return fmt.Sprintf("lease s%d %s", m.stream, m.by)
	case *mLeased:
		return fmt.Sprintf("leased s%d %s", m.req.stream, m.ttl)
	case *mLeaseAsk:
		return fmt.Sprintf("leaseask s%d epoch %s for %s", m.stream, m.req.Epoch, m.req.TTL)
	case *mLeaseGrant:
		return fmt.Sprintf("leasegrant s%d %s %v %s", m.stream, m.reply.Member, m.reply.Granted, m.reply.Why)
	case *mProgress:
		return fmt.Sprintf("progress s%d active %v L %d A %d grant %d %s want %s drained %v", m.stream, m.active, m.l, m.a.Position, m.grant, m.state, m.want, m.drained)
	case *mGrant:
		t := m.t
		return fmt.Sprintf("grant %d s%d role %d epoch %s D %d %s drain %v over %v", m.number, m.stream, t.role, t.epoch, t.d, t.record, t.drain, t.over)
	case *mSeen:
		if m.obs.Silent == nil {
			return fmt.Sprintf("seen %s never", m.obs.Point)
		}
		return fmt.Sprintf("seen %s silent %s asleep %s", m.obs.Point, *m.obs.Silent, m.obs.Asleep)
	case *mSession:
		return fmt.Sprintf("session %s", m.holder)
	case *mProbe:
		return "probe"
	case *mProbed:
		return "probed"
	case *mSubmit:
		return fmt.Sprintf("submit s%d op %d class %d", m.stream, m.op, m.class)
	case *mResult:
		return fmt.Sprintf("result s%d op %d %v epoch %s record %d", m.stream, m.op, m.ok, m.epoch, m.id)
	}
	return fmt.Sprintf("%T", msg)
}
