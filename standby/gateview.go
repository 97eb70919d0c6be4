package standby

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
)

// ReadEpoch implements [Directory].
func (d *GateDirectory) ReadEpoch(ctx context.Context, stream tidegate.StreamID) (fence.EpochRecord, error) {
	i := d.index()
	ctx, cancel := context.WithTimeout(ctx, gateCallTimeout)
	defer cancel()
	res, err := d.gates[i].ReadEpoch(ctx, connect.NewRequest(&pb.ReadEpochRequest{StreamId: stream.String()}))
	if err != nil {
		return fence.EpochRecord{}, api.FromError("read epoch", stream.String(), err)
	}
	rec, _, err := fencewire.Record(res.Msg.GetEpoch())
	if err != nil {
		return rec, fmt.Errorf("read epoch %s: %w", stream, err)
	}
	return rec, nil
}

// Report implements [Directory]. It goes from gate to gate until one keeps the
// report: rules rest on what the gate that leads has heard, and the others say
// that they do not lead. The watch stays where it is.
func (d *GateDirectory) Report(ctx context.Context, st Status) error {
	first, m := d.index(), ReportMessage(st, d.clk.Wall())
	var err error
	for i := range d.gates {
		at := (first + i) % len(d.gates)
		// No gate may use up the time of the others.
		one, cancel := context.WithTimeout(ctx, gateCallTimeout/time.Duration(len(d.gates)))
		_, err = d.gates[at].ReportStandby(one, connect.NewRequest(m))
		cancel()
		if err = api.FromError("report to gate", d.addrs[at], err); err == nil || tidegate.ClassOf(err) != tidegate.Transient {
			return err
		}
	}
	return err
}

// ReportTail implements [Directory].
func (d *GateDirectory) ReportTail(ctx context.Context, t Tail) error {
	m := &pb.ReportQuarantineRequest{
		Id: t.ID.String(), Node: string(d.self), StreamId: api.IDText(t.Stream),
		WrittenEpoch: uint64(t.WrittenEpoch), CutEpoch: uint64(t.CutEpoch),
		FirstPosition: uint64(t.First), NextPosition: uint64(t.Next), Records: t.Records, Bytes: t.Bytes,
		Reason: t.Reason, Path: t.Path,
	}
	if t.Records > 0 {
		m.Oldest, m.Newest = timestamppb.New(t.OldestTime), timestamppb.New(t.NewestTime)
	}
	if t.ReleasedKnown {
		m.ReleasedRecords = &t.ReleasedRecords
		if !t.ReleasedNewest.IsZero() {
			m.ReleasedNewest = timestamppb.New(t.ReleasedNewest)
		}
	}
	i := d.index()
	ctx, cancel := context.WithTimeout(ctx, gateCallTimeout)
	defer cancel()
	_, err := d.gates[i].ReportQuarantine(ctx, connect.NewRequest(m))
	return api.FromError("report tail to gate", d.addrs[i], err)
}

// watchView is a view as the messages of one watch add up to it.
type watchView struct {
	services map[string]*pb.ServiceView
	nodes    map[string]*pb.NodeView // standby nodes
	parsed   View
}

// with returns the view with one message added; changed says whether it differs.
func (w watchView) with(m *pb.WatchResponse) (next watchView, changed bool, err error) {
	next = watchView{services: map[string]*pb.ServiceView{}, nodes: map[string]*pb.NodeView{}}
	if !m.GetSnapshot() {
		maps.Copy(next.services, w.services)
		maps.Copy(next.nodes, w.nodes)
	}
	for _, name := range m.GetRemovedServices() {
		delete(next.services, name)
	}
	for _, s := range m.GetServices() {
		next.services[s.GetName()] = s
	}
	for _, n := range m.GetNodes() {
		if n.GetKind() == pb.NodeKind_NODE_KIND_STANDBY {
			next.nodes[n.GetNode()] = n
		}
	}
	changed = m.GetSnapshot() || len(m.GetRemovedServices())+len(m.GetServices())+len(m.GetNodes()) > 0
	if !changed {
		next.parsed = w.parsed
		return next, false, nil
	}
	next.parsed, err = next.parse()
	return next, true, err
}

func (w watchView) view() View { return w.parsed }

func (w watchView) parse() (View, error) {
	v := View{Version: viewVersion}
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		for _, m := range w.services[name].GetStreams() {
			s, err := parseStreamView(m)
			if err != nil {
				return v, fmt.Errorf("stream %s/%s: %w", name, m.GetName(), err)
			}
			v.Streams = append(v.Streams, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		m := w.nodes[name]
		inc, err := api.ParseID("incarnation", m.GetIncarnation())
		if err != nil {
			return v, fmt.Errorf("node %s: %w", name, err)
		}
		v.Nodes = append(v.Nodes, NodeView{
			Node: tidegate.NodeName(name), Site: tidegate.SiteName(m.GetSite()), Incarnation: inc,
			Ship: m.GetShipAddress(), API: m.GetApiAddress(),
		})
	}
	return v, nil
}

func parseStreamView(m *pb.StreamView) (s StreamView, err error) {
	if s.ID, err = api.RequireID("stream id", m.GetId()); err != nil {
		return s, err
	}
	s.Service, s.Name = tidegate.ServiceName(m.GetService()), tidegate.StreamName(m.GetName())
	for _, name := range []string{m.GetService(), m.GetName()} {
		// They become parts of a socket's path.
		if err := tidegate.ValidName(name); err != nil {
			return s, err
		}
	}
	s.Store, s.Mode = m.GetStore(), api.Mode(m.GetMode())
	if s.Bounds, err = api.Bounds(m.GetBounds()); err != nil {
		return s, err
	}
	for _, member := range m.GetMembers() {
		s.Members = append(s.Members, tidegate.NodeName(member))
	}
	if m.GetEpoch() != nil {
		rec, _, err := fencewire.Record(m.GetEpoch())
		if err != nil {
			return s, err
		}
		s.Record = &rec
	}
	if r := m.GetRenewal(); r != nil {
		s.Renewal = &Renewal{
			Epoch: tidegate.Epoch(r.GetEpoch()), Node: tidegate.NodeName(r.GetNode()), Site: tidegate.SiteName(r.GetSite()),
			Reason: r.GetReason(), Actor: r.GetActor(), Since: r.GetSince().AsTime(),
		}
	}
	s.Gaps = api.Gaps(m.GetGaps())
	return s, nil
}
