package standby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// stream is one stream on this node: the core, its log and who is attached.
type stream struct {
	n   *Standby
	id  tidegate.StreamID
	dir string
	lg  *slog.Logger

	// meta and fault are set at open. A faulted stream has no log and no core:
	// it answers "limbo" until the operator has looked.
	meta  fence.NodeMeta
	fault error
	log   *deltalog.Log

	// syncing keeps a sync and a cut apart; it is taken before mu, never after.
	syncing sync.Mutex

	mu      sync.Mutex
	core    *fence.Node
	view    StreamView
	call    uint64
	calls   map[uint64]chan fence.NodeEffect // capacity 1 each
	work    []fence.NodeEffect               // for the worker, in order
	workers bell
	fetches map[uint64]context.CancelFunc // running, by token
	feeds   map[*feed]struct{}
	readers map[*reading]struct{}
	acks    map[tidegate.NodeName]fence.Ack // newest statement per node, this one's included
	relays  map[tidegate.NodeName]error     // nil: up; of the fan-out, while this node is the relay
	beacon  beaconState
	apply   applyState
	replay  replay
	lines   lines
	witness witness
	bases   *bases          // nil: its store is not known, and none were taken
	trimmed trimRule        // as of the last look
	givenUp string          // why log went that the archive lacked; empty: none did in this run
	archive *archive.Writer // nil: the node has no archive
	bells   map[bell]struct{}
	joining joinState
	leases  leaseState

	feedback feedbackState

	tails  []Tail // of libraries' journals, to be reported
	tailed bell
	sites  map[tidegate.NodeName]tidegate.SiteName // of every standby node that the view names
	viewed map[bell]struct{}                       // rung when view or sites have changed

	// begun is where the log begins that does not begin with its stream; nil when it
	// was never trimmed. While it is being trimmed it is ahead of the log.
	begun atomic.Pointer[shipper.Begin]

	attending sync.Mutex  // one at a time writes attended down
	noted     bool        // it is; under attending
	attended  atomic.Bool // there is a service beside this node, connected or not
	followed  atomic.Bool // the service beside this node has been told to follow another site

	serving bool // libraries are listened for; belongs to the goroutine that keeps streams
}

// bell wakes one goroutine; ringing it twice is ringing it once.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// openStream opens the stream's directory, made if the stream is new here. An
// error is the node's; what is wrong with the stream alone is its fault.
func (n *Standby) openStream(ctx context.Context, v StreamView) (*stream, error) {
	s := &stream{
		n: n, id: v.ID, dir: streamDir(n.cfg.DataDir, v.ID), view: v,
		lg:      n.deps.Log.With(keyStream, fmt.Sprintf("%s/%s", v.Service, v.Name)),
		calls:   map[uint64]chan fence.NodeEffect{},
		workers: newBell(),
		tailed:  newBell(),
		fetches: map[uint64]context.CancelFunc{},
		feeds:   map[*feed]struct{}{},
		readers: map[*reading]struct{}{},
		acks:    map[tidegate.NodeName]fence.Ack{},
		relays:  map[tidegate.NodeName]error{},
		bells:   map[bell]struct{}{},
		viewed:  map[bell]struct{}{},
		leases:  leaseState{asks: map[uint64]leaseAsked{}, grants: map[tidegate.NodeName]shipper.LeaseGrant{}},

		feedback: feedbackState{of: map[tidegate.NodeName]askedBack{}},
	}
	var err error
	if s.meta, err = n.openMeta(v.ID, s.dir); err != nil {
		return s.faulted(err)
	}
	if err := s.openBases(); err != nil {
		return s.faulted(fmt.Errorf("open bases: %w", err))
	}
	begin, err := s.readBegin()
	if err != nil {
		return s.faulted(err)
	}
	log, recovery, err := deltalog.Open(n.deps.FS, filepath.Join(s.dir, "log"), v.ID, deltalog.Config{
		SegmentBytes: n.cfg.SegmentBytes, Before: begin.Before,
		Quarantine: filepath.Join(quarantineDir(n.cfg.DataDir, v.ID), "torn"),
	})
	if err != nil {
		return s.faulted(fmt.Errorf("open delta log: %w", err))
	}
	if recovery.TornBytes > 0 {
		s.lg.Warn("torn tail truncated into quarantine", "bytes", recovery.TornBytes, "path", recovery.Quarantined)
		n.metrics.torn.Add(float64(recovery.TornBytes))
	}
	if err := s.settleBegin(log, begin); err != nil {
		return s.faulted(errors.Join(err, log.Close()))
	}
	if begin.Before.Seq > 0 {
		s.begun.Store(&begin)
	}
	if err := s.clearDoubt(log); err != nil {
		return s.faulted(errors.Join(err, log.Close()))
	}
	if err := s.readLines(ctx, log); err != nil {
		return s.faulted(errors.Join(err, log.Close()))
	}
	s.log, s.replay = log, startReplay(log.End().Seq)
	if err := s.bases.settleLost(log); err != nil {
		s.log = nil
		return s.faulted(errors.Join(err, log.Close()))
	}
	if err := s.readService(); err != nil {
		return s.faulted(errors.Join(err, log.Close()))
	}
	if s.tails, err = s.readTails(); err != nil {
		return s.faulted(errors.Join(err, log.Close()))
	}
	var effects []fence.NodeEffect
	s.core, effects = fence.NewNode(s.meta, coreEnd(log), logView{s})
	s.perform(effects)
	// A lease that the process before this one granted runs from here.
	s.perform(s.core.Step(fence.Started{Now: n.deps.Clock.Boot()}))
	s.openArchive()
	return s, nil
}

