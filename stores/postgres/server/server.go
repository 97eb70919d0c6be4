package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Purpose is what a server is started for.
type Purpose string

// The purposes. Starting does not change them: a data directory either has
// standby.signal or not, and a start for the other purpose is refused.
const (
	Follow Purpose = "follow"
	Serve  Purpose = "serve"
)

// State is a server as one query saw it.
type State struct {
	Recovery   bool         `json:"recovery"`    // false: it is a primary
	Received   wal.LSN      `json:"received"`    // end of what is flushed here; 0 before the first byte of this start
	Replayed   wal.LSN      `json:"replayed"`    // end of the last record replayed; a primary's insert position
	Paused     bool         `json:"paused"`      // replay stands still, whoever asked for it
	Streaming  bool         `json:"streaming"`   // a walreceiver has the upstream's connection; it says so before the first byte
	LastCommit time.Time    `json:"last_commit"` // of the last transaction replayed, by the primary's clock; zero for none
	Timeline   wal.Timeline `json:"timeline"`    // of the log that is replayed or written
}

// Server is a PostgreSQL server in its home.
type Server struct {
	cfg  Config
	fsys vfs.FS
	clk  clock.Clock
	log  *slog.Logger

	turn   chan struct{} // held by whoever changes the server
	asking chan struct{} // held by whoever uses conn
	conn   *pgconn.PgConn

	mu       sync.Mutex
	purpose  Purpose // of the last start; "" when the server should not run
	promoted bool    // a promotion was asked for since
	launched int64   // where in the log the last start begins
	found    bool    // launched is known
}

// New returns the server of cfg, whose unset fields get their defaults. It does
// no I/O.
func New(fsys vfs.FS, clk clock.Clock, log *slog.Logger, cfg Config) (*Server, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "configure server", Subject: cfg.Home, Class: tidegate.Misuse, Err: err}
	}
	return &Server{
		cfg: cfg, fsys: fsys, clk: clk, log: log,
		turn: make(chan struct{}, 1), asking: make(chan struct{}, 1),
	}, nil
}

// take waits for the right to change the server; give returns it.
func (s *Server) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) give() { <-s.turn }

// Restored tells what the data here is for. ok is false when nothing was
// restored yet. A promotion makes a follower's data a server's.
func (s *Server) Restored() (p Purpose, ok bool, err error) {
	have, err := s.exists(s.inData(versionFile))
	if err != nil || !have {
		return "", false, err
	}
	signal, err := s.exists(s.inData(standbySignal))
	if err != nil {
		return "", false, err
	}
	if signal {
		return Follow, true, nil
	}
	return Serve, true, nil
}

// Running reports whether the server's process is there.
func (s *Server) Running() (bool, error) {
	p, err := s.find()
	if p != nil {
		p.close()
	}
	return p != nil, err
}

// Start starts the server, or finds it running, and returns as soon as its
// process has its place; [Server.WaitReady] waits for it to take connections. The
// configuration is written first; a follower's has settings at least as large as
// the control file asks for. A server that is found running keeps the
// configuration it was started with. A start for the other purpose than the data's is
// refused, with class misuse.
func (s *Server) Start(ctx context.Context, p Purpose) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	return s.start(ctx, p)
}

// start is Start for whoever holds the turn.
func (s *Server) start(ctx context.Context, p Purpose) error {
	if err := s.suits(p); err != nil {
		return err
	}
	running, err := s.Running()
	if err == nil && !running {
		err = s.begin(ctx, p)
	}
	if err != nil {
		return s.failed("start server in", err)
	}
	s.mu.Lock()
	s.purpose = p
	s.mu.Unlock()
	return nil
}

