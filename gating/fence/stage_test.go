package fence_test

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// stage is a world in which a story is played: one stream, its nodes, any number
// of writers and controllers, and nothing happens but what the story says. It
// checks the invariants of PROTOCOL 4.10 that concern one stream after every
// move, and stops at the first that is broken.
type stage struct {
	ids     map[string][16]byte
	stream  tidegate.StreamID
	nodes   map[tidegate.NodeName]*player
	key     fence.KeyState
	backup  *fence.KeyState
	now     tidegate.Instant // boot clock of every machine
	exposed map[tidegate.Seq]tidegate.Chain
	writers []*author
	heads   map[string][]tidegate.LogPos // log of the head that a record names, by its chain
	issued  map[tidegate.Epoch]fence.Holder
	last    fence.EpochRecord // newest ACTIVE
}

// over ends a story: an invariant or an expectation does not hold.
type over struct{ why string }

func (s *stage) fail(format string, a ...any) { panic(over{fmt.Sprintf(format, a...)}) }

// want is an expectation of the story.
func (s *stage) want(ok bool, format string, a ...any) {
	if !ok {
		s.fail(format, a...)
	}
}

// play plays a story and returns what ended it before its end; "" when nothing did.
func play(story func(*stage)) (why string) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case over:
			why = r.why
		default:
			panic(r)
		}
	}()
	story(&stage{
		ids: map[string][16]byte{}, nodes: map[tidegate.NodeName]*player{}, exposed: map[tidegate.Seq]tidegate.Chain{},
		heads: map[string][]tidegate.LogPos{}, issued: map[tidegate.Epoch]fence.Holder{}, now: tidegate.Instant(time.Hour),
	})
	return ""
}

func (s *stage) id(name string) [16]byte {
	id, ok := s.ids[name]
	if !ok {
		id = [16]byte{byte(len(s.ids) + 1), 15: 0xee}
		s.ids[name] = id
	}
	return id
}

// holder returns the run named "node#n"; nodes named p live in the east.
func (s *stage) holder(run string) fence.Holder {
	node, _, _ := strings.Cut(run, "#")
	site := tidegate.SiteName("west")
	if node[0] == 'p' {
		site = "east"
	}
	return fence.Holder{Node: tidegate.NodeName(node), Site: site, UUID: s.id(run)}
}

// cast formats nodes and registers the stream over the first n of them.
func (s *stage) cast(n, w, spare int, gate fence.GateRecord) {
	s.stream = s.id("stream")
	cfg := fence.Config{W: w}
	for i := range n + spare {
		name := tidegate.NodeName(fmt.Sprintf("n%d", i))
		p := &player{s: s, name: name, up: true}
		p.meta = fence.FormatMeta(s.stream, fence.Member{Node: name, Incarnation: s.id(string(name) + "/1")})
		s.nodes[name] = p
		if i < n {
			cfg.Members = append(cfg.Members, p.meta.Member())
		}
	}
	rec, err := fence.NewRecord(s.stream, cfg, gate)
	s.must(err)
	s.key = fence.KeyState{Stream: s.stream, Revision: 1, Record: rec}
	for _, name := range s.names() {
		s.nodes[name].start()
		s.nodes[name].watch(true)
	}
}

var armed = fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}

func (s *stage) must(err error) {
	if err != nil {
		s.fail("%v", err)
	}
}

