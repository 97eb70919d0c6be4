package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores"
)

// State is what an agent does for a stream.
type State string

// The states.
const (
	StateDormant   State = "dormant"   // no running service beside the agent, or no view of the stream
	StateObserving State = "observing" // compares what another agent ships with its own copy
	StateAcquiring State = "acquiring" // the service is active here; asks the gate for an epoch
	StateProving   State = "proving"   // holds the epoch; proves that its log continues the standby nodes'
	StateWriting   State = "writing"   // seals and ships
	StateFenced    State = "fenced"    // was writer; a newer epoch is held elsewhere
	StateDiverged  State = "diverged"  // its copy of the log is not the one that was shipped: unfit
)

// States lists every state, for metrics.
var States = []State{StateDormant, StateObserving, StateAcquiring, StateProving, StateWriting, StateFenced, StateDiverged}

// stream is one stream on this node. One goroutine (run) decides what is done;
// at most one job, writing or observing, runs at a time.
type stream struct {
	agent   *Agent
	service *service
	cfg     StreamConfig
	log     *slog.Logger
	source  stores.Source
	meters  *streamMetrics

	changed chan struct{}        // something that decide looks at has changed; capacity 1
	sending sync.Mutex           // order of what is told to the library; taken before mu
	grant   local.DaemonProgress // newest grant but for D, with its number; guarded by sending
	writer  atomic.Pointer[writer]

	crossing crossing

	mu         sync.Mutex
	lib        library
	view       streamView
	members    map[tidegate.NodeName]string
	spent      tidegate.Epoch   // newest epoch under which this process has written; never again
	spentBy    uint64           // activation that it was written for
	spentOn    tidegate.Lineage // of the service's log then
	fenced     *fencing         // the end of the last term as writer, until the next one begins
	diverged   *divergence
	seen       observation
	renewal    renewalState
	opening    tidegate.Instant // since when the newest generation is being opened here; 0 when this process has seen none
	forgotten  *forgotten       // the gate's view is behind the epoch that this run writes under
	acquire    string           // why the gate's answer is still due; for status
	lastErr    string
	reporting  bool                                // a tail is being kept and reported: not to be cut short
	told       toldRole                            // what the library was told last
	progressed chan struct{}                       // closed and replaced at every report of the library
	former     tidegate.NodeName                   // node of the agent that wrote before the present one; empty if not seen
	waiters    map[chan struct{}]tidegate.Position // woken when the library's head reaches the position
}

// toldRole is the role that a connection was given last.
type toldRole struct {
	conn *local.Conn
	role local.Role
}

// fencing is how a term as writer ended.
type fencing struct {
	epoch    tidegate.Epoch // ours
	by       fence.Promise
	durable  facts // D of our term, or the head we began at
	released local.Count
	known    bool              // released is
	end      tidegate.Position // of the library's log then
	whole    bool              // nothing of its log is left behind: it was handed over, or follows the stream since
}

// divergence is where this node's log leaves the shipped one.
type divergence struct {
	at     tidegate.Position
	seq    tidegate.Seq
	epoch  tidegate.Epoch // of the log that goes on without us
	reason string
	hint   string // what to do; may be empty
	prefix bool   // it only ends there: nothing in it contradicts the stream
	// lacking: the service became active without what the standby nodes hold.
	lacking bool
}

// forgotten is a view of the gate that lags behind a running term: it is late, or
// the registry was put back from a backup and knows nothing of the epoch.
type forgotten struct {
	epoch   tidegate.Epoch // held
	durable tidegate.Seq   // D when the view came: what moves beyond it, W members have acknowledged since
}

func newStream(a *Agent, cfg StreamConfig, src stores.Source) *stream {
	return &stream{
		agent: a, cfg: cfg, source: src,
		log:     a.log.With("service", string(cfg.Service), "stream", string(cfg.Stream)),
		meters:  a.metrics.stream(cfg),
		changed: make(chan struct{}, 1),
		waiters: map[chan struct{}]tidegate.Position{},

		progressed: make(chan struct{}),
	}
}

// poke makes run look again.
func (s *stream) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
	s.agent.poke(s.cfg.Service)
}

