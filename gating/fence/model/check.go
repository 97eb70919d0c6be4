package model

import "fmt"

// violation is an invariant that does not hold, and how.
type violation struct {
	inv  Invariant
	what string
}

// check looks at a state, and at the step that led to it.
func (m *machine) check(s, t *state, mv move) violation {
	if m.looks(I1) && mv.kind != mvRestore && t.slots[t.key.slot].epoch < s.slots[s.key.slot].epoch {
		return violation{I1, "the epoch in the registry went back"}
	}
	for e := uint8(0); e <= t.count; e++ {
		for f := uint8(1); f <= t.count; f++ {
			if e != f && t.slots[e].promoted && t.slots[f].promoted {
				if v := m.pair(t, e, f); v.inv != "" {
					return v
				}
			}
		}
	}
	return m.logs(t)
}

// pair checks what e and f released against each other, and against the head
// that the later of them opened with.
func (m *machine) pair(t *state, e, f uint8) violation {
	a, b := &t.slots[e], &t.slots[f]
	if a.epoch == b.epoch && e != 0 && m.looks(I1) {
		return violation{I1, fmt.Sprintf("epoch %d was opened for two holders", a.epoch)}
	}
	for k := range min(a.d, b.d, a.a, b.a) {
		if content(a.log[k]) != content(b.log[k]) && m.looks(I7) {
			return violation{I7, fmt.Sprintf("seq %d was released as %s under epoch %d and as %s under epoch %d", k+1, name(a.log[k]), a.epoch, name(b.log[k]), b.epoch)}
		}
	}
	if a.epoch >= b.epoch {
		return violation{}
	}
	has := func(k uint8) bool { return k < b.base && content(a.log[k]) == content(b.log[k]) }
	for k := range min(a.d, a.a) {
		if !has(k) && m.looks(I6) {
			return violation{I6, fmt.Sprintf("seq %d (%s), released as durable under epoch %d, is missing from epoch %d", k+1, name(a.log[k]), a.epoch, b.epoch)}
		}
	}
	if b.kind == acquire || b.gate != gateArmed || a.off {
		return violation{}
	}
	for k := range a.a {
		if !has(k) && m.looks(I13) {
			return violation{I13, fmt.Sprintf("epoch %d read ARMED and claims no loss, but seq %d (%s) was released under epoch %d", b.epoch, k+1, name(a.log[k]), a.epoch)}
		}
	}
	return violation{}
}

func (m *machine) looks(inv Invariant) bool {
	for _, i := range m.cfg.Look {
		if i == inv {
			return true
		}
	}
	return len(m.cfg.Look) == 0
}

// logs checks the logs of the nodes.
func (m *machine) logs(t *state) violation {
	for i := range m.cfg.N {
		a := &t.nodes[i]
		for k := range a.n {
			if secondRun(a.log[k]) && m.looks(I2) {
				return violation{I2, fmt.Sprintf("a node holds a batch of epoch %d from a second run of its holder", t.slots[sealedBy(a.log[k])].epoch)}
			}
		}
		for j := range i {
			b := &t.nodes[j]
			equal := true
			for k := range min(a.n, b.n) {
				if same := a.log[k] == b.log[k]; same && !equal && m.looks(I8) {
					return violation{I8, fmt.Sprintf("two nodes agree at seq %d and not before it", k+1)}
				} else if !same {
					equal = false
				}
			}
		}
	}
	return violation{}
}

// afterFence checks I5 when node i's ack of durable leaves for the writer of p.
// That W is reached after R have promised is no harm by itself: where the two
// quorums meet, the batch may have been acked first and promised then, and so is
// part of what the promise answered. The member that acks must not have promised.
func (m *machine) afterFence(t *state, p, i, durable uint8) violation {
	w := &t.slots[p]
	if t.slots[t.nodes[i].sworn].epoch <= w.epoch {
		return violation{}
	}
	members, acked, promised := 0, 0, 0
	for j := range m.cfg.N {
		x := &t.nodes[j]
		if x.member&(1<<p) == 0 {
			continue
		}
		members++
		if x.sent[p] >= durable {
			acked++
		}
		if t.slots[x.sworn].epoch > w.epoch {
			promised++
		}
	}
	if acked == int(w.w) && durable > w.base && promised >= members-int(w.w)+1 {
		return violation{I5, fmt.Sprintf("seq %d becomes durable under epoch %d by a member that promised a higher one, as did %d in all", durable, w.epoch, promised)}
	}
	return violation{}
}
