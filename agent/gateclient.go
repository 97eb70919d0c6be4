package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/retry"
)

// Time limits of the gate's calls.
const (
	callTimeout = 3 * time.Second
	// acquireTimeout covers fences and adoptions, which copy logs.
	acquireTimeout = 60 * time.Second
	// A gate that is frozen keeps its connections: pings find it out.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
)

// gateClient speaks with whichever gate answers. All methods may be called
// concurrently.
type gateClient struct {
	gates []gate
	watch *pb.WatchRequest
	log   *slog.Logger
	show  func(*view) // every new view, from the goroutine of run

	mu      sync.Mutex
	current int    // index of the gate that answered last
	reached bool   // a watch is open
	err     string // why not
}

type gate struct {
	addr string
	node tidegatev1connect.NodeServiceClient
}

func newGateClient(cred *pki.Credentials, addrs []string, watch *pb.WatchRequest, log *slog.Logger, show func(*view)) *gateClient {
	transport := &http.Transport{
		TLSClientConfig:     cred.ClientTLS(pki.Expect{Role: tidegate.RoleGate}),
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: callTimeout,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	g := &gateClient{watch: watch, log: log, show: show}
	for _, a := range addrs {
		g.gates = append(g.gates, gate{addr: a, node: tidegatev1connect.NewNodeServiceClient(&http.Client{Transport: transport}, "https://"+a)})
	}
	return g
}

// run keeps a watch open on some gate until ctx ends.
func (g *gateClient) run(ctx context.Context) error {
	backoff := retry.Policy{First: 50 * time.Millisecond, Max: 2 * time.Second}.Backoff()
	for ctx.Err() == nil {
		i := g.index()
		began := time.Now()
		err := g.watchOne(ctx, i)
		if ctx.Err() != nil {
			break
		}
		g.lost(i, err)
		if time.Since(began) > 5*time.Second {
			backoff.Reset()
		}
		if backoff.Wait(ctx) != nil {
			break
		}
	}
	return nil
}

// watchOne registers with one gate and follows its view until that ends.
func (g *gateClient) watchOne(ctx context.Context, i int) error {
	gt := g.gates[i]
	reg, cancel := context.WithTimeout(ctx, callTimeout)
	_, err := gt.node.Register(reg, connect.NewRequest(&pb.RegisterRequest{
		Node: g.watch.GetNode(), Kind: g.watch.GetKind(), Site: g.watch.GetSite(),
	}))
	cancel()
	if err != nil {
		return api.FromError("register with gate", gt.addr, err)
	}
	stream, err := gt.node.Watch(ctx, connect.NewRequest(g.watch))
	if err != nil {
		return api.FromError("watch gate", gt.addr, err)
	}
	defer func() { _ = stream.Close() }() // the watch is over; its own error says why
	v := newView()
	for stream.Receive() {
		v, err = v.with(stream.Msg())
		if err != nil {
			return &tidegate.Error{Op: "watch gate", Subject: gt.addr, Class: tidegate.Permanent, Err: err}
		}
		g.found(i)
		g.show(v)
	}
	if err := stream.Err(); err != nil {
		return api.FromError("watch gate", gt.addr, err)
	}
	return errors.New("watch gate " + gt.addr + ": closed by the gate")
}

func (g *gateClient) index() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

func (g *gateClient) found(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.reached {
		g.log.Info("gate reached", "gate", g.gates[i].addr)
	}
	g.current, g.reached, g.err = i, true, ""
}

func (g *gateClient) lost(i int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reached || g.err == "" {
		g.log.Warn("gate lost", "gate", g.gates[i].addr, "err", err)
	}
	g.current = (i + 1) % len(g.gates)
	g.reached, g.err = false, err.Error()
}

// state returns whether a gate is reachable, which, and why not.
func (g *gateClient) state() (reached bool, addr, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reached, g.gates[g.current].addr, g.err
}

// call tries one request on the gates in turn, the one that answers the watch
// first. Only a gate that could not be reached passes the request on: a refusal
// is an answer.
func call[Q, R any](ctx context.Context, g *gateClient, op string, timeout time.Duration, req *Q,
	do func(tidegatev1connect.NodeServiceClient, context.Context, *connect.Request[Q]) (*connect.Response[R], error),
) (*R, error) {
	start := g.index()
	var last error
	for i := range g.gates {
		gt := g.gates[(start+i)%len(g.gates)]
		one, cancel := context.WithTimeout(ctx, timeout)
		res, err := do(gt.node, one, connect.NewRequest(req))
		cancel()
		if err == nil {
			return res.Msg, nil
		}
		last = api.FromError(op, gt.addr, err)
		if ctx.Err() != nil || tidegate.ClassOf(last) != tidegate.Transient {
			return nil, last
		}
	}
	return nil, last
}
