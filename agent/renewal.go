package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/stores"
)

// A source may come to where it does not go on: its log is gone, or another one. Then
// somebody declares at the gate that what the log holds up to the end of the present
// epoch is given up, and the agent beside the source opens a new generation: it ends
// its term, has the source begin anew, acquires the next epoch, and the first batch of
// that is the first of the generation. The log before stays as it is at the standby
// nodes, and is what a failover goes back to until W of them have the new base: they
// say so themselves, so that nothing here has to be remembered. An epoch that ends
// before that leaves the head in the old generation, and the next one opens the new
// one again.

const (
	// findingGeneration is what the agent itself finds of a source.
	findingGeneration = "generation"
	// settleWait is how long a term that is to end for a new generation waits for what
	// it has sealed to become durable: it is the last that the old one gets.
	settleWait = 5 * time.Second
	// renewEvery is how often a source that is lost again, before an epoch was opened
	// for its new generation, is told to begin anew: it may fill a disk each time.
	renewEvery = 30 * time.Second
	// declareEvery is how often the policy looks.
	declareEvery = time.Second
)

// declaration is that the source at a site does not continue the log. It counts for a
// writer there that begins after a batch of epoch or of an older one: once the log
// goes on under a newer one, here or elsewhere, it is history.
type declaration struct {
	epoch tidegate.Epoch // 0: there is none
	site  tidegate.SiteName
	node  tidegate.NodeName // whose source it was declared of
}

// opens reports whether a term of this agent that begins after head opens a new
// generation.
func (s *stream) opens(head tidegate.LogPos) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return head.Seq > 0 && s.declared() && head.Epoch <= s.view.renewal.epoch
}

// declared reports whether there is a declaration for this agent's site; mu is held.
func (s *stream) declared() bool {
	d := s.view.renewal
	_, able := s.source.(stores.Renewable)
	return able && d.epoch != 0 && d.site == s.agent.cfg.Node.Site
}

// renewing reports whether a new generation is declared of the source here and no
// epoch was opened for it: nothing else is done meanwhile. mu is held.
func (s *stream) renewing() bool {
	rec := s.view.rec
	return s.declared() && s.view.renewal.node == s.agent.cfg.Node.Name && rec.ActiveEpoch > 0 && rec.ActiveEpoch <= s.view.renewal.epoch && !s.elsewhere(rec)
}

