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

func (w *world) logMsg(from, to, kind string, msg any) {
	if w.trace != nil {
		w.log(from, to, kind, "%s", w.describe(msg))
	}
}

// describe renders a message without a single address in it: a trace is equal
// on every run of its seed.
func (w *world) describe(msg any) string {
	switch m := msg.(type) {
	case mAttach:
		return fmt.Sprintf("attach s%d epoch %s dial %d", m.stream, m.epoch, m.dial)
	case mAttached:
		return fmt.Sprintf("attached s%d received %s durable %s dial %d", m.stream, m.received, m.durable, m.dial)
	case mAppend:
		return fmt.Sprintf("append s%d epoch %s after %s +%d commit %d", m.stream, m.epoch, m.prev, len(m.entries), m.commit)
	case mNack:
		return fmt.Sprintf("nack s%d %s end %s fit %v", m.stream, m.node, m.end, m.fit)
	case mRefused:
		return fmt.Sprintf("refused s%d promise %s", m.stream, m.promise)
	case mAck:
		return fmt.Sprintf("ack s%d %s epoch %s received %d durable %d stamp %x", m.stream, m.ack.Node, m.ack.Epoch, m.ack.Received, m.ack.Durable, m.ack.Stamp)
	case mReadLog:
		return fmt.Sprintf("read s%d [%d,%d]", m.stream, m.from, m.to)
	case mLog:
		return fmt.Sprintf("log s%d %d batches", m.stream, len(m.entries))
	case mFence:
		return fmt.Sprintf("fence s%d %s", w.short(m.req.Stream), fence.Promise{Epoch: m.req.Epoch, Holder: m.req.Holder})
	case mAdopt:
		return fmt.Sprintf("adopt s%d %s head %s source %s", w.short(m.req.Stream), fence.Promise{Epoch: m.req.Epoch, Holder: m.req.Holder}, m.req.Head, m.req.Source)
	case mPromote:
		return fmt.Sprintf("promote s%d epoch %s head %s", w.short(m.req.Stream), m.req.Epoch, m.req.Head)
	case mReply:
		return w.describe(m.msg)
	case mFenceReply:
		r := m.reply
		return fmt.Sprintf("fenced s%d refused %v promise %s adopted %s durable %s limbo %v", w.short(r.Stream), r.Refused, r.Promise, r.History.Last().Epoch, r.Durable, r.Limbo)
	case mAdoptReply:
		r := m.reply
		return fmt.Sprintf("adopted s%d %v epoch %s promise %s durable %s %s", w.short(r.Stream), r.Adopted, r.Epoch, r.Promise, r.Durable, r.Why)
	case mPromoteReply:
		return fmt.Sprintf("promoted s%d %v applied %d %s", w.short(m.stream), m.reply.Accepted, m.applied, m.reply.Why)
	case mDescribed:
		return fmt.Sprintf("described s%d adopted %s", m.stream, m.adopted)
	case mAcquire:
		return fmt.Sprintf("acquire %s", m.holder)
	case mTxn:
		return fmt.Sprintf("txn %d %s epoch %s", m.token, m.puts[0].Record.State, m.puts[0].Record.Epoch)
	case mTxnDone:
		return fmt.Sprintf("txn %d committed %v", m.done.Token, m.done.Committed)
	case mSave:
		return fmt.Sprintf("save %.8s %s", m.plan.ID, m.plan.Step)
	case mExitLimbo:
		return fmt.Sprintf("exit limbo s%d %s", m.stream, m.member)
	case mKeys:
		return fmt.Sprintf("keys %s epoch %s", m.keys[0].Record.State, m.keys[0].Record.Epoch)
	case mWatched:
		return fmt.Sprintf("watched %s epoch %s", m.keys[0].Record.State, m.keys[0].Record.Epoch)
	}
	return fmt.Sprintf("%T", msg)
}
