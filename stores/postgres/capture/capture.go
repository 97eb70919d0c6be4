package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/rpo"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/names"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const (
	progressEvery = 200 * time.Millisecond
	// tendEvery is how late a deadline may act on what is shown. Answers ask the
	// ceiling and are never late.
	tendEvery = 50 * time.Millisecond
	// answerEvery is how often the server is answered at least: it shows the time
	// of the last answer, and operators watch it.
	answerEvery = time.Second
)

// Capture is one stream's connector and source. Invariants, under mu:
//
//  1. gate.Head is the last record end received and parsed; window.end is at least
//     that, and no byte of the window failed to parse.
//  2. gate.Ceiling is nil unless link is not nil and the server is out of recovery.
//  3. what the server was told on link lies within link.confirmed.
type Capture struct {
	cfg   Config
	clock clock.Clock
	log   *slog.Logger

	report chan struct{} // something to tell the agent; capacity 1, as the next
	answer chan struct{} // something to tell the server
	ask    chan struct{} // an activity began: see whether the server waits

	inspect chan struct{} // the server is to be looked at now

	mu     sync.Mutex
	gate   release.Gate
	window window
	place  place
	link   *link  // nil while nothing is streamed
	renew  func() // ends the session with the agent; nil while there is none
	// final is when the server went in order, with all of its log durable; 0 when not.
	final    tidegate.Instant
	follows  bool           // the server was in recovery since its last activity
	outlived tidegate.Epoch // newest fence that ended with the server's recovery
	slack    time.Duration
	leak     leak // of the present activity
	proof    proof
	cancels  cancels
	finding  error
	guards   []local.Finding // of the last survey
	gaveUp   error           // why nothing is streamed any more; nil while nothing keeps us from it

	renewal renewal
	// least is where the generation begins that a renewal was for. A server sets the
	// slot back to whatever flush it is told, and there is no log to go back to.
	least wal.LSN

	wish     wish
	standing stores.Standing // as the agent said last
	// unreserved is why the slot of a server that follows was given up; nil while it was not.
	unreserved error
	keeps      []string      // for the stream, as of the last survey
	changed    chan struct{} // closed and replaced when place.lineage, place.begin or the finding changes

	spareMu sync.Mutex // taken before mu
	spare   *cursor    // the last Reread's, to go on from

	naming naming

	horizons horizons // of warm servers

	ran bool
}

// place is what is known of the server and of where its log stands here.
type place struct {
	known   bool // the rest is
	system  uint64
	segment wal.SegmentSize
	lineage wal.Lineage
	begin   wal.LSN // where a new stream's log would begin: a segment's start
	end     wal.LSN // of the server's log when it was looked at
	mark    wal.Mark
	anchors []wal.Mark // older record ends in the window, oldest first, anchorEvery apart
}

var (
	_ stores.Source = (*Capture)(nil)
	_ stores.Begun  = (*Capture)(nil)
)

// New makes a connector; no I/O.
func New(cfg Config) (*Capture, error) {
	cfg.Settings = cfg.Settings.SetDefaults()
	if err := cfg.Settings.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "capture postgresql", Subject: string(cfg.Stream), Class: tidegate.Misuse, Err: err}
	}
	if cfg.ProgressEvery == 0 {
		cfg.ProgressEvery = progressEvery
	}
	if cfg.GuardEvery == 0 {
		cfg.GuardEvery = guardEvery
	}
	if cfg.FS == nil {
		cfg.FS = vfs.OS()
	}
	if cfg.FeedbackKept == 0 {
		cfg.FeedbackKept = feedbackKept
	}
	if cfg.Free == nil {
		cfg.Free = cfg.FS.Free
	}
	c := &Capture{
		cfg: cfg, clock: cfg.Clock,
		log:    cfg.Log.With("component", "capture", "service", string(cfg.Service), "stream", string(cfg.Stream)),
		report: make(chan struct{}, 1), answer: make(chan struct{}, 1), ask: make(chan struct{}, 1), changed: make(chan struct{}),
		inspect: make(chan struct{}, 1),
		window:  newWindow(int(cfg.WindowBytes)),
	}
	c.gate = release.New(cfg.Clock.Boot(), c.stepped)
	var err error
	c.naming.driver, err = names.New(cfg.driver())
	c.naming.local = cfg.driver().Local()
	return c, err
}

// stepped puts in force what the machine says beside the ceiling; mu is held.
func (c *Capture) stepped(_ tidegate.Instant, was machine.Output) {
	now := &c.gate.Out
	if now.Unbounded != was.Unbounded || now.Sealed != was.Sealed {
		signal(c.ask)
		signal(c.answer)
	}
	if now.State != was.State || now.Want != was.Want {
		signal(c.report)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // one is due anyway
	}
}

