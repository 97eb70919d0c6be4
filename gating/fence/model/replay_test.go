package model

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// TestCoresFollowTheModel walks at random through the model and makes the real
// Node, Controller and Writer take the same steps: what the model permits they
// must do, with the same outcome; what it forbids they must refuse.
//
// Outside of it: degradations and switchovers (their rules are in the record and
// the gate, not in these cores), adopts that are overtaken halfway, and answers
// beyond the quorum, for which the real controller does not wait.
func TestCoresFollowTheModel(t *testing.T) {
	worlds := []Config{
		{N: 3, W: 2, Slots: 4, Batches: 2, Log: 4, Crashes: 2, Wipes: 2, Losses: 2, Restarts: 2, Unsynced: true},
		{N: 3, W: 3, Slots: 4, Batches: 2, Log: 3, Crashes: 1, Wipes: 1, Restarts: 1},
		{N: 2, W: 1, Slots: 4, Batches: 2, Log: 3, Crashes: 2, Wipes: 1, Losses: 1, Unsynced: true},
	}
	reached := map[moveKind]int{}
	for _, cfg := range worlds {
		for seed := range uint64(1000) {
			if walk(t, cfg, seed, reached); t.Failed() {
				return
			}
		}
	}
	for _, k := range []moveKind{mvSeal, mvStore, mvSync, mvCrash, mvWipe, mvReadRecord, mvFree, mvRestart, mvReserve, mvPromise, mvPromiseLost, mvChoose, mvAdopt, mvActivate} {
		if reached[k] == 0 {
			t.Errorf("no walk took a step of kind %d", k)
		}
	}
}

func walk(t *testing.T, cfg Config, seed uint64, reached map[moveKind]int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	w := newReplica(t, cfg)
	var told []string
	defer func() {
		if t.Failed() {
			for i, l := range told {
				t.Logf("%4d. %s", i+1, l)
			}
			t.Fatalf("%s, seed %d", cfg, seed)
		}
	}()
	for range 80 {
		steps := slices.DeleteFunc(slices.Clone(w.m.successors(&w.s)), func(x succ) bool { return !w.playable(x.move) })
		if len(steps) == 0 {
			return
		}
		x := steps[rng.IntN(len(steps))]
		told = append(told, w.m.describe(&w.s, &x.to, x.move))
		before := w.s
		w.s = x.to
		w.play(&before, x.move)
		w.compare()
		reached[x.move.kind]++
		if t.Failed() {
			return
		}
	}
}

// replica is a cluster of real cores that is taken through the model's steps.
type replica struct {
	t       *testing.T
	m       *machine
	s       state
	stream  tidegate.StreamID
	nodes   []*realNode
	plans   map[uint8]*fence.Controller
	txns    map[uint8]fence.Txn // asked for and not carried out yet
	adopts  map[uint8]fence.AdoptRequest
	writers map[uint8]*fence.Writer
	key     fence.EpochRecord
	rev     int64
	draws   byte
}

// realNode is a node with a log and a disk of memory.
type realNode struct {
	w    *replica
	meta fence.NodeMeta
	node *fence.Node
	log  []tidegate.LogPos
	from uint8 // slot whose choice an adopt copies
}

func (n *realNode) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	switch {
	case seq == 0:
		return tidegate.LogPos{}, nil
	case int(seq) > len(n.log):
		return tidegate.LogPos{}, tidegate.ErrGap
	}
	return n.log[seq-1], nil
}

func (n *realNode) end() tidegate.LogPos {
	p, _ := n.At(tidegate.Seq(len(n.log)))
	return p
}

func (w *replica) id() tidegate.ID {
	w.draws++
	return tidegate.ID{1: w.draws, 0: 0xaa}
}

func holderOf(p uint8) fence.Holder {
	return fence.Holder{Node: "agent", Site: "site", UUID: tidegate.ID{0: 0xbb, 1: p}}
}

