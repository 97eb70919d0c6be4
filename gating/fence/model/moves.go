package model

// moveKind is what happens in one step of the world.
type moveKind uint8

const (
	mvSeal moveKind = iota
	mvStore
	mvSync
	mvAckHeard
	mvCrash
	mvWipe
	mvReadRecord
	mvFree
	mvRestart
	mvDegrade
	mvReopen
	mvEnforce
	mvRearm
	mvSwitch
	mvDrain
	mvHandover
	mvAbort
	mvResume
	mvReserve
	mvReserveAbove
	mvPromise
	mvPromiseLost
	mvChoose
	mvHalfway
	mvAdopt
	mvActivate
	mvRestore
)

// move is one step: of slot p, its controller c, node i; v tells variants apart.
type move struct {
	kind       moveKind
	p, c, i, v uint8
}

type succ struct {
	move move
	to   state
	bad  violation
}

// machine enumerates the steps that are possible in a state. Not safe for
// concurrent use: every worker has its own.
type machine struct {
	cfg    Config
	broken [ruleCount]bool
	out    []succ
}

func newMachine(cfg Config) *machine {
	m := &machine{cfg: cfg}
	for _, r := range cfg.Broken {
		m.broken[r] = true
	}
	return m
}

// add appends a successor that starts as a copy of s.
func (m *machine) add(s *state, mv move) *succ {
	m.out = append(m.out, succ{move: mv, to: *s})
	return &m.out[len(m.out)-1]
}

// successors returns every step from s, in a fixed order. The slice is valid
// until the next call.
func (m *machine) successors(s *state) []succ {
	m.out = m.out[:0]
	for p := uint8(1); p <= s.count; p++ {
		if s.slots[p].active {
			m.writerMoves(s, p)
			m.gateMoves(s, p)
		}
		m.controllerMoves(s, p)
	}
	for i := range uint8(m.cfg.N) {
		m.nodeMoves(s, i)
	}
	m.keyMoves(s)
	for i := range m.out {
		x := &m.out[i]
		x.to.tidy(m)
		if x.bad.inv == "" || !m.looks(x.bad.inv) {
			x.bad = m.check(s, &x.to, x.move)
		}
	}
	return m.out
}

// allows says whether a promise of slot prom lets a node obey slot p.
func (m *machine) allows(s *state, prom, p uint8) bool {
	a, b := s.slots[prom].epoch, s.slots[p].epoch
	if prom == 0 {
		a = 0
	}
	return b > a || p == prom || b == a && m.broken[PromiseHolder]
}

