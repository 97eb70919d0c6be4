package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Sites.
const (
	siteEast  tidegate.SiteName = "east"
	siteWest  tidegate.SiteName = "west"
	siteThird tidegate.SiteName = "third"
)

// shape is what the seed chose: the cluster, the operator's settings, and which
// faults it will meet. Each seed meets some: all at once would hide what any one
// of them alone brings out.
type shape struct {
	n, w    int
	streams int
	wish    wish
	classes bool // clients ask for a durability of their own
	flight  int  // batches sealed beyond D
	batch   int  // records in one
	pace    time.Duration
	tend    time.Duration // between looks of a gate at the stragglers
	chaos   time.Duration

	lan, wan       time.Duration // mean one way
	loss           float64       // of a message
	dup            float64
	reorder        float64
	bytesPerSecond int

	crashes  bool
	wipes    bool // never together with shrink: two ways to lose copies would need to share one budget
	flips    bool
	shrink   bool
	disks    bool // slow, full, failing
	cuts     bool
	clocks   bool // drift, jumps
	sleeps   bool // pauses of processes, suspends of machines
	outages  bool // of the registry
	restores bool // of the registry from an old backup
	duel     bool // several controllers on one plan, several plans on one service
	restarts bool // of the writer
	switches bool // planned switchovers, some called off
	modes    bool // the operator changes modes, brakes, freezes
	force    bool // fewer than R replies are good enough for some operators
	auto     bool // the detector decides
	theme    theme
}

// theme is what some seeds dwell on: faults that do harm only together, which too
// few seeds would bring together by chance.
type theme uint8

const (
	themeNone   theme = iota
	themeTwins        // several controllers of one plan
	themeBack         // a registry that goes back, under changing gates
	themeLeases       // an old writer that believes in its leases
	themeBrake        // a gate held open by hand for long
	themeRegate       // a service that restarts while nothing becomes durable
	themes
)

func (w *world) chooseTheme() {
	s := &w.shape
	if !w.oneIn(3) {
		return
	}
	s.theme = 1 + theme(w.rng.IntN(int(themes)-1))
	if s.theme != themeBack {
		s.restores = false
	}
	switch s.theme {
	case themeTwins:
		s.duel = true
	case themeBack:
		s.restores, s.modes, s.wipes, s.flips, s.shrink, s.chaos = true, true, false, false, false, 7*time.Second
	case themeLeases:
		s.wish.mode, s.wish.policy, s.wish.lease, s.crashes, s.modes = tidegate.ModeOpen, tidegate.Policy{}, 800*time.Millisecond, true, false
		s.chaos = 8 * time.Second
	case themeBrake:
		s.modes, s.wish.policy = true, tidegate.Policy{Reaction: tidegate.ReactDegrade, Grace: 200 * time.Millisecond}
		s.chaos, s.pace = 20*time.Second, 80*time.Millisecond
	case themeRegate:
		s.wish.mode, s.wish.policy, s.modes = tidegate.ModeBounded, tidegate.Policy{}, false
		s.wish.bounds = tidegate.Bounds{Records: math.MaxInt64, Bytes: math.MaxInt64, Window: 100 * time.Millisecond}
	}
}

var shapes = []tidegate.Quorum{{N: 1, W: 1}, {N: 2, W: 2}, {N: 2, W: 1}, {N: 3, W: 2}, {N: 3, W: 2}, {N: 3, W: 2}, {N: 3, W: 3}, {N: 5, W: 3}}

func (w *world) choose() {
	q := shapes[w.rng.IntN(len(shapes))]
	s := &w.shape
	s.n, s.w, s.streams = q.N, q.W, 1+w.rng.IntN(2)
	some := func() bool { return w.rng.IntN(10) < 5 }
	if some() {
		s.loss = []float64{0.01, 0.05, 0.15}[w.rng.IntN(3)]
	}
	if some() {
		s.dup = 0.05
	}
	if some() {
		s.reorder = 0.02
	}
	if w.oneIn(5) {
		s.bytesPerSecond = 100_000 << w.rng.IntN(4)
	}
	s.lan = time.Duration(200+w.rng.IntN(800)) * time.Microsecond
	s.wan = time.Duration(1+w.rng.IntN(12)) * time.Millisecond
	s.pace = time.Duration(10+w.rng.IntN(20)) * time.Millisecond
	s.tend = []time.Duration{200 * time.Millisecond, 600 * time.Millisecond, 2500 * time.Millisecond}[w.rng.IntN(3)]
	s.flight, s.batch = []int{4, 16, 200}[w.rng.IntN(3)], 1+w.rng.IntN(8)
	s.chaos = 4 * time.Second
	s.crashes, s.cuts, s.outages, s.duel, s.restarts = some(), some(), some(), some(), some()
	s.disks, s.clocks, s.sleeps, s.switches, s.modes = some(), some(), some(), some(), some()
	s.classes = w.oneIn(3)
	switch w.rng.IntN(4) {
	case 0, 1:
		s.wipes, s.flips = s.w > 1 && some(), s.w > 1 && some()
	case 2:
		s.shrink = true
	default:
		if s.restores = some(); s.restores {
			s.chaos = 6 * time.Second
		}
	}
	s.force = w.oneIn(6)
	w.chooseGate()
	w.chooseTheme()
	if s.theme == themeNone && w.oneIn(8) {
		s.auto, s.restores, s.duel, s.modes = true, false, false, false
		s.chaos, s.pace, s.tend = 40*time.Second, 120*time.Millisecond, 600*time.Millisecond
	}
	w.res.Shape = fmt.Sprintf("%+v", *s)
}