// faulted keeps the node going when only this stream is unreadable.
func (s *stream) faulted(err error) (*stream, error) {
	if _, ok := errors.AsType[*tidegate.CorruptError](err); !ok {
		return nil, fmt.Errorf("open stream %s: %w", s.id, err)
	}
	s.fault = &tidegate.Error{
		Op: "open stream", Subject: s.id.String(), Class: tidegate.Corrupt, Err: err,
		Hint: "keep the directory; `tidegate standby set-aside` moves the log to quarantine and lets the node copy it again",
	}
	s.lg.Error("stream is not served: answers limbo", keyErr, err)
	return s, nil
}

// openMeta reads the stream's metadata, or makes it.
func (n *Standby) openMeta(id tidegate.StreamID, dir string) (fence.NodeMeta, error) {
	known := slices.Contains(n.file.Streams, id)
	meta, err := readMeta(n.deps.FS, dir)
	switch {
	case err == nil:
		if meta.Stream != id || meta.Node != n.cfg.Node {
			return meta, &tidegate.CorruptError{Path: filepath.Join(dir, metaFileName), Offset: -1, What: fmt.Sprintf("is of stream %s on node %s", meta.Stream, meta.Node)}
		}
	case errors.Is(err, tidegate.ErrNotFound):
		if _, err := n.deps.FS.Stat(filepath.Join(dir, "log")); err == nil {
			return meta, &tidegate.CorruptError{Path: dir, Offset: -1, What: "a log without metadata"}
		}
		member := fence.Member{Node: n.cfg.Node, Incarnation: n.file.Incarnation}
		if known {
			// What this node once acknowledged here is gone: it must not come
			// back under the name that the writer still counts.
			member.Incarnation = tidegate.NewID()
			n.deps.Log.Error("stream directory was lost: starting over as another incarnation", keyStream, id.String())
		}
		meta = fence.FormatMeta(id, member)
		if err := durable.MkdirAll(n.deps.FS, dir); err != nil {
			return meta, err
		}
		if err := writeMeta(n.deps.FS, dir, meta); err != nil {
			return meta, err
		}
	default:
		return meta, err
	}
	if known {
		return meta, nil
	}
	file := n.file.with(id)
	if err := file.write(n.deps.FS, n.cfg.DataDir); err != nil {
		return meta, err
	}
	n.mu.Lock()
	n.file = file
	n.mu.Unlock()
	return meta, nil
}

// run carries out the core's effects until ctx ends.
func (s *stream) run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	background.Go(func() { s.rejoin(ctx) })
	background.Go(func() { s.reportTails(ctx) })
	background.Go(func() { s.seekBase(ctx) })
	background.Go(func() { s.keepTrimmed(ctx) })
	background.Go(func() { s.keepCleared(ctx) })
	background.Go(func() { s.keepArchived(ctx) })
	background.Go(func() { s.keepRenewed(ctx) })
	for {
		s.mu.Lock()
		var e fence.NodeEffect
		if len(s.work) > 0 {
			e, s.work = s.work[0], s.work[1:]
		}
		s.mu.Unlock()
		if e == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-s.workers:
			}
			continue
		}
		if err := s.do(ctx, &background, e); err != nil {
			return fmt.Errorf("stream %s: %w", s.id, err)
		}
	}
}