func equalTo(a, b *blog, n uint8) bool {
	for i := range n {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// --- the holder ---

func (m *machine) writerMoves(s *state, p uint8) {
	w := &s.slots[p]
	own := w.n - max(w.base, w.owed)
	if int(w.n) < m.cfg.Log && int(own) < m.cfg.Batches && !w.drain {
		x := m.add(s, move{kind: mvSeal, p: p})
		q := &x.to.slots[p]
		q.log[q.n] = seal(p, own|2*q.run, p, q.run)
		q.n++
		q.release()
	}
	for i := range uint8(m.cfg.N) {
		if m.mayStore(s, p, i) {
			m.store(s, p, i)
		}
		if m.cfg.LateAcks && s.nodes[i].got[p] < s.nodes[i].sent[p] {
			x := m.add(s, move{kind: mvAckHeard, p: p, i: i})
			m.hear(&x.to, p, i)
		}
		m.free(s, p, i)
	}
	if int(s.used.restarts) < m.cfg.Restarts && s.key.last == p {
		m.restart(s, p)
	}
}

// release lets go what the writer's own gate lets pass. Releasing at once hides
// no behaviour: what is released later is released already, which is worse.
func (w *slot) release() {
	w.a = max(w.a, w.d)
	if w.gateNow == opened {
		w.a = w.n
	}
}

func (m *machine) mayStore(s *state, p, i uint8) bool {
	x, w := &s.nodes[i], &s.slots[p]
	if x.n >= w.n || x.limbo == lost {
		return false
	}
	promised := x.prom == p && x.disk == p || m.broken[EpochCheck] || m.broken[PromiseHolder] && s.slots[x.prom].epoch == w.epoch
	matches := x.term == p && equalTo(&x.log, &w.log, x.n)
	if m.broken[EpochCheck] {
		matches = equalTo(&x.log, &w.log, x.n)
	}
	return promised && (matches || m.broken[ChainCheck])
}

func (m *machine) store(s *state, p, i uint8) {
	x := m.add(s, move{kind: mvStore, p: p, i: i})
	n := &x.to.nodes[i]
	n.log[n.n] = s.slots[p].log[n.n]
	n.n++
	if m.broken[ChainCheck] {
		n.term = p
	}
	if m.cfg.Unsynced && !m.broken[AckAfterSync] {
		return
	}
	if !m.broken[AckAfterSync] {
		n.synced = n.n
	}
	x.bad = m.ack(&x.to, i)
}

// ack sends what node i may say of its log to the writer of its term.
func (m *machine) ack(t *state, i uint8) violation {
	x := &t.nodes[i]
	p := x.term
	owes := x.prom == p && x.disk == p
	if m.broken[NoAckAfterFence] || m.broken[EpochCheck] || m.broken[PromiseHolder] {
		owes = true
	}
	w := &t.slots[p]
	if p == 0 || !w.active || !owes {
		return violation{}
	}
	if x.limbo != knows && x.target == unheard {
		x.target = w.n
	}
	if x.limbo != knows && !m.broken[Named] {
		return violation{}
	}
	durable := x.synced
	if m.broken[AckAfterSync] {
		durable = x.n
	}
	// A writer distrusts an ack whose chain is not its own.
	trusted := durable <= w.n && equalTo(&x.log, &w.log, durable) || m.broken[EpochCheck] || m.broken[ChainCheck]
	if durable <= x.sent[p] || !trusted {
		return violation{}
	}
	x.sent[p], x.sworn = durable, m.higher(t, x.sworn, p)
	bad := m.afterFence(t, p, i, durable)
	if !m.cfg.LateAcks {
		m.hear(t, p, i)
	}
	return bad
}

func (m *machine) higher(s *state, a, b uint8) uint8 {
	if a == 0 || s.slots[b].epoch > s.slots[a].epoch {
		return b
	}
	return a
}

// hear makes the writer of p count what node i has acked.
func (m *machine) hear(t *state, p, i uint8) {
	t.nodes[i].got[p] = t.nodes[i].sent[p]
	w := &t.slots[p]
	for d := w.n; d > w.d; d-- {
		have := uint8(0)
		for j := range m.cfg.N {
			if x := &t.nodes[j]; x.member&(1<<p) != 0 && x.got[p] >= d {
				have++
			}
		}
		if have >= w.w {
			w.d = d
			break
		}
	}
	w.release()
}

// free is the exit from limbo: the record names the node's new incarnation.
func (m *machine) free(s *state, p, i uint8) {
	x := &s.nodes[i]
	if x.limbo != informed || x.term != p || x.prom != p || x.member&(1<<p) == 0 || s.key.slot != p || s.key.state != keyActive || !m.trusted(s) {
		return
	}
	if x.target == unheard || x.synced < x.target && !m.broken[CaughtUp] {
		return
	}
	y := m.add(s, move{kind: mvFree, p: p, i: i})
	n := &y.to.nodes[i]
	n.limbo, n.target = knows, 0
	n.sent[p], n.got[p] = 0, 0
	y.bad = m.ack(&y.to, i)
}

// restart kills the holder's process and starts another. The journal stays.
func (m *machine) restart(s *state, p uint8) {
	x := m.add(s, move{kind: mvRestart, p: p})
	t := &x.to
	t.used.restarts++
	w := &t.slots[p]
	if !m.broken[FreshHolder] {
		w.active, w.journal, w.drain, w.gateNow = false, true, false, holding
		return
	}
	// The second run goes on in the same epoch: it cuts the same journal into
	// batches of its own, and knows nothing of what the first one released.
	t.slots[0] = slot{epoch: w.epoch, promoted: true, n: w.n, base: w.base, d: w.d, a: w.a, log: w.log}
	w.run = 1
	for k := w.base; k < w.n; k++ {
		w.log[k] = seal(p, (k-w.base)|2, p, 1)
	}
	w.d, w.a = w.base, w.base
	for i := range t.nodes {
		t.nodes[i].sent[p], t.nodes[i].got[p] = 0, 0
	}
}

// --- nodes ---

func (m *machine) nodeMoves(s *state, i uint8) {
	x := &s.nodes[i]
	if x.synced < x.n && !m.broken[AckAfterSync] {
		y := m.add(s, move{kind: mvSync, i: i})
		y.to.nodes[i].synced = x.n
		y.bad = m.ack(&y.to, i)
	}
	if int(s.used.crashes) < m.cfg.Crashes && (x.synced < x.n || x.prom != x.disk) {
		y := m.add(s, move{kind: mvCrash, i: i})
		y.to.used.crashes++
		n := &y.to.nodes[i]
		n.cutTo(n.synced)
		n.prom = n.disk
		if s.slots[n.disk].epoch < s.slots[n.sworn].epoch {
			y.bad = violation{I1, "a promise that was given is forgotten"}
		}
	}
	if int(s.used.wipes) < m.cfg.Wipes && x.disk != 0 {
		m.wipe(s, i)
	}
	if x.limbo == lost {
		y := m.add(s, move{kind: mvReadRecord, i: i})
		n := &y.to.nodes[i]
		n.limbo = informed
		n.prom = m.higher(s, n.prom, s.key.slot)
		n.disk, n.sworn = n.prom, n.prom
	}
}

func (x *node) cutTo(n uint8) {
	for k := n; k < x.n; k++ {
		x.log[k] = 0
	}
	x.n, x.synced = n, min(x.synced, n)
}

func (m *machine) wipe(s *state, i uint8) {
	y := m.add(s, move{kind: mvWipe, i: i})
	y.to.used.wipes++
	n := &y.to.nodes[i]
	*n = node{
		limbo: lost, target: unheard,
		asked: n.asked, member: n.member, adopted: n.adopted, sent: n.sent, got: n.got, rep: n.rep,
	}
	if m.broken[ReadEpoch] {
		n.limbo = informed
	}
	if m.broken[Limbo] {
		n.limbo, n.target = knows, 0
	}
}

// tidy forgets what can no longer matter, so that equal futures are one state.
func (s *state) tidy(m *machine) {
	for p := uint8(1); p <= s.count; p++ {
		w := &s.slots[p]
		w.journal = w.journal && s.key.last == p
		if s.key.slot != p && !m.broken[ChoiceRecorded] {
			// Nothing but an overtaken promise can come of what was heard.
			for i := range m.cfg.N {
				s.nodes[i].rep[p] = [2]reply{}
			}
		}
		if w.active || !w.promoted {
			continue
		}
		for i := range m.cfg.N {
			s.nodes[i].sent[p], s.nodes[i].got[p] = 0, 0
		}
		if !w.journal {
			for k := max(w.a, w.base); k < w.n; k++ {
				w.log[k] = 0
			}
			w.n = max(w.a, w.base)
		}
	}
}
