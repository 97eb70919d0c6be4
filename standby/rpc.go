package standby

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/snapshot"
)

// Limits of the API's server.
const (
	headerTimeout = 5 * time.Second
	stopTimeout   = 2 * time.Second // for calls under way when the node stops
)

// serveAPI serves the standby API and /metrics until ctx ends.
func (n *Standby) serveAPI(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle(tidegatev1connect.NewStandbyServiceHandler(rpc{n}, connect.WithCompressMinBytes(api.CompressMin)))
	mux.Handle("GET /metrics", n.permit(promhttp.HandlerFor(n.deps.Registry, promhttp.HandlerOpts{}), tidegate.RoleViewer, tidegate.RoleOperator, tidegate.RoleGate))
	srv := &http.Server{
		Handler: withIdentity(mux), TLSConfig: n.deps.APIServe.Clone(), ReadHeaderTimeout: headerTimeout,
		// A call sees the node stop by this context.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // what is still open is cut
		}
	})
	err := srv.ServeTLS(ln, "", "")
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve api: %w", err)
}

type identityKey struct{}

// withIdentity notes whom the verified certificate speaks for.
func withIdentity(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identityOf(r.TLS)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

func identityOf(cs *tls.ConnectionState) (tidegate.Identity, error) {
	if cs == nil {
		return tidegate.Identity{}, pki.ErrNoIdentity
	}
	return pki.PeerIdentity(*cs)
}

// permitted refuses every role that is not named.
func permitted(ctx context.Context, op string, roles ...tidegate.Role) error {
	id, _ := ctx.Value(identityKey{}).(tidegate.Identity) // without one no role matches
	if slices.Contains(roles, id.Role) {
		return nil
	}
	return api.Error(&tidegate.Error{
		Op: op, Subject: id.String(), Class: tidegate.Refused,
		Hint: "use the certificate of a process that may do this",
		Err:  fmt.Errorf("role %s, want one of %v", id.Role, roles),
	})
}

func (n *Standby) permit(next http.Handler, roles ...tidegate.Role) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := permitted(r.Context(), "read metrics", roles...); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// rpc adapts the node to the generated service.
type rpc struct{ n *Standby }

var _ tidegatev1connect.StandbyServiceHandler = rpc{}

func badRequest(op string, err error) error {
	return api.Error(&tidegate.Error{Op: op, Class: tidegate.Misuse, Err: err})
}

// Describe implements the service.
func (r rpc) Describe(ctx context.Context, req *connect.Request[pb.DescribeRequest]) (*connect.Response[pb.DescribeResponse], error) {
	if err := permitted(ctx, "describe", tidegate.RoleGate, tidegate.RoleOperator, tidegate.RoleViewer, tidegate.RoleDrill); err != nil {
		return nil, err
	}
	id, st := r.n.Identity(), r.n.Status()
	res := &pb.DescribeResponse{
		Node: string(id.Node), Site: string(id.Site), Incarnation: api.IDText(id.Incarnation),
		ShipAddress: id.Ship, ApiAddress: id.API,
	}
	for _, s := range st.Streams {
		if ids := req.Msg.GetStreamIds(); len(ids) == 0 || slices.Contains(ids, s.View.ID.String()) {
			res.Streams = append(res.Streams, descriptionMessage(s, id.Incarnation))
		}
	}
	return connect.NewResponse(res), nil
}

func descriptionMessage(s StreamStatus, node tidegate.Incarnation) *pb.StreamDescription {
	d := &pb.StreamDescription{
		StreamId: api.IDText(s.View.ID), Service: string(s.View.Service), Name: string(s.View.Name), Store: s.View.Store,
		Promise: fencewire.PromiseMessage(s.Promise), History: fencewire.HistoryMessage(s.History),
		Durable: api.LogPosMessage(s.Durable), CommitSeq: uint64(s.Commit), Limbo: s.Limbo,
		Mode: api.ModeMessage(s.View.Mode), Bounds: api.BoundsMessage(s.View.Bounds),
	}
	if s.Member.Incarnation != node {
		d.Incarnation = api.IDText(s.Member.Incarnation)
	}
	d.Beacon = fencewire.EvidenceMessage(s.Evidence)
	if s.Applied != nil {
		seq := uint64(*s.Applied)
		d.AppliedSeq = &seq
	}
	if s.View.Record != nil {
		d.Config = fencewire.ConfigMessage(s.View.Record.Config)
		d.Record = fencewire.RecordMessage(*s.View.Record, 0)
	}
	if r := s.View.Renewal; r != nil {
		d.Renewal = &pb.Renewal{Epoch: uint64(r.Epoch), Node: string(r.Node), Site: string(r.Site), Reason: r.Reason, Actor: r.Actor, Since: timestamppb.New(r.Since)}
	}
	for _, l := range s.Bases {
		d.Bases = append(d.Bases, &pb.HeldBase{
			Name: l.Name.String(), Generation: uint32(l.Generation), Start: uint64(l.Start), End: uint64(l.End),
			Taken: timestamppb.New(time.Unix(0, l.Taken)), Bytes: uint64(l.Bytes), //nolint:gosec // a size
			Opened: uint64(l.Opened), Lineage: string(l.Lineage), Epoch: l.Attrs[snapshot.AttrEpoch],
		})
	}
	d.Gaps = api.GapMessages(s.View.Gaps)
	for _, m := range s.View.Members {
		d.Members = append(d.Members, string(m))
	}
	return d
}

// Fence implements the service.
func (r rpc) Fence(ctx context.Context, req *connect.Request[pb.FenceRequest]) (*connect.Response[pb.FenceResponse], error) {
	if err := permitted(ctx, "fence", tidegate.RoleGate, tidegate.RoleOperator); err != nil {
		return nil, err
	}
	ask, err := fencewire.FenceRequest(req.Msg)
	if err != nil {
		return nil, badRequest("fence", err)
	}
	reply, err := r.n.Fence(ctx, ask)
	if err != nil {
		return nil, api.Error(err)
	}
	return connect.NewResponse(fencewire.FenceReplyMessage(reply)), nil
}

// Adopt implements the service. While it runs an answer with neither adopted
// nor refused says that the node is at it.
func (r rpc) Adopt(ctx context.Context, req *connect.Request[pb.AdoptRequest], out *connect.ServerStream[pb.AdoptResponse]) error {
	if err := permitted(ctx, "adopt", tidegate.RoleGate, tidegate.RoleOperator); err != nil {
		return err
	}
	ask, err := fencewire.AdoptRequest(req.Msg)
	if err != nil {
		return badRequest("adopt", err)
	}
	r.n.hear(req.Msg)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		reply fence.AdoptReply
		err   error
	}
	done := make(chan answer, 1)
	// owned by this call: ends with ctx, and done has room for its answer.
	go func() {
		reply, err := r.n.Adopt(ctx, ask)
		done <- answer{reply, err}
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case a := <-done:
			if a.err != nil {
				return api.Error(a.err)
			}
			return out.Send(fencewire.AdoptReplyMessage(a.reply))
		case <-tick.C:
			if err := out.Send(&pb.AdoptResponse{Node: string(r.n.cfg.Node), Epoch: uint64(ask.Epoch), Holder: api.IDText(ask.Holder)}); err != nil {
				cancel()
				<-done
				return err
			}
		}
	}
}