// suits refuses a purpose that is not the data's.
func (s *Server) suits(p Purpose) error {
	refuse := func(err error, hint string) error {
		return &tidegate.Error{Op: "start server in", Subject: s.cfg.Home, Class: tidegate.Misuse, Hint: hint, Err: err}
	}
	is, ok, err := s.Restored()
	switch {
	case err != nil:
		return s.failed("start server in", err)
	case !ok:
		return refuse(fmt.Errorf("no data: %w", tidegate.ErrNotFound), "restore a base first")
	case is != p:
		// A follower without the signal would end recovery at once and begin a
		// timeline of its own.
		return refuse(fmt.Errorf("data is there to %s, not to %s", is, p), "")
	}
	if half, err := s.exists(s.rewinding("")); err != nil || half {
		return refuse(errors.Join(err, fmt.Errorf("a rewind was cut off: %w", ErrNeedsBase)), hintRebuild)
	}
	recovery, err := s.exists(s.inData(recoverySignal))
	if err == nil && recovery {
		err = fmt.Errorf("%s is there: the server would promote itself", recoverySignal)
	}
	if err != nil {
		return refuse(err, "")
	}
	return nil
}

// begin writes the configuration and launches the process.
func (s *Server) begin(ctx context.Context, p Purpose) error {
	if err := s.makeHome(); err != nil {
		return err
	}
	if err := s.configure(s.DataDir(), p, nil); err != nil {
		return err
	}
	if err := s.checkConfig(ctx); err != nil {
		return err
	}
	from, err := s.logEnd()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.launched, s.found = from, true
	s.mu.Unlock()
	if s.cfg.managed() {
		return s.startService(ctx)
	}
	c, err := s.launch(append([]string{s.tool("postgres")}, s.commandLine()...))
	if err != nil {
		return err
	}
	return s.placed(ctx, c)
}

// Intervals of looking at a file or asking again. What is looked at costs
// microseconds; the intervals are short because recovery time is counted.
const (
	placeEvery   = 5 * time.Millisecond
	readyEvery   = 10 * time.Millisecond
	promoteEvery = 2 * time.Millisecond
	replayEvery  = 2 * time.Millisecond
)

// placed waits until the launched server has its pid file. A wrapper's end (see
// Config.Command) is not the server's when it ends well.
func (s *Server) placed(ctx context.Context, c *child) error {
	done := c.done
	return every(ctx, placeEvery, func() (bool, error) {
		running, err := s.Running()
		if err != nil || running {
			return running, err
		}
		select {
		case <-done:
			if c.err == nil && len(s.cfg.Command) > 0 {
				done = nil
				return false, nil
			}
			return false, s.ended()
		default:
			return false, nil
		}
	})
}

// every calls f at once and then each interval until it says done or fails.
func every(ctx context.Context, interval time.Duration, f func() (done bool, err error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended says why the server is gone, in its own words.
func (s *Server) ended() error {
	s.mu.Lock()
	t := &tail{server: s, at: s.launched}
	s.mu.Unlock()
	found, err := t.findings()
	if err != nil {
		return err
	}
	cause := errors.New("server ended")
	for _, f := range found {
		if f.Fatal || f.Kind == FoundConfiguration {
			cause = fmt.Errorf("server ended: %s", f.Message)
		}
	}
	return &tidegate.Error{
		Op: "run server in", Subject: s.cfg.Home, Class: tidegate.Permanent,
		Hint: hintOf(found, "see "+s.LogPath()), Err: cause,
	}
}

// WaitReady waits until the server takes connections. A follower does once it has
// replayed enough log to be consistent, so log must flow meanwhile. When the
// server ends instead, the error says why in the server's own words.
func (s *Server) WaitReady(ctx context.Context) error {
	err := every(ctx, readyEvery, func() (bool, error) {
		running, err := s.Running()
		if err != nil {
			return false, err
		}
		if !running {
			return false, s.ended()
		}
		r, err := s.pidRecord()
		if err != nil || r.status != "ready" && r.status != "standby" {
			return false, err
		}
		if _, err = s.query(ctx, "select 1"); err != nil && tidegate.ClassOf(s.failed("ask", err)) == tidegate.Transient {
			return false, nil // it is stopping, or does not listen yet after all
		}
		return err == nil, err
	})
	if err != nil {
		return s.failed("wait for server in", err)
	}
	return nil
}
