package standby

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pki"
)

// fakeLibrary follows like a journal: it appends what comes and reports it.
type fakeLibrary struct {
	t    testing.TB
	conn *local.Conn

	mu     sync.Mutex
	bytes  []byte
	active bool
	roles  []local.Role
	err    error
	wg     sync.WaitGroup
}

// library connects to dr1's socket with what an earlier one had.
func (c *cluster) library(n tidegate.NodeName, have []byte) *fakeLibrary {
	c.t.Helper()
	l := &fakeLibrary{t: c.t, bytes: bytes.Clone(have)}
	path := local.SocketPath(c.run, local.DaemonStandby, "ledger", "main")
	var err error
	c.until("socket of "+string(n), func() bool {
		l.conn, _, err = local.Dial(c.ctx(), path, local.Hello{
			Service: "ledger", Stream: "main", Kind: local.KindJournal, Dir: "/j", End: tidegate.Position(len(have)), Endpoint: "dr1:8080",
		})
		return err == nil
	})
	l.report()
	l.wg.Go(l.run)
	c.t.Cleanup(l.close)
	return l
}

func (l *fakeLibrary) close() {
	_ = l.conn.Close() // may be closed already
	l.wg.Wait()
}

func (l *fakeLibrary) report() {
	l.mu.Lock()
	end := tidegate.Position(len(l.bytes))
	l.mu.Unlock()
	_ = l.conn.Send(&local.LibraryProgress{End: end, Applied: end, Digest: tidegate.Digest{1}, DigestAt: end}) // a lost session shows in Recv
}

func (l *fakeLibrary) run() {
	for {
		m, err := l.conn.Recv()
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			return
		}
		l.mu.Lock()
		switch m := m.(type) {
		case *local.Role:
			l.roles = append(l.roles, *m)
			if m.State == local.StateActive && !l.active {
				if m.Branch != tidegate.Position(len(l.bytes)) {
					l.t.Errorf("branch at %s, journal ends at %d", m.Branch, len(l.bytes))
				}
				l.active = true
				_ = l.conn.Send(&local.Activated{L: m.Branch})
			}
		case *local.Batch:
			if l.active || m.First > tidegate.Position(len(l.bytes)) {
				l.t.Errorf("batch %s at %s, journal ends at %d, active %v", m.Seq, m.First, len(l.bytes), l.active)
			}
			l.bytes = append(l.bytes[:m.First], m.Payload...)
		}
		l.mu.Unlock()
		l.report()
	}
}

func (l *fakeLibrary) have() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.bytes)
}

func (l *fakeLibrary) told() []local.Role {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.roles)
}

func (l *fakeLibrary) state() local.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.roles) == 0 {
		return 0
	}
	return l.roles[len(l.roles)-1].State
}

// raw is what the writer's journal holds.
func (w *writer) raw() []byte {
	var o batch.Opener
	var out []byte
	for _, sealed := range w.log {
		_, p, err := o.Open(nil, sealed)
		if err != nil {
			w.c.t.Fatal(err)
		}
		out = append(out, p...)
	}
	return out
}

// shortRun is a directory for sockets: their paths are limited to 108 bytes.
func shortRun(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tg") //nolint:usetesting // the test's name would make the path too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // best effort
	return dir
}

// withLibrary is a cluster whose dr1 serves local sockets.
func withLibrary(t *testing.T, w int, names ...tidegate.NodeName) *cluster {
	t.Helper()
	c := newCluster(t, w, nil, names...)
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.run = shortRun(t)
	c.nodes["dr1"].start()
	c.until("dr1 is back", func() bool { return c.nodes["dr1"].n.stream(theStream) != nil })
	return c
}

// Only what is committed is applied: with W nodes away the library waits.
func TestLibraryIsFedUpToCommitAndResumes(t *testing.T) {
	c := withLibrary(t, 2, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(40, 333)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	l := c.library("dr1", nil)
	c.until("library has all", func() bool { return bytes.Equal(l.have(), w.raw()) })
	c.until("applied is known", func() bool {
		st := c.nodes["dr1"].status()
		return st.Applied != nil && *st.Applied == 40 && st.Endpoint == "dr1:8080" && st.ApplyLag != nil && *st.ApplyLag == 0
	})
	c.until("applied rides on acks", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.acks[w.rec.Config.Members[0]].Applied == 40
	})
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	committed := w.raw()
	w.seal(10, 333)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("dr1 has what is not committed", func() bool { return w.acked("dr1") == 50 })
	if m := streamMessage(c.nodes["dr1"].status(), tidegate.ID{}); m.ApplyLagRecords == nil || m.GetApplyLagRecords() <= 0 {
		t.Errorf("reported lag %v with ten batches that must wait", m.ApplyLagRecords)
	}
	if got := l.have(); !bytes.Equal(got, committed) {
		t.Errorf("library has %d bytes, committed are %d", len(got), len(committed))
	}
	// It comes back in the middle of a batch.
	l.close()
	l = c.library("dr1", committed[:5*333+100])
	c.until("resumed", func() bool { return bytes.Equal(l.have(), committed) })
	c.nodes["dr2"].start()
	c.until("the rest follows", func() bool { return bytes.Equal(l.have(), w.raw()) })
	l.close()
	c.until("unknown again", func() bool { return c.nodes["dr1"].status().Applied == nil })
}

