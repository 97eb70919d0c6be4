package model

// --- the registry and the plans ---

func (m *machine) keyMoves(s *state) {
	if int(s.count) < m.cfg.Slots {
		m.reserve(s, failover)
		if w := &s.slots[s.key.last]; w.journal && (s.key.state < keyFencing || s.slots[s.key.slot].kind == acquire) {
			m.reserve(s, acquire)
		}
		m.reserveAbove(s)
	}
	if int(s.used.restores) < m.cfg.Restores && s.key.slot != 1 {
		x := m.add(s, move{kind: mvRestore})
		x.to.used.restores++
		x.to.key = key{slot: 1, state: keyActive, gate: gateUnknown, last: 1}
		if m.broken[RestoreNoticed] {
			x.to.key.gate = gateArmed
		}
	}
}

// reserve is F1: whatever the key says, in one transaction with it.
func (m *machine) reserve(s *state, kind uint8) {
	x := m.add(s, move{kind: mvReserve, p: s.count + 1, v: kind})
	m.reserved(&x.to, s.slots[s.key.slot].epoch+1, kind, s.key.gate)
}

// reserveAbove is F1 after a node answered that it has promised an epoch which
// the key does not know: the registry has gone back in time.
func (m *machine) reserveAbove(s *state) {
	k := s.key.slot
	if m.cfg.Restores == 0 || m.broken[HeardEpoch] || s.key.state != keyFencing && s.key.state != keyRecovering {
		return
	}
	best := uint8(0)
	for i := range m.cfg.N {
		x := &s.nodes[i]
		heard := x.asked&(1<<k) != 0 && x.disk != k && s.slots[x.disk].epoch >= s.slots[k].epoch
		if heard {
			best = m.higher(s, best, x.disk)
		}
	}
	if best == 0 {
		return
	}
	y := m.add(s, move{kind: mvReserveAbove, p: s.count + 1})
	m.reserved(&y.to, s.slots[best].epoch+1, s.slots[k].kind, gateUnknown)
}

func (m *machine) reserved(t *state, epoch, kind, gate uint8) {
	t.count++
	q := t.count
	last := t.key.last
	if m.broken[GateInReserve] {
		gate = gateArmed
	}
	t.slots[q] = slot{epoch: epoch, kind: kind, ctl: [2]uint8{1, 0}, fenceW: t.slots[last].w, gate: gate, expect: t.key.handed}
	if m.cfg.Twins {
		t.slots[q].ctl[1] = 1
	}
	for i := range m.cfg.N {
		x := &t.nodes[i]
		x.asked |= x.member >> last & 1 << q
	}
	t.key.slot, t.key.state, t.key.gate = q, keyFencing, gate
}

func (m *machine) controllerMoves(s *state, p uint8) {
	q := &s.slots[p]
	for c := range uint8(2) {
		if q.ctl[c] == 1 {
			for i := range uint8(m.cfg.N) {
				m.promise(s, p, c, i)
			}
			m.choose(s, p, c)
		}
		if q.ctl[c] == 2 || c == 0 && q.promoted {
			for i := range uint8(m.cfg.N) {
				m.adopt(s, p, c, i)
			}
		}
		if q.ctl[c] == 2 {
			m.activate(s, p, c)
		}
	}
}

// live reports whether a transaction of slot p's plan can still succeed.
func (m *machine) live(s *state, p uint8) bool { return s.key.slot == p }