// show takes the gate's view of the stream.
func (s *stream) show(v streamView, nodes map[tidegate.NodeName]string) {
	s.mu.Lock()
	s.forgotten = s.behind(v)
	now, seen := v.sighting(), s.view.sighting()
	if now.Older(&seen) && !s.unused(&v.rec) {
		v.rec, v.revision = s.view.rec, s.view.revision
	}
	old := s.view.rec
	s.view, s.members = v, nodes
	if old.State == fence.StateActive && old.Holder != v.rec.Holder {
		s.former = old.Holder.Node
	}
	if h := v.rec.Handover; s.fenced != nil && h != nil && h.Head.Epoch == s.fenced.epoch {
		// The stream goes on from where our writer stopped of its own will, though
		// the answer that said so may have been lost.
		s.fenced.whole = true
	}
	s.noteRenewal()
	if old.Epoch != v.rec.Epoch && s.seen.proven >= v.rec.StartSeq && v.rec.StartSeq > 0 {
		// What was compared beyond the new writer's head may have been cut.
		s.seen.proven, s.seen.held = v.rec.StartSeq-1, nil
	}
	s.mu.Unlock()
	if w := s.writer.Load(); w != nil {
		w.recordChanged(v)
	}
	if k, keeper := s.source.(stores.Keeper); keeper && v.known() {
		k.Wanted(!v.leaving)
	}
	s.stand()
	s.tellRole()
	s.poke()
}

// unused reports whether a record that looks older than the one known is to be taken
// all the same. Most often a grant has run ahead of the watch, or the registry has
// gone back. But one that opened an epoch for this process which it has never used is
// the only one that there is: the nodes' promises tell what it is worth. mu is held.
func (s *stream) unused(rec *fence.EpochRecord) bool {
	return rec.Plan != s.view.rec.Plan && s.mine(*rec) && rec.Epoch > s.spent
}

// behind returns what v has forgotten, nil if nothing. A writer that has handed
// over, or whose stream is said to live at another site, has nothing to claim. mu
// is held.
func (s *stream) behind(v streamView) *forgotten {
	w := s.writer.Load()
	if w == nil || !v.known() || v.rec.Epoch >= w.epoch || w.handedOver() || !w.writing() {
		return nil
	}
	if v.rec.ActiveEpoch > 0 && v.rec.Active.Site != s.agent.cfg.Node.Site {
		return nil
	}
	if f := s.forgotten; f != nil && f.epoch == w.epoch {
		return f
	}
	return &forgotten{epoch: w.epoch, durable: w.durable().seq}
}

// reclaim reports whether the epoch held must be asked for anew: the registry does
// not know of it, and the members have taken more under it since, so that nobody
// else holds the stream. Only a registry that went back can be like that, or a
// view that is late, and then the gate's answer changes nothing. mu is held.
func (s *stream) reclaim(w *writer) bool {
	f := s.forgotten
	return f != nil && f.epoch == w.epoch && w.writing() && !w.handedOver() && w.durable().seq > f.durable
}

// pokeReclaim makes the service look again while the gate's view is behind: D may
// have moved.
func (s *stream) pokeReclaim() {
	s.mu.Lock()
	behind := s.forgotten != nil
	s.mu.Unlock()
	if behind {
		s.agent.poke(s.cfg.Service)
	}
}

// written takes a record that the gate has just written for us.
func (s *stream) written(rec fence.EpochRecord, revision int64) {
	s.mu.Lock()
	v, nodes := s.view, s.members
	s.mu.Unlock()
	if was := v.sighting(); was.Older(&fence.Sighting{Record: rec, Revision: revision}) {
		v.rec, v.revision = rec, revision
		s.show(v, nodes)
	}
}

// job is what a stream does for a while.
type job struct {
	kind  jobKind
	epoch tidegate.Epoch
	why   fence.Holder // observers begin anew when the writer changes
	// activation of a service whose log grows by what it writes itself: what the standby
	// nodes hold is asked anew after it.
	activation uint64
}

type jobKind uint8

const (
	jobNone jobKind = iota
	jobObserve
	jobWrite
)

// decide returns the job that the stream should do now.
func (s *stream) decide(now job) job {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.view.rec
	if !s.view.known() {
		return job{}
	}
	if s.renewing() {
		if now.kind == jobWrite && !s.settled() {
			return now
		}
		return job{}
	}
	// A writer goes on until it is fenced: neither a lost library nor a lost
	// gate ends its term.
	if now.kind == jobWrite || s.reporting {
		return now
	}
	if s.mine(rec) && rec.Epoch > s.spent && s.lib.conn != nil && s.lib.known && s.lib.active {
		return job{kind: jobWrite, epoch: rec.Epoch}
	}
	if s.lib.conn != nil && s.lib.known && rec.ActiveEpoch > 0 && s.diverged == nil {
		return job{kind: jobObserve, epoch: rec.ActiveEpoch, why: rec.Holder, activation: s.activation()}
	}
	return job{}
}

