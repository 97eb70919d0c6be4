package shadow

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/live"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// callTimeout bounds one short call.
const callTimeout = 5 * time.Second

// Source is what is rehearsed with.
type Source interface {
	// Open gives the log up to what is committed now, and the bases that Base has fetched
	// into stage. wait is called before so many bytes more are taken.
	Open(ctx context.Context, stage string, wait func(context.Context, int) error) (*archive.Reader, error)
	// Base fetches the newest base of a stream at or before a place; after Open. It is no
	// error when there is none: there may be log enough. room is asked first, with what the
	// node says of the base's files and of where its log begins, and may refuse it.
	Base(ctx context.Context, id tidegate.StreamID, at archive.Place, room Room) error
	// Look says how the live streams are; an error when nobody says so.
	Look(ctx context.Context) (Look, error)
	// Protection says how strictly the service is protected now; known after Open.
	Protection() evidence.Gate
	// Provoke tries what a drill's identity must be refused, and says what came of it.
	Provoke(ctx context.Context) []evidence.Check
	// Identity is whom the drill speaks for.
	Identity() tidegate.Identity
}

// Room says whether there is room for a base whose files have so many bytes, and for the
// log from start on.
type Room func(bytes int64, start tidegate.Position) error

// Node is a standby node, with the gates that watch over it.
type Node struct {
	service tidegate.ServiceName
	addr    string
	gates   []string
	creds   *pki.Credentials
	fs      vfs.FS
	clk     clock.Clock
	api     tidegatev1connect.StandbyServiceClient

	live *live.Bucket // of Open, whose caller alone asks for it

	mu   sync.Mutex
	last described // the latest answer; zero: there is none
}

// described is what a node says that it has of the service. It is not changed any more
// once it is a node's last.
type described struct {
	ship    string
	streams []tidegate.StreamID
	gate    evidence.Gate
	held    map[tidegate.StreamID][]*pb.HeldBase
}

func (n *Node) described() described {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

var _ Source = (*Node)(nil)

// NewNode returns the node of a configuration. It dials nobody yet. A certificate of
// another role than drill is refused.
func NewNode(fsys vfs.FS, clk clock.Clock, cfg *Config) (*Node, error) {
	creds, err := pki.Load(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA)
	if err != nil {
		return nil, err
	}
	if id := creds.Identity(); id.Role != tidegate.RoleDrill {
		return nil, &tidegate.Error{
			Op: "rehearse as", Subject: id.String(), Class: tidegate.Refused, Err: fmt.Errorf("it may do what role %s may, and a drill must be able to do nothing else than read", id.Role),
			Hint: "a drill has a certificate of its own, of role drill",
		}
	}
	return &Node{
		service: cfg.Service, addr: cfg.Standby, gates: cfg.Gates, creds: creds, fs: fsys, clk: clk,
		api: tidegatev1connect.NewStandbyServiceClient(api.NewHTTPClient(creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby})), "https://"+cfg.Standby),
	}, nil
}

// Identity implements [Source].
func (n *Node) Identity() tidegate.Identity { return n.creds.Identity() }

// Protection implements [Source].
func (n *Node) Protection() evidence.Gate { return n.described().gate }

func (n *Node) dialer() shipper.Dialer {
	return shipper.Dialer{TLS: n.creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby}), Clock: n.clk}
}

// describe asks the node what it has of the service.
func (n *Node) describe(ctx context.Context) (said *pb.DescribeResponse, infos []archive.StreamInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := n.api.Describe(ctx, connect.NewRequest(&pb.DescribeRequest{}))
	if err != nil {
		return nil, nil, api.FromError("ask node", n.addr, err)
	}
	d := described{ship: res.Msg.GetShipAddress(), streams: []tidegate.StreamID{}, held: map[tidegate.StreamID][]*pb.HeldBase{}}
	for _, s := range res.Msg.GetStreams() {
		if s.GetService() != string(n.service) {
			continue
		}
		id, err := tidegate.ParseID(s.GetStreamId())
		if err != nil {
			return nil, nil, fmt.Errorf("node %s: stream %q: %w", n.addr, s.GetStreamId(), err)
		}
		d.streams, d.held[id] = append(d.streams, id), s.GetBases()
		infos = append(infos, archive.StreamInfo{Stream: id, Service: n.service, Name: tidegate.StreamName(s.GetName()), Store: s.GetStore()})
		if err := d.protected(s); err != nil {
			return nil, nil, fmt.Errorf("node %s: %w", n.addr, err)
		}
	}
	n.mu.Lock()
	n.last = d
	n.mu.Unlock()
	return res.Msg, infos, nil
}

