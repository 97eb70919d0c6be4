package main

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
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
)

// The objectives of the service of `tidegate dev`: what a person who tries it
// out on one machine can see being kept and, on purpose, broken.
const (
	devRPO = 5 * time.Second
	devRTO = 30 * time.Second
)

// registerWithin bounds the wait for the gate to know the standby nodes; both
// are in this process.
const (
	registerWithin = time.Minute
	registerEvery  = 50 * time.Millisecond
)

// register makes the service and its streams known as an operator does, through
// the gate's API, where they are missing.
func (s *devSite) register(ctx context.Context) error {
	o, err := loadOperator(s.operatorFile())
	if err != nil {
		return err
	}
	defer o.http.CloseIdleConnections()
	status, err := s.nodesKnown(ctx, o)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(status.GetServices(), func(v *pb.ServiceStatus) bool { return v.GetName() == s.plan.Service }) {
		req := &pb.AddServiceRequest{Service: &pb.Service{
			Name: s.plan.Service, Rpo: durationpb.New(devRPO), Rto: durationpb.New(devRTO), Routes: []string{devRoute},
		}, SingleRegistry: true} // nothing here outlives this process
		if s.plan.Lease > 0 {
			req.Service.LeaseTtl = durationpb.New(s.plan.Lease)
		}
		if err := o.do(ctx, "add service", s.plan.Service, func(client tidegatev1connect.OperatorServiceClient) error {
			_, err := client.AddService(ctx, connect.NewRequest(req))
			return err
		}); err != nil {
			return err
		}
	}
	return s.addStreams(ctx, o)
}

func (s *devSite) addStreams(ctx context.Context, o *operator) error {
	var list *pb.ListStreamsResponse
	if err := o.do(ctx, "list streams", s.plan.Service, func(client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.ListStreams(ctx, connect.NewRequest(&pb.ListStreamsRequest{Service: s.plan.Service}))
		if err == nil {
			list = res.Msg
		}
		return err
	}); err != nil {
		return err
	}
	mode, bounds, err := s.plan.Gate.message()
	if err != nil {
		return err
	}
	policy, _, _ := enumValue(pb.GatePolicy(0), s.plan.Policy) // checked by Validate
	for _, name := range s.plan.Streams {
		if slices.ContainsFunc(list.GetStreams(), func(v *pb.StreamView) bool { return v.GetName() == name }) {
			continue
		}
		req := &pb.AddStreamRequest{
			Service: s.plan.Service, Name: name, Store: storeJournal, Mode: mode, Bounds: bounds,
			Policy: pb.GatePolicy(policy), SingleRegistry: true, Members: s.members(), W: uint32(s.plan.W), //nolint:gosec // at most devStandbysMax
		}
		if err := o.do(ctx, "add stream", s.plan.Service+"/"+name, func(client tidegatev1connect.OperatorServiceClient) error {
			_, err := client.AddStream(ctx, connect.NewRequest(req))
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// storeJournal is the one store of this version.
const storeJournal = "journal"

// members are the names of the standby nodes, p1's too: it is a member where the
// stream is written elsewhere.
func (s *devSite) members() []string {
	var names []string
	for _, f := range s.standbys {
		names = append(names, string(f.Node.Name))
	}
	return names
}

// nodesKnown waits until every standby node has registered, which takes them a
// moment, and returns the gate's status then.
func (s *devSite) nodesKnown(ctx context.Context, o *operator) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, registerWithin)
	defer cancel()
	tick := time.NewTicker(registerEvery)
	defer tick.Stop()
	for {
		var st *pb.StatusResponse
		err := o.do(ctx, "status", "", func(client tidegatev1connect.OperatorServiceClient) error {
			res, err := client.Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
			if err == nil {
				st = res.Msg
			}
			return err
		})
		if err != nil && cli.CodeOf(err) != cli.Unreachable && ctx.Err() == nil {
			return nil, err
		}
		missing := s.missing(st)
		if err == nil && len(missing) == 0 {
			return st, nil
		}
		if err == nil {
			err = fmt.Errorf("the gate has not heard of %s", strings.Join(missing, ", "))
		}
		select {
		case <-ctx.Done():
			return nil, &tidegate.Error{
				Op: "register", Subject: s.plan.Service, Class: tidegate.Transient, Err: errors.Join(context.Cause(ctx), err),
				Hint: "the roles' logs are in " + s.path("logs"),
			}
		case <-tick.C:
		}
	}
}

// missing are the standby nodes that st does not have; all of them while the
// gate has not read its registry.
func (s *devSite) missing(st *pb.StatusResponse) []string {
	return slices.DeleteFunc(s.members(), func(name string) bool {
		return st.GetRegistryReachable() && slices.ContainsFunc(st.GetStandbys(), func(n *pb.StandbyStatus) bool { return n.GetNode().GetNode() == name })
	})
}