// mine reports whether rec makes this run of this agent the writer.
func (s *stream) mine(rec fence.EpochRecord) bool {
	return rec.State == fence.StateActive && rec.Holder.UUID == s.agent.holder && rec.Holder.Node == s.agent.cfg.Node.Name
}

// run does whatever decide says until ctx ends. It returns an error only when
// the agent cannot go on.
func (s *stream) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveLibraries(ctx) })
	g.Go(func() error { return s.supervise(ctx) })
	g.Go(func() error { return s.keepGeneration(ctx) })
	g.Go(func() error { return s.keepCrossing(ctx) })
	return g.Wait()
}

// running is a job that has been started; its goroutine is owned by supervise.
type running struct {
	cancel context.CancelFunc
	done   chan error // one value, when the job has ended
}

func (s *stream) start(ctx context.Context, j job) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.do(ctx, j) }() // owned by supervise; ends with ctx, awaited in stop or by done
	return r
}

// stop ends the job and returns what it ended with; nil has none.
func (r *running) stop() error {
	if r == nil {
		return nil
	}
	r.cancel()
	return <-r.done
}

func (r *running) ended() chan error {
	if r == nil {
		return nil
	}
	return r.done
}

func (s *stream) supervise(ctx context.Context) error {
	var (
		now job
		run *running
	)
	defer func() { _ = run.stop() }() // the agent is stopping; a job's end has no more consequences
	for {
		if want := s.decide(now); want != now {
			s.ended(now, run.stop())
			now, run = want, nil
			if now.kind != jobNone {
				run = s.start(ctx, now)
			}
		}
		if now.kind == jobNone {
			s.renewSource()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case err := <-run.ended():
			run.cancel()
			s.ended(now, err)
			now, run = job{}, nil
		}
	}
}

func (s *stream) do(ctx context.Context, j job) error {
	if j.kind == jobWrite {
		return s.write(ctx, j.epoch)
	}
	return s.observe(ctx)
}

// ended takes the end of a job: only a writer's has consequences of its own.
func (s *stream) ended(j job, err error) {
	if j.kind == jobNone || err == nil || errors.Is(err, context.Canceled) {
		return
	}
	s.setErr(err)
	s.log.Warn("job ended", "writing", j.kind == jobWrite, "epoch", j.epoch.String(), "err", err)
	s.tellRole()
	s.agent.poke(s.cfg.Service)
}

func (s *stream) setErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = ""
	if err != nil {
		s.lastErr = err.Error()
	}
}

// write is the writer's job: one term, from the record that names us until a
// newer epoch ends it.
func (s *stream) write(ctx context.Context, epoch tidegate.Epoch) error {
	s.mu.Lock()
	rec, revision := s.view.rec, s.view.revision
	s.spent, s.spentBy, s.spentOn = epoch, s.lib.activated, s.lib.lineage
	s.fenced, s.diverged, s.acquire = nil, nil, ""
	s.mu.Unlock()
	w, err := newWriter(s, rec, revision)
	if err != nil {
		return err
	}
	s.writer.Store(w)
	s.log.Info("holding the epoch", "epoch", epoch.String(), "start", rec.StartSeq.String())
	err = w.run(ctx)
	by, over := w.fencedBy()
	switch {
	case over && s.renewed(w, by):
		s.log.Info("the next epoch is ours too", "epoch", by.Epoch.String())
		err = nil
	case over && w.handedOver():
		s.log.Info("handed over", "to", by.String())
		s.settleHandedOver(w, by)
	case over:
		s.log.Warn("fenced", "by", by.String())
		s.settleFenced(ctx, w, by)
	}
	s.writer.Store(nil)
	s.tellRole()
	if errors.Is(err, tidegate.ErrDiverged) {
		s.mu.Lock()
		s.diverged = &divergence{at: s.lib.head(), seq: rec.Head.Seq, epoch: epoch, reason: err.Error(), hint: tidegate.HintOf(err)}
		s.mu.Unlock()
	}
	return err
}

// renewed reports whether the epoch that ended w's is held by this run too: the
// standby set has changed, and nothing else.
func (s *stream) renewed(w *writer, by fence.Promise) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.agent.holder
	return by.Holder == own || by.Holder.IsZero() && s.view.rec.Holder.UUID == own && s.view.rec.Epoch > w.epoch
}

