package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// streamsPerServiceMax keeps a change of writer of a whole service within one
// transaction of the registry, which takes 128 operations.
const streamsPerServiceMax = 32

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
		want.Frozen, want.Reason = old.Frozen, old.Reason
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, want))
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
	return out, errors.Join(errs...)
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
	cfg := fence.Config{W: st.W}
	for _, n := range st.Members {
		node, _ := v.Node(registry.KindStandby, n)
		cfg.Members = append(cfg.Members, fence.Member{Node: n, Incarnation: node.Incarnation})
	}
	fence.SortMembers(cfg.Members)
	rec, err := fence.NewRecord(st.ID, cfg, fence.GateRecord{State: fence.GateArmed, Mode: st.Mode, Bounds: st.Bounds, SinceSeq: 1})
	if err != nil {
		return nil, misuse("add stream", subject, err)
	}
	rec.Since = s.now().UnixNano()
	_, err = s.store.Commit(ctx, new(registry.Tx).
		Unchanged(registry.ServiceKey(st.Service), v.Services[st.Service].Revision).
		Unchanged(registry.NameKey(st.Service, st.Name), 0).Unchanged(registry.StreamKey(st.ID), 0).Unchanged(registry.EpochKey(st.ID), 0).
		Put(registry.NameKey(st.Service, st.Name), st.ID).Put(registry.StreamKey(st.ID), st).Put(registry.EpochKey(st.ID), rec))
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
		Mode: api.Mode(m.GetMode()), Policy: policyOf(m.GetPolicy()), W: int(m.GetW()),
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
	if st.Store != "journal" {
		bad("store: want journal (got %q)", st.Store)
	}
	st.Bounds, err = s.boundsOf(st.Mode, m.GetBounds())
	errs = append(errs, err)
	if st.Policy != registry.PolicyBlock {
		bad("policy: want block (got %q)", st.Policy) // the word is reserved; no writer acts on the others
	}
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

// edit changes a stream's wishes by compare-and-swap.
func (s *operatorService) edit(ctx context.Context, op, service, name string, change func(*registry.Stream) error) (*pb.StreamView, error) {
	var id tidegate.StreamID
	err := s.change(ctx, func() error {
		v, err := s.store.Read(ctx)
		if err != nil {
			return err
		}
		e, ok := v.Stream(tidegate.ServiceName(service), tidegate.StreamName(name))
		if !ok {
			return notFound(op, service+"/"+name, "see `tidegate streams list`")
		}
		st := e.Value
		id = st.ID
		if err := change(&st); err != nil {
			return misuse(op, service+"/"+name, err)
		}
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.StreamKey(id), e.Revision).Put(registry.StreamKey(id), st))
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
	sv, err := s.edit(ctx, "pause stream", m.GetService(), m.GetStream(), func(st *registry.Stream) error {
		st.Paused, st.Reason = true, m.GetReason()
		return nil
	})
	return connect.NewResponse(&pb.PauseStreamResponse{Stream: sv}), err
}

// ResumeStream implements OperatorService.
func (s *operatorService) ResumeStream(ctx context.Context, req *connect.Request[pb.ResumeStreamRequest]) (*connect.Response[pb.ResumeStreamResponse], error) {
	m := req.Msg
	sv, err := s.edit(ctx, "resume stream", m.GetService(), m.GetStream(), func(st *registry.Stream) error {
		st.Paused, st.Reason = false, ""
		return nil
	})
	return connect.NewResponse(&pb.ResumeStreamResponse{Stream: sv}), err
}

// SetMode implements OperatorService. It changes the wish only: the writer
// brings gate and record to it, a loosening recorded first, a tightening last.
func (s *operatorService) SetMode(ctx context.Context, req *connect.Request[pb.SetModeRequest]) (*connect.Response[pb.SetModeResponse], error) {
	m := req.Msg
	sv, err := s.edit(ctx, "set mode", m.GetService(), m.GetStream(), func(st *registry.Stream) error {
		b, err := s.boundsOf(api.Mode(m.GetMode()), m.GetBounds())
		st.Mode, st.Bounds = api.Mode(m.GetMode()), b
		return err
	})
	return connect.NewResponse(&pb.SetModeResponse{Stream: sv}), err
}

// RemoveStream implements OperatorService. History, plans and quarantine reports stay.
func (s *operatorService) RemoveStream(ctx context.Context, req *connect.Request[pb.RemoveStreamRequest]) (*connect.Response[pb.RemoveStreamResponse], error) {
	m := req.Msg
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	e, ok := v.Stream(tidegate.ServiceName(m.GetService()), tidegate.StreamName(m.GetStream()))
	if !ok {
		return nil, notFound("remove stream", m.GetService()+"/"+m.GetStream(), "see `tidegate streams list`")
	}
	id := e.Value.ID
	last := v.Epochs[id]
	_, err = s.store.Commit(ctx, new(registry.Tx).
		Unchanged(registry.StreamKey(id), e.Revision).Unchanged(registry.EpochKey(id), last.Revision).
		Put(registry.HistoryKey(id, last.Value.Epoch), last.Value).
		Delete(registry.StreamKey(id)).Delete(registry.EpochKey(id)).Delete(registry.NameKey(e.Value.Service, e.Value.Name)))
	if err != nil {
		return nil, err
	}
	s.log.Warn("stream removed", "service", m.GetService(), "stream", m.GetStream(), "id", id, "reason", m.GetReason(), "actor", actor(ctx))
	return connect.NewResponse(&pb.RemoveStreamResponse{}), nil
}

// Freeze implements OperatorService.
func (s *operatorService) Freeze(ctx context.Context, req *connect.Request[pb.FreezeRequest]) (*connect.Response[pb.FreezeResponse], error) {
	m := req.Msg
	name := tidegate.ServiceName(m.GetService())
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
		svc.Frozen, svc.Reason = m.GetFrozen(), m.GetReason()
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, svc))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("role changes frozen or freed", "service", name, "frozen", m.GetFrozen(), "reason", m.GetReason(), "actor", actor(ctx))
	sv, err := s.serviceNow(ctx, name)
	return connect.NewResponse(&pb.FreezeResponse{Service: sv}), err
}
