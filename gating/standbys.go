package gating

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/pki"
)

// standbys speaks to standby nodes. A client accepts only the node it was made
// for, by the name in its certificate.
type standbys struct {
	creds *pki.Credentials
	call  time.Duration

	mu      sync.Mutex
	clients map[string]*http.Client // by node name; "" accepts any standby node
}

func newStandbys(creds *pki.Credentials, call time.Duration) *standbys {
	return &standbys{creds: creds, call: call, clients: map[string]*http.Client{}}
}

func (s *standbys) http(node string) *http.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[node]
	if c == nil {
		c = api.NewHTTPClient(s.creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby, Name: node}))
		s.clients[node] = c
	}
	return c
}

func (s *standbys) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
}

func (s *standbys) client(v *registry.View, n tidegate.NodeName) (tidegatev1connect.StandbyServiceClient, error) {
	node, ok := v.Node(registry.KindStandby, n)
	if !ok || node.APIAddress == "" {
		return nil, notFound("call standby node", string(n), "start the node once with a gate reachable: it registers itself")
	}
	return tidegatev1connect.NewStandbyServiceClient(s.http(string(n)), "https://"+node.APIAddress), nil
}

// fence asks for a promise.
func (s *standbys) fence(ctx context.Context, v *registry.View, m fence.Member, req fence.FenceRequest) (fence.FenceReply, error) {
	c, err := s.client(v, m.Node)
	if err != nil {
		return fence.FenceReply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.call)
	defer cancel()
	r, err := c.Fence(ctx, connect.NewRequest(fencewire.FenceRequestMessage(req)))
	if err != nil {
		return fence.FenceReply{}, api.FromError("fence standby node", string(m.Node), err)
	}
	reply, err := fencewire.FenceReply(req.Stream, r.Msg)
	if err == nil && reply.Member.Node != m.Node {
		err = fmt.Errorf("node %s answered", reply.Member.Node)
	}
	if err != nil {
		return reply, misuse("fence standby node", string(m.Node), err)
	}
	return reply, nil
}

// adopt asks for a log; it lasts as long as the copying does and ctx allows.
func (s *standbys) adopt(ctx context.Context, v *registry.View, m fence.Member, req fence.AdoptRequest) (fence.AdoptReply, error) {
	fail := func(err error) (fence.AdoptReply, error) {
		return fence.AdoptReply{}, api.FromError("ask for adoption of", string(m.Node), err)
	}
	c, err := s.client(v, m.Node)
	if err != nil {
		return fail(err)
	}
	msg := fencewire.AdoptRequestMessage(req)
	for _, e := range v.Nodes {
		switch n := e.Value; {
		case n.Kind != registry.KindStandby || n.Name == m.Node:
		case n.Name == req.Source:
			msg.SourceShipAddress = n.ShipAddress
		default:
			msg.Others = append(msg.Others, nodeView(n))
		}
	}
	stream, err := c.Adopt(ctx, connect.NewRequest(msg))
	if err != nil {
		return fail(err)
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		if stream.Msg().GetAdopted() || stream.Msg().GetRefused() {
			r, err := fencewire.AdoptReply(req.Stream, stream.Msg())
			if err == nil && r.Member.Node != m.Node {
				err = fmt.Errorf("node %s answered", r.Member.Node)
			}
			if err != nil {
				return fail(err)
			}
			return r, nil
		}
	}
	if err := stream.Err(); err != nil {
		return fail(err)
	}
	return fail(errors.New("the node ended its answer early"))
}

// promote tells the target that its epoch is active, and reports each answer.
func (s *standbys) promote(ctx context.Context, v *registry.View, n tidegate.NodeName, req fence.PromoteRequest, each func(*pb.PromoteResponse)) error {
	c, err := s.client(v, n)
	if err != nil {
		return err
	}
	stream, err := c.Promote(ctx, connect.NewRequest(fencewire.PromoteRequestMessage(req)))
	if err != nil {
		return api.FromError("promote", string(n), err)
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		each(stream.Msg())
		if stream.Msg().GetDone() || stream.Msg().GetRefused() {
			return nil
		}
	}
	if err := stream.Err(); err != nil {
		return api.FromError("promote", string(n), err)
	}
	return api.FromError("promote", string(n), errors.New("the node ended its answer early"))
}

// answerWait bounds the question whether a node is there.
const answerWait = 500 * time.Millisecond

// answers reports whether a node is there, now.
func (s *standbys) answers(ctx context.Context, v *registry.View, n tidegate.NodeName) bool {
	c, err := s.client(v, n)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.call, answerWait))
	defer cancel()
	_, err = c.Describe(ctx, connect.NewRequest(&pb.DescribeRequest{}))
	return err == nil
}

// describe asks a node at an address for all it holds, whoever it is.
func (s *standbys) describe(ctx context.Context, addr string) (*pb.DescribeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.call)
	defer cancel()
	c := tidegatev1connect.NewStandbyServiceClient(s.http(""), "https://"+addr)
	r, err := c.Describe(ctx, connect.NewRequest(&pb.DescribeRequest{}))
	if err != nil {
		return nil, api.FromError("describe standby node", addr, err)
	}
	return r.Msg, nil
}
