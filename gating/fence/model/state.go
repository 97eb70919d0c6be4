package model

import (
	"bytes"
	"math/bits"
)

// slots is the length of tables by slot. Index 0 is nobody; broken worlds keep
// there what a run released that was forgotten.
const slots = SlotsMax + 1

// States of the epoch key, as in package fence.
const (
	keyActive uint8 = iota + 1
	keySwitching
	keyDemoted
	keyFencing
	keyRecovering
)

// What the record says of the gate.
const (
	gateArmed uint8 = iota + 1
	gateDegraded
	gateUnknown
)

// What a writer's own gate does.
const (
	holding   uint8 = iota // releases what is durable
	opened                 // releases everything
	enforcing              // holds again, and the record still says DEGRADED
)

// Limbo of a node.
const (
	knows    uint8 = iota
	lost           // it lost its disk
	informed       // and has read the record since
)

// Why a slot was reserved.
const (
	failover uint8 = iota
	acquire        // by the agent that restarted, at the same site
)

const unheard = 0xff // node.target: the writer has not heard of the incarnation

// entry is a batch: what is in it, and who sealed it. 0 is none.
//
//	bit 7   set
//	6..5    slot that produced the content first, less 1
//	4..3    which of its batches
//	2..1    slot that sealed this batch, less 1
//	0       sealed by a second run of the same holder (only where [FreshHolder] is broken)
type entry = uint8

func seal(origin, k, by, run uint8) entry {
	return 0x80 | (origin-1)<<5 | k<<3 | (by-1)<<1 | run
}

func content(e entry) uint8          { return e >> 3 }
func sealedBy(e entry) uint8         { return e>>1&3 + 1 }
func secondRun(e entry) bool         { return e&1 != 0 }
func reseal(e entry, by uint8) entry { return e&^7 | (by-1)<<1 }

type blog [LogMax]entry

// reply is what a controller remembers of a node's promise.
type reply struct {
	ok, term, n uint8
	log         blog
}

// node is one standby node together with everything anybody knows of it: a
// column. Nothing refers to a node by its number, so columns may be sorted.
type node struct {
	prom, disk    uint8 // promised slot: enforced, on disk
	sworn         uint8 // highest slot that a reply or an ack of this incarnation stood for
	term          uint8 // slot whose history the log has adopted
	n, synced     uint8
	limbo, target uint8
	log           blog
	asked         uint8           // bit p: slot p fences this node
	member        uint8           // bit p: of the configuration that slot p opened with
	adopted       [2]uint8        // bit p: slot p's controllers know that it adopted
	sent, got     [slots]uint8    // durable as acked to slot p's writer, and as heard by it
	rep           [slots][2]reply // as remembered by slot p's controllers
}

// choice is a head chosen at F3.
type choice struct {
	n, term uint8
	log     blog
}

// slot is one reserved epoch: its plan, its controllers, its holder.
type slot struct {
	epoch, kind uint8
	ctl         [2]uint8 // 0 none or gone, 1 asks for promises, 2 asks for adoption
	fenceW      uint8    // W of the configuration it fences
	gate        uint8    // what F1 read
	expect      uint8    // head handed over, plus 1
	ch          [2]choice

	promoted, active bool
	w                uint8 // W of its own configuration
	n, base, d, a    uint8 // sealed, head at the opening, durable, released
	owed             uint8 // end of what a restarted agent found in its journal
	gateNow          uint8
	drain, journal   bool // draining; restarted, its journal is still there
	run              uint8
	off              bool // a later failover said that what this one released may be lost
	log              blog
}

// key is the epoch key. Its configuration is that of slot last.
type key struct {
	slot, state, gate, last, handed uint8
}

type budget struct {
	crashes, wipes, losses, restarts, degrades, switches, restores uint8
}

type state struct {
	key   key
	used  budget
	slots [slots]slot
	nodes [NodesMax]node
	count uint8 // slots reserved
}