// settleHandedOver takes stock of a term that was given up: the whole log is the
// next writer's too.
func (s *stream) settleHandedOver(w *writer, by fence.Promise) {
	d := w.durable()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fenced = &fencing{epoch: w.epoch, by: by, durable: d, released: s.lib.progress.A, known: s.lib.known && s.lib.progress.AKnown, end: s.lib.progress.End, whole: true}
	s.seen = observation{proven: d.seq}
}

// settleFenced takes stock of a term that is over: what was durable, and what
// the library has released. The library is told to wait first, and then asked
// by its next progress, so that nothing is released after the count.
func (s *stream) settleFenced(ctx context.Context, w *writer, by fence.Promise) {
	s.tellRole()
	s.awaitProgress(ctx, 2, 500*time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.view.rec.Handover
	whole := h != nil && h.Head.Epoch == w.epoch
	s.fenced = &fencing{epoch: w.epoch, by: by, durable: w.durable(), whole: whole, released: s.lib.progress.A, known: s.lib.known && s.lib.progress.AKnown, end: s.lib.progress.End}
	s.seen = observation{proven: s.fenced.durable.seq}
	if start := s.view.rec.StartSeq; start > 0 && s.view.rec.Epoch > w.epoch {
		s.seen.proven = min(s.seen.proven, start-1)
	}
}

// awaitProgress waits until the library has reported n times more.
func (s *stream) awaitProgress(ctx context.Context, n int, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	for range n {
		s.mu.Lock()
		ch := s.progressed
		s.mu.Unlock()
		select {
		case <-ch:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// awaitFinal waits until the service is no longer active here and has said what
// it had released by then: what is counted before that may still grow.
func (s *stream) awaitFinal(ctx context.Context, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for over := false; !over && ctx.Err() == nil; {
		s.mu.Lock()
		ch, gone := s.progressed, s.lib.conn == nil
		over = gone || !s.lib.active // then the next progress is the final one
		s.mu.Unlock()
		if gone {
			return
		}
		select {
		case <-ch:
		case <-ctx.Done():
		}
	}
}

// roleLocked returns the library's part. A writer of the same site takes over
// what this service was doing, so the service is told to wait (idle) and may be
// active again; a writer at another site has gone on without it, so it is told
// to stop (fenced). Only a service whose agent has written, or whose log has
// diverged, is ever fenced: on the target of a failover the service may be
// active a moment before the gate's view names this agent.
func (s *stream) roleLocked() local.Role {
	rec := s.view.rec
	r := local.Role{State: local.StateIdle, Epoch: rec.Epoch, Holder: rec.Holder.UUID, Lineage: s.lib.lineage}
	w := s.writer.Load()
	switch {
	case w != nil && w.writing():
		r.State, r.Epoch, r.Holder = local.StateActive, w.epoch, s.agent.holder
	case w != nil: // proving, or over and being counted
	case s.diverged != nil, s.fenced != nil && s.elsewhere(rec):
		r.State = local.StateFenced
	}
	return r
}

// elsewhere reports whether the stream is written at another site.
func (s *stream) elsewhere(rec fence.EpochRecord) bool {
	return rec.State == fence.StateActive && rec.Holder.Site != s.agent.cfg.Node.Site
}

// deposed reports whether this process has written for the service's present
// activation and somebody was made writer since. One activation, one term: a
// writer that was deposed does not fight back. Its cluster decides who leads, and
// tells by activating anew. A registry that was rebuilt names nobody: it ends
// the term, and there is nobody to fight.
func (s *stream) deposed(rec fence.EpochRecord) bool {
	if rec.Holder.UUID == s.agent.holder && rec.Epoch > s.spent {
		return false // the next epoch is ours too
	}
	return s.spent > 0 && s.lib.activated == s.spentBy && rec.Holder.Node != ""
}

// headMoved wakes those who wait for the library to reach a position.
func (s *stream) headMoved(head tidegate.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch, at := range s.waiters {
		if head >= at {
			close(ch)
			delete(s.waiters, ch)
		}
	}
}

// wakeWaiters makes all who wait for the library look again; mu is held.
func (s *stream) wakeWaiters() {
	for ch := range s.waiters {
		close(ch)
	}
	clear(s.waiters)
}

// waitHead returns nil once the library has made everything before p durable. It
// may give up early, when there is something else to look at.
func (s *stream) waitHead(ctx context.Context, p tidegate.Position, atMost time.Duration) error {
	s.mu.Lock()
	if s.lib.head() >= p {
		s.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	s.waiters[ch] = p
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiters, ch)
		s.mu.Unlock()
	}()
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ch:
		if s.head() < p {
			return context.DeadlineExceeded
		}
		return nil
	case <-timer.C:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stream) head() tidegate.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lib.head()
}
