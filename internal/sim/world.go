package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tidegate/tidegate"
)

// Options says which world to run.
type Options struct {
	Seed  uint64
	Trace io.Writer // one line per event in fixed columns; nil for none
}

// Result is what a run came to.
type Result struct {
	Seed        uint64
	Shape       string // cluster and faults that the seed chose
	Violation   string // the first broken invariant, or why the world did not converge; "" when all is well
	Events      int
	Virtual     time.Duration
	Failovers   int // completed, those that the detector declared among them
	Declared    int
	Switchovers int // completed
	Aborted     int // switchovers called off
	Acquires    int // completed
	Refused     int // plans that a rule refused
	Crashes     int // of processes
	Wipes       int // of disks
	Damages     int // of disks: failed syncs, bits flipped
	Degraded    int // times a gate went on unprotected
	Batches     int // released
	Acked       int // records that a client was told of
	Lost        int // of those, not in the log that a failover chose, within what was claimed
}

// EventsMax bounds a run: a world that livelocks is a finding, not a hang.
const EventsMax = 2_000_000

// convergeFor is how long a healed world may take, in virtual time.
const convergeFor = 60 * time.Second

// event is one thing that happens to a host: a timer runs out, or a message comes.
type event struct {
	h    *host // nil: the nemesis
	gen  int   // of a timer: void once the host has restarted
	fn   func()
	from *host
	msg  any
}

// slot says when an event is due. n breaks ties by the order of scheduling.
type slot struct {
	at time.Duration
	n  uint32
	i  int32 // in agenda.events
}

func (a slot) before(b slot) bool { return a.at < b.at || a.at == b.at && a.n < b.n }

// agenda is what is due, first things first: a binary heap of small slots beside
// the events themselves, which stay where they are.
type agenda struct {
	heap   []slot
	events []event
	free   []int32
	n      uint32
}

func (g *agenda) push(at time.Duration, e event) {
	i := int32(len(g.events))
	if k := len(g.free); k > 0 {
		i = g.free[k-1]
		g.free = g.free[:k-1]
		g.events[i] = e
	} else {
		g.events = append(g.events, e)
	}
	g.again(at, i)
}

// again puts an event that pop has returned back.
func (g *agenda) again(at time.Duration, i int32) {
	g.n++
	g.heap = append(g.heap, slot{at, g.n, i})
	q := g.heap
	for c := len(q) - 1; c > 0; {
		up := (c - 1) / 2
		if !q[c].before(q[up]) {
			break
		}
		q[c], q[up] = q[up], q[c]
		c = up
	}
}

func (g *agenda) pop() slot {
	q := g.heap
	top, last := q[0], len(q)-1
	q[0] = q[last]
	q = q[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && q[c+1].before(q[c]) {
			c++
		}
		if !q[c].before(q[i]) {
			break
		}
		q[i], q[c] = q[c], q[i]
		i = c
	}
	g.heap = q
	return top
}

// drop ends an event that pop has returned.
func (g *agenda) drop(i int32) {
	g.events[i] = event{}
	g.free = append(g.free, i)
}

// world is one simulated cluster.
type world struct {
	rng    *rand.Rand
	shape  shape
	trace  io.Writer
	now    time.Duration
	agenda agenda
	res    Result

	net      network
	streams  []tidegate.StreamID
	machines []*computer
	standbys []*standby
	agents   []*agent
	libs     []*library
	gates    []*gate
	clients  []*client
	reg      *registry
	route    *route
	oracle   *oracle
	chaos    bool
	settled  bool
	core     []bool // by standby: it is healed after the chaos; the others stay as they are
	healedAt time.Duration

	lostUntil time.Duration // a loss that the detector should see is under way
}

// Run runs one world to its end.
func Run(o Options) Result {
	w := &world{rng: rand.New(rand.NewPCG(o.Seed, 0x7469646567617465)), trace: o.Trace, chaos: true}
	w.res.Seed = o.Seed
	w.choose()
	w.build()
	w.nemesis()
	for w.now < w.shape.chaos && w.step() {
	}
	w.heal()
	deadline := w.now + convergeFor
	for w.res.Violation == "" && !w.settled && w.now < deadline {
		if !w.step() {
			break
		}
	}
	if w.res.Violation == "" && !w.settled {
		w.fail("I28", "the healed world did not converge: %s", w.why())
	}
	w.oracle.atEnd()
	w.res.Virtual = w.now
	return w.res
}

// step runs one event. What happens to a process that is paused, or whose machine
// sleeps, waits until it goes on, in its order.
func (w *world) step() bool {
	for {
		if len(w.agenda.heap) == 0 || w.res.Violation != "" {
			return false
		}
		due := w.agenda.pop()
		w.now = due.at
		e := w.agenda.events[due.i]
		if e.h != nil {
			if until := e.h.frozenUntil(); until > w.now {
				w.agenda.again(until, due.i)
				continue
			}
		}
		w.agenda.drop(due.i)
		if e.h != nil && (!e.h.up || e.msg == nil && e.gen != e.h.gen) {
			if e.msg != nil {
				w.logMsg(e.from, e.h, "dead", e.msg)
			}
			continue
		}
		w.res.Events++
		if w.res.Events > EventsMax {
			w.fail("I28", "more than %d events", EventsMax)
			return false
		}
		if e.msg != nil {
			w.logMsg(e.from, e.h, "recv", e.msg)
			e.h.recv(e.from, e.msg)
		} else {
			e.fn()
		}
		return w.res.Violation == ""
	}
}

func (w *world) at(t time.Duration, h *host, fn func()) {
	gen := 0
	if h != nil {
		gen = h.gen
	}
	w.agenda.push(t, event{h: h, gen: gen, fn: fn})
}

// after is for the nemesis and other things that no process does.
func (w *world) after(d time.Duration, fn func()) { w.at(w.now+d, nil, fn) }

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

// oneIn is true once in n times.
func (w *world) oneIn(n int) bool { return w.rng.IntN(n) == 0 }

func (w *world) id() (id tidegate.ID) {
	for i := 0; i < 16; i += 8 {
		v := w.rng.Uint64()
		for j := range 8 {
			id[i+j] = byte(v >> (8 * j))
		}
	}
	return id
}

func (w *world) short(id tidegate.StreamID) int {
	for i := range w.streams {
		if w.streams[i] == id {
			return i
		}
	}
	return -1
}
