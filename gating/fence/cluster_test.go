package fence_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// cluster is the smallest shell around the cores: everything happens at once and
// in order, and every effect leaves a line in the trace.
type cluster struct {
	trace  strings.Builder
	names  map[[16]byte]string
	ids    int
	stream tidegate.StreamID
	nodes  []*tnode
	key    fence.KeyState
	gate   fence.GateRecord
	w      *fence.Writer
	wname  string
	log    []tidegate.LogPos // the writer's
	queue  []func()
	plan   *fence.Plan // last one saved
	kept   *fence.Plan // put aside by the command keep
	quiet  bool
	stamps map[string]uint64
}

// tnode is one standby.
type tnode struct {
	c      *cluster
	name   tidegate.NodeName
	inc    tidegate.Incarnation
	log    []tidegate.LogPos
	synced int
	meta   fence.NodeMeta
	n      *fence.Node
	up     bool
	held   bool // effects are traced but not carried out
	ctl    *tcontrol
}

// tcontrol runs one controller until its plan is over, or until it is killed.
type tcontrol struct {
	c     *cluster
	ctl   *fence.Controller
	kill  fence.PlanStep // dies when it would do anything at this step
	after int            // dies after so many effects; negative: never
	dead  bool
}

func (c *cluster) printf(format string, a ...any) {
	if !c.quiet {
		fmt.Fprintf(&c.trace, format+"\n", a...)
	}
}

func (c *cluster) id(name string) (id [16]byte) {
	c.ids++
	id[0], id[15] = byte(c.ids), 0xee
	c.names[id] = name
	return id
}

func (c *cluster) name(id [16]byte) string {
	if id == [16]byte{} {
		return "-"
	}
	if n, ok := c.names[id]; ok {
		return n
	}
	return "?"
}

func (c *cluster) promise(p fence.Promise) string {
	return fmt.Sprintf("%s/%s", p.Epoch, c.name(p.Holder))
}

func (c *cluster) member(m fence.Member) string { return c.name(m.Incarnation) }

func pos(p tidegate.LogPos) string {
	if p.Seq == 0 {
		return "0"
	}
	return fmt.Sprintf("%d@%s:%.4s", p.Seq, p.Epoch, p.Chain)
}