// promise is F2 at one node: it syncs what it has, swears, and answers.
func (m *machine) promise(s *state, p, c, i uint8) {
	x := &s.nodes[i]
	if x.asked&(1<<p) == 0 || x.limbo != knows || !m.allows(s, x.prom, p) || x.rep[p][c].ok != 0 || x.term == p {
		return
	}
	useful := m.live(s, p) && s.key.state == keyFencing || m.broken[ChoiceRecorded]
	if x.prom == p && !useful {
		return
	}
	old := x.prom
	swear := func(n *node) {
		n.prom, n.sworn = p, m.higher(s, n.sworn, p)
		if !m.broken[PromiseOnDisk] {
			n.disk = p
		}
		if !m.broken[AckAfterSync] {
			n.synced = n.n
		}
	}
	if !useful {
		// The plan is superseded and does not know: only the promise counts.
		y := m.add(s, move{kind: mvPromiseLost, p: p, c: c, i: i})
		swear(&y.to.nodes[i])
		return
	}
	y := m.add(s, move{kind: mvPromise, p: p, c: c, i: i})
	n := &y.to.nodes[i]
	swear(n)
	r := reply{ok: 1, term: x.term, n: n.synced, log: n.log}
	if m.broken[AckAfterSync] {
		r.n = n.n
	}
	// A log that does not reach to where its last terms begin cannot vouch for them.
	for r.term != 0 && s.slots[r.term].base > r.n {
		r.term = s.slots[r.term].ch[0].term
	}
	if m.broken[AdoptedEpoch] && s.slots[old].epoch > s.slots[r.term].epoch && old != p {
		r.term = old
	}
	n.rep[p][c] = r
	y.bad = m.ack(&y.to, i)
	if int(s.used.losses) < m.cfg.Losses && x.prom != p {
		z := m.add(s, move{kind: mvPromiseLost, p: p, c: c, i: i, v: 1})
		z.to.used.losses++
		swear(&z.to.nodes[i])
	}
}

// choose is F3: one transaction writes the best head into the record.
func (m *machine) choose(s *state, p, c uint8) {
	q := &s.slots[p]
	recorded := !m.broken[ChoiceRecorded]
	if recorded && (!m.live(s, p) || s.key.state != keyFencing) {
		return
	}
	have, asked := 0, 0
	for i := range m.cfg.N {
		x := &s.nodes[i]
		asked += int(x.asked >> p & 1)
		have += int(x.rep[p][c].ok)
	}
	need := asked - int(q.fenceW) + 1
	if m.broken[FenceQuorum] {
		need = 1
	}
	if have < need {
		return
	}
	var seen [NodesMax]*reply
	for i := range m.cfg.N {
		r := &s.nodes[i].rep[p][c]
		if r.ok == 0 || m.beaten(s, p, c, r) {
			continue
		}
		dup := false
		for _, o := range seen[:i] {
			dup = dup || o != nil && *o == *r
		}
		if seen[i] = r; dup {
			continue
		}
		x := m.add(s, move{kind: mvChoose, p: p, c: c, i: uint8(i)})
		t := &x.to
		w := &t.slots[p]
		w.ch[c] = choice{n: r.n, term: r.term, log: r.log}
		for k := r.n; k < LogMax; k++ {
			w.ch[c].log[k] = 0
		}
		w.ctl[c] = 2
		if recorded {
			w.ctl = [2]uint8{2, 0}
			w.ch = [2]choice{w.ch[c], {}}
			t.key.state = keyRecovering
		}
		for j := range m.cfg.N {
			if recorded {
				t.nodes[j].rep[p] = [2]reply{}
			}
			t.nodes[j].rep[p][c] = reply{}
		}
		if q.expect != 0 && q.expect != r.n+1 {
			x.bad = violation{I17, "the head differs from the one handed over"}
		}
	}
}

// beaten reports whether some reply is better than r.
func (m *machine) beaten(s *state, p, c uint8, r *reply) bool {
	for i := range m.cfg.N {
		o := &s.nodes[i].rep[p][c]
		if o.ok == 0 {
			continue
		}
		a, b := s.slots[o.term].epoch, s.slots[r.term].epoch
		if a > b && !m.broken[EpochFirst] || (a == b || m.broken[EpochFirst]) && o.n > r.n {
			return true
		}
	}
	return false
}

// adopt is F5 at one node, in time or late.
func (m *machine) adopt(s *state, p, c, i uint8) {
	x, q := &s.nodes[i], &s.slots[p]
	if !m.allows(s, x.prom, p) || x.term == p || x.limbo == lost {
		return
	}
	ch := &q.ch[c]
	common := uint8(0)
	for common < min(ch.n, x.n) && x.log[common] == ch.log[common] {
		common++
	}
	cuts := violation{}
	for k := common; k < x.n && q.expect != 0; k++ {
		if s.slots[sealedBy(x.log[k])].handedOver(q.expect) {
			cuts = violation{I17, "a batch of the writer that handed over is cut"}
		}
	}
	if m.cfg.Halfway {
		for n := common; n < max(ch.n, 1); n++ {
			if x.prom == p && x.n == n && common == n {
				continue
			}
			y := m.add(s, move{kind: mvHalfway, p: p, c: c, i: i, v: n})
			m.take(&y.to, p, i, ch, n)
			y.bad = cuts
		}
	}
	y := m.add(s, move{kind: mvAdopt, p: p, c: c, i: i})
	t := &y.to
	m.take(t, p, i, ch, ch.n)
	n := &t.nodes[i]
	n.term = p
	if n.limbo != knows {
		n.target = unheard
	}
	if !q.promoted {
		n.adopted[c] |= 1 << p
	}
	y.bad = cuts
	if bad := m.ack(t, i); bad.inv != "" {
		y.bad = bad
	}
}

