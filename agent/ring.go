package agent

import (
	"slices"

	"github.com/tidegate/tidegate"
)

// ring keeps the sealed batches that fewer than W nodes have stored, contiguous in
// seq, so that another relay gets the same bytes under the same seq. All bytes lie
// in one arena of fixed size: memory is bounded whatever the mix of batch sizes,
// and nothing is allocated per batch.
//
// What W nodes have stored is not D yet while a generation's base is on its way: of
// those batches the facts stay, asideMax of them, and of what a node stated.
//
// Invariants:
//  1. items are contiguous in seq; last().seq is floor.seq plus their number
//  2. items lie in the arena in order, at most one wrap among them
//  3. floor describes the newest batch that was trimmed, or where the ring began
//  4. durable describes D, or where the ring began; it is floor or a batch before it,
//     or one that is kept until it is trimmed
//  5. aside are contiguous in seq, beyond durable, and end with floor
//
// Bytes of the arena are written by the goroutine that seals, which is also
// the one that sends: a trim by another goroutine frees space but changes no
// byte of a batch that is being sent.
type ring struct {
	arena []byte
	write int // offset in arena where the next batch goes
	used  int // bytes of all items

	items []item // circular, power of two
	first int
	n     int

	floor   facts
	durable facts
	aside   []facts
	stated  []statement
}

// asideMax bounds the facts of trimmed batches: 4 MiB of them.
const asideMax = 1 << 16

// statement is what a node last said that it has durable.
type statement struct {
	node tidegate.NodeName
	facts
}

// facts is what remains of interest of a batch once its bytes are gone.
type facts struct {
	seq     tidegate.Seq
	next    tidegate.Position
	records uint64 // cumulative, this batch included
	bytes   uint64 // cumulative raw bytes
	chain   tidegate.Chain
	epoch   tidegate.Epoch
}

type item struct {
	facts
	sealed []byte
	off    int              // in arena; -1 for a batch of its own allocation
	at     tidegate.Instant // when it was sealed
	sent   tidegate.Instant // when a session took it last; 0: none has
}

func newRing(size int, floor facts) *ring {
	return &ring{arena: make([]byte, size), items: make([]item, 64), floor: floor, durable: floor}
}

func (r *ring) at(i int) *item { return &r.items[(r.first+i)&(len(r.items)-1)] }

// last returns the newest batch; the floor when the ring is empty.
func (r *ring) last() facts {
	if r.n == 0 {
		return r.floor
	}
	return r.at(r.n - 1).facts
}

// reserve returns room for n bytes, empty with that capacity, or nil when
// there is none until the ring is trimmed. A batch larger than the arena gets
// an allocation of its own, and only when nothing else is kept.
func (r *ring) reserve(n int) []byte {
	if r.n == 0 {
		r.write = 0
		if n > len(r.arena) {
			return make([]byte, 0, n)
		}
		return r.arena[0:0:n]
	}
	tail := r.tail()
	switch {
	case tail < 0: // one batch of its own allocation fills the ring
		return nil
	case r.write >= tail && len(r.arena)-r.write >= n:
	case r.write >= tail && tail > n:
		r.write = 0
	case r.write < tail && tail-r.write > n:
	default:
		return nil
	}
	return r.arena[r.write : r.write : r.write+n]
}

func (r *ring) tail() int { return r.at(0).off }

// add keeps a batch that was sealed into what reserve returned last.
func (r *ring) add(sealed []byte, f facts, now tidegate.Instant) {
	if r.n == len(r.items) {
		grown := make([]item, 2*len(r.items))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.items, r.first = grown, 0
	}
	off := r.write
	if len(sealed) > len(r.arena) {
		off = -1
	} else {
		r.write += len(sealed)
	}
	r.n++
	*r.at(r.n - 1) = item{facts: f, sealed: sealed, off: off, at: now}
	r.used += len(sealed)
}

// get returns the batch with this seq, if it is kept.
func (r *ring) get(seq tidegate.Seq) (*item, bool) {
	if seq <= r.floor.seq || seq > r.last().seq {
		return nil, false
	}
	return r.at(int(seq - r.floor.seq - 1)), true
}

// factsAt returns what is known of seq, the floor included.
func (r *ring) factsAt(seq tidegate.Seq) (facts, bool) {
	if seq == r.floor.seq {
		return r.floor, true
	}
	if n := len(r.aside); n > 0 && seq >= r.aside[0].seq && seq <= r.aside[n-1].seq {
		return r.aside[seq-r.aside[0].seq], true
	}
	it, ok := r.get(seq)
	if !ok {
		return facts{}, false
	}
	return it.facts, true
}

// state takes down what a node has durable while its facts are known.
func (r *ring) state(node tidegate.NodeName, seq tidegate.Seq) {
	f, known := r.factsAt(seq)
	if !known {
		return
	}
	for i := range r.stated {
		if r.stated[i].node == node {
			r.stated[i].facts = f
			return
		}
	}
	r.stated = append(r.stated, statement{node, f}) // as many as there are nodes
}

// settle makes seq D, and reports whether that is new. D is what some node has
// stated; a word that came when its facts were gone already is waited for again.
func (r *ring) settle(seq tidegate.Seq) (moved bool) {
	if seq <= r.durable.seq {
		return false
	}
	f, known := r.factsAt(seq)
	for i := 0; !known && i < len(r.stated); i++ {
		f, known = r.stated[i].facts, r.stated[i].seq == seq
	}
	if known {
		r.durable = f
		for len(r.aside) > 0 && r.aside[0].seq <= seq {
			r.aside = r.aside[1:]
		}
	}
	return known
}

// trim forgets every batch up to seq, which becomes the floor. It returns how
// many were forgotten.
func (r *ring) trim(seq tidegate.Seq) (dropped int) {
	for r.n > 0 && r.at(0).seq <= seq {
		it := r.at(0)
		r.floor = it.facts
		if it.seq > r.durable.seq {
			if len(r.aside) == asideMax {
				r.aside = slices.Delete(r.aside, 0, asideMax/4)
			}
			r.aside = append(r.aside, it.facts)
		}
		r.used -= len(it.sealed)
		it.sealed = nil
		r.first = (r.first + 1) & (len(r.items) - 1)
		r.n--
		dropped++
	}
	return dropped
}