func (m *machine) initial() state {
	var s state
	s.count = 1
	s.key = key{slot: 1, state: keyActive, gate: gateArmed, last: 1}
	s.slots[1] = slot{epoch: 1, gate: gateArmed, promoted: true, active: true, w: uint8(m.cfg.W)}
	for i := range m.cfg.N {
		s.nodes[i] = node{prom: 1, disk: 1, sworn: 1, term: 1, member: 1 << 1}
	}
	return s
}

// appendTo appends everything that tells this column from another.
func (x *node) appendTo(b []byte, count uint8, l int) []byte {
	b = append(b, x.prom, x.disk, x.sworn, x.term, x.n, x.synced, x.limbo, x.target)
	b = append(b, x.log[:l]...)
	b = append(b, x.asked, x.member, x.adopted[0], x.adopted[1])
	for p := uint8(1); p <= count; p++ {
		b = append(b, x.sent[p], x.got[p])
		for c := range x.rep[p] {
			if r := &x.rep[p][c]; r.ok != 0 {
				b = append(append(b, r.term+1, r.n), r.log[:l]...)
			} else {
				b = append(b, 0)
			}
		}
	}
	return b
}

func (s *state) appendTo(b []byte, l int) []byte {
	b = append(b, s.key.slot, s.key.state, s.key.gate, s.key.last, s.key.handed, s.count)
	u := &s.used
	b = append(b, u.crashes, u.wipes, u.losses, u.restarts, u.degrades, u.switches, u.restores)
	for p := uint8(0); p <= s.count; p++ {
		q := &s.slots[p]
		b = append(b, q.epoch, q.kind, q.ctl[0], q.ctl[1], q.fenceW, q.gate, q.expect)
		for c := range q.ch {
			b = append(append(b, q.ch[c].n, q.ch[c].term), q.ch[c].log[:l]...)
		}
		b = append(b, flags(q.promoted, q.active, q.drain, q.journal, q.off), q.w, q.n, q.base, q.d, q.a, q.owed, q.gateNow, q.run)
		b = append(b, q.log[:l]...)
	}
	return b
}

func flags(on ...bool) (b byte) {
	for i, f := range on {
		if f {
			b |= 1 << i
		}
	}
	return b
}

// canon is the working memory of one worker for bringing states into their
// canonical form.
type canon struct {
	cols [NodesMax][]byte
	buf  []byte
}

// sum sorts the columns of s and returns a hash of what is then the canonical
// form of s and of every state that differs from it by the names of nodes only.
func (k *canon) sum(s *state, cfg *Config) uint64 {
	for i := range cfg.N {
		k.cols[i] = s.nodes[i].appendTo(k.cols[i][:0], s.count, cfg.Log)
	}
	for i := 1; i < cfg.N; i++ {
		for j := i; j > 0 && bytes.Compare(k.cols[j], k.cols[j-1]) < 0; j-- {
			k.cols[j], k.cols[j-1] = k.cols[j-1], k.cols[j]
			s.nodes[j], s.nodes[j-1] = s.nodes[j-1], s.nodes[j]
		}
	}
	k.buf = s.appendTo(k.buf[:0], cfg.Log)
	for i := range cfg.N {
		k.buf = append(k.buf, k.cols[i]...)
	}
	return mix(k.buf)
}

// mix hashes b; equal on every machine, so that searches are repeatable.
func mix(b []byte) uint64 {
	const k0, k1 = 0xa0761d6478bd642f, 0xe7037ed1a0b428db
	h := uint64(len(b)) ^ k1
	for len(b) > 0 {
		var w uint64
		n := min(8, len(b))
		for i := range n {
			w |= uint64(b[i]) << (8 * i)
		}
		hi, lo := bits.Mul64(h^w^k0, k1)
		h = bits.RotateLeft64(hi^lo, 29) + w*k0
		b = b[n:]
	}
	hi, lo := bits.Mul64(h^k0, k1)
	return hi ^ lo
}
