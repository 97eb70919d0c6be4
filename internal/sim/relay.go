package sim

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// relayRole is the fan-out to the other members.
type relayRole struct {
	on      bool
	epoch   tidegate.Epoch
	holder  tidegate.HolderID
	writer  *host
	dial    int
	commit  tidegate.Seq
	beacon  beacon
	members []fan
}

// fan is one member that the relay feeds.
type fan struct {
	s      *standby
	known  bool
	cursor int // entries it has, as far as known
}

// batchMax bounds the entries of one message.
const batchMax = 16

func (r *relayRole) fan(s *standby) *fan {
	for i := range r.members {
		if r.members[i].s == s {
			return &r.members[i]
		}
	}
	return nil
}

func (ns *nodeStream) onAck(m *mAck) {
	r := &ns.relay
	if !r.on {
		return
	}
	if f := r.fan(ns.s.w.standbyOn(m.ack.Node)); f != nil && m.ack.Epoch == r.epoch && int(m.ack.Received) <= len(ns.log) {
		// A late ack says less than what is on its way; only a nack takes the
		// cursor back.
		if !f.known || int(m.ack.Received) > f.cursor {
			f.cursor, f.known = int(m.ack.Received), true
		}
	}
	ns.s.send(r.writer, m) // unchanged
}

func (ns *nodeStream) onNack(from *host, m *mNack) {
	for i := range ns.relay.members {
		f := &ns.relay.members[i]
		if &f.s.host != from || !m.fit {
			continue
		}
		if at, err := ns.At(m.end.Seq); err == nil && at.Chain == m.end.Chain {
			f.cursor, f.known = int(m.end.Seq), true
		}
	}
}

// fanOut feeds the members. It is also the beat by which they learn of commits,
// and by which what was lost on the way is found out.
func (ns *nodeStream) fanOut() {
	r := &ns.relay
	if !r.on || ns.n.CheckAppend(r.epoch, r.holder, r.epoch) != nil {
		return
	}
	for i := range r.members {
		f := &r.members[i]
		msg := &mAppend{stream: ns.i, epoch: r.epoch, holder: r.holder, prev: ns.end(), commit: r.commit, beacon: r.beacon, dial: r.dial}
		if f.known {
			to := min(len(ns.log), f.cursor+batchMax)
			es, ok := ns.read(f.cursor, to)
			if !ok {
				return
			}
			msg.prev, msg.entries = ns.entry(f.cursor).pos, es
			f.cursor = to
		}
		ns.s.send(&f.s.host, msg)
	}
}

// apply feeds the warm service beside the node up to what the core allows.
func (ns *nodeStream) apply() {
	if ns.n == nil {
		return
	}
	to := int(ns.n.ApplyTo())
	if l := ns.warm(); l != nil {
		l.follow(ns, min(to, len(ns.log)))
	}
}

// warm returns the library beside the node.
func (ns *nodeStream) warm() *libStream {
	for _, l := range ns.s.w.libs {
		if l.m == ns.s.m && l.up {
			return l.streams[ns.i]
		}
	}
	return nil
}

func (ns *nodeStream) promote(e fence.ReplyPromote) {
	ns.apply()
	applied := false
	if l := ns.warm(); l != nil && e.Reply.Accepted {
		applied = l.promote(ns)
	}
	ns.s.w.replyTo(&ns.s.host, e.Call, &mPromoteReply{ns.id, e.Reply, applied})
}