// settled reports whether a term that is to end has nothing to wait for. mu is held.
func (s *stream) settled() bool {
	w := s.writer.Load()
	if w == nil || time.Duration(s.agent.clk.Boot()-s.renewal.since) >= settleWait {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ring == nil || w.ring.durable.seq == w.ring.last().seq
}

// renewalState is how far this process is with the newest declaration; guarded by the
// stream's mu.
type renewalState struct {
	since     tidegate.Instant // it was first seen; 0 while none is under way
	of        tidegate.Epoch   // the source was told to begin anew for it
	told      tidegate.Instant // when, last
	activated uint64           // activations that had been heard of by then
	gap       error            // the source does not have what a term was to begin with; nil while that is not known
}

// noteRenewal takes in a new view; mu is held.
func (s *stream) noteRenewal() {
	switch {
	case !s.renewing():
		s.renewal.since = 0
	case s.renewal.since == 0:
		s.renewal.since = s.agent.clk.Boot()
		s.opening = s.renewal.since
		s.diverged = nil // its log is given up in any case
	}
}

// noteOpening notes that a term begins which opens a generation, or goes on with one;
// mu is held.
func (s *stream) noteOpening(opens bool) {
	switch {
	case !opens:
		s.opening = 0
	case s.opening == 0:
		s.opening = s.agent.clk.Boot()
	}
}

// openingFor returns for how long the generation that counts for nothing yet is being
// opened, as far as this process has seen; 0 when there is none. w is the writer, or
// nil; s.mu is held.
func (s *stream) openingFor(w *writer) time.Duration {
	due := s.renewing()
	if w != nil && !due {
		w.mu.Lock()
		due = w.ring != nil && w.opening()
		w.mu.Unlock()
	}
	if s.opening == 0 || !due {
		return 0
	}
	return time.Duration(s.agent.clk.Boot() - s.opening)
}

// renewSource has the source begin anew, once no job reads it any more: what a term
// before would read there now need not be what it was to continue.
func (s *stream) renewSource() {
	src, able := s.source.(stores.Renewable)
	again := able && src.Lost() != nil // since: the slot was given up once more, while no epoch could be had
	s.mu.Lock()
	of := s.view.renewal.epoch
	now := s.agent.clk.Boot()
	due := able && s.renewing() && (s.renewal.of < of || again && time.Duration(now-s.renewal.told) >= renewEvery)
	if due {
		s.renewal.of, s.renewal.told, s.renewal.activated, s.renewal.gap = of, now, s.lib.activated, nil
	}
	s.mu.Unlock()
	if due {
		s.log.Warn("opening a new generation", "up_to_epoch", of.String())
		src.Renew()
	}
}

// begun reports whether the source has begun anew as it was told; mu is held.
func (s *stream) begun() bool {
	return s.renewal.of == s.view.renewal.epoch && s.lib.activated > s.renewal.activated
}

// pokeRenewal makes run look again while a generation is to be opened.
func (s *stream) pokeRenewal() {
	s.mu.Lock()
	due := s.renewal.since != 0
	s.mu.Unlock()
	if due {
		s.poke()
	}
}

// miss notes that the source lacks what a term is to begin with, nil that it does not.
func (s *stream) miss(err error) {
	if err != nil && !errors.Is(err, stores.ErrTrimmed) && !errors.Is(err, tidegate.ErrUnsupported) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewal.gap = err
}

// lost returns why the source beside this agent does not continue the stream, whatever
// time passes; nil while it does, or the stream is not written here, or a new
// generation is under way. It wraps tidegate.ErrDiverged as in stores.Renewable.
func (s *stream) lost() error {
	src, able := s.source.(stores.Renewable)
	if !able {
		return nil
	}
	why := src.Lost()
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.view.rec
	switch {
	case !s.view.known(), rec.ActiveEpoch == 0, rec.Active.Site != s.agent.cfg.Node.Site, s.elsewhere(rec), s.renewing():
		return nil
	case s.diverged != nil && !s.diverged.lacking && rec.Active.Node != s.agent.cfg.Node.Name:
		return nil // an old primary, for which nothing is to be given up: it is said to have diverged
	case s.diverged != nil:
		return fmt.Errorf("%s: %w", s.diverged.reason, tidegate.ErrDiverged)
	case why != nil:
		return why
	}
	return s.renewal.gap
}

// lostFinding is lost as a finding.
func (s *stream) lostFinding(why error) local.Finding {
	command := stores.AcceptGapCommand(s.cfg.Service, s.cfg.Stream)
	hint := command + " opens a new generation beside the old one, which stays for a failover until the new one is whole"
	text := "the source does not continue the log, a new generation is needed: " + why.Error()
	if errors.Is(why, tidegate.ErrDiverged) {
		hint = "compare first: the standby nodes hold what this source lacks, and a failover brings it back. To go on without that: " +
			command + " with --accept-loss"
	}
	return local.Finding{Name: findingGeneration, Severity: local.SeverityCritical, Class: tidegate.Permanent, Text: text, Hint: hint}
}

// keepGeneration sees to it that a declared generation comes to be, and declares one
// by itself, where the policy says so, the source itself says that its log is gone, and
// nothing that was shipped is left out by it, until ctx ends. That a proof found nothing
// to compare is for a person to judge.
func (s *stream) keepGeneration(ctx context.Context) error {
	src, able := s.source.(stores.Renewable)
	if !able {
		return nil
	}
	backoff := retry.Policy{First: declareEvery, Max: 30 * time.Second}.Backoff()
	tick := time.NewTicker(declareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.pokeRenewal()
		why := s.lost()
		if s.cfg.NewGeneration != GenerationAuto || why == nil || src.Lost() == nil || errors.Is(why, tidegate.ErrDiverged) {
			backoff.Reset()
			continue
		}
		if err := s.declare(ctx, why); err != nil && ctx.Err() == nil {
			s.log.Warn("new generation not declared", "err", err, "hint", tidegate.HintOf(err))
			if backoff.Wait(ctx) != nil {
				return nil
			}
		}
	}
}

// declare asks the gate to write down that the log is given up.
func (s *stream) declare(ctx context.Context, why error) error {
	s.mu.Lock()
	id := s.view.id
	s.mu.Unlock()
	req := &pb.DeclareGenerationRequest{Node: string(s.agent.cfg.Node.Name), StreamId: api.IDText(id), Reason: why.Error()}
	_, err := call(ctx, s.agent.gate, "declare generation", callTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.DeclareGenerationRequest]) (*connect.Response[pb.DeclareGenerationResponse], error) {
			return c.DeclareGeneration(ctx, r)
		})
	return err
}
