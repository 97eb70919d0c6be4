package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// found is one stream as the standby nodes remember it.
type found struct {
	service, name, store string
	mode                 tidegate.Mode
	bounds               tidegate.Bounds
	config               fence.Config
	configEpoch          tidegate.Epoch
	active               fence.Holder // where the stream lived; the zero holder when nobody remembers
	activeEpoch          tidegate.Epoch
	members              []tidegate.NodeName
	highest              tidegate.Epoch // promised or adopted by anybody
	best                 fence.FenceReply
	holders              []fence.Member    // who answered
	renewal              *registry.Renewal // newest declaration of a new generation; nil when nobody remembers any
	gaps                 []tidegate.Gap    // that anybody remembers, by epoch
}

// Rebuild implements OperatorService: the day etcd is gone for good. Every node
// is asked for promises, histories and configurations, or named as missing;
// every stream gets a record above all of them, without a writer and with an
// unknown gate, so that no zero-loss claim is made until a live writer re-arms.
func (s *operatorService) Rebuild(ctx context.Context, req *connect.Request[pb.RebuildRequest]) (*connect.Response[pb.RebuildResponse], error) {
	m := req.Msg
	if len(m.GetStandbys()) == 0 {
		return nil, misuse("rebuild registry", s.cluster, errors.New("standbys: want the API addresses of the standby nodes"))
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	if len(v.Streams) > 0 {
		return nil, &tidegate.Error{
			Op: "rebuild registry", Subject: s.cluster, Class: tidegate.Refused, Err: fmt.Errorf("it has %d streams", len(v.Streams)),
			Hint: "rebuild is for an empty registry; point the gate at a fresh one",
		}
	}
	var nodes []registry.Node
	streams := map[tidegate.StreamID]*found{}
	for _, addr := range m.GetStandbys() {
		d, err := s.standbys.describe(ctx, addr)
		if err != nil {
			return nil, err // a node that is lost for good must be named as missing
		}
		node, err := s.take(streams, d)
		if err != nil {
			return nil, misuse("rebuild registry", addr, err)
		}
		nodes = append(nodes, node)
	}
	out := &pb.RebuildResponse{}
	tx := new(registry.Tx)
	for _, n := range nodes {
		tx.Put(registry.NodeKey(registry.KindStandby, n.Name), n)
	}
	services := map[string]bool{}
	for id, f := range streams {
		rec, st, warn, err := f.records(id, m.GetMissing(), tidegate.SiteName(m.GetActiveSite()))
		if err != nil {
			return nil, &tidegate.Error{
				Op: "rebuild registry", Subject: f.service + "/" + f.name, Class: tidegate.Refused, Err: err,
				Hint: "give the address of every member, or name it as missing if it is lost for good; name the active site if nobody remembers it",
			}
		}
		rec.Since = s.now().UnixNano()
		out.Warnings = append(out.Warnings, warn...)
		if !services[f.service] {
			services[f.service] = true
			if v.Services[tidegate.ServiceName(f.service)].Revision == 0 {
				tx.Put(registry.ServiceKey(tidegate.ServiceName(f.service)), registry.Service{Name: tidegate.ServiceName(f.service)})
			}
			out.Warnings = append(out.Warnings, fmt.Sprintf("service %s: objectives, routes and endpoints are not kept by standby nodes; set them again", f.service))
		}
		tx.Unchanged(registry.StreamKey(id), 0).Unchanged(registry.EpochKey(id), 0).
			Put(registry.NameKey(st.Service, st.Name), id).Put(registry.StreamKey(id), st).Put(registry.EpochKey(id), rec)
		out.Streams = append(out.Streams, streamView(&registry.View{Epochs: map[tidegate.StreamID]registry.Entry[fence.EpochRecord]{id: {Value: rec}}}, st))
	}
	slices.Sort(out.Warnings)
	slices.SortFunc(out.Streams, func(a, b *pb.StreamView) int {
		return strings.Compare(a.GetService()+"/"+a.GetName(), b.GetService()+"/"+b.GetName())
	})
	if m.GetDryRun() {
		return connect.NewResponse(out), nil
	}
	e := s.entry(ctx, ActionRebuild, "", m.GetReason(), fact("streams", "%d", len(streams)), fact("missing", "%v", m.GetMissing()))
	if _, err := s.store.Commit(ctx, tx.Audit(e)); err != nil {
		return nil, err
	}
	s.log.Warn("registry rebuilt from standby nodes", "streams", len(streams), "missing", m.GetMissing(), "reason", m.GetReason(), "actor", actor(ctx))
	return connect.NewResponse(out), nil
}

// take adds one node's description.
func (s *operatorService) take(streams map[tidegate.StreamID]*found, d *pb.DescribeResponse) (registry.Node, error) {
	inc, err := api.RequireID("incarnation", d.GetIncarnation())
	node := registry.Node{
		Name: tidegate.NodeName(d.GetNode()), Kind: registry.KindStandby, Site: tidegate.SiteName(d.GetSite()), Incarnation: inc,
		ShipAddress: d.GetShipAddress(), APIAddress: d.GetApiAddress(),
	}
	if err != nil {
		return node, err
	}
	for _, sd := range d.GetStreams() {
		id, err := api.RequireID("stream id", sd.GetStreamId())
		if err != nil {
			return node, err
		}
		f := streams[id]
		if f == nil {
			f = &found{service: sd.GetService(), name: sd.GetName(), store: sd.GetStore()}
			streams[id] = f
		}
		// A log that was made anew on a node that lost only that log has an
		// incarnation of its own; its configuration names it by that.
		own, err := api.ParseID("stream incarnation", sd.GetIncarnation())
		if err != nil {
			return node, err
		}
		if own.IsZero() {
			own = inc
		}
		if err := f.add(fence.Member{Node: node.Name, Incarnation: own}, sd); err != nil {
			return node, err
		}
	}
	return node, nil
}

// add joins one node's memory of a stream: the newest configuration, the highest
// epoch anybody has heard of, and the best log.
func (f *found) add(m fence.Member, sd *pb.StreamDescription) error {
	promise, err := fencewire.Promise(sd.GetPromise())
	if err != nil {
		return err
	}
	history, err := fencewire.History(sd.GetHistory())
	if err != nil {
		return err
	}
	durable, err := api.LogPos(sd.GetDurable())
	if err != nil {
		return err
	}
	adopted := history.Last().Epoch
	f.highest = max(f.highest, promise.Epoch, adopted)
	if !sd.GetLimbo() {
		f.holders = append(f.holders, m)
		best := f.best.History.Last().Epoch
		if f.best.Member.Node == "" || adopted > best || adopted == best && durable.Seq > f.best.Durable.Seq {
			f.best = fence.FenceReply{Member: m, History: history, Durable: durable}
		}
	}
	if sd.GetRecord() != nil {
		rec, _, err := fencewire.Record(sd.GetRecord())
		if err != nil {
			return err
		}
		f.highest = max(f.highest, rec.Epoch)
		if rec.ActiveEpoch > f.activeEpoch {
			f.active, f.activeEpoch = rec.Active, rec.ActiveEpoch
		}
	}
	if r := sd.GetRenewal(); r != nil && (f.renewal == nil || tidegate.Epoch(r.GetEpoch()) > f.renewal.Epoch) {
		f.renewal = &registry.Renewal{
			Epoch: tidegate.Epoch(r.GetEpoch()), Node: tidegate.NodeName(r.GetNode()), Site: tidegate.SiteName(r.GetSite()),
			Reason: r.GetReason(), Actor: r.GetActor(), Since: r.GetSince().AsTime(),
		}
	}
	f.gaps = tidegate.MergeGaps(f.gaps, api.Gaps(sd.GetGaps()))
	cfg, err := fencewire.Config(sd.GetConfig())
	if err != nil {
		return err
	}
	if len(cfg.Members) > 0 && (len(f.config.Members) == 0 || adopted >= f.configEpoch) {
		f.config, f.configEpoch, f.mode = cfg, adopted, api.Mode(sd.GetMode())
		if f.bounds, err = api.Bounds(sd.GetBounds()); err != nil {
			return err
		}
		f.members = nil
		for _, n := range sd.GetMembers() {
			f.members = append(f.members, tidegate.NodeName(n))
		}
	}
	return nil
}

// records returns what is written for a stream: no writer, an unknown gate, and
// an epoch above everything anybody has sworn to.
func (f *found) records(id tidegate.StreamID, missing []string, site tidegate.SiteName) (fence.EpochRecord, registry.Stream, []string, error) {
	var warn []string
	name := f.service + "/" + f.name
	if len(f.config.Members) == 0 {
		return fence.EpochRecord{}, registry.Stream{}, nil, errors.New("no node remembers its configuration")
	}
	answered := 0
	for _, m := range f.config.Members {
		switch {
		case slices.Contains(f.holders, m):
			answered++
		case slices.Contains(missing, string(m.Node)):
			warn = append(warn, fmt.Sprintf("stream %s: member %s is missing", name, m.Node))
		default:
			return fence.EpochRecord{}, registry.Stream{}, nil, fmt.Errorf("member %s did not answer and is not named as missing", m)
		}
	}
	if answered < f.config.Quorum().R() {
		warn = append(warn, fmt.Sprintf("stream %s: %d members answered, a proof takes %d: what was durable may be lost", name, answered, f.config.Quorum().R()))
	}
	mode := f.mode
	if mode == "" {
		mode = tidegate.ModeOpen
		warn = append(warn, fmt.Sprintf("stream %s: no node remembers its mode; set it again", name))
	}
	active := f.best.History.Last()
	holder := f.active
	if site != "" {
		holder = fence.Holder{Site: site}
	}
	if active.Epoch > 0 && holder.Site == "" {
		return fence.EpochRecord{}, registry.Stream{}, nil, errors.New("no node remembers where the service runs")
	}
	rec := fence.EpochRecord{
		Version: fence.EpochRecordVersion, Stream: id, Epoch: max(f.highest, active.Epoch) + 1, State: fence.StateFencing,
		Holder: fence.Holder{UUID: tidegate.NewID()}, Gate: fence.GateRecord{State: fence.GateUnknown, Mode: mode, Bounds: f.bounds, SinceSeq: 1},
		Config: f.config, ActiveEpoch: active.Epoch, Active: holder, History: f.best.History, Head: f.best.Durable, StartSeq: f.best.Durable.Seq + 1,
		Source: f.best.Member.Node, Kind: fence.KindAcquire, Restored: true, Unclean: answered < f.config.Quorum().R(),
	}
	st := registry.Stream{
		ID: id, Service: tidegate.ServiceName(f.service), Name: tidegate.StreamName(f.name), Store: first(f.store, "journal"),
		Mode: mode, Bounds: f.bounds, Policy: tidegate.Policy{Reaction: tidegate.ReactBlock}, Members: f.members, W: f.config.W,
		// What was declared stays so: the source has begun anew, or is about to, and its
		// agent would go on to prove that it continues a log which was given up.
		Renewal: f.renewal, Gaps: f.gaps,
	}
	if r := f.renewal; r.Pending(rec) {
		warn = append(warn, fmt.Sprintf("stream %s: a new generation was declared by %s (%s), and is not opened yet: the agent on node %s at site %s does that with its next epoch", name, r.Actor, r.Reason, r.Node, r.Site))
	}
	if len(st.Members) == 0 {
		for _, m := range f.config.Members {
			st.Members = append(st.Members, m.Node)
		}
	}
	return rec, st, warn, rec.Validate()
}