func (c *cluster) client(role tidegate.Role, n tidegate.NodeName) tidegatev1connect.StandbyServiceClient {
	hc := api.NewHTTPClient(c.creds(role, "caller").ClientTLS(pki.Expect{Role: tidegate.RoleStandby, Name: string(n)}))
	c.t.Cleanup(hc.CloseIdleConnections)
	return tidegatev1connect.NewStandbyServiceClient(hc, "https://"+c.nodes[n].n.Identity().API)
}

// A failover as the gate runs it, over the API: fence, adopt, promote, and the
// service beside dr1 is active at H.
func TestPromoteOverTheAPI(t *testing.T) {
	c := withLibrary(t, 2, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr2")
	w.seal(60, 200)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all durable", func() bool { return w.acked("dr1") == 60 && w.acked("dr2") == 60 && w.acked("dr3") == 60 })
	l := c.library("dr1", nil)
	c.until("follows", func() bool { return l.state() == local.StateFollow })
	w.close()

	ctx := c.ctx()
	holder := tidegate.NewID()
	var replies []fence.FenceReply
	for _, n := range []tidegate.NodeName{"dr1", "dr3"} {
		res, err := c.client(tidegate.RoleGate, n).Fence(ctx, connect.NewRequest(fencewire.FenceRequestMessage(fenceAsk(2, holder))))
		if err != nil {
			t.Fatal(err)
		}
		r, err := fencewire.FenceReply(theStream, res.Msg)
		if err != nil || r.Refused || r.Limbo || r.Durable.Seq != 60 {
			t.Fatalf("%+v, %v", r, err)
		}
		replies = append(replies, r)
	}
	for _, n := range []tidegate.NodeName{"dr1", "dr3"} {
		stream, err := c.client(tidegate.RoleGate, n).Adopt(ctx, connect.NewRequest(fencewire.AdoptRequestMessage(fence.AdoptRequest{
			Stream: theStream, Epoch: 2, Holder: holder, History: replies[0].History, Head: replies[0].Durable,
			Source: "dr1", Reason: fence.ReasonDiverged,
		})))
		if err != nil {
			t.Fatal(err)
		}
		adopted := false
		for stream.Receive() {
			adopted = stream.Msg().GetAdopted()
		}
		if err := errors.Join(stream.Err(), stream.Close()); err != nil || !adopted {
			t.Fatalf("%s adopted %v: %v", n, adopted, err)
		}
	}
	promote := connect.NewRequest(fencewire.PromoteRequestMessage(fence.PromoteRequest{Stream: theStream, Epoch: 2, Holder: holder, Head: replies[0].Durable}))
	for range 2 { // a second controller asks again
		last := c.promote(ctx, promote)
		if !last.GetDone() || last.GetEndpoint() != "dr1:8080" || last.GetAppliedSeq() != 60 || last.GetStateDigest() == "" {
			t.Fatalf("promote: %v", last)
		}
	}
	if !bytes.Equal(l.have(), w.raw()) {
		t.Error("promoted with other bytes than were durable")
	}
	// Back after a restart of the service: told the same again, fed nothing.
	l.close()
	l = c.library("dr1", w.raw())
	c.until("told again", func() bool { return l.state() == local.StateActive })
}

func (c *cluster) promote(ctx context.Context, req *connect.Request[pb.PromoteRequest]) *pb.PromoteResponse {
	c.t.Helper()
	stream, err := c.client(tidegate.RoleGate, "dr1").Promote(ctx, req)
	if err != nil {
		c.t.Fatal(err)
	}
	var last *pb.PromoteResponse
	for stream.Receive() {
		last = stream.Msg()
	}
	if err := errors.Join(stream.Err(), stream.Close()); err != nil {
		c.t.Fatal(err)
	}
	return last
}

func TestAPIAsksForTheRole(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	c.start1()
	ctx := c.ctx()
	fenceReq := connect.NewRequest(fencewire.FenceRequestMessage(fenceAsk(9, tidegate.NewID())))
	for _, role := range []tidegate.Role{tidegate.RoleAgent, tidegate.RoleStandby, tidegate.RoleViewer, tidegate.RoleRoute, tidegate.RoleDrill} {
		_, err := c.client(role, "dr1").Fence(ctx, fenceReq)
		if err := api.FromError("fence", "", err); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), string(role)) {
			t.Errorf("%s: %v", role, err)
		}
	}
	if p := c.nodes["dr1"].status().Promise; p.Epoch != 1 {
		t.Errorf("promise went to %s", p)
	}
	viewer := c.client(tidegate.RoleViewer, "dr1")
	st, err := viewer.Status(ctx, connect.NewRequest(&pb.StandbyServiceStatusRequest{}))
	if err != nil || len(st.Msg.GetStreams()) != 1 || st.Msg.GetStreams()[0].AppliedSeq != nil {
		t.Errorf("status: %v, %v", st, err)
	}
	d, err := viewer.Describe(ctx, connect.NewRequest(&pb.DescribeRequest{}))
	if err != nil || len(d.Msg.GetStreams()) != 1 || d.Msg.GetStreams()[0].GetName() != "main" || d.Msg.GetShipAddress() == "" {
		t.Errorf("describe: %v, %v", d, err)
	}
	drill := c.client(tidegate.RoleDrill, "dr1")
	if _, err := drill.Status(ctx, connect.NewRequest(&pb.StandbyServiceStatusRequest{})); err != nil {
		t.Errorf("a drill looks at the lag: %v", err)
	}
	if _, err := drill.Describe(ctx, connect.NewRequest(&pb.DescribeRequest{})); err != nil {
		t.Errorf("a drill looks for what to rehearse with: %v", err)
	}
	if _, err := viewer.Fence(ctx, connect.NewRequest(&pb.FenceRequest{})); err == nil {
		t.Error("viewer fenced with an empty request")
	}
	if _, err := c.client(tidegate.RoleGate, "dr1").Fence(ctx, connect.NewRequest(&pb.FenceRequest{})); tidegate.ClassOf(api.FromError("fence", "", err)) != tidegate.Misuse {
		t.Errorf("empty request: %v", err)
	}
	unknown := fenceAsk(9, tidegate.NewID())
	unknown.Stream = tidegate.ID{1}
	if _, err := c.client(tidegate.RoleGate, "dr1").Fence(ctx, connect.NewRequest(fencewire.FenceRequestMessage(unknown))); !errors.Is(api.FromError("fence", "", err), tidegate.ErrNotFound) {
		t.Errorf("unknown stream: %v", err)
	}
}

