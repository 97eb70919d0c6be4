package sim

import (
	"github.com/tidegate/tidegate/gating/fence"
)

// follow brings the warm service up to entry to of its node's log.
func (ls *libStream) follow(ns *nodeStream, to int) {
	if ls.active {
		if !ls.standsDown(ns) {
			return
		}
	}
	ls.rewind(ns, to)
	for ns.applied < to {
		e := ns.entry(ns.applied + 1)
		for i := range e.recs {
			r := &e.recs[i]
			if r.end <= ls.j.end().end {
				continue // it has been there since before a restart
			}
			ls.j.recs = append(ls.j.recs, *r)
		}
		ns.applied++
		ls.j.synced = len(ls.j.recs) // the node's log is the durable copy
		if n, _ := ls.j.index(e.next); n > ls.applied {
			ls.applyTo(n)
		}
		ns.s.w.oracle.applied(ns, e, ls.state)
	}
}

// standsDown: a service that was active here, and whose log goes on elsewhere, is
// restarted to follow.
func (ls *libStream) standsDown(ns *nodeStream) bool {
	v := ns.s.watch.seen
	if v == nil {
		return false
	}
	rec := &v.keys[ns.i].Record
	t := ns.n.Adopted()
	switch {
	case rec.State != fence.StateActive || rec.Epoch != t.Epoch || t.Epoch <= ls.epoch,
		rec.Holder.Node == ns.s.name,
		ls.l.agent.up && ls.l.agent.streams[ls.i].writing():
		return false
	}
	ls.l.w.log(ls.l.addr, "", "follow", "stream %d epoch %s", ls.i, t.Epoch)
	ls.deactivate()
	ls.epoch, ls.ours, ls.fencedBy = t.Epoch, t.Epoch, 0
	return true
}

// rewind cuts the journal to what it has in common with the log up to entry to,
// and the state with it, where it is not what was followed.
func (ls *libStream) rewind(ns *nodeStream, to int) {
	at := ns.entry(ns.applied)
	if end := ls.j.end(); end.end == at.next && end.cum == at.cum {
		return
	}
	for k := min(max(to, ns.applied), len(ns.log)); ; k-- {
		at = ns.entry(k)
		n, exact := ls.j.index(at.next)
		if !exact || ls.j.at(n).cum != at.cum {
			continue
		}
		ns.applied = k
		if n == len(ls.j.recs) {
			return
		}
		ls.l.w.log(ls.l.addr, "", "rewind", "stream %d to %d", ls.i, at.next)
		ls.j.cut(n)
		ls.state, ls.applied = state{}, 0
		ls.applyTo(n)
		return
	}
}

// promote makes the warm service the active one, once it has applied the head.
// The branch is a record of its own: from there on this history is another one.
func (ls *libStream) promote(ns *nodeStream) bool {
	head := ns.entry(int(ns.branchAt.Seq))
	switch {
	case ls.active:
		// Promoted before, or not yet aware that the streams went elsewhere and
		// came back: its journal tells.
		n, exact := ls.j.index(head.next)
		if exact && ls.j.at(n).cum == head.cum {
			return true
		}
		ls.deactivate()
		return false
	case ns.applied < int(head.pos.Seq):
		return false
	}
	ls.rewind(ns, int(head.pos.Seq))
	if n, exact := ls.j.index(head.next); exact && n < len(ls.j.recs) && ls.j.at(n).cum == head.cum && ls.own(ns, n) {
		ls.fencedBy, ls.ours = 0, ns.promoted.Epoch
		ls.activate()
		return true
	}
	if ls.j.end().end != head.next {
		ls.l.w.log(ls.l.addr, "", "unfit", "stream %d ends at %d, head at %d", ls.i, ls.j.end().end, head.next)
		return false
	}
	ls.j.append(record{id: -1, kind: recBranch, size: 16, digest: uint64(ns.promoted.Epoch)})
	ls.fencedBy, ls.ours = 0, ns.promoted.Epoch
	ls.activate()
	return true
}

// own reports whether what lies behind the first n records of the journal was
// written here, under the epoch that the service is promoted to: it was restarted.
func (ls *libStream) own(ns *nodeStream, n int) bool {
	if b := ls.j.recs[n]; b.kind == recBranch && b.digest == uint64(ns.promoted.Epoch) {
		return true
	}
	for k := int(ns.branchAt.Seq); k < ns.applied; k++ {
		if e := ns.entry(k + 1); e.pos.Epoch != ns.promoted.Epoch || e.holder != ns.promoted.Holder {
			return false
		}
	}
	end := ls.j.end()
	return ns.entry(ns.applied).next == end.end && ns.entry(ns.applied).cum == end.cum
}