// hear notes addresses that the gate knows and the view may not have yet.
func (n *Standby) hear(m *pb.AdoptRequest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.GetSource() != "" && m.GetSourceShipAddress() != "" {
		n.heard[tidegate.NodeName(m.GetSource())] = m.GetSourceShipAddress()
	}
	for _, o := range m.GetOthers() {
		if o.GetShipAddress() != "" {
			n.heard[tidegate.NodeName(o.GetNode())] = o.GetShipAddress()
		}
	}
}

// Promote implements the service.
func (r rpc) Promote(ctx context.Context, req *connect.Request[pb.PromoteRequest], out *connect.ServerStream[pb.PromoteResponse]) error {
	if err := permitted(ctx, "promote", tidegate.RoleGate, tidegate.RoleOperator); err != nil {
		return err
	}
	ask, err := fencewire.PromoteRequest(req.Msg)
	if err != nil {
		return badRequest("promote", err)
	}
	p, err := r.n.Promote(ctx, ask, func(p Promoted) error { return out.Send(promotedMessage(p)) })
	switch class := tidegate.ClassOf(err); {
	case err == nil:
		return out.Send(promotedMessage(p))
	case ctx.Err() != nil:
		return api.Error(ctx.Err())
	default:
		m := promotedMessage(p)
		m.Refused, m.Class, m.Why = true, string(class), err.Error()
		return out.Send(m)
	}
}

func promotedMessage(p Promoted) *pb.PromoteResponse {
	m := &pb.PromoteResponse{
		AppliedSeq: uint64(p.AppliedSeq), AppliedPosition: uint64(p.Applied), Done: p.Done, Endpoint: p.Endpoint,
	}
	if !p.Digest.IsZero() {
		m.StateDigest, m.StateDigestPosition = p.Digest.String(), uint64(p.DigestAt)
	}
	return m
}

