package fence

import (
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// chainsAside bounds the batches that W members have stored, and that are not D yet, of
// which the chains are kept: 2 MiB of them. An ack for one from before is not counted, the
// member's next one beyond it is.
const chainsAside = 1 << 16

// WriterInFlightMax bounds the batches sealed beyond what W members have stored:
// their chains are kept to check acks against.
const WriterInFlightMax = 1 << 20

// Writer is the holder's part of one stream in one epoch: it counts acks, says
// how far the log is durable, chooses the relay, and steps down for good as soon
// as anybody proves that a newer epoch exists.
//
// Invariants:
//  1. D never falls, and D <= End (I9)
//  2. only acks of this epoch count, only of members whose node and incarnation
//     the record names, only once per stamp, and none of a distrusted member
//  3. the chain of every batch in [known, End] is kept; D <= known <= kept
//  4. a lease counts only from members that count, under this epoch, from before
//     it was asked for
//
// Not safe for concurrent use.
type Writer struct {
	self    Holder
	epoch   tidegate.Epoch
	rec     EpochRecord
	members []peer     // of rec.Config, same order
	limbo   []peer     // nodes, or incarnations of members, that the record does not name
	asks    []leaseAsk // that may still be granted, oldest first; their numbers have no gaps
	lastAsk uint64
	gaveUp  bool // the record says DEMOTED
	end     tidegate.LogPos
	chains  []tidegate.Chain // ring; chain of seq s at s % len; covers [known, end]
	d       tidegate.Seq
	known   tidegate.Seq // lowest seq whose chain is kept
	kept    tidegate.Seq // stored by W members, D or beyond: nobody has to be fed it from here
	oldest  tidegate.Seq // lowest seq in the shell's ring; 0: nothing below kept+1
	fenced  bool
	by      Promise
	relay   tidegate.NodeName // dialled or attached; "" when none
	up      bool
	fails   uint64
	out     []WriterEffect
}

// peer is what the writer knows of one member.
type peer struct {
	Member
	stamp      uint64
	received   tidegate.Seq
	durable    tidegate.Seq
	stored     tidegate.Seq
	distrusted bool
	failed     uint64       // order of its last failure as relay; 0 never
	target     tidegate.Seq // limbo: what it must reach
	told       bool         // limbo: has reached it
	lease      tidegate.Instant
}

// PeerStatus is what the writer knows of one member, for people.
type PeerStatus struct {
	Member     Member       `json:"member"`
	Named      bool         `json:"named"` // its acks count
	Received   tidegate.Seq `json:"received"`
	Durable    tidegate.Seq `json:"durable"`
	Distrusted bool         `json:"distrusted,omitempty"`
	Relay      bool         `json:"relay,omitempty"`
	Learner    bool         `json:"learner,omitempty"`   // of a node that the configuration does not have
	CaughtUp   bool         `json:"caught_up,omitempty"` // not named: has had all that was sealed when it was first heard of
}

// NewWriter starts the writer of an ACTIVE record that names self. D starts at
// the record's head: W members adopted the epoch with it.
func NewWriter(self Holder, rec EpochRecord) (*Writer, error) {
	if rec.State != StateActive || rec.Holder != self {
		return nil, &tidegate.Error{
			Op: "start writer", Subject: rec.Stream.String(), Class: tidegate.Fenced,
			Err: fmt.Errorf("record is %s of %s: %w", rec.State, rec.Holder, tidegate.ErrFenced),
		}
	}
	if err := rec.Validate(); err != nil {
		return nil, err
	}
	w := &Writer{
		self: self, epoch: rec.Epoch, rec: rec.Clone(), end: rec.Head, d: rec.Head.Seq, known: rec.Head.Seq, kept: rec.Head.Seq,
		chains: make([]tidegate.Chain, 64),
	}
	w.chains[w.slot(w.end.Seq)] = w.end.Chain
	for _, m := range rec.Config.Members {
		w.members = append(w.members, peer{Member: m})
	}
	return w, nil
}

func (w *Writer) slot(s tidegate.Seq) int { return int(s % tidegate.Seq(len(w.chains))) }

// Sealed tells that the batch at pos was sealed and may be shipped. Seqs are
// contiguous from the record's StartSeq. [tidegate.ErrFull]: too much is in
// flight, seal later; nothing has changed.
func (w *Writer) Sealed(pos tidegate.LogPos) error {
	fail := func(class tidegate.Class, err error) error {
		return &tidegate.Error{Op: "take sealed batch", Subject: pos.String(), Class: class, Err: err}
	}
	switch {
	case w.fenced:
		return fail(tidegate.Fenced, tidegate.ErrFenced)
	case w.gaveUp:
		return fail(tidegate.Fenced, fmt.Errorf("the epoch was handed over: %w", tidegate.ErrFenced))
	case pos.Epoch != w.epoch || pos.Seq != w.end.Seq+1:
		return fail(tidegate.Misuse, fmt.Errorf("after %s under epoch %s: %w", w.end, w.epoch, tidegate.ErrGap))
	case pos.Seq-w.kept >= WriterInFlightMax:
		return fail(tidegate.Transient, tidegate.ErrFull)
	}
	if int(pos.Seq-w.known) >= len(w.chains) {
		w.grow()
	}
	w.end = pos
	w.chains[w.slot(pos.Seq)] = pos.Chain
	return nil
}

func (w *Writer) grow() {
	old := w.chains
	if w.known < w.kept && len(old) >= chainsAside {
		w.known++ // one place is free
		return
	}
	w.chains = make([]tidegate.Chain, 2*len(old))
	for s := w.known; s <= w.end.Seq; s++ {
		w.chains[w.slot(s)] = old[s%tidegate.Seq(len(old))]
	}
}

// OnAck takes a node's statement, direct or relayed, in any order, repeated or
// not. Compare Durable before and after to see D advance. The returned slice is
// valid until the next call; it is nil, and nothing is allocated, in the common
// case.
func (w *Writer) OnAck(a Ack) []WriterEffect {
	w.out = w.out[:0]
	switch {
	case w.fenced, a.Epoch < w.epoch:
		return nil
	case a.Epoch > w.epoch:
		// Somebody's log has adopted a newer epoch: this one is over.
		return w.stepDown(Promise{Epoch: a.Epoch})
	}
	if i := w.rec.Config.Index(a.Node); i >= 0 {
		if p := &w.members[i]; p.Incarnation == a.Incarnation || mutate.Broken(mutate.Limbo) {
			if w.take(p, a) {
				w.advance()
			}
			return w.out
		}
	}
	w.onLimboAck(a)
	return w.out
}

// take folds an ack into p; false when it says nothing new or is not to be trusted.
func (w *Writer) take(p *peer, a Ack) bool {
	if p.distrusted || a.Stamp <= p.stamp {
		return false
	}
	why := ""
	switch {
	case a.Durable < p.durable:
		why = fmt.Sprintf("durable went back from %s to %s", p.durable, a.Durable)
	case a.Durable < w.rec.Head.Seq:
		why = fmt.Sprintf("durable %s is before the epoch's head %s", a.Durable, w.rec.Head.Seq)
	case a.Durable > w.end.Seq:
		why = fmt.Sprintf("durable %s is beyond the last sealed batch %s", a.Durable, w.end.Seq)
	case a.Durable >= w.known && w.chains[w.slot(a.Durable)] != a.Chain && !mutate.Broken(mutate.ChainCheck):
		why = fmt.Sprintf("chain at %s is %.8s, sealed was %.8s", a.Durable, a.Chain, w.chains[w.slot(a.Durable)])
	case a.Stored > w.end.Seq:
		why = fmt.Sprintf("stored %s is beyond the last sealed batch %s", a.Stored, w.end.Seq)
	}
	p.stamp = a.Stamp
	if why != "" && !mutate.Broken(mutate.Limbo) && !mutate.Broken(mutate.AckAfterSync) && !mutate.Broken(mutate.EpochCheck) {
		p.distrusted = true
		w.out = append(w.out, Distrusted{p.Member, why})
		if w.relay == p.Node {
			w.relay, w.up = "", false
			w.pick()
		}
		return false
	}
	p.received, p.stored = a.Received, max(a.Stored, a.Durable)
	if a.Durable < w.known && a.Durable > w.d {
		return true // what it was sealed as is not known here any more; its next word reaches beyond
	}
	p.durable = a.Durable
	return true
}

// onLimboAck follows a member's new incarnation until it has everything that was
// sealed when it was first heard of: by then it holds whatever its predecessor
// could have acknowledged. (I22) Learners are followed the same way; nothing is
// asked for them, the gate reads of them in [Writer.Peers].
func (w *Writer) onLimboAck(a Ack) {
	var p *peer
	for i := range w.limbo {
		if w.limbo[i].Node == a.Node {
			p = &w.limbo[i]
		}
	}
	if p == nil {
		if len(w.limbo) >= 2*MembersMax {
			return
		}
		w.limbo = append(w.limbo, peer{})
		p = &w.limbo[len(w.limbo)-1]
	}
	if m := (Member{a.Node, a.Incarnation}); p.Member != m {
		*p = peer{Member: m, target: w.end.Seq}
		if mutate.Broken(mutate.CaughtUp) {
			p.target = 0
		}
	}
	if w.take(p, a) && !p.told && p.durable >= p.target {
		p.told = true
		if w.rec.Config.Index(p.Node) >= 0 {
			w.out = append(w.out, CaughtUp{p.Member})
		}
	}
}

// advance recomputes D and kept: the W-th largest durable of the trusted members,
// and the W-th largest that they have stored.
func (w *Writer) advance() {
	var durable, stored quorum
	for i := range w.members {
		if p := &w.members[i]; !p.distrusted {
			durable.add(p.durable)
			stored.add(p.stored)
		}
	}
	if wq := w.rec.Config.W; durable.n >= wq {
		w.d = max(w.d, min(durable.top[wq-1], w.end.Seq))
		w.known = max(w.known, w.d)
		w.kept = max(w.kept, w.d, min(stored.top[wq-1], w.end.Seq))
	}
}

// quorum sorts what members have, largest first.
type quorum struct {
	top [MembersMax]tidegate.Seq
	n   int
}

func (q *quorum) add(seq tidegate.Seq) {
	j := q.n
	for ; j > 0 && q.top[j-1] < seq; j-- {
		q.top[j] = q.top[j-1]
	}
	q.top[j] = seq
	q.n++
}

// Counts reports whether acks of m count towards D: the record names this very
// incarnation, and nothing that it said was found to be wrong.
func (w *Writer) Counts(m Member) bool {
	i := w.rec.Config.Index(m.Node)
	return i >= 0 && !w.fenced && w.members[i].Member == m && !w.members[i].distrusted
}

// OnRecord takes a change of the stream's record. A record of a lower epoch is
// late, or the registry went back in time; either way it says nothing here.
func (w *Writer) OnRecord(rec EpochRecord) []WriterEffect {
	w.out = w.out[:0]
	switch {
	case w.fenced, rec.Epoch < w.epoch:
		return nil
	case rec.Promise() != (Promise{w.epoch, w.self.UUID}):
		return w.stepDown(rec.Promise())
	case rec.State == StateDemoted:
		w.gaveUp = true
		return nil
	case rec.State != StateActive && rec.State != StateSwitching:
		// A late look at how this epoch came about: its head and members are not
		// yet those of the active record.
		return nil
	}
	members := make([]peer, 0, len(rec.Config.Members))
	for _, m := range rec.Config.Members {
		p := peer{Member: m}
		for _, known := range [][]peer{w.limbo, w.members} {
			for _, k := range known {
				if k.Member == m {
					p = k
				}
			}
		}
		members = append(members, p)
	}
	w.members, w.rec = members, rec.Clone()
	limbo := w.limbo[:0]
	for _, p := range w.limbo {
		if !rec.Config.Names(p.Member) {
			limbo = append(limbo, p)
		}
	}
	w.limbo = limbo
	w.advance()
	if w.relay == "" {
		w.pick()
	}
	return w.out
}

// OnRefused takes a node's refusal that named its promise.
func (w *Writer) OnRefused(p Promise) []WriterEffect {
	w.out = w.out[:0]
	if w.fenced || p.Allows(w.epoch, w.self.UUID) {
		return nil
	}
	return w.stepDown(p)
}

func (w *Writer) stepDown(by Promise) []WriterEffect {
	w.fenced, w.by, w.relay, w.up = true, by, "", false
	w.out = append(w.out, SteppedDown{by})
	return w.out
}

// Start returns the first DialRelay.
func (w *Writer) Start() []WriterEffect {
	w.out = w.out[:0]
	if !w.fenced && w.relay == "" {
		w.pick()
	}
	return w.out
}

// pick chooses the next relay: the one that failed longest ago, then the one
// that has most, then by name. Nothing is chosen when no member is trusted.
func (w *Writer) pick() {
	best := -1
	for i := range w.members {
		p := &w.members[i]
		if p.distrusted {
			continue
		}
		if best < 0 || p.failed < w.members[best].failed ||
			p.failed == w.members[best].failed && p.durable > w.members[best].durable {
			best = i
		}
	}
	if best >= 0 {
		w.relay, w.up = w.members[best].Node, false
		w.out = append(w.out, DialRelay{w.relay})
	}
}

// RelayUp tells that the session with the dialled node is attached; received
// and durable are what the node said of its log. A node that lacks something
// that has left the ring is not fit to be the relay; another member's log will
// feed it.
func (w *Writer) RelayUp(m Member, received, durable tidegate.LogPos) []WriterEffect {
	w.out = w.out[:0]
	if w.fenced || m.Node != w.relay {
		return nil
	}
	oldest := w.kept + 1
	if w.oldest > 0 {
		oldest = min(oldest, w.oldest)
	}
	fit := received.Seq+1 >= oldest && received.Seq <= w.end.Seq && durable.Seq <= received.Seq &&
		(received.Seq < w.known || w.chains[w.slot(received.Seq)] == received.Chain)
	if !fit {
		w.down()
		return w.out
	}
	w.up = true
	w.out = append(w.out, ShipFrom{m.Node, received.Seq + 1})
	return w.out
}

// RelayDown tells that dialling or the session failed, for whatever reason that
// is not a higher promise (that is OnRefused). The next DialRelay comes at once;
// the shell paces its dialling.
func (w *Writer) RelayDown(node tidegate.NodeName, _ error) []WriterEffect {
	w.out = w.out[:0]
	if !w.fenced && node == w.relay {
		w.down()
	}
	return w.out
}

func (w *Writer) down() {
	if i := w.rec.Config.Index(w.relay); i >= 0 {
		w.fails++
		w.members[i].failed = w.fails
	}
	w.relay, w.up = "", false
	w.pick()
}

// Durable returns D: the highest seq fsynced by W members of the record that
// adopted the epoch. It never falls. It is also the commit that standbys may
// apply to.
func (w *Writer) Durable() tidegate.Seq { return w.d }

// End returns the last sealed batch.
func (w *Writer) End() tidegate.LogPos { return w.end }

// Floor returns the lowest seq that must stay in the ring: another relay may
// have to be fed from there. W members have stored all before it, which is D or
// more: while a generation's base is on its way its log counts for nothing, however
// much of it there is, and may be longer than any ring.
func (w *Writer) Floor() tidegate.Seq { return w.kept + 1 }

// Retained tells the lowest seq that the shell can still ship, when it keeps
// more than [Writer.Floor] demands: a member that lags behind D may then be the
// relay too.
func (w *Writer) Retained(oldest tidegate.Seq) { w.oldest = oldest }

// Relay returns the chosen relay and whether its session is attached.
func (w *Writer) Relay() (node tidegate.NodeName, attached bool) { return w.relay, w.up }

// Epoch returns the writer's epoch.
func (w *Writer) Epoch() tidegate.Epoch { return w.epoch }

// Record returns the record that the writer works under.
func (w *Writer) Record() EpochRecord { return w.rec.Clone() }

// CaughtUp returns the members for which ExitLimbo is due: ask again until the
// record names them.
func (w *Writer) CaughtUp() []Member {
	var ms []Member
	for _, p := range w.limbo {
		if p.told && !p.distrusted && w.rec.Config.Index(p.Node) >= 0 {
			ms = append(ms, p.Member)
		}
	}
	return ms
}

// Fenced returns the promise that ended this writer; ok is false while it may write.
func (w *Writer) Fenced() (by Promise, ok bool) { return w.by, w.fenced }

// Peers returns what is known of every member and learner, named ones first.
func (w *Writer) Peers() []PeerStatus {
	var out []PeerStatus
	for i, ps := range [][]peer{w.members, w.limbo} {
		for _, p := range ps {
			out = append(out, PeerStatus{
				Member: p.Member, Named: i == 0, Received: p.received, Durable: p.durable,
				Distrusted: p.distrusted, Relay: i == 0 && p.Node == w.relay && w.up,
				Learner: w.rec.Config.Index(p.Node) < 0, CaughtUp: p.told,
			})
		}
	}
	return out
}