func (s *stage) names() []tidegate.NodeName {
	var ns []tidegate.NodeName
	for n := range s.nodes {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}

func (s *stage) pass(d time.Duration) { s.now += tidegate.Instant(d) }

// --- the registry ---

// put writes the key, and checks what every change of it must keep.
func (s *stage) put(rec fence.EpochRecord) {
	was := s.key.Record
	s.must(rec.Validate())
	if s.backup == nil && (rec.Epoch < was.Epoch || rec.ActiveEpoch < was.ActiveEpoch) {
		s.fail("I1: the record goes back from epoch %s to %s", was.Epoch, rec.Epoch)
	}
	if was.State == fence.StateDemoted && was.Handover != nil && rec.Epoch == was.Epoch && rec.State != fence.StateDemoted {
		s.fail("I17: handed over, and %s again in the same epoch", rec.State)
	}
	s.key.Revision++
	s.key.Record = rec.Clone()
	if rec.State == fence.StateActive && rec.Epoch != was.ActiveEpoch {
		s.opened()
	}
}

// opened checks a new ACTIVE record: I1, I6, I14, I16, I17.
func (s *stage) opened() {
	r := s.key.Record
	if h, ok := s.issued[r.Epoch]; ok && h != r.Holder {
		s.fail("I1: epoch %s belongs to %s and to %s", r.Epoch, h, r.Holder)
	}
	s.issued[r.Epoch] = r.Holder
	log := s.logOf(r.Head)
	for seq, chain := range s.exposed {
		if r.Unclean && (int(seq) > len(log) || log[seq-1].Chain != chain) {
			delete(s.exposed, seq) // it says so
		}
	}
	for seq, chain := range s.exposed {
		if int(seq) > len(log) || log[seq-1].Chain != chain {
			s.fail("I6: %s was released and epoch %s begins without it, after %s", seq, r.Epoch, r.Head)
		}
	}
	for _, w := range s.writers {
		if w.self != r.Holder && w.leased() {
			s.fail("I16: epoch %s of %s is open and %s may still put things out", r.Epoch, r.Holder, w.self)
		}
	}
	if h := r.Handover; h != nil && r.Kind == fence.KindSwitchover && h.Head != r.Head {
		s.fail("I17: handed over at %s, opened at %s", h.Head, r.Head)
	}
	s.last = r
}

// logOf returns the log that ends at p: of whichever node holds it.
func (s *stage) logOf(p tidegate.LogPos) []tidegate.LogPos {
	if p.Seq == 0 {
		return nil
	}
	key := p.String() + p.Chain.String()
	for _, n := range s.names() {
		if l := s.nodes[n].log; len(l) >= int(p.Seq) && l[p.Seq-1] == p {
			s.heads[key] = slices.Clone(l[:p.Seq])
		}
	}
	if l, ok := s.heads[key]; ok {
		return l
	}
	s.fail("nobody holds %s", p)
	return nil
}

// restore puts the registry back to the backup, with its revisions moved forward.
func (s *stage) restore() {
	s.key.Record, s.key.Revision = s.backup.Record.Clone(), s.key.Revision+1000
}

func (s *stage) save() {
	k := s.key
	k.Record = k.Record.Clone()
	s.backup = &k
}

// --- nodes ---

// player is a standby node. What it does is carried out at once, unless it is
// held: then it waits, and a crash loses it.
type player struct {
	s       *stage
	name    tidegate.NodeName
	n       *fence.Node
	meta    fence.NodeMeta
	log     []tidegate.LogPos
	synced  int
	up      bool
	held    bool
	waiting []func()
	call    uint64
	answers map[uint64]fence.NodeEffect
	swore   tidegate.Epoch // highest promise replied, by any incarnation
	applied tidegate.Seq
}

func (p *player) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	switch {
	case seq == 0:
		return tidegate.LogPos{}, nil
	case int(seq) > len(p.log):
		return tidegate.LogPos{}, tidegate.ErrNotFound
	}
	return p.log[seq-1], nil
}

func (p *player) end() tidegate.LogPos { at, _ := p.At(tidegate.Seq(len(p.log))); return at }

func (p *player) start() {
	var effects []fence.NodeEffect
	p.held, p.waiting, p.answers = false, nil, map[uint64]fence.NodeEffect{}
	p.n, effects = fence.NewNode(p.meta, p.end(), p)
	p.do(effects)
	p.step(fence.Started{Now: p.s.now})
}

// crash loses what was not synced, and what was under way.
func (p *player) crash() {
	p.log = p.log[:p.synced]
	p.start()
}

// wipe is a node whose disk was replaced: another incarnation.
func (p *player) wipe() {
	p.meta = fence.FormatMeta(p.s.stream, fence.Member{Node: p.name, Incarnation: p.s.id(string(p.name) + "/2")})
	p.log, p.synced, p.applied = nil, 0, 0
	p.start()
}

func (p *player) watch(fresh bool) {
	p.step(fence.RecordRead{Record: p.s.key.Record.Clone(), Fresh: fresh})
}

func (p *player) step(ev fence.NodeEvent) { p.do(p.n.Step(ev)) }

