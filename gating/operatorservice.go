package gating

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// operatorService answers operators.
type operatorService struct {
	parts
	tidegatev1connect.UnimplementedOperatorServiceHandler
	control *controller
	cfg     Config
	cluster string

	certificate func() time.Duration                       // how long the gate's own is valid still
	reports     func(envelope []byte) (DrillReport, error) // nil: see [Deps]
}

const (
	changeRoleProcedure  = tidegatev1connect.OperatorServiceChangeRoleProcedure
	reconfigureProcedure = tidegatev1connect.OperatorServiceReconfigureProcedure
)

func lossMessage(l fence.LossStatement) *pb.LossStatement { return fencewire.LossMessage(l) }

// known refuses a service that does not exist; "" is all of them. While the
// registry does not answer the last view tells.
func (s *operatorService) known(ctx context.Context, op, service string) error {
	if service == "" {
		return nil
	}
	v, _, _ := s.world.current()
	if _, ok := v.Services[tidegate.ServiceName(service)]; ok {
		return nil
	}
	read, err := s.store.Read(ctx)
	if err != nil {
		return s.old(err)
	}
	if _, ok := read.Services[tidegate.ServiceName(service)]; !ok {
		return notFound(op, service, "see `tidegate streams list`")
	}
	return nil
}

// old adds to the error of a registry that does not answer what this gate still knows.
func (s *operatorService) old(err error) error {
	if !registry.Unreachable(err) {
		return err
	}
	var e *tidegate.Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	out.Hint = "the registry (etcd) does not answer, and this gate keeps no copy of that; streams keep flowing, role changes wait"
	if age, ok := s.world.viewAge(); ok {
		out.Hint += fmt.Sprintf("; its last view of services and streams, which `tidegate status` and `tidegate streams list` show, is %s old", age.Round(time.Second))
	}
	return &out
}

// plan reads a plan's record.
func (s *operatorService) plan(ctx context.Context, op, id string) (planRecord, error) {
	var rec planRecord
	rev, err := s.store.Get(ctx, registry.PlanKey(id), &rec)
	if err != nil {
		return rec, s.old(err)
	}
	if rev == 0 {
		return rec, notFound(op, id, "see `tidegate plan list`")
	}
	return rec, nil
}

// ShowPlan implements OperatorService.
func (s *operatorService) ShowPlan(ctx context.Context, req *connect.Request[pb.ShowPlanRequest]) (*connect.Response[pb.ShowPlanResponse], error) {
	rec, err := s.plan(ctx, "show plan", req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.measure(ctx, rec.view); err != nil {
		return nil, s.old(err)
	}
	return connect.NewResponse(&pb.ShowPlanResponse{Plan: rec.view}), nil
}

// How many plans are listed when nothing else is asked for, and at most.
const (
	plansShown    = 50
	plansShownMax = 1000
)

// ListPlans implements OperatorService.
func (s *operatorService) ListPlans(ctx context.Context, req *connect.Request[pb.ListPlansRequest]) (*connect.Response[pb.ListPlansResponse], error) {
	m := req.Msg
	if err := s.known(ctx, "list plans", m.GetService()); err != nil {
		return nil, err
	}
	limit := min(int(m.GetLimit()), plansShownMax)
	if limit == 0 {
		limit = plansShown
	}
	if _, err := api.ParseID("before", m.GetBefore()); err != nil {
		return nil, misuse("list plans", m.GetService(), err)
	}
	recs, err := s.plans(ctx, tidegate.ServiceName(m.GetService()), m.GetBefore(), limit+1)
	if err != nil {
		return nil, s.old(err)
	}
	out := &pb.ListPlansResponse{}
	for i, r := range recs {
		if i == limit {
			out.Next = recs[i-1].view.GetId()
			break
		}
		if err := s.measure(ctx, r.view); err != nil {
			return nil, s.old(err)
		}
		out.Plans = append(out.Plans, r.view)
	}
	return connect.NewResponse(out), nil
}

// ListStreams implements OperatorService. While the registry does not answer it
// shows the last view, and says how old that is.
func (s *operatorService) ListStreams(ctx context.Context, req *connect.Request[pb.ListStreamsRequest]) (*connect.Response[pb.ListStreamsResponse], error) {
	v, err := s.store.Read(ctx)
	out := &pb.ListStreamsResponse{RegistryReachable: err == nil}
	switch {
	case err == nil:
		s.world.setView(v)
	case registry.Unreachable(err) && s.world.known():
		v, _, _ = s.world.current()
	default:
		return nil, err
	}
	if age, ok := s.world.viewAge(); ok {
		out.RegistryAge = durationpb.New(age)
	}
	f := req.Msg.GetService()
	if _, ok := v.Services[tidegate.ServiceName(f)]; f != "" && !ok {
		return nil, notFound("list streams", f, "see `tidegate streams list`")
	}
	for _, name := range v.ServiceNames() {
		if f != "" && f != string(name) {
			continue
		}
		for _, st := range v.StreamsOf(name) {
			out.Streams = append(out.Streams, streamView(v, st))
		}
	}
	return connect.NewResponse(out), nil
}
