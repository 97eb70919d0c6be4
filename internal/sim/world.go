package sim

import (
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Options says which world to run.
type Options struct {
	Seed  uint64
	Trace io.Writer // one line per event in fixed columns; nil for none
}

// Result is what a run came to.
type Result struct {
	Seed      uint64
	Shape     string // cluster and faults that the seed chose
	Violation string // the first broken invariant, or why the world did not converge; "" when all is well
	Events    int
	Virtual   time.Duration
	Failovers int // completed
	Acquires  int // completed
	Refused   int // plans that a rule refused
	Crashes   int
	Wipes     int
	Released  int // batches
}

// EventsMax bounds a run: a world that livelocks is a finding, not a hang.
const EventsMax = 2_000_000

// The phases, in virtual time.
const (
	chaosFor    = 6 * time.Second
	convergeFor = 40 * time.Second
)

// shape is what the seed chose.
type shape struct {
	n, w     int
	streams  int
	loss     float64 // of a message
	dup      float64
	latency  time.Duration // mean one way
	crashes  bool
	wipes    bool // never together with shrink: two ways to lose copies would need to share one budget
	shrink   bool
	cuts     bool
	outages  bool          // of the registry
	restores bool          // of the registry from an old backup
	duel     bool          // several controllers on one plan, several plans on one service
	restarts bool          // of the writer
	pace     time.Duration // between batches
	tend     time.Duration // between looks of a gate at the stragglers
	flight   int           // batches sealed beyond D
}

type event struct {
	at time.Duration
	n  uint64
	fn func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// world is one simulated cluster.
type world struct {
	rng    *rand.Rand
	shape  shape
	trace  io.Writer
	now    time.Duration
	events eventHeap
	count  uint64
	res    Result

	net      network
	streams  []tidegate.StreamID
	standbys []*standby
	agents   []*agent
	gates    []*gate
	reg      *registry
	oracle   *oracle
	chaos    bool
	settled  bool
}

// Run runs one world to its end.
func Run(o Options) Result {
	w := &world{rng: rand.New(rand.NewPCG(o.Seed, 0x7469646567617465)), trace: o.Trace, chaos: true}
	w.res.Seed = o.Seed
	w.choose()
	w.build()
	w.nemesis()
	for w.now < chaosFor && w.step() {
	}
	w.heal()
	deadline := w.now + convergeFor
	converged := false
	for w.res.Violation == "" && w.now < deadline {
		if !w.step() {
			break
		}
		if converged = w.converged(); converged {
			break
		}
	}
	if w.res.Violation == "" && !converged {
		w.fail("I28", "the healed world did not converge: %s", w.why())
	}
	w.res.Events, w.res.Virtual = int(w.count), w.now
	return w.res
}

var shapes = []tidegate.Quorum{{N: 1, W: 1}, {N: 2, W: 2}, {N: 2, W: 1}, {N: 3, W: 2}, {N: 3, W: 2}, {N: 3, W: 2}, {N: 3, W: 3}, {N: 5, W: 3}}

func (w *world) choose() {
	q := shapes[w.rng.IntN(len(shapes))]
	s := &w.shape
	s.n, s.w, s.streams = q.N, q.W, 1+w.rng.IntN(2)
	some := func() bool { return w.rng.IntN(10) < 6 }
	if some() {
		s.loss = []float64{0.01, 0.05, 0.15}[w.rng.IntN(3)]
	}
	if some() {
		s.dup = 0.05
	}
	s.latency = time.Duration(1+w.rng.IntN(12)) * time.Millisecond
	s.pace = time.Duration(4+w.rng.IntN(20)) * time.Millisecond
	s.tend = []time.Duration{150 * time.Millisecond, 600 * time.Millisecond, 2500 * time.Millisecond}[w.rng.IntN(3)]
	s.flight = []int{4, 16, 200}[w.rng.IntN(3)]
	s.crashes, s.cuts, s.outages, s.duel, s.restarts = some(), some(), some(), some(), some()
	switch w.rng.IntN(4) {
	case 0, 1:
		s.wipes = s.w > 1
	case 2:
		s.shrink = true
	default:
		s.restores = w.rng.IntN(2) == 0
	}
	w.res.Shape = fmt.Sprintf("%+v", *s)
}

func (w *world) id() (id tidegate.ID) {
	for i := 0; i < 16; i += 8 {
		v := w.rng.Uint64()
		for j := range 8 {
			id[i+j] = byte(v >> (8 * j))
		}
	}
	return id
}

func (w *world) build() {
	w.oracle = newOracle(w)
	for range w.shape.streams {
		w.streams = append(w.streams, w.id())
	}
	w.reg = newRegistry(w)
	for i := range w.shape.n {
		w.standbys = append(w.standbys, newStandby(w, fmt.Sprintf("n%d", i)))
	}
	for i := range 2 {
		w.agents = append(w.agents, newAgent(w, fmt.Sprintf("p%d", i), "east"))
	}
	for i := range w.shape.n {
		w.agents = append(w.agents, newAgent(w, fmt.Sprintf("n%d", i), "west"))
	}
	for i := range 2 {
		w.gates = append(w.gates, newGate(w, fmt.Sprintf("g%d", i)))
	}
	gate := fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}
	for _, id := range w.streams {
		rec, err := fence.NewRecord(id, w.fullConfig(), gate)
		if err != nil {
			panic(err)
		}
		w.reg.rev++
		w.reg.keys = append(w.reg.keys, fence.KeyState{Stream: id, Revision: w.reg.rev, Record: rec})
	}
	for _, s := range w.standbys {
		s.start()
	}
	for _, a := range w.agents {
		a.start()
	}
	for _, g := range w.gates {
		g.start()
	}
	w.after(20*time.Millisecond, func() { w.agents[0].acquire() })
}

// fullConfig names every standby with the incarnation it has now.
func (w *world) fullConfig() fence.Config {
	c := fence.Config{W: w.shape.w}
	for _, s := range w.standbys {
		c.Members = append(c.Members, fence.Member{Node: s.name, Incarnation: s.inc})
	}
	return c
}

func (w *world) after(d time.Duration, fn func()) {
	w.count++
	heap.Push(&w.events, event{w.now + d, w.count, fn})
}

func (w *world) step() bool {
	if len(w.events) == 0 || w.res.Violation != "" {
		return false
	}
	if w.count > EventsMax {
		w.fail("I28", "more than %d events", EventsMax)
		return false
	}
	e := heap.Pop(&w.events).(event)
	w.now = e.at
	e.fn()
	return w.res.Violation == ""
}

func (w *world) fail(invariant, format string, args ...any) {
	if w.res.Violation == "" {
		w.res.Violation = invariant + ": " + fmt.Sprintf(format, args...)
		w.log("oracle", "", "VIOLATION", "%s", w.res.Violation)
	}
}

// jitter returns d, more or less.
func (w *world) jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(w.rng.Int64N(int64(d)+1))
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *world) wall() time.Time { return time.Unix(1_800_000_000, 0).UTC().Add(w.now) }

func (w *world) short(id tidegate.StreamID) int {
	for i := range w.streams {
		if w.streams[i] == id {
			return i
		}
	}
	return -1
}
