package sim

import (
	"time"

	"github.com/tidegate/tidegate/gating/fence"
)

// crash takes the node down. What was not synced may be lost, from the end; an
// entry that was being written is torn, and opening the log removes it.
func (s *standby) crash() {
	s.end()
	for _, ns := range s.streams {
		kept := ns.synced + s.w.rng.IntN(len(ns.log)-ns.synced+1)
		if kept < len(ns.log) && s.w.oneIn(2) {
			s.w.log(s.addr, "", "torn", "stream %d batch %d", ns.i, kept+1)
		}
		ns.forget(kept)
		ns.synced = kept // what a power cut has left is on the disk
		s.w.oracle.crashed(ns)
		s.w.oracle.syncedTo(ns)
	}
	s.w.res.Crashes++
	s.w.log(s.addr, "", "crash", "")
}

// forget ends this life of the stream with what is left of the log.
func (ns *nodeStream) forget(kept int) {
	ns.truncate(kept)
	ns.n, ns.syncing, ns.relay, ns.asked, ns.ask = nil, false, relayRole{}, nil, 0
	ns.beacon, ns.promoted = beacon{}, fence.Promise{}
}

// bounce crashes the node and brings it back soon.
func (s *standby) bounce() {
	if !s.up {
		return
	}
	s.crash()
	s.comeBack()
}

func (s *standby) comeBack() {
	gen := s.gen
	s.w.after(s.w.jitter(300*time.Millisecond), func() {
		if !s.up && s.gen == gen && s.mayStart() {
			s.start()
		}
	})
}

// mayStart: once the chaos is over, what is not part of the healed core stays down.
func (s *standby) mayStart() bool { return s.w.chaos || s.w.core[s.i] }

// syncFailed is the end of a node whose disk did not take what was written: the
// kernel may have forgotten that it was dirty, so nothing of it is believed.
func (s *standby) syncFailed() {
	s.w.log(s.addr, "", "eio", "")
	s.end()
	s.w.res.Damages++
	s.w.res.Crashes++
	for _, ns := range s.streams {
		ns.forget(ns.synced)
		s.w.oracle.crashed(ns)
	}
	s.comeBack()
}

// flip damages one batch at rest. Nobody knows before it is read.
func (s *standby) flip() bool {
	ns := s.streams[s.w.rng.IntN(len(s.streams))]
	if ns.synced == 0 || ns.rotten > 0 {
		return false
	}
	ns.rotten = 1 + s.w.rng.IntN(ns.synced)
	s.w.res.Damages++
	s.w.log(s.addr, "", "bitflip", "stream %d batch %d", ns.i, ns.rotten)
	return true
}

// setAside is the operator's order after damage: the log goes to quarantine, the
// promise stays, and the stream comes back as another incarnation, in limbo.
func (ns *nodeStream) setAside() {
	ns.lost = ns.log
	ns.rotten = 0
	ns.truncate(0)
	ns.meta = ns.meta.Damaged(ns.s.w.id())
	ns.s.w.log(ns.s.addr, "", "setaside", "stream %d", ns.i)
	ns.s.w.oracle.wiped(ns, true)
}

// wipe replaces the whole disk: the node is another incarnation from now on.
func (s *standby) wipe() {
	s.inc = s.w.id()
	s.w.res.Wipes++
	for _, ns := range s.streams {
		ns.lost = ns.log
		ns.rotten = 0
		ns.truncate(0)
		ns.meta = fence.FormatMeta(ns.id, s.member())
		s.w.oracle.wiped(ns, false)
	}
	s.w.log(s.addr, "", "wipe", "")
}