// chooseGate draws the operator's settings at the start.
func (w *world) chooseGate() {
	s := &w.shape
	s.wish.bounds = w.someBounds()
	s.wish.mode = []tidegate.Mode{tidegate.ModeSync, tidegate.ModeSync, tidegate.ModeBounded, tidegate.ModeBounded, tidegate.ModeOpen}[w.rng.IntN(5)]
	switch w.rng.IntN(8) {
	case 0, 1:
		s.wish.policy = tidegate.Policy{Reaction: tidegate.ReactReject, Grace: 300 * time.Millisecond}
	case 2, 3:
		s.wish.policy = tidegate.Policy{Reaction: tidegate.ReactDegrade, Grace: time.Duration(w.rng.IntN(500)) * time.Millisecond}
		if w.oneIn(2) {
			s.chaos = 14 * time.Second // a gate needs five seconds to arm itself again
			s.pace *= 2
		}
	case 4:
		if w.oneIn(2) {
			s.wish.policy = tidegate.Policy{Reaction: tidegate.ReactDegradeBlind, Grace: 100 * time.Millisecond}
		}
	}
	if w.oneIn(2) {
		s.wish.lease = []time.Duration{200 * time.Millisecond, 500 * time.Millisecond}[w.rng.IntN(2)]
	}
}

func (w *world) someBounds() tidegate.Bounds {
	b := tidegate.Bounds{Records: int64(1 + w.rng.IntN(30)), Bytes: int64(200 + w.rng.IntN(4000)), Window: time.Duration(5+w.rng.IntN(400)) * time.Millisecond}
	switch w.rng.IntN(6) {
	case 0:
		b.Records = math.MaxInt64
	case 1:
		b.Bytes = math.MaxInt64
	case 2:
		b.Window = math.MaxInt64
	case 3:
		b.Records, b.Bytes = math.MaxInt64, math.MaxInt64
	}
	return b
}

func (w *world) newMachine(name string, site tidegate.SiteName) *computer {
	m := &computer{w: w, i: len(w.machines), name: tidegate.NodeName(name), site: site}
	m.clock.boot = time.Duration(1+w.rng.IntN(100)) * time.Hour
	if w.shape.clocks {
		m.clock.ppm = int64(w.rng.IntN(1001) - 500)
		m.clock.wall = time.Duration(w.rng.IntN(2001)-1000) * time.Millisecond
	}
	w.machines = append(w.machines, m)
	return m
}

func (w *world) build() {
	w.net.w = w
	w.oracle = newOracle(w)
	for range w.shape.streams {
		w.streams = append(w.streams, w.id())
	}
	w.reg = newRegistry(w, w.newMachine("etcd", siteThird))
	for i := range 2 {
		w.gates = append(w.gates, newGate(w, w.newMachine([]string{"g0", "g1"}[i], []tidegate.SiteName{siteWest, siteThird}[i]), []string{"g0", "g1"}[i]))
	}
	c := w.newMachine("c", siteThird)
	w.route = newRoute(w, c)
	w.clients = append(w.clients, newClient(w, c))
	east := make([]*journal, w.shape.streams)
	for i := range east {
		east[i] = &journal{}
	}
	for i := range 2 {
		w.service(w.newMachine(fmt.Sprintf("p%d", i), siteEast), east)
	}
	for i := range w.shape.n {
		m := w.newMachine(fmt.Sprintf("n%d", i), siteWest)
		w.standbys = append(w.standbys, newStandby(w, m, i))
		w.service(m, nil)
	}
	w.net.open(len(w.machines))
	w.core = make([]bool, w.shape.n)
	w.register()
	w.reg.begin()
	w.route.begin()
	for _, g := range w.gates {
		g.start()
	}
	for _, s := range w.standbys {
		s.start()
	}
	for i := range w.agents {
		w.libs[i].start()
		w.agents[i].start()
	}
	for _, c := range w.clients {
		c.start()
	}
	w.after(20*time.Millisecond, w.libs[0].activate)
}

// service puts a service and its agent on a machine.
func (w *world) service(m *computer, shared []*journal) {
	a, l := newAgent(w, m), newLibrary(w, m, shared)
	a.lib, l.agent = l, a
	w.agents, w.libs = append(w.agents, a), append(w.libs, l)
}

// register writes the streams' first records.
func (w *world) register() {
	v := *w.reg.v
	for i, id := range w.streams {
		cfg := fence.Config{W: w.shape.w}
		for _, s := range w.standbys {
			cfg.Members = append(cfg.Members, s.streams[i].meta.Member())
		}
		g := fence.GateRecord{State: fence.GateArmed, Mode: w.shape.wish.mode, Bounds: w.shape.wish.bounds, Lease: w.shape.wish.lease}
		if w.shape.wish.policy.Reaction == tidegate.ReactDegradeBlind {
			g.State = fence.GateBlindOK
		}
		rec, err := fence.NewRecord(id, cfg, g)
		if err != nil {
			panic(err)
		}
		v.keys = append(v.keys, fence.KeyState{Stream: id, Revision: v.revision, Record: rec})
		v.wishes = append(v.wishes, w.shape.wish)
	}
	w.reg.v = &v
	w.reg.lease = make([]tidegate.Instant, len(w.streams))
}

func (w *world) standbyOn(node tidegate.NodeName) *standby {
	if i := int(node[1] - '0'); node[0] == 'n' && i < len(w.standbys) {
		return w.standbys[i]
	}
	return nil
}

func (w *world) agentOn(node tidegate.NodeName) *agent {
	for _, a := range w.agents {
		if a.m.name == node {
			return a
		}
	}
	return nil
}