// do carries out one effect that takes I/O. Its error stops the node for good.
func (s *stream) do(ctx context.Context, background *sync.WaitGroup, e fence.NodeEffect) error {
	switch e := e.(type) {
	case fence.Persist:
		if err := writeMeta(s.n.deps.FS, s.dir, e.Meta); err != nil {
			return err
		}
		s.step(fence.Persisted{Token: e.Token})
	case fence.Sync:
		end, err := s.syncLog()
		if err != nil {
			return err
		}
		s.step(fence.Synced{Token: e.Token, End: end})
	case fence.Cut:
		end, err := s.cut(e)
		if errors.Is(err, tidegate.ErrStopped) {
			return err
		}
		s.step(fence.CutDone{Token: e.Token, End: end, Err: err})
	case fence.AskChain:
		background.Go(func() {
			pos, err := s.n.askChain(ctx, s.id, e.Source, e.Seq)
			s.step(fence.ChainRead{Token: e.Token, Pos: pos, Err: err})
		})
	case fence.Fetch:
		ctx, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		s.fetches[e.Token] = cancel
		s.mu.Unlock()
		background.Go(func() {
			beyond, err := s.fetch(ctx, e)
			cancel()
			s.mu.Lock()
			delete(s.fetches, e.Token)
			s.mu.Unlock()
			s.step(fence.Fetched{Token: e.Token, End: copied(s.log.End(), s.log.Empty(), e.To.Seq, err), Beyond: beyond, Err: err})
		})
	}
	return nil
}

// step gives the core one event and starts what it asks for.
func (s *stream) step(ev fence.NodeEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perform(s.core.Step(ev))
	s.ring()
}

// perform starts effects, with mu held.
func (s *stream) perform(effects []fence.NodeEffect) {
	for _, e := range effects {
		switch e := e.(type) {
		case fence.CancelFetch:
			if cancel := s.fetches[e.Token]; cancel != nil {
				cancel()
				break
			}
			// Not started yet: it stands in the queue, behind other work.
			i := slices.IndexFunc(s.work, func(w fence.NodeEffect) bool {
				f, ok := w.(fence.Fetch)
				return ok && f.Token == e.Token
			})
			if i >= 0 {
				f := s.work[i].(fence.Fetch)
				f.To = f.From
				s.work[i] = f
			}
		case fence.DropSessions:
			s.drop(e.Keep)
		case fence.Freed:
			s.lg.Info("left limbo", "incarnation", s.core.Meta().Incarnation.String())
		case fence.ReplyFence:
			s.answer(e.Call, e)
		case fence.ReplyAdopt:
			s.answer(e.Call, e)
			if e.Reply.Adopted {
				s.n.urgent.ring() // until it is reported, the rules take this log for an older one
			}
		case fence.ReplyPromote:
			s.answer(e.Call, e)
		case fence.ReplyLease:
			s.leaseAnswered(e)
		default:
			s.work = append(s.work, e)
			s.workers.ring()
		}
	}
}

func (s *stream) answer(call uint64, e fence.NodeEffect) {
	if ch := s.calls[call]; ch != nil {
		ch <- e // capacity 1, answered once
		delete(s.calls, call)
	}
}

// ask steps a request and waits for its reply or for ctx; the request goes on
// when the asker is gone.
func (s *stream) ask(ctx context.Context, event func(call uint64) fence.NodeEvent) (fence.NodeEffect, error) {
	ch := make(chan fence.NodeEffect, 1)
	s.mu.Lock()
	s.call++
	call := s.call
	s.calls[call] = ch
	s.perform(s.core.Step(event(call)))
	s.ring()
	s.mu.Unlock()
	select {
	case e := <-ch:
		return e, nil
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.calls, call)
		s.mu.Unlock()
		return nil, ctx.Err()
	case <-s.n.stopped:
		return nil, &tidegate.Error{Op: "ask stream", Subject: s.id.String(), Class: tidegate.Transient, Err: tidegate.ErrStopped}
	}
}

// drop ends the feeds of another promise, with mu held.
func (s *stream) drop(keep fence.Promise) {
	for f := range s.feeds {
		if f.promise != keep {
			f.conn.Interrupt(s.fencedBy(keep))
		}
	}
	if s.bases != nil {
		if t := s.bases.now; t != nil && t.promise != (fence.Promise{}) && t.promise != keep {
			t.end(s.fencedBy(keep))
		}
	}
}