func (p *player) later(fn func()) {
	core := p.n
	p.waiting = append(p.waiting, func() {
		if p.n == core {
			fn()
		}
	})
	for !p.held && len(p.waiting) > 0 {
		next := p.waiting[0]
		p.waiting = p.waiting[1:]
		next()
	}
}

func (p *player) do(effects []fence.NodeEffect) {
	for _, e := range effects {
		switch e := e.(type) {
		case fence.Persist:
			p.later(func() { p.meta = e.Meta; p.step(fence.Persisted{Token: e.Token}) })
		case fence.Sync:
			p.later(func() { p.synced = len(p.log); p.step(fence.Synced{Token: e.Token, End: p.end()}) })
		case fence.AskChain:
			p.later(func() {
				at, err := p.s.nodes[e.Source].At(e.Seq)
				p.step(fence.ChainRead{Token: e.Token, Pos: at, Err: err})
			})
		case fence.Cut:
			p.later(func() { p.cut(e) })
		case fence.Fetch:
			p.later(func() { p.fetch(e) })
		case fence.CancelFetch:
			p.later(func() { p.step(fence.Fetched{Token: e.Token, End: p.end(), Err: tidegate.ErrStopped}) })
		case fence.ReplyFence:
			if r := e.Reply; !r.Refused && r.Leased == 0 {
				p.swore = max(p.swore, r.Promise.Epoch)
			}
			p.answers[e.Call] = e
		case fence.ReplyAdopt:
			p.answers[e.Call] = e
		case fence.ReplyPromote:
			p.answers[e.Call] = e
		case fence.ReplyLease:
			p.answers[e.Call] = e
		}
	}
	if p.n != nil {
		p.applied = max(p.applied, p.n.ApplyTo())
	}
}

func (p *player) cut(e fence.Cut) {
	if p.applied > e.To.Seq && !e.Committed {
		p.s.fail("I24: %s applied through %s and its log is cut to %s", p.name, p.applied, e.To.Seq)
	}
	p.log = p.log[:e.To.Seq]
	p.synced = min(p.synced, len(p.log))
	p.step(fence.CutDone{Token: e.Token, End: p.end()})
}

func (p *player) fetch(e fence.Fetch) {
	src := p.s.nodes[e.Source]
	var err error
	for seq := e.From.Seq + 1; seq <= e.To.Seq && err == nil; seq++ {
		var at tidegate.LogPos
		if at, err = src.At(seq); err == nil {
			p.log = append(p.log, at)
		}
	}
	p.step(fence.Fetched{Token: e.Token, End: p.end(), Err: err})
}

// ask puts a request to the core and returns its answer; nil while there is none.
func (p *player) ask(ev func(call uint64) fence.NodeEvent) fence.NodeEffect {
	p.call++
	p.step(ev(p.call))
	return p.answers[p.call]
}

// durable fsyncs the log and returns the ack. (I5)
func (p *player) durable() (fence.Ack, bool) {
	p.synced = len(p.log)
	p.n.Durable(p.end())
	return p.ack()
}

// ack is what the node says now.
func (p *player) ack() (fence.Ack, bool) {
	k, ok := p.n.Ack()
	if ok && k.Epoch < p.swore {
		p.s.fail("I5: %s acknowledges under epoch %s and had promised %s", p.name, k.Epoch, p.swore)
	}
	return k, ok
}

// readopt is the gate's offer to a node that missed F5, or that learns.
func (p *player) readopt(rec fence.EpochRecord, source tidegate.NodeName) bool {
	req, due := rec.AdoptFor(p.n.Adopted().Epoch, source)
	if !due {
		return false
	}
	a, ok := p.ask(func(call uint64) fence.NodeEvent { return fence.AdoptAsked{Call: call, Req: req} }).(fence.ReplyAdopt)
	return ok && a.Reply.Adopted
}

// --- writers ---

// author is one writer, with its own log.
type author struct {
	s    *stage
	self fence.Holder
	w    *fence.Writer
	log  []tidegate.LogPos
	open bool // its gate lets it put out what is not durable, while a lease runs
}

// author starts the writer that the record names.
func (s *stage) author() *author {
	r := s.key.Record
	w, err := fence.NewWriter(r.Holder, r)
	s.must(err)
	a := &author{s: s, self: r.Holder, w: w, log: slices.Clone(s.logOf(r.Head)), open: !r.Gate.Holds()}
	s.writers = append(s.writers, a)
	return a
}