// Status implements the service.
func (r rpc) Status(ctx context.Context, _ *connect.Request[pb.StandbyServiceStatusRequest]) (*connect.Response[pb.StandbyServiceStatusResponse], error) {
	if err := permitted(ctx, "status", tidegate.RoleGate, tidegate.RoleOperator, tidegate.RoleViewer, tidegate.RoleDrill); err != nil {
		return nil, err
	}
	report := ReportMessage(r.n.Status(), r.n.deps.Clock.Wall())
	return connect.NewResponse(&pb.StandbyServiceStatusResponse{
		Node: report.GetNode(), Incarnation: report.GetIncarnation(), Streams: report.GetStreams(),
		DiskFreeBytes: report.GetDiskFreeBytes(), DiskTotalBytes: report.GetDiskTotalBytes(),
	}), nil
}

// ReportMessage is what a node reports to the gate.
func ReportMessage(st Status, now time.Time) *pb.ReportStandbyRequest {
	m := &pb.ReportStandbyRequest{
		Node: string(st.Node), Site: string(st.Site), Incarnation: api.IDText(st.Incarnation),
		DiskFreeBytes: st.FreeBytes, DiskTotalBytes: st.TotalBytes, Sent: timestamppb.New(now),
		GrowthBytesPerSecond: st.Growth,
	}
	for _, r := range st.Rates.Rates {
		m.Rates = append(m.Rates, rateMessage(r))
	}
	for _, s := range st.Streams {
		m.Streams = append(m.Streams, streamMessage(s, st.Incarnation))
	}
	return m
}

func streamMessage(s StreamStatus, node tidegate.Incarnation) *pb.StandbyStream {
	m := &pb.StandbyStream{
		StreamId: api.IDText(s.View.ID), Promise: fencewire.PromiseMessage(s.Promise), History: fencewire.HistoryMessage(s.History),
		Received: api.LogPosMessage(s.Received), Durable: api.LogPosMessage(s.Durable), CommitSeq: uint64(s.Commit),
		Limbo: s.Limbo, QuarantineBytes: uint64(s.Quarantined), Error: s.Err, Endpoint: s.Endpoint,
		Findings: fencewire.FindingMessages(s.Findings), Generation: uint32(s.Generation), DurablePosition: positionMessage(s.DurablePosition), BaseBytes: uint64(s.NewestBase),
	}
	if s.Applied != nil {
		seq := uint64(*s.Applied)
		m.AppliedSeq = &seq
	}
	m.Learner = s.Learner
	if s.Member.Incarnation != node {
		m.Incarnation = api.IDText(s.Member.Incarnation) // its log was lost once, the node's other ones were not
	}
	if l := s.Lease; l != nil {
		m.Lease = &pb.NodeLease{
			Epoch: uint64(l.Epoch), Holder: api.IDText(l.Holder),
			Ttl: durationpb.New(l.TTL), Remaining: durationpb.New(l.Remaining),
		}
	}
	if !s.StateDigest.IsZero() {
		m.StateDigest, m.StateDigestPosition = s.StateDigest.String(), uint64(s.StateDigestAt)
	}
	m.Archive = archiveMessage(s.Archive)
	m.HandoverApplied = fencewire.HandoverMessage(s.HandoverApplied)
	m.ApplyLagRecords, m.ApplyRecordsPerSecond = s.ApplyLag, s.ApplyRate
	m.AppliedPosition = positionMessage(s.AppliedPosition)
	m.BeaconHead = positionMessage(s.BeaconHead)
	m.BeaconReleased = positionMessage(s.BeaconReleased)
	if s.BeaconAge != nil {
		m.BeaconAge = durationpb.New(*s.BeaconAge)
	}
	if s.Blind != nil {
		m.BlindWindow = durationpb.New(*s.Blind)
	}
	return m
}

// archiveMessage is nil where there is no archive.
func archiveMessage(a *ArchiveStatus) *pb.StandbyArchive {
	if a == nil {
		return nil
	}
	m := &pb.StandbyArchive{Archivist: a.Archivist, Error: a.Err, Holes: uint32(len(a.Holes))} //nolint:gosec // few
	if a.Archived != nil {
		m.ArchivedSeq = new(uint64(*a.Archived))
	}
	if a.Bytes != nil {
		m.BehindBytes = new(uint64(*a.Bytes)) //nolint:gosec // a size
	}
	if a.Behind != nil {
		m.Behind = durationpb.New(*a.Behind)
	}
	if !a.LastSuccess.IsZero() {
		m.LastSuccess = timestamppb.New(a.LastSuccess)
	}
	return m
}

// rateMessage says a limit as files and gates do.
func rateMessage(r rates.Rate) *pb.Rate {
	m := &pb.Rate{Name: r.Name, Unit: string(r.Unit), Error: r.Error}
	if r.Limit != nil {
		limit := float64(*r.Limit)
		m.Limit = &limit
	}
	return m
}

func positionMessage(p *tidegate.Position) *uint64 {
	if p == nil {
		return nil
	}
	v := uint64(*p)
	return &v
}
