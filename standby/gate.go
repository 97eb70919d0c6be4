package standby

import (
	"context"
	"crypto/tls"
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
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/retry"
)

// gateCallTimeout bounds one short call to one gate.
const gateCallTimeout = 3 * time.Second

// GateDirectory is a [Directory] over the gates' API: whichever gate answers.
type GateDirectory struct {
	clk     clock.Clock
	log     *slog.Logger
	client  *http.Client
	gates   []tidegatev1connect.NodeServiceClient
	addrs   []string
	self    tidegate.NodeName // speaks for itself
	mu      sync.Mutex
	current int // the gate that answered last
}

// NewGateDirectory returns a node's directory over the gates at addrs
// (host:port), tried in turn. cfg accepts peers of role gate only.
func NewGateDirectory(self tidegate.NodeName, addrs []string, cfg *tls.Config, clk clock.Clock, log *slog.Logger) (*GateDirectory, error) {
	if len(addrs) == 0 {
		return nil, &tidegate.Error{Op: "find gates", Class: tidegate.Misuse, Hint: "name at least one gate in the configuration", Err: errors.New("no gate configured")}
	}
	d := &GateDirectory{self: self, clk: clk, log: log, addrs: addrs, client: api.NewHTTPClient(cfg)}
	for _, a := range addrs {
		d.gates = append(d.gates, tidegatev1connect.NewNodeServiceClient(d.client, "https://"+a))
	}
	return d, nil
}

// Watch implements [Directory].
func (d *GateDirectory) Watch(ctx context.Context, self NodeView, update func(View)) error {
	defer d.client.CloseIdleConnections()
	backoff := retry.Policy{Max: 2 * time.Second}.Backoff()
	for {
		i := d.index()
		heard, err := d.watchOne(ctx, i, self, update)
		if ctx.Err() != nil {
			return nil
		}
		d.log.Warn("gate lost", "gate", d.addrs[i], keyErr, err, "hint", tidegate.HintOf(err))
		d.turn(i)
		if heard {
			backoff.Reset()
		}
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
}

func (d *GateDirectory) index() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

// turn goes to the next gate, unless somebody else has already left this one.
func (d *GateDirectory) turn(from int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == from {
		d.current = (from + 1) % len(d.gates)
	}
}

// watchOne registers with one gate and follows its view.
func (d *GateDirectory) watchOne(ctx context.Context, i int, self NodeView, update func(View)) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reg, done := context.WithTimeout(ctx, gateCallTimeout)
	_, err = d.gates[i].Register(reg, connect.NewRequest(&pb.RegisterRequest{
		Node: string(self.Node), Kind: pb.NodeKind_NODE_KIND_STANDBY, Site: string(self.Site),
		Incarnation: api.IDText(self.Incarnation), ShipAddress: self.Ship, ApiAddress: self.API,
	}))
	done()
	if err != nil {
		return false, api.FromError("register with gate", d.addrs[i], err)
	}
	// The gate sends at least every beat; one that has gone silent is left.
	silence := time.AfterFunc(3*api.WatchBeat, cancel)
	defer silence.Stop()
	stream, err := d.gates[i].Watch(ctx, connect.NewRequest(&pb.WatchRequest{
		Node: string(self.Node), Kind: pb.NodeKind_NODE_KIND_STANDBY, Site: string(self.Site),
	}))
	if err != nil {
		return false, api.FromError("watch gate", d.addrs[i], err)
	}
	defer func() { _ = stream.Close() }() // the watch is over; its own error says why
	var v watchView
	for stream.Receive() {
		silence.Reset(3 * api.WatchBeat)
		next, changed, err := v.with(stream.Msg())
		if err != nil {
			return heard, &tidegate.Error{Op: "watch gate", Subject: d.addrs[i], Class: tidegate.Permanent, Err: err}
		}
		if !heard {
			d.log.Info("gate reached", "gate", d.addrs[i])
		}
		heard = true
		if v = next; changed {
			update(v.view())
		}
	}
	if err := stream.Err(); err != nil {
		return heard, api.FromError("watch gate", d.addrs[i], err)
	}
	return heard, &tidegate.Error{Op: "watch gate", Subject: d.addrs[i], Class: tidegate.Transient, Err: errors.New("closed by the gate")}
}