// cut moves the log's tail to quarantine. Whoever reads the log starts over.
func (s *stream) cut(e fence.Cut) (tidegate.LogPos, error) {
	held, err := s.n.quarantined()
	if err != nil {
		return s.log.End(), err
	}
	if limit := s.n.cfg.QuarantineBytesMax; held > limit {
		return s.log.End(), &tidegate.Error{
			Op: "quarantine tail", Subject: s.id.String(), Class: tidegate.Transient,
			Hint: "`tidegate quarantine list` says what it holds: copy it away, and remove it",
			Err:  fmt.Errorf("quarantine holds %d bytes, at most %d: %w", held, limit, tidegate.ErrFull),
		}
	}
	s.mu.Lock()
	for r := range s.readers {
		r.cancel()
	}
	s.mu.Unlock()
	s.syncing.Lock()
	summary, err := s.log.CutTo(e.To.Seq, quarantineRoot(s.n.cfg.DataDir), e.Epoch, e.Reason, s.n.deps.Clock)
	s.syncing.Unlock()
	if err != nil {
		return s.log.End(), err
	}
	s.mu.Lock()
	s.replay.cut(e.To.Seq)
	s.witness.cut()
	s.bases.cut()
	s.mu.Unlock()
	s.lg.Warn("tail moved to quarantine", keyEpoch, uint64(e.Epoch), "reason", e.Reason, "path", summary.Dir,
		"batches", summary.Batches, "records", summary.Records, "bytes", summary.RawBytes)
	s.n.metrics.quarantined.Add(float64(summary.RawBytes))
	if err := s.n.look(); err != nil {
		s.lg.Warn("look at disk", keyErr, err) // the next look is due in half a minute
	}
	// A library that follows may have been given what is gone now: it says anew
	// what it has, and is rewound if need be.
	s.mu.Lock()
	if l := s.apply.library; l != nil && !l.active {
		_ = l.conn.Close() // its session reports it
	}
	s.mu.Unlock()
	return s.log.End(), nil
}

// syncLog makes the log durable and returns its durable end. An error stops
// the node.
func (s *stream) syncLog() (tidegate.LogPos, error) {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	return s.syncHeld()
}

// syncHeld is syncLog with syncing held.
func (s *stream) syncHeld() (tidegate.LogPos, error) {
	began := time.Now()
	end, err := s.log.Sync()
	if err != nil {
		return end, fmt.Errorf("sync delta log: %w", errors.Join(err, s.doubt(err)))
	}
	s.n.metrics.fsync.Observe(time.Since(began).Seconds())
	return end, nil
}

// groupSync is the stream's part of a group sync. It wakes everybody who follows
// the stream but the owner of by.
func (s *stream) groupSync(by bell) error {
	// Held until the core knows: were the log cut in between and the same batches
	// copied anew, the old sync would be taken for theirs.
	s.syncing.Lock()
	defer s.syncing.Unlock()
	end, err := s.syncHeld()
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ack, ok := s.ownAck(s.core.Durable(end)); ok {
		s.acks[s.n.cfg.Node] = ack
	}
	s.ringOthers(by)
	return nil
}

// ring wakes everybody who follows the stream, with mu held.
func (s *stream) ring() { s.ringOthers(nil) }

func (s *stream) ringOthers(by bell) {
	for b := range s.bells {
		if b != by {
			b.ring()
		}
	}
}

// follow returns a bell that rings at every change, until unfollow.
func (s *stream) follow() bell {
	b := newBell()
	s.mu.Lock()
	s.bells[b] = struct{}{}
	s.mu.Unlock()
	return b
}

func (s *stream) unfollow(b bell) {
	s.mu.Lock()
	delete(s.bells, b)
	s.mu.Unlock()
}

// watchView returns a bell that rings when the gate's view has changed, until
// unwatchView.
func (s *stream) watchView() bell {
	b := newBell()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewed[b] = struct{}{}
	return b
}

func (s *stream) unwatchView(b bell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.viewed, b)
}

// update takes a new view of the stream, and where the nodes are.
func (s *stream) update(v StreamView, sites map[tidegate.NodeName]tidegate.SiteName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.sites = v, sites
	for b := range s.viewed {
		b.ring()
	}
	if s.fault == nil && v.Record != nil {
		s.perform(s.core.Step(fence.RecordRead{Record: *v.Record}))
	}
	s.ring()
}

// close releases the log, after everything that uses it has ended.
func (s *stream) close() error {
	if s.bases != nil {
		s.bases.store.Close()
	}
	if s.log == nil {
		return nil
	}
	return s.log.Close()
}