func TestMetricsNeverShowTheUnknownAsZero(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	get := func() string {
		hc := api.NewHTTPClient(c.creds(tidegate.RoleViewer, "prom").ClientTLS(pki.Expect{Role: tidegate.RoleStandby}))
		defer hc.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.nodes["dr1"].n.Identity().API+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res.Status, err)
		}
		return b.String()
	}
	text := get()
	for _, unknown := range []string{"applied_seq", "commit_seq", "beacon_timestamp", "blind_window", "relay_up", "received_seq"} {
		if strings.Contains(text, unknown+"{") {
			t.Errorf("%s is shown before anything is known", unknown)
		}
	}
	if !strings.Contains(text, `tidegate_standby_limbo{service="ledger",stream="main"} 1`) {
		t.Error("limbo is not shown")
	}
	w := c.start1()
	w.attach("dr1")
	w.seal(7, 50)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("shown", func() bool {
		text := get()
		return strings.Contains(text, `tidegate_standby_durable_seq{service="ledger",stream="main"} 7`) &&
			strings.Contains(text, `tidegate_standby_commit_seq{service="ledger",stream="main"} 7`) &&
			strings.Contains(text, `tidegate_standby_fsync_seconds_count`)
	})
	if res := get(); strings.Contains(res, "applied_seq{") {
		t.Error("applied is shown although nothing applies")
	}
}

func TestStatusReachesTheGate(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	c.start1()
	c.until("a report", func() bool {
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		st, ok := c.gate.reports["dr1"]
		return ok && len(st.Streams) == 1 && st.TotalBytes > 0
	})
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	m := ReportMessage(c.gate.reports["dr1"], time.Unix(1, 0))
	if m.GetStreams()[0].BlindWindow != nil || m.GetStreams()[0].AppliedSeq != nil || m.GetNode() != "dr1" {
		t.Errorf("report %v", m)
	}
}
