package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/drills/worker"
	"github.com/tidegate/tidegate/internal/config"
)

// drillDesk is what a gate answers to workers; err before anything else.
type drillDesk struct {
	take   *pb.TakeDrillResponse
	report *pb.ReportDrillResponse
	end    *pb.EndDrillResponse
	err    error
}

// answered is the answer of a gate that a worker has asked.
func answered[A any](g *fakeGate, asked proto.Message, answer *A) (*connect.Response[A], error) {
	if g.asked = asked; g.desk.err != nil {
		return nil, api.Error(g.desk.err)
	}
	return connect.NewResponse(answer), nil
}

func (g *fakeGate) TakeDrill(_ context.Context, r *connect.Request[pb.TakeDrillRequest]) (*connect.Response[pb.TakeDrillResponse], error) {
	return answered(g, r.Msg, g.desk.take)
}

func (g *fakeGate) ReportDrill(_ context.Context, r *connect.Request[pb.ReportDrillRequest]) (*connect.Response[pb.ReportDrillResponse], error) {
	return answered(g, r.Msg, g.desk.report)
}

func (g *fakeGate) EndDrill(_ context.Context, r *connect.Request[pb.EndDrillRequest]) (*connect.Response[pb.EndDrillResponse], error) {
	return answered(g, r.Msg, g.desk.end)
}

// TestDrillGates: a worker asks the gates of its drill's file under that file's identity,
// and understands each of their answers.
func TestDrillGates(t *testing.T) {
	g := &fakeGate{}
	_, gates, files := serveGate(t, g, tidegate.RoleDrill)
	cfg := shadow.Config{Service: "bank", Gates: gates, TLS: config.TLS{CA: files.CA, Cert: files.Cert, Key: files.Key}}
	w := &drillGates{cfg: cfg, name: "dr-1"}
	asked := func(want proto.Message) {
		t.Helper()
		if got, _ := g.asked.(proto.Message); !proto.Equal(got, want) {
			t.Errorf("asked %v, want %v", got, want)
		}
	}

	me := &pb.TakeDrillRequest{Service: "bank", Worker: fmt.Sprintf("dr-1 (%d)", os.Getpid()), Levels: []string{"L1"}}
	g.desk.take = &pb.TakeDrillResponse{Why: "none is due"}
	if c, why, err := w.Take(t.Context()); c != nil || why != "none is due" || err != nil {
		t.Errorf("none is due: %+v, %q, %v", c, why, err)
	}
	asked(me)
	g.desk.take = &pb.TakeDrillResponse{Claim: &pb.DrillClaim{Id: "c", Service: "bank", Level: "L1", Scenario: "shadow-promote", Silence: durationpb.New(30 * time.Second)}}
	c, why, err := w.Take(t.Context())
	if diff := cmp.Diff(&worker.Claim{ID: "c", Level: "L1", Scenario: "shadow-promote", Silence: 30 * time.Second}, c); diff != "" || why != "" || err != nil {
		t.Errorf("%q, %v\n%s", why, err, diff)
	}

	g.desk.report = &pb.ReportDrillResponse{}
	if abort, err := w.Report(t.Context(), "c", "apply"); abort != "" || err != nil {
		t.Errorf("it is to go on: %q, %v", abort, err)
	}
	asked(&pb.ReportDrillRequest{Service: "bank", Claim: "c", Step: "apply"})
	g.desk.report = &pb.ReportDrillResponse{Abort: true, Reason: "ada: month end"}
	if abort, err := w.Report(t.Context(), "c", "apply"); abort != "ada: month end" || err != nil {
		t.Errorf("it is called off: %q, %v", abort, err)
	}

	for _, want := range []bool{true, false} {
		g.desk.end = &pb.EndDrillResponse{Held: want}
		if held, err := w.End(t.Context(), "c", worker.End{Outcome: "passed", Why: "so", Report: "r"}); held != want || err != nil {
			t.Errorf("held %t, want %t: %v", held, want, err)
		}
		asked(&pb.EndDrillRequest{Service: "bank", Claim: "c", Outcome: "passed", Why: "so", Report: "r"})
	}

	// What may be tried again is told from what may not.
	for _, want := range []tidegate.Class{tidegate.Transient, tidegate.Refused} {
		g.desk.err = &tidegate.Error{Op: "end drill", Subject: "bank", Class: want, Err: errors.New("not now")}
		if held, err := w.End(t.Context(), "c", worker.End{Outcome: "passed"}); held || tidegate.ClassOf(err) != want || !strings.Contains(err.Error(), "not now") {
			t.Errorf("%s: %t, %v", want, held, err)
		}
	}
	w.cfg.Gates = gates[:1]
	if _, _, err := w.Take(t.Context()); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("no gate answers: %v", err)
	}
	w.cfg.TLS.Cert = "none" // it is read for each call
	if _, _, err := w.Take(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no certificate: %v", err)
	}
}
