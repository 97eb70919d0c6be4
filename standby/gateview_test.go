package standby

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
)

// reportedTo is a gate that only takes reports, and does not lead unless told.
type reportedTo struct {
	tidegatev1connect.UnimplementedNodeServiceHandler
	leads atomic.Bool
	kept  atomic.Int64
}

func (g *reportedTo) ReportStandby(context.Context, *connect.Request[pb.ReportStandbyRequest]) (*connect.Response[pb.ReportStandbyResponse], error) {
	if !g.leads.Load() {
		return nil, api.Error(&tidegate.Error{Op: "report", Class: tidegate.Transient, Err: errors.New("this gate does not lead")})
	}
	g.kept.Add(1)
	return connect.NewResponse(&pb.ReportStandbyResponse{}), nil
}

func (g *reportedTo) serve(t *testing.T, creds *pki.Credentials) (addr string) {
	t.Helper()
	_, handler := tidegatev1connect.NewNodeServiceHandler(g)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", creds.ServerTLS())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { _ = srv.Close(); serving.Wait() })
	return ln.Addr().String()
}

// A failover is judged by the gate that leads, from the reports it has. They must
// reach it wherever the node's watch is, and past a gate that hangs.
func TestReportsReachTheGateThatLeads(t *testing.T) {
	ca, err := pki.Dev(t.TempDir(), "alpha")
	if err != nil {
		t.Fatal(err)
	}
	creds := func(role tidegate.Role) *pki.Credentials {
		c, err := ca.Credentials(tidegate.Identity{Cluster: "alpha", Site: "west", Role: role, Name: "n"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	frozen, err := net.Listen("tcp", "127.0.0.1:0") // and never accepts
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	a, b := &reportedTo{}, &reportedTo{}
	addrs := []string{a.serve(t, creds(tidegate.RoleGate)), frozen.Addr().String(), b.serve(t, creds(tidegate.RoleGate))}
	d, err := NewGateDirectory("dr1", addrs, creds(tidegate.RoleStandby).ClientTLS(pki.Expect{Role: tidegate.RoleGate}), clock.System(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.client.CloseIdleConnections()
	if err := d.Report(t.Context(), Status{}); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("nobody leads: %v", err)
	}
	b.leads.Store(true)
	if err := d.Report(t.Context(), Status{}); err != nil || b.kept.Load() != 1 {
		t.Errorf("the leader keeps %d reports, %v", b.kept.Load(), err)
	}
}

// A registry is rebuilt from what the nodes remember, across their restarts: a new
// generation that was declared is part of it.
func TestDeclaredGenerationIsRemembered(t *testing.T) {
	m := &pb.StreamView{
		Id: theStream.String(), Service: "ledger", Name: "main", Store: "postgres", Mode: pb.Mode_MODE_SYNC,
		Renewal: &pb.Renewal{Epoch: 5, Node: "app1", Site: "east", Reason: "slot lost", Actor: "ann", Since: timestamppb.New(time.Unix(1000, 5))},
		Gaps: api.GapMessages([]tidegate.Gap{
			{Epoch: 2, Node: "app1", Site: "east", Lost: "the disk was full", Reason: "why", Actor: "ann", Since: time.Unix(900, 0).UTC(), Durable: new(tidegate.Position(7)), AcceptedLoss: true},
			{Epoch: 5, Node: "app1", Site: "east", Generation: 2, Reason: "slot lost", Actor: "ann", Since: time.Unix(1000, 5).UTC(), Head: new(tidegate.Position(9))},
		}),
	}
	v, err := parseStreamView(m)
	if err != nil {
		t.Fatal(err)
	}
	fsys := vfs.NewMem()
	if err := writeView(fsys, "/view.json", View{Streams: []StreamView{v}}); err != nil {
		t.Fatal(err)
	}
	again, err := readView(fsys, "/view.json")
	if err != nil {
		t.Fatal(err)
	}
	got := descriptionMessage(StreamStatus{View: again.Streams[0]}, tidegate.Incarnation{})
	if !proto.Equal(got.GetRenewal(), m.GetRenewal()) {
		t.Errorf("told %v, remembered %v", m.GetRenewal(), got.GetRenewal())
	}
	if !slices.EqualFunc(got.GetGaps(), m.GetGaps(), func(a, b *pb.Gap) bool { return proto.Equal(a, b) }) {
		t.Errorf("told %v, remembered %v", m.GetGaps(), got.GetGaps())
	}
}

// A gap that the gate has forgotten, because its registry came back out of an old backup,
// is not forgotten by a node.
func TestForgottenGapIsRemembered(t *testing.T) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	n := &Standby{cfg: Config{DataDir: "/d"}, deps: Deps{FS: fsys, Log: slog.New(slog.DiscardHandler)}, changed: newBell()}
	told := func(gaps ...tidegate.Gap) View {
		return View{Version: viewVersion, Streams: []StreamView{{ID: theStream, Gaps: gaps}}}
	}
	n.see(told(tidegate.Gap{Epoch: 2, Reason: "a"}, tidegate.Gap{Epoch: 5, Reason: "b"}))
	n.see(told(tidegate.Gap{Epoch: 2, Reason: "a"}))
	n.see(View{Version: viewVersion}) // a backup from before the stream
	n.see(told(tidegate.Gap{Epoch: 7, Reason: "c"}))
	kept, err := readView(fsys, "/d/"+viewFileName)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []View{n.view, kept} {
		var epochs []tidegate.Epoch
		for _, g := range v.Streams[0].Gaps {
			epochs = append(epochs, g.Epoch)
		}
		if !slices.Equal(epochs, []tidegate.Epoch{2, 5, 7}) {
			t.Errorf("remembered %v", epochs)
		}
	}
}
