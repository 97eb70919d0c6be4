package server

import (
	"context"
	"errors"
	"syscall"
)

// StopMode is how a server is stopped.
type StopMode string

// The modes, as pg_ctl has them.
const (
	StopFast      StopMode = "fast"      // ends sessions, writes a checkpoint
	StopImmediate StopMode = "immediate" // as a crash: the next start recovers
)

// Stop stops the server and waits for its end; a server that does not run is
// stopped already. A fast stop that takes longer than StopTimeout becomes an
// immediate one. Where a [Service] stops it, that is run also for a server that does
// not run. [Server.Run] leaves a stopped server alone.
func (s *Server) Stop(ctx context.Context, m StopMode) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	s.mu.Lock()
	s.purpose = ""
	s.mu.Unlock()
	return s.stop(ctx, m)
}

// stop is Stop for whoever holds the turn.
func (s *Server) stop(ctx context.Context, m StopMode) error {
	if s.cfg.managed() {
		return s.stopService(ctx, m)
	}
	p, err := s.find()
	if err != nil {
		return s.failed("stop server in", err)
	}
	if p == nil {
		return nil
	}
	defer p.close()
	s.hangUp(ctx)
	if m == StopFast {
		err = s.signalAndWait(ctx, p, syscall.SIGINT)
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.log.Warn("server takes long to stop: stopping it at once", "home", s.cfg.Home, "after", s.cfg.StopTimeout, "err", err)
	}
	if err := s.signalAndWait(ctx, p, syscall.SIGQUIT); err != nil {
		return s.failed("stop server in", err)
	}
	return nil
}

var errSlow = errors.New("took too long")

func (s *Server) signalAndWait(ctx context.Context, p *process, sig syscall.Signal) error {
	if err := p.signal(sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StopTimeout, errSlow)
	defer cancel()
	return p.wait(ctx)
}