func (c *cluster) history(h fence.History) string {
	var parts []string
	for _, t := range h {
		parts = append(parts, fmt.Sprintf("%s@%d", t.Epoch, t.StartSeq))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func (c *cluster) node(name string) *tnode {
	for _, n := range c.nodes {
		if string(n.name) == name {
			return n
		}
	}
	panic("no node " + name)
}

func (c *cluster) run() {
	for len(c.queue) > 0 {
		fn := c.queue[0]
		c.queue = c.queue[1:]
		fn()
	}
}

func (c *cluster) later(fn func()) { c.queue = append(c.queue, fn) }

// --- commands ---

func (c *cluster) command(t *testing.T, line string) {
	words := strings.Fields(line)
	a := parseArgs(words[1:])
	switch words[0] {
	case "cluster":
		c.build(a)
	case "acquire":
		c.startPlan(t, fence.KindAcquire, a)
	case "failover":
		c.startPlan(t, fence.KindFailover, a)
	case "resume":
		c.resume(t, a)
	case "keep":
		c.kept = c.plan
	case "write":
		c.write(t, a)
	case "append":
		c.strayAppend(a)
	case "fence":
		n := c.node(a.words[0])
		n.step(fence.FenceAsked{Call: 1, Req: fence.FenceRequest{Stream: c.stream, Epoch: tidegate.Epoch(a.num("epoch", 0)), Holder: c.holder(a.vals["holder"])}})
	case "down":
		c.node(a.words[0]).up = false
	case "up":
		n := c.node(a.words[0])
		n.up = true
	case "crash":
		c.node(a.words[0]).restart()
	case "wipe":
		c.node(a.words[0]).wipe()
	case "hold", "release":
		c.node(a.words[0]).held = words[0] == "hold"
	case "watch":
		c.watch(true)
	case "stale-watch":
		c.watch(false)
	case "catch-up":
		c.catchUp(c.node(a.words[0]))
	case "readopt":
		c.readopt(c.node(a.words[0]), tidegate.NodeName(a.vals["source"]))
	case "exit-limbo":
		c.exitLimbo()
	case "relay-up", "relay-down":
		c.relay(words[0] == "relay-up", a)
	case "ack":
		c.ack(a)
	case "degrade":
		c.setGate(fence.GateDegraded)
	case "quiet":
		c.quiet = true
	case "loud":
		c.quiet = false
	case "status":
		c.status()
	default:
		t.Fatalf("unknown command %q", line)
	}
	c.run()
}

func (c *cluster) build(a args) {
	c.stream, c.stamps = c.id("s"), map[string]uint64{}
	cfg := fence.Config{W: a.num("w", 2)}
	for i := range a.num("n", 3) {
		name := fmt.Sprintf("n%d", i)
		n := &tnode{c: c, name: tidegate.NodeName(name), inc: c.id(name + "#1"), up: true}
		n.meta = fence.FormatMeta(c.stream, fence.Member{Node: n.name, Incarnation: n.inc})
		c.nodes = append(c.nodes, n)
		cfg.Members = append(cfg.Members, n.meta.Member())
	}
	c.gate = fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}
	if m := a.vals["mode"]; m != "" {
		c.gate.Mode = tidegate.Mode(m)
		c.gate.Bounds = tidegate.Bounds{Records: 100, Bytes: 1 << 20, Window: time.Second}
	}
	rec, err := fence.NewRecord(c.stream, cfg, c.gate)
	if err != nil {
		panic(err)
	}
	c.key = fence.KeyState{Stream: c.stream, Revision: 1, Record: rec}
	quiet := c.quiet
	c.quiet = true
	for _, n := range c.nodes {
		n.start()
	}
	c.run()
	c.watch(true)
	c.run()
	c.quiet = quiet
}

func (c *cluster) holder(name string) tidegate.HolderID {
	for id, n := range c.names {
		if n == name {
			return id
		}
	}
	return c.id(name)
}

func (c *cluster) watch(fresh bool) {
	for _, n := range c.nodes {
		if n.up {
			n.step(fence.RecordRead{Record: c.key.Record.Clone(), Fresh: fresh})
		}
	}
	if c.w != nil {
		c.writer(c.w.OnRecord(c.key.Record))
	}
}

func (c *cluster) setGate(s fence.GateState) {
	g := c.key.Record.Gate
	g.State = s
	rec, err := c.key.Record.SetGate(c.key.Record.Promise(), c.key.Record.Gate, g)
	if err != nil {
		c.printf("refused: %v", err)
		return
	}
	c.key.Record = rec
	c.key.Revision++
}

func (c *cluster) status() {
	r := c.key.Record
	c.printf("record   %s epoch %s holder %s head %s w=%d %s", r.State, r.Epoch, c.name(r.Holder.UUID), pos(r.Head), r.Config.W, c.members(r.Config.Members))
	for _, n := range c.nodes {
		m := n.n.Meta()
		c.printf("%-8s promise %s history %s end %s durable %s limbo %v", c.name(n.inc), c.promise(n.n.Promise()), c.history(m.History), pos(n.n.EndPos()), pos(n.n.DurablePos()), m.Limbo)
	}
	if c.w != nil {
		c.printf("writer   %s epoch %s end %s D %d", c.wname, c.w.Epoch(), pos(c.w.End()), c.w.Durable())
	}
}

func (c *cluster) members(ms []fence.Member) string {
	var parts []string
	for _, m := range ms {
		parts = append(parts, c.member(m))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// --- nodes ---

func (n *tnode) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	if seq == 0 {
		return tidegate.LogPos{}, nil
	}
	if int(seq) > len(n.log) {
		return tidegate.LogPos{}, tidegate.ErrNotFound
	}
	return n.log[seq-1], nil
}

func (n *tnode) end() tidegate.LogPos { p, _ := n.At(tidegate.Seq(len(n.log))); return p }

func (n *tnode) start() {
	var effects []fence.NodeEffect
	n.n, effects = fence.NewNode(n.meta, n.end(), n)
	n.do(effects)
}

// restart loses what was not synced and every effect under way.
func (n *tnode) restart() {
	n.log = n.log[:n.synced]
	n.held = false
	n.start()
}

func (n *tnode) wipe() {
	n.inc = n.c.id(fmt.Sprintf("%s#2", n.name))
	n.meta = fence.FormatMeta(n.c.stream, fence.Member{Node: n.name, Incarnation: n.inc})
	n.log, n.synced = nil, 0
	n.start()
}

func (n *tnode) step(ev fence.NodeEvent) { n.do(n.n.Step(ev)) }

func (n *tnode) do(effects []fence.NodeEffect) {
	c := n.c
	for _, e := range effects {
		core := n.n
		then := func(fn func()) {
			if n.held {
				return
			}
			c.later(func() {
				if n.n == core {
					fn()
				}
			})
		}
		switch e := e.(type) {
		case fence.Persist:
			giving := ""
			if e.Meta.GivingUp != (fence.Promise{}) {
				giving = " giving up for " + c.promise(e.Meta.GivingUp)
			}
			c.printf("%s  persist promise %s history %s limbo %v%s", n.name, c.promise(e.Meta.Promise), c.history(e.Meta.History), e.Meta.Limbo, giving)
			then(func() { n.meta = e.Meta; n.step(fence.Persisted{Token: e.Token}) })
		case fence.Sync:
			c.printf("%s  sync through %s", n.name, pos(n.end()))
			then(func() { n.synced = len(n.log); n.step(fence.Synced{Token: e.Token, End: n.end()}) })
		case fence.AskChain:
			c.printf("%s  ask %s for the chain at %d", n.name, e.Source, e.Seq)
			then(func() {
				p, err := c.node(string(e.Source)).At(e.Seq)
				n.step(fence.ChainRead{Token: e.Token, Pos: p, Err: err})
			})
		case fence.Cut:
			c.printf("%s  quarantine (%d,%d] reason %s committed %v", n.name, e.To.Seq, len(n.log), e.Reason, e.Committed)
			then(func() {
				n.log = n.log[:e.To.Seq]
				n.synced = min(n.synced, len(n.log))
				n.step(fence.CutDone{Token: e.Token, End: n.end()})
			})
		case fence.Fetch:
			c.printf("%s  fetch (%d,%d] from %s", n.name, e.From.Seq, e.To.Seq, e.Source)
			then(func() { n.fetch(e) })
		case fence.CancelFetch:
			c.printf("%s  cancel fetch", n.name)
			n.held = false
			c.later(func() { n.step(fence.Fetched{Token: e.Token, End: n.end(), Err: errors.New("cancelled")}) })
		case fence.ReplyFence:
			r := e.Reply
			c.printf("%s  reply fence refused %v promise %s history %s durable %s limbo %v", n.name, r.Refused, c.promise(r.Promise), c.history(r.History), pos(r.Durable), r.Limbo)
			n.reply(fence.FenceReplied{Reply: r})
		case fence.ReplyAdopt:
			r := e.Reply
			c.printf("%s  reply adopt %v promise %s durable %s %s", n.name, r.Adopted, c.promise(r.Promise), pos(r.Durable), strings.TrimSpace(string(r.Class)+" "+r.Why))
			n.reply(fence.AdoptReplied{Reply: r})
		case fence.ReplyPromote:
			c.printf("%s  reply promote %v applies to %d %s", n.name, e.Reply.Accepted, n.n.ApplyTo(), e.Reply.Why)
			n.reply(fence.Promoted{Stream: c.stream, Applied: e.Reply.Accepted, Class: e.Reply.Class})
		case fence.DropSessions:
			c.printf("%s  drop sessions but %s", n.name, c.promise(e.Keep))
		case fence.Freed:
			c.printf("%s  freed from limbo", n.name)
		}
	}
}

func (n *tnode) fetch(e fence.Fetch) {
	src := n.c.node(string(e.Source))
	var err error
	for s := e.From.Seq + 1; s <= e.To.Seq; s++ {
		p, aerr := src.At(s)
		if aerr != nil {
			err = aerr
			break
		}
		n.log = append(n.log, p)
	}
	n.step(fence.Fetched{Token: e.Token, End: n.end(), Err: err})
}

func (n *tnode) reply(ev fence.ControlEvent) {
	if ctl := n.ctl; n.up && ctl != nil {
		n.c.later(func() { ctl.step(ev) })
	}
}

// --- the gate ---

func (c *cluster) startPlan(t *testing.T, kind fence.PlanKind, a args) {
	target := a.words[0]
	run, _, _ := strings.Cut(target, "#")
	site := "west"
	if target[0] == 'p' {
		site = "east"
	}
	p := fence.Plan{
		ID: c.id("plan"), Service: "books", Kind: kind,
		Target: fence.Holder{Node: tidegate.NodeName(run), Site: tidegate.SiteName(site), UUID: c.holder(target)},
		Shrink: a.has("shrink"), Force: a.has("force"), AcceptLoss: a.has("accept-loss"), AttestPrimaryDown: a.has("attest"),
		Streams: []fence.StreamPlan{{Stream: c.stream, Name: "a"}},
	}
	c.runPlan(t, p, a)
}

func (c *cluster) resume(t *testing.T, a args) {
	p := *c.plan
	if a.has("kept") {
		p = *c.kept
	}
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if p, err = fence.ParsePlan(b); err != nil {
		t.Fatal(err)
	}
	c.runPlan(t, p, a)
}

func (c *cluster) runPlan(t *testing.T, p fence.Plan, a args) {
	ctl, err := fence.NewController(p)
	if err != nil {
		t.Fatal(err)
	}
	r := &tcontrol{c: c, ctl: ctl, kill: fence.PlanStep(a.vals["kill"]), after: a.num("after", -1)}
	for _, n := range c.nodes {
		n.ctl = r
	}
	r.do(ctl.Start(time.Unix(0, 0)))
	c.run()
	for i := 0; i < 6 && !r.over(); i++ {
		r.step(fence.Tick{})
		c.run()
		if i%2 == 1 && !r.over() {
			r.step(fence.Deadline{Step: ctl.Plan().Step})
			c.run()
		}
	}
	if p := ctl.Plan(); p.Step == fence.StepDone && p.Target.Node != "" {
		c.startWriter(p.Target)
	}
}

func (r *tcontrol) over() bool { return r.dead || r.ctl.Plan().Finished() }

func (r *tcontrol) step(ev fence.ControlEvent) {
	if !r.over() {
		r.do(r.ctl.Step(time.Unix(0, 0), ev))
	}
}

func (r *tcontrol) do(effects []fence.ControlEffect) {
	c := r.c
	for _, e := range effects {
		if r.after == 0 {
			r.dead = true
			return
		}
		r.after--
		if p := r.ctl.Plan(); r.kill != "" && p.Step == r.kill {
			if _, ok := e.(fence.SavePlan); !ok {
				c.printf("gate killed at %s", p.Step)
				r.dead = true
				return
			}
		}
		switch e := e.(type) {
		case fence.ReadKeys:
			k := fence.KeyState{Stream: c.stream, Revision: c.key.Revision, Record: c.key.Record.Clone()}
			c.later(func() { r.step(fence.KeysRead{Token: e.Token, Keys: []fence.KeyState{k}}) })
		case fence.Txn:
			r.txn(e)
		case fence.SavePlan:
			c.plan = &e.Plan
		case fence.SendFence:
			r.send(e.Member, fmt.Sprintf("fence %s", c.promise(fence.Promise{Epoch: e.Req.Epoch, Holder: e.Req.Holder})), fence.FenceAsked{Call: 1, Req: e.Req})
		case fence.SendAdopt:
			r.send(e.Member, fmt.Sprintf("adopt %s head %s source %s", c.promise(fence.Promise{Epoch: e.Req.Epoch, Holder: e.Req.Holder}), pos(e.Req.Head), e.Req.Source), fence.AdoptAsked{Call: 1, Req: e.Req})
		case fence.SendPromote:
			r.send(fence.Member{Node: e.Node}, "promote head "+pos(e.Req.Head), fence.PromoteAsked{Call: 1, Req: e.Req})
		case fence.AwaitLease:
			c.printf("gate await lease: %s", e.Why)
		case fence.SwitchRoute:
			c.printf("gate switch route to %s epoch %s", e.Holder.Node, e.Epoch)
			c.later(func() { r.step(fence.RouteSwitched{Epoch: e.Epoch}) })
		case fence.Report:
			for _, l := range e.Loss {
				c.printf("gate report loss %s (%s) missing %v unclean %v", l.Kind, l.Why, l.Missing, l.Unclean)
			}
		case fence.Refuse:
			c.printf("gate refuse %s", e.Refusal.Error())
		case fence.Superseded:
			c.printf("gate superseded")
		case fence.Finished:
			c.printf("gate done")
		}
	}
}

func (r *tcontrol) txn(e fence.Txn) {
	c := r.c
	p := e.Puts[0]
	if p.IfRevision != c.key.Revision {
		c.printf("etcd conflict at %s", e.Step)
		c.later(func() { r.step(fence.TxnDone{Token: e.Token}) })
		return
	}
	c.key.Revision++
	c.key.Record = p.Record.Clone()
	c.plan = &e.Plan
	c.printf("etcd put %s epoch %s head %s w=%d %s", p.Record.State, p.Record.Epoch, pos(p.Record.Head), p.Record.Config.W, c.members(p.Record.Config.Members))
	rev := c.key.Revision
	c.later(func() { r.step(fence.TxnDone{Token: e.Token, Committed: true, Revision: rev}) })
}

func (r *tcontrol) send(m fence.Member, what string, ev fence.NodeEvent) {
	n := r.c.node(string(m.Node))
	if !n.up {
		r.c.printf("gate -> %s %s: lost", m.Node, what)
		return
	}
	r.c.printf("gate -> %s %s", m.Node, what)
	r.c.later(func() { n.step(ev) })
}

func (c *cluster) readopt(n *tnode, source tidegate.NodeName) {
	req, due := c.key.Record.AdoptFor(n.n.Adopted().Epoch, source)
	c.printf("gate adopt due %v", due)
	if due {
		n.step(fence.AdoptAsked{Call: 1, Req: req})
	}
}

// --- the writer ---

func (c *cluster) startWriter(self fence.Holder) {
	w, err := fence.NewWriter(self, c.key.Record)
	if err != nil {
		c.printf("writer refused: %v", err)
		return
	}
	src := c.node(string(c.nodes[slices.IndexFunc(c.nodes, func(n *tnode) bool { return len(n.log) >= int(c.key.Record.Head.Seq) })].name))
	c.w, c.wname = w, c.name(self.UUID)
	c.log = slices.Clone(src.log[:c.key.Record.Head.Seq])
	c.writer(w.Start())
}

func (c *cluster) writer(effects []fence.WriterEffect) {
	for _, e := range effects {
		switch e := e.(type) {
		case fence.DialRelay:
			c.printf("writer dials %s", e.Node)
		case fence.ShipFrom:
			c.printf("writer ships to %s from %d", e.Node, e.Seq)
		case fence.SteppedDown:
			c.printf("writer steps down by %s", c.promise(e.By))
		case fence.Distrusted:
			c.printf("writer distrusts %s: %s", c.member(e.Member), e.Why)
		case fence.CaughtUp:
			c.printf("writer vouches for %s", c.member(e.Member))
		}
	}
}

// write seals batches and brings them to the named nodes (to=), or to all that
// are up; nosync leaves them in memory there.
func (c *cluster) write(t *testing.T, a args) {
	for range a.num("batches", 1) {
		prev := c.w.End()
		p := tidegate.LogPos{Epoch: c.w.Epoch(), Seq: prev.Seq + 1}
		h := fnv.New128a()
		fmt.Fprintf(h, "%s %s %d %d", prev.Chain, c.wname, p.Epoch, p.Seq)
		h.Sum(p.Chain[:0])
		if err := c.w.Sealed(p); err != nil {
			c.printf("writer: %v", err)
			return
		}
		c.log = append(c.log, p)
	}
	for _, n := range c.nodes {
		if to, ok := a.vals["to"]; n.up && (!ok || slices.Contains(strings.Split(to, ","), string(n.name))) {
			c.ship(n, !a.has("nosync"))
		}
	}
	for _, n := range c.nodes {
		n.n.Commit(c.w.Epoch(), c.w.Record().Holder.UUID, c.w.Durable())
	}
	c.printf("D %d of %d", c.w.Durable(), c.w.End().Seq)
}

func (c *cluster) ship(n *tnode, sync bool) {
	self := c.w.Record().Holder.UUID
	for int(n.n.EndPos().Seq) < len(c.log) {
		p := c.log[n.n.EndPos().Seq]
		if err := n.n.CheckAppend(c.w.Epoch(), self, p.Epoch); err != nil {
			c.printf("%s  refuses %s: %v", n.name, pos(p), err)
			if errors.Is(err, tidegate.ErrFenced) {
				c.writer(c.w.OnRefused(n.n.Promise()))
			}
			return
		}
		n.log = append(n.log, p)
		n.n.Received(p)
	}
	if !sync {
		return
	}
	n.synced = len(n.log)
	if ack, ok := n.n.Durable(n.end()); ok {
		c.writer(c.w.OnAck(ack))
	}
}

// catchUp ships the rest to one node.
func (c *cluster) catchUp(n *tnode) {
	c.ship(n, true)
	c.printf("%s  end %s D %d", n.name, pos(n.end()), c.w.Durable())
}

func (c *cluster) exitLimbo() {
	for _, m := range c.w.CaughtUp() {
		r := c.w.Record()
		rec, err := c.key.Record.ExitLimbo(r.Promise(), m)
		if err != nil {
			c.printf("etcd refuses: %v", err)
			continue
		}
		c.key.Record = rec
		c.key.Revision++
		c.printf("etcd names %s", c.members(rec.Config.Members))
	}
}

// strayAppend tries an append under an epoch that may be over.
func (c *cluster) strayAppend(a args) {
	n := c.node(a.words[0])
	e := tidegate.Epoch(a.num("epoch", 0))
	if err := n.n.CheckAppend(e, c.holder(a.vals["holder"]), e); err != nil {
		c.printf("%s  refuses: %v", n.name, err)
		return
	}
	c.printf("%s  would append", n.name)
}

func (c *cluster) relay(up bool, a args) {
	n := c.node(a.words[0])
	if !up {
		c.writer(c.w.RelayDown(n.name, errors.New("gone")))
		return
	}
	c.writer(c.w.RelayUp(n.meta.Member(), n.n.EndPos(), n.n.DurablePos()))
}

// ack makes up a statement of a node.
func (c *cluster) ack(a args) {
	n := c.node(a.words[0])
	d := tidegate.Seq(a.num("durable", 0))
	k := fence.Ack{Node: n.name, Incarnation: n.inc, Epoch: tidegate.Epoch(a.num("epoch", int(c.w.Epoch()))), Received: d, Durable: d, Stamp: uint64(a.num("stamp", 1<<62))}
	if d > 0 && int(d) <= len(c.log) {
		k.Chain = c.log[d-1].Chain
	}
	if a.has("wrong-chain") {
		k.Chain[0] ^= 1
	}
	c.writer(c.w.OnAck(k))
	c.printf("D %d", c.w.Durable())
}
