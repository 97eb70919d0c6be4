package standby

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// joinState is where a node that fell behind stands on its way back.
type joinState struct {
	fresh bool   // the record was read linearizably in this run
	turn  int    // which member is asked next
	last  string // last refusal, for status
}

// rejoin brings the stream back under the active epoch when this node missed
// its adopt, and out of limbo when the record allows it. Everything it asks for
// is what a controller would ask for.
func (s *stream) rejoin(ctx context.Context) {
	tick := time.NewTicker(s.n.cfg.RejoinEvery)
	defer tick.Stop()
	b := s.watchView()
	defer s.unwatchView(b)
	for {
		select {
		case <-ctx.Done():
			return
		case <-b: // what the gate tells may be what was waited for
		case <-tick.C:
		}
		s.readFresh(ctx)
		s.adoptMissed(ctx)
		s.beginAnew(ctx)
	}
}

// readFresh gives a core in limbo the linearizable read that it waits for.
func (s *stream) readFresh(ctx context.Context) {
	s.mu.Lock()
	limbo, fresh := s.core.Limbo(), s.joining.fresh
	s.mu.Unlock()
	if !limbo {
		return
	}
	if fresh {
		// Watched records are enough from here on; one may allow more now than
		// when it came.
		s.mu.Lock()
		rec := s.view.Record
		s.mu.Unlock()
		if rec != nil {
			s.step(fence.RecordRead{Record: *rec})
		}
		return
	}
	rec, err := s.n.deps.Directory.ReadEpoch(ctx, s.id)
	if err != nil {
		s.lg.Debug("read epoch record", keyErr, err)
		return // asked again at the next tick
	}
	s.mu.Lock()
	s.joining.fresh = true
	s.mu.Unlock()
	s.step(fence.RecordRead{Record: rec, Fresh: true})
}

// adoptMissed asks for the active epoch when this node is a member or a learner
// and has not adopted it, from one node after the other.
func (s *stream) adoptMissed(ctx context.Context) {
	req, due := s.missed()
	if !due {
		// What the log has adopted meanwhile was refused for a base, which seeding tells of.
		s.mu.Lock()
		s.joining.last = ""
		s.mu.Unlock()
		return
	}
	s.lg.Info("adopting the active epoch", keyEpoch, uint64(req.Epoch), "source", string(req.Source), keySeq, uint64(req.Head.Seq))
	reply, err := s.adopt(ctx, req)
	if err == nil && !reply.Adopted {
		err = fmt.Errorf("refused as %s: %s", reply.Class, reply.Why)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joining.last = ""
	if err != nil && ctx.Err() == nil {
		s.joining.last = err.Error()
		s.lg.Warn("adopt the active epoch", keyErr, err)
	}
}

func (s *stream) missed() (fence.AdoptRequest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.view.Record
	if rec == nil {
		return fence.AdoptRequest{}, false
	}
	if p := s.view.partOf(s.n.cfg.Node, s.n.cfg.Site); p != partMember && p != partLearner {
		return fence.AdoptRequest{}, false
	}
	sources := s.sources(rec)
	req, due := rec.AdoptFor(s.core.Adopted().Epoch, sources[s.joining.turn%len(sources)])
	if due {
		s.joining.turn++
	}
	return req, due
}

// sources lists the nodes that may hold the active epoch's log, the likeliest
// first; never empty. Which of the others have adopted, only they know: one that
// has not promised the epoch refuses to be copied from.
func (s *stream) sources(rec *fence.EpochRecord) []tidegate.NodeName {
	var list []tidegate.NodeName
	add := func(n tidegate.NodeName) {
		if n != "" && n != s.n.cfg.Node && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	add(rec.Source) // held the chosen log when it was chosen
	for _, m := range rec.Config.Members {
		add(m.Node)
	}
	if len(list) == 0 {
		return []tidegate.NodeName{s.n.cfg.Node}
	}
	return list
}

// adopt carries out an adopt and waits for its reply.
func (s *stream) adopt(ctx context.Context, req fence.AdoptRequest) (fence.AdoptReply, error) {
	e, err := s.ask(ctx, func(call uint64) fence.NodeEvent { return fence.AdoptAsked{Call: call, Req: req} })
	if err != nil {
		return fence.AdoptReply{}, err
	}
	return s.joined(req, e.(fence.ReplyAdopt).Reply), nil
}

// Fence binds the node to an epoch; the promise is on disk before it returns. A
// stream that cannot be read answers limbo and promises nothing.
func (n *Standby) Fence(ctx context.Context, req fence.FenceRequest) (fence.FenceReply, error) {
	s, err := n.served("fence", req.Stream)
	if s == nil {
		return fence.FenceReply{}, err
	}
	if s.fault != nil {
		return fence.FenceReply{Stream: req.Stream, Member: s.member(), Promise: s.meta.Promise, Limbo: true}, nil
	}
	e, err := s.ask(ctx, func(call uint64) fence.NodeEvent {
		return fence.FenceAsked{Call: call, Req: req, Now: n.deps.Clock.Boot()}
	})
	if err != nil {
		return fence.FenceReply{}, err
	}
	reply := e.(fence.ReplyFence).Reply
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vouch(&reply)
	if reply.Durable.Seq == s.log.End().Seq { // else the log moves on under another promise
		reply.Evidence = s.evidence()
	}
	return reply, nil
}

// Adopt makes the node's log equal to the chosen one and opens the epoch's
// term. It may take as long as copying takes; asking again, while it runs or
// after, is harmless, and when ctx ends the work goes on.
func (n *Standby) Adopt(ctx context.Context, req fence.AdoptRequest) (fence.AdoptReply, error) {
	s, err := n.served("adopt", req.Stream)
	if s == nil {
		return fence.AdoptReply{}, err
	}
	if s.fault != nil {
		return fence.AdoptReply{
			Stream: req.Stream, Member: s.member(), Epoch: req.Epoch, Holder: req.Holder, Promise: s.meta.Promise,
			Class: tidegate.ClassOf(s.fault), Why: s.fault.Error(),
		}, nil
	}
	return s.adopt(ctx, req)
}

// member names this node in a stream that could not be opened, perhaps not
// even its metadata.
func (s *stream) member() fence.Member {
	m := s.meta.Member()
	m.Node = s.n.cfg.Node
	return m
}
