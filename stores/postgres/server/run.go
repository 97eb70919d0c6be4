package server

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/retry"
)

// watchEvery is how often Run looks at the server and its log.
const watchEvery = 200 * time.Millisecond

// watch is Run's own state.
type watch struct {
	server       *Server
	tail         tail
	backoff      *retry.Backoff
	next         tidegate.Instant // no start before
	insufficient bool             // replay waits for larger settings
	found        func(Finding)
}

// Run keeps a server up that was started: it reads the server's log, starts the
// server again when it ended by itself, and restarts a follower with larger
// settings when replay waits for them. found is called with every finding, in
// the goroutine of Run. Run returns nil when ctx ends, and leaves the server
// running then. It may be called once.
func (s *Server) Run(ctx context.Context, found func(Finding)) error {
	w := &watch{server: s, tail: tail{server: s}, backoff: retry.Policy{}.Backoff(), found: found}
	if err := w.begin(); err != nil {
		return s.failed("watch server in", err)
	}
	err := every(ctx, watchEvery, func() (bool, error) { return false, w.look(ctx) })
	if ctx.Err() != nil {
		return nil
	}
	return s.failed("watch server in", err)
}

// begin finds the place in the log from which on it is news: the last start's
// beginning, or the end of a log that an earlier process has read.
func (w *watch) begin() error {
	s := w.server
	s.mu.Lock()
	at, known := s.launched, s.found
	s.mu.Unlock()
	if !known {
		var err error
		if at, err = s.logEnd(); err != nil {
			return err
		}
	}
	w.tail.at = at
	return nil
}

func (w *watch) look(ctx context.Context) error {
	s := w.server
	found, err := w.tail.findings()
	if err != nil {
		return err
	}
	for _, f := range found {
		w.insufficient = w.insufficient || f.Kind == FoundInsufficient
		w.found(f)
	}
	if err := s.renewLog(&w.tail); err != nil {
		return err
	}
	select {
	case s.turn <- struct{}{}: // nobody else is at it
	default:
		return nil
	}
	defer s.give()
	p, wanted := s.wanted()
	if !wanted {
		return nil
	}
	running, err := s.Running()
	if err != nil {
		return err
	}
	if running && w.insufficient && p == Follow {
		s.log.Warn("restarting the server with larger settings", "home", s.cfg.Home)
		if err := s.stop(ctx, StopFast); err != nil {
			return err
		}
		running = false
	}
	if running {
		return nil
	}
	return w.restart(ctx, p)
}

// restart starts a server that is not there though it should be; a start that
// fails is told and tried again later.
func (w *watch) restart(ctx context.Context, p Purpose) error {
	s := w.server
	now := s.clk.Boot()
	if now < w.next {
		return nil
	}
	w.next = now + tidegate.Instant(w.backoff.Next())
	if !w.insufficient {
		w.found(Finding{Kind: FoundCrash, At: s.clk.Wall(), Message: "the server is not running; it is started again"})
	}
	w.insufficient = false
	err := s.start(ctx, p)
	if err != nil && ctx.Err() == nil {
		w.found(Finding{Kind: FoundConfiguration, At: s.clk.Wall(), Message: err.Error(), Hint: tidegate.HintOf(err), Fatal: true})
	}
	return nil
}

// wanted tells what the server should be there for. A promotion that was asked
// for may have come true just before the server ended.
func (s *Server) wanted() (p Purpose, wanted bool) {
	s.mu.Lock()
	p, promoted := s.purpose, s.promoted
	s.mu.Unlock()
	if p == "" {
		return "", false
	}
	is, ok, err := s.Restored()
	if err == nil && ok && promoted && is == Serve {
		return Serve, true
	}
	return p, true
}
