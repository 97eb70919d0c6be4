package sim

import (
	"slices"

	"github.com/tidegate/tidegate"
)

// record is one entry of a service's journal.
type record struct {
	id     int32 // in truth.records; -1: nobody waits for it
	kind   recordKind
	class  class
	size   int32
	digest uint64
	end    tidegate.Position // where it ends
	n      int64             // records through this one
	cum    uint64            // digest of the journal through this one
}

type recordKind uint8

const (
	recData   recordKind = iota
	recFlag              // configuration of the state machine: it reaches it through the log only
	recBranch            // a new history begins
)

// class is the durability that a client asked for; it can only strengthen the mode.
type class uint8

const (
	classStream class = iota
	classOpen
	classBounded
	classSync
)

var classModes = [...]tidegate.Mode{"", tidegate.ModeOpen, tidegate.ModeBounded, tidegate.ModeSync}

// journal is a service's own log. The nodes of the primary site share one: their
// consensus, which is not modelled, lets only its leader append.
type journal struct {
	recs   []record
	synced int // records that survive a crash
	leader *libStream
}

func (j *journal) at(n int) record {
	if n == 0 {
		return record{id: -1}
	}
	return j.recs[n-1]
}

func (j *journal) end() record { return j.at(len(j.recs)) }

// append adds r behind the end.
func (j *journal) append(r record) record {
	last := j.end()
	r.end = last.end + tidegate.Position(r.size)
	r.n = last.n + 1
	r.cum = mix(last.cum, r.digest^uint64(r.end)<<1^uint64(r.kind)<<60)
	j.recs = append(j.recs, r)
	return r
}

// index returns how many records end at or before p, and whether one ends at p.
func (j *journal) index(p tidegate.Position) (n int, exact bool) {
	n, _ = slices.BinarySearchFunc(j.recs, p, func(r record, p tidegate.Position) int {
		if r.end <= p {
			return -1
		}
		return 1
	})
	return n, j.at(n).end == p
}

// branch returns the epoch of the newest promotion that the journal has gone on from.
func (j *journal) branch() tidegate.Epoch {
	for i := len(j.recs) - 1; i >= 0; i-- {
		if j.recs[i].kind == recBranch {
			return tidegate.Epoch(j.recs[i].digest)
		}
	}
	return 0
}

// cut removes everything behind the first n records. What was taken from the
// journal before keeps its memory.
func (j *journal) cut(n int) {
	j.recs = slices.Clone(j.recs[:n])
	j.synced = min(j.synced, n)
}

// state is a state machine: what it becomes depends on every record, in order.
type state struct {
	n    int64
	flag uint64
	hash uint64
}

func (s *state) apply(r *record) {
	s.n++
	switch r.kind {
	case recFlag:
		s.flag = r.digest
	case recData:
		s.hash = mix(s.hash, r.digest^s.flag)
	case recBranch:
	}
}

// mix is not cryptographic; nobody attacks a simulation.
func mix(a, b uint64) uint64 {
	x := (a ^ b + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	x ^= x >> 29
	x = (x + a) * 0x94d049bb133111eb
	return x ^ x>>32
}

// entry is one sealed batch. It never changes; every node that has it has the same.
type entry struct {
	pos     tidegate.LogPos
	parent  *entry // nil: the beginning
	holder  tidegate.HolderID
	kind    entryKind
	recs    []record
	next    tidegate.Position // where it ends in the journal
	records int64             // through it
	cum     uint64            // of the journal, at next
	bytes   int

	// The oracle's.
	state  state
	synced uint32 // nodes, as bits, that ever had it fsynced
}

type entryKind uint8

const (
	entData entryKind = iota
	entHeartbeat
	entHandover
)

// origin stands before the first entry of every log.
var origin = &entry{}

func (e *entry) prev() *entry {
	if e.parent == nil {
		return origin
	}
	return e.parent
}

// seal makes the entry that follows e.
func (e *entry) seal(kind entryKind, epoch tidegate.Epoch, holder tidegate.HolderID, recs []record, salt uint64) *entry {
	n := &entry{
		parent: e, holder: holder, kind: kind, recs: recs,
		next: e.next, records: e.records, cum: e.cum, state: e.state,
	}
	if e == origin {
		n.parent = nil
	}
	for i := range recs {
		n.bytes += int(recs[i].size)
		n.state.apply(&recs[i])
	}
	if k := len(recs); k > 0 {
		n.next, n.records, n.cum = recs[k-1].end, recs[k-1].n, recs[k-1].cum
	}
	n.pos = tidegate.LogPos{Epoch: epoch, Seq: e.pos.Seq + 1}
	a := mix(mix(le(e.pos.Chain[:8]), uint64(epoch)), mix(n.cum, salt))
	b := mix(mix(le(e.pos.Chain[8:]), uint64(n.pos.Seq)), mix(le(holder[:8]), a))
	put(n.pos.Chain[:8], a)
	put(n.pos.Chain[8:], b)
	return n
}

func le(b []byte) (v uint64) {
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func put(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (8 * i))
	}
}
