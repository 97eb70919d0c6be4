package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// streamsPerServiceMax keeps a change of writer of a whole service within one
// transaction of the registry, which takes 128 operations.
const streamsPerServiceMax = 32

// knownStores are what an agent can capture and a standby node can keep warm. To
// the gate they are names.
var knownStores = []string{"journal", "postgres"}

// AddService implements OperatorService. Adding a service again changes its
// objectives, routes and endpoints.
func (s *operatorService) AddService(ctx context.Context, req *connect.Request[pb.AddServiceRequest]) (*connect.Response[pb.AddServiceResponse], error) {
	m := req.Msg.GetService()
	want, err := serviceOf(m)
	if err != nil {
		return nil, misuse("add service", m.GetName(), err)
	}
	err = s.change(ctx, func() error {
		var old registry.Service
		key := registry.ServiceKey(want.Name)
		rev, err := s.store.Get(ctx, key, &old)
		if err != nil {
			return err
		}
		next := want
		next.Frozen, next.Reason, next.Disarmed = old.Frozen, old.Reason, old.Disarmed
		next.SingleRegistry = old.SingleRegistry || req.Msg.GetSingleRegistry()
		if m.GetLeaseTtl() == nil {
			next.LeaseTTL = old.LeaseTTL
		}
		if m.GetDetector() == nil {
			next.Detector = old.Detector
		}
		if m.GetDrill() == nil {
			next.DrillAge = old.DrillAge
		}
		if err := s.outlives("add service", next, nil); err != nil {
			return err
		}
		if next.Detector.Mode == registry.DetectorAuto && next.Detector != old.Detector {
			v, _, _ := s.world.current()
			if err := s.look.checkDetector(v, next.Name, next.Detector); err != nil {
				return &tidegate.Error{Op: "add service", Subject: string(next.Name), Class: tidegate.Refused, Err: err, Hint: "add it with a detector that observes; `tidegate status` shows what it sees"}
			}
		}
		e := s.entry(ctx, ActionServiceSet, want.Name, "", fact("rpo", "%s", next.RPO), fact("rto", "%s", next.RTO), fact("lease_ttl", "%s", next.LeaseTTL),
			fact("detector", "%s", first(string(next.Detector.Mode), string(registry.DetectorOff))))
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	sv, err := s.serviceNow(ctx, want.Name)
	return connect.NewResponse(&pb.AddServiceResponse{Service: sv}), err
}

func (s *operatorService) serviceNow(ctx context.Context, name tidegate.ServiceName) (*pb.ServiceView, error) {
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	s.world.setView(v)
	return serviceView(v, name, ""), nil
}

func serviceOf(m *pb.Service) (registry.Service, error) {
	out := registry.Service{
		Name: tidegate.ServiceName(m.GetName()), RPO: m.GetRpo().AsDuration(), RTO: m.GetRto().AsDuration(),
		Routes: m.GetRoutes(), Endpoints: map[tidegate.SiteName][]string{},
	}
	errs := []error{tidegate.ValidName(m.GetName())}
	if out.RPO < 0 || out.RTO < 0 {
		errs = append(errs, fmt.Errorf("rpo %s, rto %s: want none negative", out.RPO, out.RTO))
	}
	for _, r := range out.Routes {
		errs = append(errs, tidegate.ValidName(r))
	}
	for _, e := range m.GetEndpoints() {
		errs = append(errs, tidegate.ValidName(e.GetSite()))
		out.Endpoints[tidegate.SiteName(e.GetSite())] = e.GetEndpoints()
	}
	if m.GetMaxLoss() != nil {
		b, err := api.Bounds(m.GetMaxLoss())
		out.MaxLoss, errs = &b, append(errs, err)
	}
	out.LeaseTTL = m.GetLeaseTtl().AsDuration()
	var err error
	out.Detector, err = detectorOf(m.GetDetector())
	errs = append(errs, registry.ValidLeaseTTL(out.LeaseTTL), err)
	if out.DrillAge = m.GetDrill().GetMaxAge().AsDuration(); out.DrillAge < 0 {
		errs = append(errs, fmt.Errorf("drill max age %s: want none negative", out.DrillAge))
	}
	return out, errors.Join(errs...)
}

// outlives refuses what must be recorded while a site is lost, on a registry that
// may be lost with it: a policy that degrades, leases, a detector that acts. An
// operator who knows may want it all the same; that is kept with the service.
func (s *operatorService) outlives(op string, svc registry.Service, streams []registry.Stream) error {
	if s.survives || svc.SingleRegistry {
		return nil
	}
	var what []string
	if svc.LeaseTTL > 0 {
		what = append(what, "an output lease")
	}
	if svc.Detector.Mode == registry.DetectorAuto {
		what = append(what, "a detector that acts")
	}
	for _, st := range streams {
		if st.Policy.Degrades() {
			what = append(what, fmt.Sprintf("policy %s of stream %s", st.Policy.Reaction, st.Name))
		}
	}
	if len(what) == 0 {
		return nil
	}
	return &tidegate.Error{
		Op: op, Subject: string(svc.Name), Class: tidegate.Refused,
		Err:  fmt.Errorf("%s: each needs a registry that outlives the loss of any one site, and this one is not known to", strings.Join(what, ", ")),
		Hint: "run etcd with members at three sites and name them in the gate's registry.sites; or repeat with --single-registry if it is lost together with a site and you accept what follows",
	}
}

// AddStream implements OperatorService. The stream gets its first record, epoch
// 0, over the incarnations of its members that are registered now.
func (s *operatorService) AddStream(ctx context.Context, req *connect.Request[pb.AddStreamRequest]) (*connect.Response[pb.AddStreamResponse], error) {
	m := req.Msg
	subject := m.GetService() + "/" + m.GetName()
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.streamOf(v, m)
	if err != nil {
		return nil, misuse("add stream", subject, err)
	}
	svc := v.Services[st.Service].Value
	svc.SingleRegistry = svc.SingleRegistry || m.GetSingleRegistry()
	if err := s.outlives("add stream", svc, []registry.Stream{st}); err != nil {
		return nil, err
	}
	cfg := fence.Config{W: st.W}
	for _, n := range st.Members {
		node, _ := v.Node(registry.KindStandby, n)
		cfg.Members = append(cfg.Members, fence.Member{Node: n, Incarnation: node.Incarnation})
	}
	fence.SortMembers(cfg.Members)
	gate := fence.GateRecord{State: fence.GateArmed, Mode: st.Mode, Bounds: st.Bounds, SinceSeq: 1, Lease: svc.LeaseTTL}
	if st.Policy.Reaction == tidegate.ReactDegradeBlind {
		gate.State = fence.GateBlindOK // on record before it may act
	}
	rec, err := fence.NewRecord(st.ID, cfg, gate)
	if err != nil {
		return nil, misuse("add stream", subject, err)
	}
	rec.Since = s.now().UnixNano()
	e := s.entry(ctx, ActionStreamAdd, st.Service, "", fact("id", "%s", st.ID), fact("mode", "%s", st.Mode), fact("members", "%v", st.Members), fact("w", "%d", st.W))
	e.Stream = st.Name
	tx := new(registry.Tx).
		Unchanged(registry.ServiceKey(st.Service), v.Services[st.Service].Revision).
		Unchanged(registry.NameKey(st.Service, st.Name), 0).Unchanged(registry.StreamKey(st.ID), 0).Unchanged(registry.EpochKey(st.ID), 0).
		Put(registry.NameKey(st.Service, st.Name), st.ID).Put(registry.StreamKey(st.ID), st).Put(registry.EpochKey(st.ID), rec).Audit(e)
	if svc.SingleRegistry != v.Services[st.Service].Value.SingleRegistry {
		tx.Put(registry.ServiceKey(st.Service), svc)
	}
	_, err = s.store.Commit(ctx, tx)
	if errors.Is(err, tidegate.ErrConflict) {
		err = &tidegate.Error{Op: "add stream", Subject: subject, Class: tidegate.Misuse, Err: fmt.Errorf("the name or id is taken: %w", tidegate.ErrConflict), Hint: "see `tidegate streams list`"}
	}
	if err != nil {
		return nil, err
	}
	s.log.Info("stream added", "service", st.Service, "stream", st.Name, "id", st.ID, "actor", actor(ctx))
	sv, err := s.streamNow(ctx, st.ID)
	return connect.NewResponse(&pb.AddStreamResponse{Stream: sv}), err
}

func (s *operatorService) streamOf(v *registry.View, m *pb.AddStreamRequest) (registry.Stream, error) {
	st := registry.Stream{
		Service: tidegate.ServiceName(m.GetService()), Name: tidegate.StreamName(m.GetName()), Store: first(m.GetStore(), "journal"),
		Mode: api.Mode(m.GetMode()), W: int(m.GetW()),
	}
	errs := []error{tidegate.ValidName(m.GetName())}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, ok := v.Services[st.Service]; !ok {
		bad("service: want one that was added (got %q)", st.Service)
	}
	if len(v.StreamsOf(st.Service)) >= streamsPerServiceMax {
		bad("service: want at most %d streams", streamsPerServiceMax)
	}
	var err error
	if st.ID, err = api.ParseID("id", m.GetId()); err != nil {
		errs = append(errs, err)
	} else if st.ID.IsZero() {
		st.ID = tidegate.NewID()
	}
	if !slices.Contains(knownStores, st.Store) {
		bad("store: want one of %s (got %q)", strings.Join(knownStores, ", "), st.Store)
	}
	st.Bounds, err = s.boundsOf(st.Mode, m.GetBounds())
	errs = append(errs, err)
	st.Policy, err = policyOf(tidegate.Policy{Reaction: tidegate.ReactBlock}, m.GetPolicy(), m.GetGrace(), m.GetRearm())
	errs = append(errs, err)
	for _, n := range m.GetMembers() {
		name := tidegate.NodeName(n)
		if node, ok := v.Node(registry.KindStandby, name); !ok || node.Incarnation.IsZero() {
			bad("members: want registered standby nodes (got %q)", n)
		}
		if slices.Contains(st.Members, name) {
			bad("members: want each node once (got %q twice)", n)
		}
		st.Members = append(st.Members, name)
	}
	if err := (tidegate.Quorum{N: len(st.Members), W: st.W}).Validate(); err != nil {
		errs = append(errs, err)
	}
	return st, errors.Join(errs...)
}

// Defaults of a policy.
const (
	graceDefault = 10 * time.Second // a degrading gate sits out a restarted standby node
	rearmDefault = 30 * time.Second // a link that comes and goes does not arm and degrade in turn
)

// policyOf applies what was asked for to a policy; what is absent stays.
func policyOf(p tidegate.Policy, reaction pb.GatePolicy, grace, rearm *durationpb.Duration) (tidegate.Policy, error) {
	if reaction != pb.GatePolicy_GATE_POLICY_UNSPECIFIED {
		r, ok := reactions[reaction]
		if !ok {
			return p, fmt.Errorf("policy %s: want block, reject, degrade or degrade-blind", reaction)
		}
		if p.Reaction = r; p.Degrades() && p.Grace == 0 {
			p.Grace = graceDefault
		}
	}
	if p.Rearm == 0 {
		p.Rearm = rearmDefault
	}
	if grace != nil {
		p.Grace = grace.AsDuration()
	}
	if rearm != nil {
		p.Rearm = rearm.AsDuration()
	}
	return p, p.Validate()
}

// boundsOf returns the bounds that a stream's record holds: those of the bounded
// mode, nothing otherwise.
func (s *operatorService) boundsOf(mode tidegate.Mode, m *pb.Bounds) (tidegate.Bounds, error) {
	b, err := api.Bounds(m)
	if err != nil {
		return b, err
	}
	unbounded := b == tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}
	switch {
	case mode == "":
		return b, errors.New("mode: want open, bounded or sync")
	case mode == tidegate.ModeBounded && unbounded:
		return b, errors.New("bounds: want at least one of records, bytes, window with mode bounded")
	}
	_, err = mode.Bounds(b)
	return b, err
}

func (s *operatorService) streamNow(ctx context.Context, id tidegate.StreamID) (*pb.StreamView, error) {
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	s.world.setView(v)
	return streamView(v, v.Streams[id].Value), nil
}

// edit changes a stream's wishes by compare-and-swap, with an audit entry.
func (s *operatorService) edit(ctx context.Context, op, action, service, name, reason string, change func(*registry.Stream)) (*pb.StreamView, error) {
	var id tidegate.StreamID
	err := s.change(ctx, func() error {
		v, _, streams, err := s.ofService(ctx, op, service, name)
		if err != nil {
			return err
		}
		if name == "" || len(streams) != 1 {
			return misuse(op, service, errors.New("stream: want a name"))
		}
		st := streams[0]
		id = st.ID
		change(&st)
		e := s.entry(ctx, action, st.Service, reason)
		e.Stream = st.Name
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.StreamKey(id), v.Streams[id].Revision).Put(registry.StreamKey(id), st).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("stream changed", "change", op, "service", service, "stream", name, "actor", actor(ctx))
	return s.streamNow(ctx, id)
}

// PauseStream implements OperatorService.
func (s *operatorService) PauseStream(ctx context.Context, req *connect.Request[pb.PauseStreamRequest]) (*connect.Response[pb.PauseStreamResponse], error) {
	m := req.Msg
	sv, err := s.edit(ctx, "pause stream", ActionStreamPause, m.GetService(), m.GetStream(), m.GetReason(), func(st *registry.Stream) {
		st.Paused, st.Reason = true, m.GetReason()
	})
	return connect.NewResponse(&pb.PauseStreamResponse{Stream: sv}), err
}

// ResumeStream implements OperatorService.
func (s *operatorService) ResumeStream(ctx context.Context, req *connect.Request[pb.ResumeStreamRequest]) (*connect.Response[pb.ResumeStreamResponse], error) {
	m := req.Msg
	sv, err := s.edit(ctx, "resume stream", ActionStreamResume, m.GetService(), m.GetStream(), "", func(st *registry.Stream) {
		st.Paused, st.Reason = false, ""
	})
	return connect.NewResponse(&pb.ResumeStreamResponse{Stream: sv}), err
}

// SetMode implements OperatorService. It changes the wish: the writer brings gate
// and record to it, a loosening recorded first, a tightening last. The permission
// to open blindly alone goes on record here, because no writer may assume it.
func (s *operatorService) SetMode(ctx context.Context, req *connect.Request[pb.SetModeRequest]) (*connect.Response[pb.SetModeResponse], error) {
	m := req.Msg
	var ids []tidegate.StreamID
	err := s.change(ctx, func() error {
		v, svc, streams, err := s.ofService(ctx, "set mode", m.GetService(), m.GetStream())
		if err != nil {
			return err
		}
		next := svc.Value
		next.SingleRegistry = next.SingleRegistry || m.GetSingleRegistry()
		if m.GetLeaseTtl() != nil {
			next.LeaseTTL = m.GetLeaseTtl().AsDuration()
		}
		if err := registry.ValidLeaseTTL(next.LeaseTTL); err != nil {
			return misuse("set mode", m.GetService(), err)
		}
		ids = ids[:0]
		tx, e := new(registry.Tx), s.entry(ctx, ActionModeSet, next.Name, m.GetReason())
		e.Stream = tidegate.StreamName(m.GetStream())
		for i := range streams {
			old := streams[i]
			if err := s.wish(&streams[i], m); err != nil {
				return misuse("set mode", m.GetService()+"/"+string(old.Name), err)
			}
			ids = append(ids, old.ID)
			e.Detail = append(e.Detail, fact(string(old.Name), "%s %s -> %s %s", old.Mode, old.Policy.Reaction, streams[i].Mode, streams[i].Policy.Reaction))
			tx.Unchanged(registry.StreamKey(old.ID), v.Streams[old.ID].Revision).Put(registry.StreamKey(old.ID), streams[i])
			if err := s.permitBlind(tx, v, streams[i]); err != nil {
				return err
			}
		}
		if err := s.outlives("set mode", next, streams); err != nil {
			return err
		}
		key := registry.ServiceKey(next.Name)
		tx.Unchanged(key, svc.Revision)
		if next.LeaseTTL != svc.Value.LeaseTTL || next.SingleRegistry != svc.Value.SingleRegistry {
			e.Detail = append(e.Detail, fact("lease_ttl", "%s -> %s", svc.Value.LeaseTTL, next.LeaseTTL))
			tx.Put(key, next)
		}
		_, err = s.store.Commit(ctx, tx.Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("mode set", "service", m.GetService(), "stream", m.GetStream(), "actor", actor(ctx))
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	s.world.setView(v)
	out := &pb.SetModeResponse{}
	for _, id := range ids {
		out.Streams = append(out.Streams, streamView(v, v.Streams[id].Value))
	}
	if len(out.GetStreams()) > 0 {
		out.Stream = out.GetStreams()[0]
	}
	return connect.NewResponse(out), nil
}

// wish applies what a SetMode asks of one stream.
func (s *operatorService) wish(st *registry.Stream, m *pb.SetModeRequest) error {
	var err error
	if st.Policy, err = policyOf(st.Policy, m.GetPolicy(), m.GetGrace(), m.GetRearm()); err != nil {
		return err
	}
	if m.GetMode() == pb.Mode_MODE_UNSPECIFIED {
		switch {
		case m.GetBounds() != nil:
			return errors.New("mode: want one with bounds")
		case m.GetPolicy() == pb.GatePolicy_GATE_POLICY_UNSPECIFIED && m.GetGrace() == nil && m.GetRearm() == nil && m.GetLeaseTtl() == nil:
			return errors.New("mode: want open, bounded or sync, or a policy, or a lease")
		}
		return nil
	}
	b, err := s.boundsOf(api.Mode(m.GetMode()), m.GetBounds())
	st.Mode, st.Bounds = api.Mode(m.GetMode()), b
	return err
}

// permitBlind puts on record that a writer may open without asking.
func (s *operatorService) permitBlind(tx *registry.Tx, v *registry.View, st registry.Stream) error {
	e, ok := v.Epochs[st.ID]
	if !ok || st.Policy.Reaction != tidegate.ReactDegradeBlind || e.Value.Gate.State == fence.GateBlindOK {
		return nil
	}
	rec := e.Value.Clone()
	if rec.ActiveEpoch > 0 && rec.State != fence.StateActive && rec.State != fence.StateSwitching {
		return &tidegate.Error{
			Op: "set mode", Subject: string(st.Name), Class: tidegate.Transient, Err: fmt.Errorf("a change of writer is under way (%s): %w", rec.State, tidegate.ErrConflict),
			Hint: "look at `tidegate status` and repeat it once there is a writer",
		}
	}
	rec.Gate.State, rec.Since = fence.GateBlindOK, s.now().UnixNano()
	tx.Unchanged(registry.EpochKey(st.ID), e.Revision).Put(registry.EpochKey(st.ID), rec)
	return nil
}

// Freeze implements OperatorService.
func (s *operatorService) Freeze(ctx context.Context, req *connect.Request[pb.FreezeRequest]) (*connect.Response[pb.FreezeResponse], error) {
	m := req.Msg
	name := tidegate.ServiceName(m.GetService())
	changed := false
	err := s.change(ctx, func() error {
		var svc registry.Service
		key := registry.ServiceKey(name)
		rev, err := s.store.Get(ctx, key, &svc)
		if err != nil {
			return err
		}
		if rev == 0 {
			return notFound("freeze", m.GetService(), "see `tidegate streams list`")
		}
		e := s.entry(ctx, ActionThaw, name, m.GetReason())
		if m.GetFrozen() {
			e.Action = ActionFreeze
		}
		tx := new(registry.Tx).Unchanged(key, rev)
		if changed = svc.Frozen != m.GetFrozen(); changed {
			svc.Frozen, svc.Reason = m.GetFrozen(), m.GetReason()
			tx.Put(key, svc)
		} else {
			e.Outcome = outcomeUnchanged
		}
		_, err = s.store.Commit(ctx, tx.Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("role changes frozen or freed", "service", name, "frozen", m.GetFrozen(), "reason", m.GetReason(), "actor", actor(ctx))
	sv, err := s.serviceNow(ctx, name)
	return connect.NewResponse(&pb.FreezeResponse{Service: sv, Changed: changed}), err
}
