package gating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/local"
)

const (
	// leaveWait is how long a removal waits for agents to have their stores let go:
	// a round of reports, and what a server takes to obey.
	leaveWait  = 10 * time.Second
	leaveEvery = 100 * time.Millisecond
)

// RemoveStream implements OperatorService. What the stream's stores keep for it,
// they let go of first, by the agents beside them; where the agent is away, what
// is left is said. History, plans and quarantine reports stay. A stream in the
// hands of a plan stays too: the plan would leave the service's other streams
// without a writer.
func (s *operatorService) RemoveStream(ctx context.Context, req *connect.Request[pb.RemoveStreamRequest]) (*connect.Response[pb.RemoveStreamResponse], error) {
	m := req.Msg
	service := tidegate.ServiceName(m.GetService())
	release, err := s.control.hold(ctx, "remove stream", service)
	if err != nil {
		return nil, err
	}
	defer release()
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	e, ok := v.Stream(service, tidegate.StreamName(m.GetStream()))
	if !ok {
		return nil, notFound("remove stream", m.GetService()+"/"+m.GetStream(), "see `tidegate streams list`")
	}
	id := e.Value.ID
	var remnants []*pb.Remnant
	if e.Value.Store != local.KindJournal {
		// Agents report to the gate that leads.
		if err := s.control.elsewhere("remove stream"); err != nil {
			return nil, err
		}
		if remnants, err = s.leave(ctx, e, v.Epochs[id].Value.Holder.Node); err != nil {
			return nil, err
		}
	}
	if v, err = s.store.Read(ctx); err != nil {
		return nil, err
	}
	if e, ok = v.Streams[id]; !ok {
		return nil, notFound("remove stream", m.GetService()+"/"+m.GetStream(), "see `tidegate streams list`")
	}
	last := v.Epochs[id]
	entry := s.entry(ctx, ActionStreamRemove, service, m.GetReason(), fact("id", "%s", id), fact("epoch", "%s", last.Value.Epoch))
	for _, r := range remnants {
		entry.Detail = append(entry.Detail, fact("left on "+r.GetNode(), "%s", r.GetText()))
	}
	entry.Stream = e.Value.Name
	_, err = s.store.Commit(ctx, new(registry.Tx).
		Unchanged(registry.StreamKey(id), e.Revision).Unchanged(registry.EpochKey(id), last.Revision).
		Put(registry.HistoryKey(id, last.Value.Epoch), last.Value).
		Delete(registry.StreamKey(id)).Delete(registry.EpochKey(id)).Delete(registry.NameKey(e.Value.Service, e.Value.Name)).Audit(entry))
	if err != nil {
		return nil, err
	}
	s.log.Warn("stream removed", "service", m.GetService(), "stream", m.GetStream(), "id", id, "reason", m.GetReason(), "actor", actor(ctx))
	return connect.NewResponse(&pb.RemoveStreamResponse{Remnants: remnants}), nil
}

// leave has the agents of a stream let go of what their stores keep for it, and
// returns what those keep whose agents are away. An agent that is there and cannot
// is an error: the stream stays, so that nobody waits for ever for an answer of it.
// Of a holder that never reported to this gate nothing is known.
func (s *operatorService) leave(ctx context.Context, e registry.Entry[registry.Stream], holder tidegate.NodeName) ([]*pb.Remnant, error) {
	id := e.Value.ID
	if holder != "" && !s.world.reported(id, holder) {
		return []*pb.Remnant{{
			Node: string(holder), Text: "what its store keeps is not known: its agent has not reported to this gate. See the page of the store in docs/operating",
		}}, nil
	}
	if there, away := s.world.keeps(id, s.timing.Stale); len(there) == 0 {
		return away, nil
	}
	st := e.Value
	st.Leaving = true
	tx := new(registry.Tx).Unchanged(registry.StreamKey(id), e.Revision).Put(registry.StreamKey(id), st)
	if _, err := s.store.Commit(ctx, tx); err != nil {
		return nil, err
	}
	one, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	tick := time.NewTicker(leaveEvery)
	defer tick.Stop()
	for {
		there, away := s.world.keeps(id, s.timing.Stale)
		if len(there) == 0 {
			return away, nil
		}
		select {
		case <-tick.C:
		case <-one.Done():
			s.stay(ctx, id)
			var left []string
			for _, r := range there {
				left = append(left, r.GetNode()+": "+r.GetText())
			}
			return nil, &tidegate.Error{
				Op: "remove stream", Subject: fmt.Sprintf("%s/%s", st.Service, st.Name), Class: tidegate.Refused,
				Err:  errors.New("its stores still keep something for it: " + strings.Join(left, "; ")),
				Hint: "do what it says by hand, or see `tidegate doctor` why the agent cannot, and repeat; with the agent stopped the stream is removed, and what is left is listed",
			}
		}
	}
}

// stay takes back that a stream is leaving. A failure only leaves it to the next try.
func (s *operatorService) stay(ctx context.Context, id tidegate.StreamID) {
	v, err := s.store.Read(ctx)
	if err == nil {
		if e, ok := v.Streams[id]; ok {
			e.Value.Leaving = false
			_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.StreamKey(id), e.Revision).Put(registry.StreamKey(id), e.Value))
		}
	}
	if err != nil {
		s.log.Warn("stream still marked as leaving", "id", id, "err", err)
	}
}

// reported reports whether a node's agent has said anything of a stream.
func (w *world) reported(id tidegate.StreamID, node tidegate.NodeName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agents[node]
	return a != nil && slices.ContainsFunc(a.report.GetStreams(), func(m *pb.AgentStream) bool { return m.GetStreamId() == id.String() })
}

// keeps returns what stores keep for a stream, by the last reports of the agents
// beside them: of those that report, and of those that are silent.
func (w *world) keeps(id tidegate.StreamID, stale time.Duration) (there, away []*pb.Remnant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(w.agents)) {
		a := w.agents[node]
		for _, one := range a.report.GetStreams() {
			if one.GetStreamId() != id.String() {
				continue
			}
			for _, text := range one.GetKeeps() {
				r := &pb.Remnant{Node: string(node), Text: text}
				if w.age(a.at) > stale {
					away = append(away, r)
				} else {
					there = append(there, r)
				}
			}
		}
	}
	return there, away
}