// pos is the place of batch k+1 of a log of the model, with a chain that proves
// everything before it.
func pos(l *blog, k uint8) tidegate.LogPos {
	sum := sha256.Sum256(l[:k+1])
	return tidegate.LogPos{Epoch: tidegate.Epoch(sealedBy(l[k])), Seq: tidegate.Seq(k + 1), Chain: tidegate.Chain(sum[:16])}
}

func newReplica(t *testing.T, cfg Config) *replica {
	w := &replica{
		t: t, m: newMachine(cfg), stream: tidegate.ID{0xcc},
		plans: map[uint8]*fence.Controller{}, txns: map[uint8]fence.Txn{},
		adopts: map[uint8]fence.AdoptRequest{}, writers: map[uint8]*fence.Writer{},
	}
	w.s = w.m.initial()
	members := fence.Config{W: cfg.W}
	term := fence.Term{Epoch: 1, StartSeq: 1, Holder: holderOf(1).UUID}
	for i := range cfg.N {
		n := &realNode{w: w}
		m := fence.Member{Node: tidegate.NodeName(fmt.Sprintf("n%d", i)), Incarnation: w.id()}
		members.Members = append(members.Members, m)
		n.meta = fence.FormatMeta(w.stream, m)
		n.meta.Limbo, n.meta.EpochRead = false, true
		n.meta.Promise, n.meta.History = fence.Promise{Epoch: 1, Holder: holderOf(1).UUID}, fence.History{term}
		n.start()
		w.nodes = append(w.nodes, n)
	}
	key, err := fence.NewRecord(w.stream, members, fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync, SinceSeq: 1})
	if err != nil {
		t.Fatal(err)
	}
	key.Epoch, key.ActiveEpoch, key.State, key.Holder, key.Active = 1, 1, fence.StateActive, holderOf(1), holderOf(1)
	key.History = fence.History{term}
	w.key, w.rev = key, 1
	w.adopts[1] = fence.AdoptRequest{Stream: w.stream, Epoch: 1, Holder: holderOf(1).UUID, Source: "n0", Reason: fence.ReasonDiverged}
	w.open(1)
	return w
}

// start starts the node's process from its disk; what happened before is over.
func (n *realNode) start() {
	node, effects := fence.NewNode(n.meta, n.end(), n)
	n.node = node
	n.run(effects)
}

// run carries out effects, at once and in order, and returns the last reply.
func (n *realNode) run(effects []fence.NodeEffect) (fence.FenceReply, fence.AdoptReply) {
	var promised fence.FenceReply
	var adopted fence.AdoptReply
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		var ev fence.NodeEvent
		choice := &n.w.s.slots[n.from].ch[0].log
		switch e := e.(type) {
		case fence.Persist:
			n.meta = e.Meta
			ev = fence.Persisted{Token: e.Token}
		case fence.Sync:
			ev = fence.Synced{Token: e.Token, End: n.end()}
		case fence.AskChain:
			ev = fence.ChainRead{Token: e.Token, Pos: pos(choice, uint8(e.Seq)-1)}
		case fence.Cut:
			n.log = n.log[:e.To.Seq]
			ev = fence.CutDone{Token: e.Token, End: n.end()}
		case fence.Fetch:
			for k := uint8(e.From.Seq); k < uint8(e.To.Seq); k++ {
				n.log = append(n.log, pos(choice, k))
			}
			ev = fence.Fetched{Token: e.Token, End: n.end()}
		case fence.ReplyFence:
			promised = e.Reply
		case fence.ReplyAdopt:
			adopted = e.Reply
		}
		if ev != nil {
			effects = append(n.node.Step(ev), effects...)
		}
	}
	return promised, adopted
}

