package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/internal/cli"
)

func (g *fakeGate) ListGaps(_ context.Context, r *connect.Request[pb.ListGapsRequest]) (*connect.Response[pb.ListGapsResponse], error) {
	return answerWith(g, r, &pb.ListGapsResponse{Gaps: g.gaps})
}

func (g *fakeGate) AcceptGap(_ context.Context, r *connect.Request[pb.AcceptGapRequest]) (*connect.Response[pb.AcceptGapResponse], error) {
	out := &pb.AcceptGapResponse{
		Rules: []*pb.RuleVerdict{{Rule: "log-lost", Holds: !g.noGap, Known: true, Reason: "e1 says so"}},
		Facts: []*pb.Fact{{Key: "new base", Value: "of about 5000 bytes"}},
	}
	if !r.Msg.GetDryRun() {
		out.Gap = api.GapMessage(tidegate.Gap{Epoch: 4, Site: "east", Actor: "operator/ada", Reason: r.Msg.GetReason()})
	}
	return answerWith(g, r, out)
}

func TestGapAccept(t *testing.T) {
	g := &fakeGate{}
	tidegate := commandLine(t, g)
	code, out, _ := tidegate("gap", "accept", "--dry-run", "bank/main")
	says(t, out, "log-lost", "new base: of about 5000 bytes", "nothing changed")
	if code != cli.OK || !g.asked.(*pb.AcceptGapRequest).GetDryRun() {
		t.Errorf("dry run: %d, asked %v", code, g.asked)
	}
	code, out, _ = tidegate("gap", "accept", "bank/main", "--reason", "the slot is gone", "--accept-loss")
	says(t, out, "accepted by operator/ada", "behind epoch 4 at site east")
	if m := g.asked.(*pb.AcceptGapRequest); code != cli.OK || m.GetReason() != "the slot is gone" || !m.GetAcceptLoss() || m.GetService() != "bank" || m.GetStream() != "main" {
		t.Errorf("%d, asked %v", code, g.asked)
	}
	g.noGap = true
	code, out, errs := tidegate("gap", "accept", "--dry-run", "bank/main")
	says(t, out, "nothing changed")
	says(t, errs, "accept gap bank/main", "log-lost", "hint: ")
	if code != cli.Refused {
		t.Errorf("a dry run of what would be refused: %d", code)
	}
}

// A list ends as the worst of its gaps is; an archive says where they end.
func TestGapList(t *testing.T) {
	a := newArchived(t)
	a.m.Data(t, []byte("first"), 1, 1, 1)
	a.m.Segment(t)
	a.m.Generation, a.m.Epoch, a.m.At = 2, 5, a.m.At+1000
	a.m.Data(t, []byte("second"), 1, 2, 2)
	a.m.Segment(t)
	hole := a.m.Seq + 1
	a.m.Data(t, []byte("third"), 1, 3, 3)
	lost := a.m.Segment(t)
	a.m.Data(t, []byte("fourth"), 1, 4, 4)
	a.m.Segment(t)
	if err := a.m.B.Remove(t.Context(), lost); err != nil {
		t.Fatal(err)
	}

	view := func(state pb.GapState, gap tidegate.Gap) *pb.GapView {
		return &pb.GapView{Service: "bank", Stream: "main", StreamId: archivetest.Stream.String(), State: state, Gap: api.GapMessage(gap)}
	}
	accepted := tidegate.Gap{Epoch: 4, Site: "east", Lost: "the slot is gone", Actor: "operator/ada", Reason: "why not", Since: time.Unix(1000, 0).UTC()}
	g := &fakeGate{}
	tidegate := commandLine(t, g)
	run := func(want cli.Code, args ...string) string {
		t.Helper()
		code, out, errs := tidegate(append([]string{"gap", "list"}, args...)...)
		if code != want {
			t.Fatalf("%q: exit code %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out
	}
	says(t, run(cli.OK), "nothing is lost")
	if out := run(cli.OK, "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("json of nothing: %s", out)
	}
	g.gaps = []*pb.GapView{view(pb.GapState_GAP_STATE_ACCEPTED, accepted)}
	says(t, run(cli.OK), "accepted", "by operator/ada at 1970-01-01T00:16:40Z: why not", "the slot is gone", "unknown")
	g.gaps = append(g.gaps, view(pb.GapState_GAP_STATE_UNKNOWN, accepted))
	says(t, run(cli.UnknownState), "unknown")
	g.gaps = append(g.gaps, view(pb.GapState_GAP_STATE_OPEN, accepted))
	says(t, run(cli.Failed, "bank/main"), "open", "next: `tidegate gap accept bank/main --reason WHY`")
	if m := g.asked.(*pb.ListGapsRequest); m.GetService() != "bank" || m.GetStream() != "main" {
		t.Errorf("asked %v", m)
	}

	g.gaps = g.gaps[:1]
	var rows []gapRow
	if err := json.Unmarshal([]byte(run(cli.OK, "--url", a.url, "-o", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].State != gapAccepted || rows[0].From == nil || *rows[0].From != 5 || rows[0].To == nil || *rows[0].To != 1005 || *rows[0].Generation != 1 || rows[0].Reason != "why not" {
		t.Errorf("%+v", rows)
	}
	if h := rows[1]; h.State != gapMissing || h.Batches == nil || h.Batches.First != hole || h.Batches.Last != hole {
		t.Errorf("the hole: %+v", h)
	}
	// What the gate does not know any more the archive still does.
	g.gaps = nil
	says(t, run(cli.OK, "--url", a.url), "the archive has a scar", "why is unknown")

	out, _ := a.run(t, cli.OK, "window")
	says(t, out, "scar: generation 1 ends at 0000000000000005", "generation 2 begins at 00000000000003ed", "by whom that was accepted is unknown")
	_, errs := a.run(t, cli.Refused, "restore", "--service", "bank", "--into", t.TempDir()+"/into", "--to", "0000000000000100")
	says(t, errs, "lies in a scar", "hint: `tidegate window`")
}