// protected notes a stream's mode and bounds; what is not the same of all streams has no
// one answer.
func (d *described) protected(s *pb.StreamDescription) error {
	mode := api.Mode(s.GetMode())
	bounds, err := api.Bounds(s.GetBounds())
	switch {
	case err != nil:
		return err
	case len(d.streams) == 1:
		d.gate = evidence.Gate{Mode: &mode, Bounds: &bounds}
	}
	if d.gate.Mode != nil && *d.gate.Mode != mode {
		d.gate.Mode = nil
	}
	if d.gate.Bounds != nil && *d.gate.Bounds != bounds {
		d.gate.Bounds = nil
	}
	return nil
}

// Open implements [Source].
func (n *Node) Open(ctx context.Context, stage string, wait func(context.Context, int) error) (*archive.Reader, error) {
	said, infos, err := n.describe(ctx)
	if err != nil {
		return nil, err
	}
	n.live = live.New(live.Config{
		Dialer: n.dialer(), Addr: said.GetShipAddress(), Node: tidegate.NodeName(said.GetNode()), Streams: infos,
		FS: n.fs, Stage: stage, SegmentBytes: pieceBytes, Wait: wait,
	})
	return archive.OpenReader(ctx, n.live)
}

// Base implements [Source].
func (n *Node) Base(ctx context.Context, id tidegate.StreamID, at archive.Place, room Room) error {
	var newest *pb.HeldBase
	for _, h := range n.described().held[id] {
		if h.GetGeneration() == uint32(at.Generation) && h.GetStart() <= uint64(at.First) && (newest == nil || h.GetStart() > newest.GetStart()) {
			newest = h
		}
	}
	if newest == nil {
		return nil
	}
	name, err := snapshot.ParseName(newest.GetName())
	if err != nil {
		return fmt.Errorf("node %s: base %q: %w", n.addr, newest.GetName(), err)
	}
	if err := room(int64(newest.GetBytes()), tidegate.Position(newest.GetStart())); err != nil { //nolint:gosec // of files on one disk
		return err
	}
	if err := n.live.Fetch(ctx, id, name); err != nil {
		return fmt.Errorf("fetch base %.12s: %w", name, err)
	}
	return nil
}