// Run receives, answers and reports until ctx ends, then returns nil; whatever goes
// wrong with the server or the agent is a finding, and tried again. May be called
// once.
func (c *Capture) Run(ctx context.Context) error {
	c.mu.Lock()
	again := c.ran
	c.ran = true
	c.mu.Unlock()
	if again {
		return &tidegate.Error{Op: "capture postgresql", Subject: string(c.cfg.Stream), Class: tidegate.Misuse, Err: errors.New("run called twice")}
	}
	c.recall()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.keepStream(ctx) })
	g.Go(func() error { return c.keepSession(ctx) })
	g.Go(func() error { return c.tend(ctx) })
	g.Go(func() error { return c.keepWatch(ctx) })
	g.Go(func() error { return c.keepGuard(ctx) })
	err := g.Wait()
	c.dropSpare()
	return err
}

// tend steps the machine while the service is active: deadlines pass without
// anybody calling.
func (c *Capture) tend(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		c.mu.Lock()
		if c.gate.Ceiling != nil {
			c.gate.Step(c.clock.Boot())
			c.awaitDrain(c.clock.Boot())
		}
		c.mu.Unlock()
	}
}

// find notes what is wrong, nil for nothing, and says so once.
func (c *Capture) find(err error) {
	c.mu.Lock()
	news := text(err) != text(c.finding)
	c.finding = err
	if news {
		c.shout()
	}
	c.mu.Unlock()
	if !news {
		return
	}
	signal(c.report)
	signal(c.inspect)
	switch {
	case err == nil:
		c.log.Info("nothing is wrong any more")
	case tidegate.ClassOf(err) == tidegate.Transient:
		c.log.Warn("not streaming", "err", err, "hint", tidegate.HintOf(err))
	default:
		c.log.Error("not streaming", "err", err, "hint", tidegate.HintOf(err))
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// shout wakes those who wait for what changed tells of; mu is held.
func (c *Capture) shout() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Finding returns what keeps the connector from its work, nil while nothing does.
func (c *Capture) Finding() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble()
}

// Begin implements [stores.Begun]: the start of the segment that holds the slot's
// place.
func (c *Capture) Begin(ctx context.Context) (tidegate.Position, error) {
	p, err := c.await(ctx, func() bool { return c.place.known && !c.renewing() })
	return p.begin.Position(), err
}

// await waits until ok, which is called with mu held, and returns the place as of
// then. A finding that no waiting ends is returned instead.
func (c *Capture) await(ctx context.Context, ok func() bool) (place, error) {
	for {
		c.mu.Lock()
		done, p, finding, ch := ok(), c.place, c.finding, c.changed
		c.mu.Unlock()
		switch {
		case done:
			return p, nil
		case finding != nil && tidegate.ClassOf(finding) != tidegate.Transient:
			return place{}, finding
		}
		select {
		case <-ctx.Done():
			return place{}, ctx.Err()
		case <-ch:
		}
	}
}

// Status is what the connector knows at one moment.
type Status struct {
	Streaming bool   // log is received
	Active    bool   // from a primary, all of what it had when the connection was made
	Lineage   string // of the server; empty before it was reached
	Head      wal.LSN
	Told      replication.Status // the newest answer on this connection; zero before the first
	Gate      machine.State
	Exposure  rpo.Exposure
	D         tidegate.Position
	DKnown    bool
	Leaks     bool // commits are let go without our word for it, or it is not known that they are not
	// Cancelled counts the commits whose wait was seen to end without our answer.
	Cancelled uint64
	Finding   error
}

// Status returns what the connector knows now.
func (c *Capture) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := Status{
		Streaming: c.link != nil, Active: c.gate.Ceiling != nil, Head: wal.LSN(c.gate.Head.Position),
		Gate: c.gate.Out.State, Exposure: c.exposure(c.clock.Boot()), Finding: c.trouble(), Leaks: c.leak.why != "",
		Cancelled: c.cancels.count,
	}
	if c.place.known {
		st.Lineage = c.place.lineage.String()
	}
	if c.link != nil {
		st.Told = c.link.told
	}
	if c.gate.Ceiling != nil {
		st.D, st.DKnown = c.gate.Ceiling.D()
	}
	return st
}

// diverged makes the finding of a log that is not the one received before.
func diverged(format string, args ...any) error {
	return &tidegate.Error{
		Op: "receive log", Class: tidegate.Permanent,
		Hint: "the server was set back to an older state or is another one; compare it with the other site, which holds what it lost, before anything else",
		Err:  fmt.Errorf(format+": %w", append(args, tidegate.ErrDiverged)...),
	}
}
