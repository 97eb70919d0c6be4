package api

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// GapMessage is a gap on the wire.
func GapMessage(g tidegate.Gap) *pb.Gap {
	m := &pb.Gap{
		Renewal: &pb.Renewal{Epoch: uint64(g.Epoch), Node: string(g.Node), Site: string(g.Site), Reason: g.Reason, Actor: g.Actor},
		Lost:    g.Lost, AcceptedLoss: g.AcceptedLoss, Generation: uint32(g.Generation),
	}
	if !g.Since.IsZero() {
		m.Renewal.Since = timestamppb.New(g.Since)
	}
	if g.Durable != nil {
		m.Durable = new(uint64(*g.Durable))
	}
	if g.Head != nil {
		m.Head = new(uint64(*g.Head))
	}
	return m
}

// GapMessages are gaps on the wire, in their order.
func GapMessages(gaps []tidegate.Gap) (list []*pb.Gap) {
	for _, g := range gaps {
		list = append(list, GapMessage(g))
	}
	return list
}

// Gap parses a gap.
func Gap(m *pb.Gap) tidegate.Gap {
	r := m.GetRenewal()
	g := tidegate.Gap{
		Epoch: tidegate.Epoch(r.GetEpoch()), Site: tidegate.SiteName(r.GetSite()), Node: tidegate.NodeName(r.GetNode()), Lost: m.GetLost(),
		Generation: tidegate.Generation(m.GetGeneration()), Reason: r.GetReason(), Actor: r.GetActor(), AcceptedLoss: m.GetAcceptedLoss(),
	}
	if r.GetSince() != nil {
		g.Since = r.GetSince().AsTime()
	}
	if m.Durable != nil {
		g.Durable = new(tidegate.Position(m.GetDurable()))
	}
	if m.Head != nil {
		g.Head = new(tidegate.Position(m.GetHead()))
	}
	return g
}

// Gaps parses gaps.
func Gaps(list []*pb.Gap) (gaps []tidegate.Gap) {
	for _, m := range list {
		gaps = append(gaps, Gap(m))
	}
	return gaps
}