// playable leaves out answers that come after the quorum: the real controller
// has asked for its transaction by then, and does not count them.
func (w *replica) playable(mv move) bool {
	_, asked := w.txns[mv.p]
	switch mv.kind {
	case mvPromise:
		return !asked
	case mvAdopt:
		return !asked || w.s.slots[mv.p].promoted
	case mvChoose, mvActivate:
		return asked
	}
	return true
}

func (w *replica) play(before *state, mv move) {
	switch mv.kind {
	case mvSeal:
		l := &w.s.slots[mv.p]
		w.noError(w.writers[mv.p].Sealed(pos(&l.log, l.n-1)))
	case mvRestart:
		delete(w.writers, mv.p)
	case mvReserve:
		w.reserve(mv.p)
	case mvChoose, mvActivate:
		w.commit(mv)
	default:
		w.playNode(before, mv, w.nodes[mv.i])
	}
}

func (w *replica) playNode(before *state, mv move, n *realNode) {
	switch mv.kind {
	case mvStore:
		epoch := tidegate.Epoch(mv.p)
		w.noError(n.node.CheckAppend(epoch, holderOf(mv.p).UUID, epoch))
		n.log = append(n.log, pos(&w.s.slots[mv.p].log, before.nodes[mv.i].n))
		n.node.Received(n.end())
		if !w.m.cfg.Unsynced {
			n.node.Durable(n.end())
			w.ack(n)
		}
	case mvSync:
		n.node.Durable(n.end())
		w.ack(n)
	case mvCrash:
		n.log = n.log[:n.node.DurablePos().Seq]
		n.start()
	case mvWipe:
		n.meta = fence.FormatMeta(w.stream, fence.Member{Node: n.meta.Node, Incarnation: w.id()})
		n.log = nil
		n.start()
	case mvReadRecord:
		n.run(n.node.Step(fence.RecordRead{Record: w.key.Clone(), Fresh: true}))
	case mvFree:
		if !slices.Contains(w.writers[mv.p].CaughtUp(), n.meta.Member()) {
			w.t.Errorf("the writer does not take %s for caught up", n.meta.Node)
			return
		}
		freed, err := w.key.ExitLimbo(w.key.Promise(), n.meta.Member())
		w.noError(err)
		w.key, w.rev = freed, w.rev+1
		w.writers[mv.p].OnRecord(w.key)
		n.run(n.node.Step(fence.RecordRead{Record: w.key.Clone()}))
		w.ack(n)
	case mvPromise, mvPromiseLost:
		w.promise(mv, n)
	case mvAdopt:
		w.adopt(mv, n)
	default:
		w.t.Errorf("no real step for %d", mv.kind)
	}
}