// handedOver reports whether q is the slot that handed over the head expect-1:
// the newest one, and it ended there.
func (w *slot) handedOver(expect uint8) bool {
	return w.promoted && !w.active && w.n+1 == expect && w.drain
}

// take swears p and makes node i's log the first n batches of ch.
func (m *machine) take(t *state, p, i uint8, ch *choice, n uint8) {
	x := &t.nodes[i]
	x.prom, x.disk, x.sworn = p, p, m.higher(t, x.sworn, p)
	x.log = blog{}
	copy(x.log[:n], ch.log[:n])
	x.n, x.synced = n, n
	if x.limbo != knows {
		x.target = unheard
	}
}

// activate is F6.
func (m *machine) activate(s *state, p, c uint8) {
	q := &s.slots[p]
	compares := m.live(s, p) && (s.key.state == keyRecovering || m.broken[ChoiceRecorded] && s.key.state == keyFencing)
	if !compares && !m.broken[ActivateCompare] {
		return
	}
	joined := 0
	for i := range m.cfg.N {
		joined += int(s.nodes[i].adopted[c] >> p & 1)
	}
	w, shrunk := m.cfg.W, false
	switch {
	case joined >= w:
	case m.broken[AdoptQuorum] && joined >= 1:
	case m.cfg.Shrink && joined >= 1:
		w, shrunk = joined, true
	default:
		return
	}
	x := m.add(s, move{kind: mvActivate, p: p, c: c})
	t := &x.to
	a := &t.slots[p]
	ch := q.ch[c]
	a.ch, a.ctl = [2]choice{ch, {}}, [2]uint8{}
	a.promoted, a.active, a.w = true, true, uint8(w)
	a.base, a.n, a.d, a.a, a.log = ch.n, ch.n, ch.n, ch.n, ch.log
	if a.kind == acquire && !m.resume(t, p) {
		m.out = m.out[:len(m.out)-1]
		return
	}
	a.gateNow = holding
	if a.gate == gateDegraded {
		a.gateNow = enforcing // what a new writer finds is shipped before anything goes beyond D again
	}
	if m.broken[RegateAfterStart] && a.kind == acquire {
		a.a = a.n
	}
	if joined < w {
		x.bad = violation{I14, "opened with fewer adopters than its quorum"}
	}
	for i := range m.cfg.N {
		n := &t.nodes[i]
		in := n.adopted[c]&(1<<p) != 0
		n.asked &^= 1 << p
		n.adopted[0], n.adopted[1] = n.adopted[0]&^(1<<p), n.adopted[1]&^(1<<p)
		n.rep[p] = [2]reply{}
		if !shrunk || in {
			n.member |= 1 << p
		}
		if in && n.limbo == informed && n.term == p {
			n.limbo, n.target = knows, 0 // the record that opens the epoch names what adopted it
		}
	}
	t.key.slot, t.key.state, t.key.gate, t.key.last, t.key.handed = p, keyActive, a.gate, p, 0
	if a.kind == failover && a.gate != gateArmed {
		for e := uint8(1); e <= t.count; e++ {
			if t.slots[e].promoted && t.slots[e].epoch < a.epoch {
				t.slots[e].off = true
			}
		}
	}
	for i := range m.cfg.N {
		if bad := m.ack(t, uint8(i)); bad.inv != "" && x.bad.inv == "" {
			x.bad = bad
		}
	}
}