// Look implements [Source].
func (n *Node) Look(ctx context.Context) (Look, error) {
	if n.described().streams == nil {
		if _, _, err := n.describe(ctx); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := n.api.Status(ctx, connect.NewRequest(&pb.StandbyServiceStatusRequest{}))
	if err != nil {
		return nil, api.FromError("ask node", n.addr, err)
	}
	look := Look{}
	for _, id := range n.described().streams {
		look[id] = Seen{} // what the node does not speak of is unknown
	}
	for _, s := range res.Msg.GetStreams() {
		id, err := tidegate.ParseID(s.GetStreamId())
		if _, ours := look[id]; err != nil || !ours {
			continue
		}
		if look[id], err = seenOf(s); err != nil {
			return nil, fmt.Errorf("node %s: %w", n.addr, err)
		}
	}
	return look, nil
}

func seenOf(s *pb.StandbyStream) (out Seen, err error) {
	out.Records = s.ApplyLagRecords
	if text := s.GetStateDigest(); text != "" {
		if err := out.Digest.UnmarshalText([]byte(text)); err != nil {
			return out, fmt.Errorf("state digest %q: %w", text, err)
		}
		out.DigestAt = tidegate.Position(s.GetStateDigestPosition())
	}
	if s.BlindWindow != nil {
		out.Blind = new(s.GetBlindWindow().AsDuration())
	}
	if s.BeaconHead != nil {
		out.Head = new(tidegate.Position(s.GetBeaconHead()))
	}
	if s.DurablePosition != nil {
		out.Durable = new(tidegate.Position(s.GetDurablePosition()))
	}
	if s.BeaconHead != nil && s.AppliedPosition != nil {
		out.Bytes = new(int64(max(s.GetBeaconHead(), s.GetAppliedPosition()) - s.GetAppliedPosition())) //nolint:gosec // of one log
	}
	return out, nil
}

// attempt is one thing that must be refused.
type attempt struct {
	where, what string
	try         func(context.Context) error
}

// Provoke implements [Source]. Every request is empty: if it were let in, it would be
// refused for that, and change nothing.
func (n *Node) Provoke(ctx context.Context) []evidence.Check {
	var all []attempt
	for _, g := range n.gates {
		all = append(all, n.atGate(g)...)
	}
	all = append(all, n.atNode()...)
	out := make([]evidence.Check, 0, len(all))
	for _, a := range all {
		out = append(out, n.provoke(ctx, a))
	}
	return out
}

func (n *Node) provoke(ctx context.Context, a attempt) evidence.Check {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := n.clk.Boot()
	err := a.try(ctx)
	took := time.Duration(n.clk.Boot() - began)
	c := evidence.Check{Name: a.where + ": " + a.what, Kind: "refusal", Wanted: "refused to role drill", Took: &took}
	got := "it was let in"
	if err != nil {
		got = probe.Short(err.Error())
	}
	switch class := tidegate.ClassOf(err); {
	case err != nil && class == tidegate.Refused && strings.Contains(err.Error(), "role "+string(tidegate.RoleDrill)):
		c.Outcome, c.Got = evidence.CheckPassed, &got
	case err != nil && class == tidegate.Transient:
		c.Outcome, c.Why = evidence.CheckUnknown, "it could not be asked: "+got
	default:
		c.Outcome, c.Got, c.Why = evidence.CheckFailed, &got, "it was not refused for the drill's role"
	}
	return c
}

func (n *Node) atGate(addr string) []attempt {
	hc := api.NewHTTPClient(n.creds.ClientTLS(pki.Expect{Role: tidegate.RoleGate}))
	node, op := tidegatev1connect.NewNodeServiceClient(hc, "https://"+addr), tidegatev1connect.NewOperatorServiceClient(hc, "https://"+addr)
	where := "gate " + addr
	return []attempt{
		{where, "acquire an epoch", unary(node.AcquireEpoch)},
		{where, "write the gate's record", unary(node.RecordGate)},
		{where, "speak as a route", unary(node.ReportRoute)},
		{where, "set a mode", unary(op.SetMode)},
		{where, "open a gate", unary(op.OpenGate)},
		{where, "put an override", unary(op.PutOverrides)},
		{where, "change roles", streaming(op.ChangeRole)},
	}
}

func (n *Node) atNode() []attempt {
	where := "node " + n.addr
	all := []attempt{
		{where, "fence", unary(n.api.Fence)},
		{where, "adopt", streaming(n.api.Adopt)},
		{where, "promote", streaming(n.api.Promote)},
	}
	d := n.described()
	for _, id := range d.streams {
		ship := func(as shipper.As) func(context.Context) error {
			return func(ctx context.Context) error {
				c, _, err := n.dialer().Dial(ctx, d.ship, shipper.Attach{Stream: id, As: as, Epoch: 1})
				if err != nil {
					return err
				}
				return c.Close()
			}
		}
		all = append(
			all, attempt{where, fmt.Sprintf("write stream %s", id), ship(shipper.AsWriter)}, attempt{where, fmt.Sprintf("relay stream %s", id), ship(shipper.AsRelay)},
			attempt{where, fmt.Sprintf("push a base of stream %s", id), func(ctx context.Context) error {
				c, _, err := n.dialer().DialBase(ctx, d.ship, shipper.BaseAttach{Stream: id, Way: shipper.BasePush, Generation: 1})
				if err != nil {
					return err
				}
				return c.Close()
			}},
		)
	}
	return all
}

// unary calls a procedure with an empty request.
func unary[Q, A any](call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error)) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := call(ctx, connect.NewRequest(new(Q)))
		return api.FromError("call", "", err)
	}
}

// streaming does the same with one that answers more than once.
func streaming[Q, A any](call func(context.Context, *connect.Request[Q]) (*connect.ServerStreamForClient[A], error)) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := call(ctx, connect.NewRequest(new(Q)))
		if err == nil {
			for s.Receive() {
			}
			err = s.Err()
			_ = s.Close() // it was read
		}
		return api.FromError("call", "", err)
	}
}