// seal makes n batches.
func (a *author) seal(n int) {
	for range n {
		prev := a.w.End()
		at := tidegate.LogPos{Epoch: a.w.Epoch(), Seq: prev.Seq + 1}
		h := fnv.New128a()
		fmt.Fprintf(h, "%s %s %d", prev.Chain, a.self.UUID, at.Epoch)
		h.Sum(at.Chain[:0])
		a.s.must(a.w.Sealed(at))
		a.log = append(a.log, at)
	}
}

// ship brings a node all that it lacks, fsyncs it there, and takes its ack.
func (a *author) ship(names ...tidegate.NodeName) {
	for _, name := range names {
		if p := a.s.nodes[name]; a.append(p) {
			if ack, ok := p.durable(); ok {
				a.ack(ack)
			}
		}
		a.s.logs()
	}
}

// append brings a node all that it lacks, and no further than its memory.
func (a *author) append(p *player) bool {
	for int(p.n.EndPos().Seq) < len(a.log) {
		at := a.log[p.n.EndPos().Seq]
		if err := p.n.CheckAppend(a.w.Epoch(), a.self.UUID, at.Epoch); err != nil {
			if tidegate.ClassOf(err) == tidegate.Fenced {
				a.w.OnRefused(p.n.Promise())
			}
			return false
		}
		p.log = append(p.log, at)
		p.n.Received(at)
	}
	return true
}

// ack counts what a node says, and releases what that allows. (I7)
func (a *author) ack(k fence.Ack) {
	if _, fenced := a.w.Fenced(); fenced {
		return
	}
	a.w.OnAck(k)
	for seq := tidegate.Seq(1); seq <= a.w.Durable(); seq++ {
		a.expose(seq)
	}
}

func (a *author) expose(seq tidegate.Seq) {
	chain := a.log[seq-1].Chain
	if was, ok := a.s.exposed[seq]; ok && was != chain {
		a.s.fail("I7: two batches were released at %s", seq)
	}
	a.s.exposed[seq] = chain
}

// commit tells the nodes what is durable.
func (a *author) commit() {
	for _, n := range a.s.names() {
		p := a.s.nodes[n]
		p.n.Commit(a.w.Epoch(), a.self.UUID, a.w.Durable())
		p.do(nil)
	}
}

// lease asks the named nodes for a lease, and takes their grants after late.
func (a *author) lease(ttl, late time.Duration, names ...tidegate.NodeName) (granted int) {
	number := a.w.AskLease(a.s.now, ttl)
	var got []fence.LeaseReply
	for _, name := range names {
		req := fence.LeaseRequest{Stream: a.s.stream, Epoch: a.w.Epoch(), Holder: a.self.UUID, TTL: ttl}
		r, ok := a.s.nodes[name].ask(func(call uint64) fence.NodeEvent {
			return fence.LeaseAsked{Call: call, Req: req, Now: a.s.now}
		}).(fence.ReplyLease)
		if ok && r.Reply.Granted {
			got = append(got, r.Reply)
		}
	}
	a.s.pass(late)
	for _, r := range got {
		a.w.OnLease(r.Member, r.Epoch, number, a.s.now)
	}
	return len(got)
}

// leased reports whether the writer may put out what is not durable now.
func (a *author) leased() bool { return a.open && a.w.LeaseUntil() > a.s.now }

// handOver is S5, with the writer's log as it stands.
func (a *author) handOver() error {
	h := fence.Handover{Head: a.w.End(), Position: tidegate.Position(a.w.End().Seq)}
	rec, err := a.s.key.Record.HandOver(fence.Promise{Epoch: a.w.Epoch(), Holder: a.self.UUID}, h)
	if err == nil {
		a.s.put(rec)
		a.w.OnRecord(rec)
	}
	return err
}

// logs checks I8 over all pairs of nodes.
func (s *stage) logs() {
	for _, n := range s.names() {
		for _, m := range s.names() {
			a, b := s.nodes[n].log, s.nodes[m].log
			differ := false
			for i := range min(len(a), len(b)) {
				if a[i].Chain != b[i].Chain {
					differ = true
				} else if differ {
					s.fail("I8: %s and %s agree at %d and not before", n, m, i+1)
				}
			}
		}
	}
}