// resume lets a restarted agent prove its journal against the chosen head and
// seal the rest of it again; false when the journal is another history.
func (m *machine) resume(t *state, p uint8) bool {
	a := &t.slots[p]
	for e := range t.slots {
		old := &t.slots[e]
		if !old.journal {
			continue
		}
		old.journal = false
		if old.n < a.n {
			return false
		}
		for k := range a.n {
			if content(old.log[k]) != content(a.log[k]) {
				return false
			}
		}
		for k := a.n; k < old.n; k++ {
			a.log[k] = reseal(old.log[k], p)
		}
		a.n, a.owed = old.n, old.n
	}
	return true
}

// --- the gate and the handover ---

func (m *machine) gateMoves(s *state, p uint8) {
	w := &s.slots[p]
	mine := s.key.slot == p && (s.key.state == keyActive || s.key.state == keySwitching)
	if int(s.used.degrades) < m.cfg.Degrades && w.gateNow == holding && (mine && m.trusted(s) || m.broken[DegradeRecorded]) {
		x := m.add(s, move{kind: mvDegrade, p: p})
		x.to.used.degrades++
		if !m.broken[DegradeRecorded] {
			x.to.key.gate = gateDegraded
		}
		x.to.slots[p].gateNow = opened
		x.to.slots[p].release()
	}
	if int(s.used.degrades) < m.cfg.Degrades && w.gateNow == enforcing && w.d >= w.owed && mine && s.key.gate == gateDegraded {
		x := m.add(s, move{kind: mvReopen, p: p})
		x.to.used.degrades++
		x.to.slots[p].gateNow = opened
		x.to.slots[p].release()
	}
	if w.gateNow == opened && !m.broken[RearmEnforced] {
		x := m.add(s, move{kind: mvEnforce, p: p})
		x.to.slots[p].gateNow = enforcing
	}
	covered := m.proven(s, p) && w.d >= w.a && (w.d >= w.owed || m.broken[RearmCovered])
	if mine && s.key.gate != gateArmed && (covered && w.gateNow != opened || m.broken[RearmEnforced] && w.gateNow == opened) {
		x := m.add(s, move{kind: mvRearm, p: p})
		x.to.key.gate = gateArmed
		if !m.broken[RearmEnforced] {
			x.to.slots[p].gateNow = holding
		}
	}
	m.switchMoves(s, p)
}

// trusted reports whether the record may be built on: it says UNKNOWN after the
// registry was put back, until a writer has shown that it is still the one.
func (m *machine) trusted(s *state) bool { return s.key.gate != gateUnknown || m.broken[RearmProven] }

// proven reports whether p may record ARMED as far as its standing goes: from
// UNKNOWN it takes W members that stand by its epoch now.
func (m *machine) proven(s *state, p uint8) bool {
	if m.trusted(s) {
		return true
	}
	stand := uint8(0)
	for i := range m.cfg.N {
		x := &s.nodes[i]
		if x.member&(1<<p) != 0 && x.limbo == knows && x.prom == p && x.disk == p && x.term == p {
			stand++
		}
	}
	return stand >= s.slots[p].w
}

func (m *machine) switchMoves(s *state, p uint8) {
	w := &s.slots[p]
	active, switching := s.key == key{p, keyActive, s.key.gate, p, 0}, s.key == key{p, keySwitching, s.key.gate, p, 0}
	if active && m.trusted(s) && int(s.used.switches) < m.cfg.Switches {
		x := m.add(s, move{kind: mvSwitch, p: p})
		x.to.used.switches++
		x.to.key.state = keySwitching
	}
	if switching && !w.drain {
		m.add(s, move{kind: mvDrain, p: p}).to.slots[p].drain = true
	}
	if w.drain && (switching || m.broken[HandoverCompare]) && w.d >= w.a && (w.d == w.n || m.broken[HandoverDurable]) {
		x := m.add(s, move{kind: mvHandover, p: p})
		x.to.key.slot, x.to.key.state, x.to.key.last, x.to.key.handed = p, keyDemoted, p, w.n+1
		x.to.slots[p].active = m.broken[HandedOver]
		x.to.slots[p].drain = !m.broken[HandedOver]
	}
	if switching {
		x := m.add(s, move{kind: mvAbort, p: p})
		x.to.key.state = keyActive
	}
	if active && w.drain {
		m.add(s, move{kind: mvResume, p: p}).to.slots[p].drain = false
	}
}
