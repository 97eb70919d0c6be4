package gating

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/local"
)

// A gap is a range of a source's log that the source gave up before the other site had
// it. It is open while the agent beside the source says so and nobody has declared a new
// generation; whoever does, by whatever verb or policy, accepts it, and it stays with
// the stream.

// AcceptGap implements OperatorService.
func (s *operatorService) AcceptGap(ctx context.Context, req *connect.Request[pb.AcceptGapRequest]) (*connect.Response[pb.AcceptGapResponse], error) {
	m := req.Msg
	d, err := s.declareFor(ctx, m.GetService(), m.GetStream(), declaring{op: "accept gap", action: ActionGapAccept, reason: m.GetReason(), acceptLoss: m.GetAcceptLoss(), dryRun: m.GetDryRun()})
	if err != nil {
		return nil, err
	}
	out := &pb.AcceptGapResponse{Rules: d.rules, Facts: factMessages(d.facts)}
	if d.gap != nil {
		out.Gap = api.GapMessage(*d.gap)
	}
	return connect.NewResponse(out), nil
}

// ListGaps implements OperatorService.
func (s *operatorService) ListGaps(ctx context.Context, req *connect.Request[pb.ListGapsRequest]) (*connect.Response[pb.ListGapsResponse], error) {
	m := req.Msg
	const op = "list gaps"
	if err := s.control.elsewhere(op); err != nil {
		return nil, err // agents report to the gate that leads
	}
	if m.GetStream() != "" && m.GetService() == "" {
		return nil, misuse(op, m.GetStream(), errors.New("service: want one with a stream"))
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	var streams []registry.Stream
	for _, e := range v.Streams {
		if st := e.Value; (m.GetService() == "" || m.GetService() == string(st.Service)) && (m.GetStream() == "" || m.GetStream() == string(st.Name)) {
			streams = append(streams, st)
		}
	}
	if len(streams) == 0 && m.GetService() != "" {
		return nil, notFound(op, m.GetService()+"/"+first(m.GetStream(), "*"), "see `tidegate streams list`")
	}
	slices.SortFunc(streams, func(a, b registry.Stream) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	out := &pb.ListGapsResponse{}
	for _, st := range streams {
		out.Gaps = append(out.Gaps, s.gapsOf(st, v.Epochs[st.ID].Value)...)
	}
	return connect.NewResponse(out), nil
}

// gapsOf are those of one stream, oldest first.
func (p parts) gapsOf(st registry.Stream, rec fence.EpochRecord) (list []*pb.GapView) {
	add := func(state pb.GapState, g tidegate.Gap) {
		list = append(list, &pb.GapView{Service: string(st.Service), Stream: string(st.Name), StreamId: api.IDText(st.ID), State: state, Gap: api.GapMessage(g)})
	}
	pending := st.Renewal.Pending(rec)
	for _, g := range st.Gaps {
		state := pb.GapState_GAP_STATE_ACCEPTED
		if pending && g.Epoch == st.Renewal.Epoch {
			state = pb.GapState_GAP_STATE_PENDING
		}
		add(state, g)
	}
	if pending || rec.ActiveEpoch == 0 || st.Store == local.KindJournal { // no journal says that it does not go on
		return list
	}
	said := p.world.sourceOf(st, rec, p.timing.Stale)
	switch g := p.world.gapOf(rec, said, p.timing.Stale); {
	case said.node == "":
		g.Lost = fmt.Sprintf("no agent at site %s reports the stream", rec.Active.Site)
		add(pb.GapState_GAP_STATE_UNKNOWN, g)
	case g.Lost != "":
		add(pb.GapState_GAP_STATE_OPEN, g)
	case g.Head == nil: // who cannot look says nothing either
		g.Lost = fmt.Sprintf("the agent on %s does not know where the log of its source ends", said.node)
		add(pb.GapState_GAP_STATE_UNKNOWN, g)
	}
	return list
}

// gapOf is what is known of the range that a source has lost; who accepts it is the
// caller's.
func (w *world) gapOf(rec fence.EpochRecord, said source, stale time.Duration) tidegate.Gap {
	g := tidegate.Gap{Epoch: rec.ActiveEpoch, Site: rec.Active.Site, Node: said.node, Lost: said.report.GetLost(), Generation: tidegate.Generation(said.report.GetGeneration())}
	if said.report != nil && said.report.Head != nil {
		g.Head = new(tidegate.Position(said.report.GetHead()))
	}
	if all := w.logs(rec, stale); rec.Config.W > 0 && len(all) >= rec.Config.W {
		sure := all[rec.Config.W-1]
		g.Generation, g.Durable = tidegate.Generation(sure.GetGeneration()), new(tidegate.Position(sure.GetDurablePosition()))
	}
	return g
}

// logs are the reports of the members that say where their log ends, those that go furthest
// first, by adopted epoch and then by batch. Up to the end of the W-th of them the log is kept
// whichever members a recovery reads; what lies behind that may be lost with one of them.
func (w *world) logs(rec fence.EpochRecord, stale time.Duration) (all []*pb.StandbyStream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range rec.Config.Members {
		st := w.standbys[m.Node]
		if st == nil || w.age(st.at) > stale {
			continue
		}
		if one := reportOf(st.report, rec.Stream); one != nil && one.DurablePosition != nil && !one.GetLimbo() {
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b *pb.StandbyStream) int {
		return cmp.Or(cmp.Compare(adoptedEpoch(b), adoptedEpoch(a)), cmp.Compare(b.GetDurable().GetSeq(), a.GetDurable().GetSeq()))
	})
	return all
}

// gapFacts are what becomes of the log when a new generation begins.
func (p parts) gapFacts(rec fence.EpochRecord, said source, g tidegate.Gap) []registry.Fact {
	from := "an unknown position"
	if g.Durable != nil {
		from = g.Durable.String()
	}
	size := "of unknown size: no standby node has one"
	if all := p.world.logs(rec, p.timing.Stale); len(all) > 0 && all[0].GetBaseBytes() > 0 {
		size = fmt.Sprintf("of about %d bytes, as the newest one is that a standby node has", all[0].GetBaseBytes())
	}
	return []registry.Fact{
		fact("lost", "from %s to where the new generation begins, which is not known yet", from),
		fact("new base", "%s, taken of the source beside %s at site %s", size, first(string(said.node), "an unknown node"), rec.Active.Site),
		fact("window", "what can be restored ends at %s, and begins anew where the new base is consistent; what lies between stays a scar for ever", from),
	}
}

// note adds a gap to those of a stream; another one up to the same epoch, of which nothing
// came, is replaced.
func noteGap(gaps []tidegate.Gap, g tidegate.Gap) []tidegate.Gap {
	out := slices.DeleteFunc(slices.Clone(gaps), func(one tidegate.Gap) bool { return one.Epoch == g.Epoch })
	return append(out, g)
}