func (w *replica) noError(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

// ack lets the writer hear of what node n has synced.
func (w *replica) ack(n *realNode) {
	if a, ok := n.node.Ack(); ok {
		if wr := w.writers[uint8(a.Epoch)]; wr != nil {
			wr.OnAck(a)
		}
	}
}

func (w *replica) reserve(p uint8) {
	plan := fence.Plan{
		ID: tidegate.ID{0: 0xdd, 1: p}, Service: "s", Kind: fence.KindAcquire, Target: holderOf(p),
		Streams: []fence.StreamPlan{{Stream: w.stream, Name: "main"}},
	}
	c, err := fence.NewController(plan)
	if err != nil {
		w.t.Fatal(err)
	}
	w.plans[p] = c
	w.control(p, c.Start(at))
	if txn, ok := w.txns[p]; !ok || txn.Puts[0].Record.Epoch != tidegate.Epoch(w.s.slots[p].epoch) {
		w.t.Errorf("F1 asks for %+v, want epoch %d", txn.Puts, w.s.slots[p].epoch)
		return
	}
	w.carryOut(p)
}

// control answers what a controller asks of the registry, and keeps its transactions.
func (w *replica) control(p uint8, effects []fence.ControlEffect) {
	for _, e := range effects {
		switch e := e.(type) {
		case fence.ReadKeys:
			w.control(p, w.plans[p].Step(at, fence.KeysRead{Token: e.Token, Keys: []fence.KeyState{{Stream: w.stream, Revision: w.rev, Record: w.key.Clone()}}}))
		case fence.Txn:
			w.txns[p] = e
		case fence.SendAdopt:
			w.adopts[p] = e.Req
		case fence.Refuse:
			w.t.Errorf("plan %d refuses: %v", p, e.Refusal)
		}
	}
}

// carryOut commits p's transaction: the model says that its comparison holds.
func (w *replica) carryOut(p uint8) {
	txn := w.txns[p]
	delete(w.txns, p)
	if put := txn.Puts[0]; put.IfRevision != w.rev {
		w.t.Errorf("plan %d compares with revision %d, the key has %d", p, put.IfRevision, w.rev)
	}
	w.key, w.rev = txn.Puts[0].Record.Clone(), w.rev+1
	w.control(p, w.plans[p].Step(at, fence.TxnDone{Token: txn.Token, Committed: true, Revision: w.rev}))
}

func (w *replica) promise(mv move, n *realNode) {
	reply, _ := n.run(n.node.Step(fence.FenceAsked{Call: 1, Req: fence.FenceRequest{Stream: w.stream, Epoch: tidegate.Epoch(mv.p), Holder: holderOf(mv.p).UUID}}))
	if reply.Refused {
		w.t.Errorf("%s refuses to promise %d: %s", n.meta.Node, mv.p, reply.Promise)
	}
	w.ack(n)
	if mv.kind == mvPromiseLost {
		return
	}
	r := &w.s.nodes[mv.i].rep[mv.p][0]
	if got, want := reply.History.Last().Epoch, tidegate.Epoch(r.term); got != want || reply.Durable.Seq != tidegate.Seq(r.n) {
		w.t.Errorf("%s answers adopted %d, durable %d, want %d and %d", n.meta.Node, got, reply.Durable.Seq, want, r.n)
	}
	w.control(mv.p, w.plans[mv.p].Step(at, fence.FenceReplied{Reply: reply}))
}

func (w *replica) adopt(mv move, n *realNode) {
	n.from = mv.p
	_, reply := n.run(n.node.Step(fence.AdoptAsked{Call: 1, Req: w.adopts[mv.p]}))
	if !reply.Adopted {
		w.t.Errorf("%s does not adopt %d: %s", n.meta.Node, mv.p, reply.Why)
		return
	}
	w.ack(n)
	if c := w.plans[mv.p]; c != nil && !w.s.slots[mv.p].promoted {
		w.control(mv.p, c.Step(at, fence.AdoptReplied{Reply: reply}))
	}
}

func (w *replica) commit(mv move) {
	step, want := fence.StepChoose, &w.s.slots[mv.p]
	if mv.kind == mvActivate {
		step = fence.StepActivate
	}
	txn := w.txns[mv.p]
	rec := txn.Puts[0].Record
	if txn.Step != step || rec.Head.Seq != tidegate.Seq(want.ch[0].n) {
		w.t.Errorf("plan %d asks for %s with head %s, want %s with head %d", mv.p, txn.Step, rec.Head, step, want.ch[0].n)
	}
	if mv.kind == mvChoose && rec.History.Last().Epoch != tidegate.Epoch(want.ch[0].term) {
		w.t.Errorf("plan %d chooses a log of %d, want %d", mv.p, rec.History.Last().Epoch, want.ch[0].term)
	}
	w.carryOut(mv.p)
	if mv.kind == mvActivate {
		w.open(mv.p)
	}
}

// open starts the writer of slot p, with what it found in its journal, and lets
// the nodes in limbo that adopted hear of the record that names them.
func (w *replica) open(p uint8) {
	wr, err := fence.NewWriter(holderOf(p), w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.writers[p] = wr
	l := &w.s.slots[p]
	for k := l.base; k < l.n; k++ {
		w.noError(wr.Sealed(pos(&l.log, k)))
	}
	for _, n := range w.nodes {
		if n.node.Limbo() && w.key.Config.Names(n.meta.Member()) {
			n.run(n.node.Step(fence.RecordRead{Record: w.key.Clone()}))
		}
		w.ack(n)
	}
}

// compare holds the real cores against the model's state.
func (w *replica) compare() {
	for i, n := range w.nodes {
		x := &w.s.nodes[i]
		got := [...]any{n.node.Promise().Epoch, n.meta.Promise.Epoch, n.node.Meta().History.Last().Epoch, n.node.EndPos().Seq, n.node.DurablePos().Seq, n.node.Limbo()}
		want := [...]any{tidegate.Epoch(x.prom), tidegate.Epoch(x.disk), tidegate.Epoch(x.term), tidegate.Seq(x.n), tidegate.Seq(x.synced), x.limbo != knows}
		if got != want {
			w.t.Errorf("n%d: promise, on disk, adopted, received, durable, limbo are %v, want %v", i, got, want)
		}
		for p := uint8(1); p <= w.s.count; p++ {
			epoch := tidegate.Epoch(p)
			takes := n.node.CheckAppend(epoch, holderOf(p).UUID, epoch) == nil
			if want := x.prom == p && x.disk == p && x.term == p; takes != want {
				w.t.Errorf("n%d takes batches of epoch %d: %t, want %t", i, p, takes, want)
			}
			if w.m.allows(&w.s, x.prom, p) {
				continue
			}
			reply, _ := n.run(n.node.Step(fence.FenceAsked{Call: 2, Req: fence.FenceRequest{Stream: w.stream, Epoch: epoch, Holder: holderOf(p).UUID}}))
			if !reply.Refused {
				w.t.Errorf("n%d promises epoch %d after %d", i, p, x.prom)
			}
		}
	}
	w.forbidden()
	for p, wr := range w.writers {
		l := &w.s.slots[p]
		if wr.Durable() != tidegate.Seq(l.d) || wr.End().Seq != tidegate.Seq(l.n) {
			w.t.Errorf("writer %d: durable %d of %d, want %d of %d", p, wr.Durable(), wr.End().Seq, l.d, l.n)
		}
	}
	if w.key.Epoch != tidegate.Epoch(w.s.key.slot) || w.key.ActiveEpoch != tidegate.Epoch(w.s.key.last) {
		w.t.Errorf("the key has epoch %d, active %d, want %d and %d", w.key.Epoch, w.key.ActiveEpoch, w.s.key.slot, w.s.key.last)
	}
}

// forbidden looks for transactions and exits from limbo that the real cores ask
// for and the model does not permit.
func (w *replica) forbidden() {
	steps := w.m.successors(&w.s)
	permits := func(want move, any bool) bool {
		return slices.ContainsFunc(steps, func(x succ) bool {
			return x.move.kind == want.kind && x.move.p == want.p && (any || x.move.i == want.i)
		})
	}
	kinds := map[fence.PlanStep]moveKind{fence.StepChoose: mvChoose, fence.StepActivate: mvActivate}
	for p, txn := range w.txns {
		if w.s.key.slot == p && !permits(move{kind: kinds[txn.Step], p: p}, true) {
			w.t.Errorf("plan %d asks for %s too early", p, txn.Step)
		}
	}
	for i, n := range w.nodes {
		wr := w.writers[w.s.key.slot]
		if wr != nil && slices.Contains(wr.CaughtUp(), n.meta.Member()) && w.s.nodes[i].prom == w.s.key.slot &&
			!permits(move{kind: mvFree, p: w.s.key.slot, i: uint8(i)}, false) {
			w.t.Errorf("the writer takes n%d for caught up too early", i)
		}
	}
}

// at is the wall clock of every controller: it is recorded and decides nothing.
var at = time.Unix(1_700_000_000, 0)
