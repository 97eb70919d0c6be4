package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/gating"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/cli"
)

// RecordDrill believes what a gate would.
func (g *fakeGate) RecordDrill(_ context.Context, r *connect.Request[pb.RecordDrillRequest]) (*connect.Response[pb.RecordDrillResponse], error) {
	report, err := g.reports(r.Msg.GetEnvelope())
	if err != nil {
		return nil, api.Error(err)
	}
	g.asked = report
	return connect.NewResponse(&pb.RecordDrillResponse{
		Service: string(report.Service), Drill: &pb.DrillRecord{Number: report.Number, Level: report.Level, Outcome: report.Outcome},
	}), nil
}

// sealedReport signs a report that passed.
func sealedReport(t *testing.T, key *evidence.Key, number evidence.Number, previous *evidence.Hash) evidence.Sealed {
	t.Helper()
	id, err := evidence.NewID()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s, err := evidence.Seal(t.Context(), key, evidence.Report{
		ID: id, Number: number, Previous: previous, Cluster: "demo", Service: "bank", Level: evidence.L1, Scenario: "shadow-promote",
		Verdict: evidence.Verdict{Outcome: evidence.Passed}, Started: evidence.Moment{At: began}, Ended: new(began.Add(time.Minute)),
		Recovered: evidence.Recovered{Actual: new(2 * time.Second)},
		Checks:    []evidence.Check{{Name: "leads", Kind: "http", Wanted: "200", Outcome: evidence.CheckPassed}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func madeKey(t *testing.T, dir, name string) (key *evidence.Key, public string) {
	t.Helper()
	key, err := evidence.NewKey(filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	public = filepath.Join(dir, name+".pub")
	if err := os.WriteFile(public, key.Public().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, public
}

func TestDrillRecord(t *testing.T) {
	dir := t.TempDir()
	key, public := madeKey(t, dir, "drill")
	stranger, _ := madeKey(t, dir, "stranger")
	first := sealedReport(t, key, 1, nil)
	second := sealedReport(t, key, 2, &first.Hash)
	for name, s := range map[string]evidence.Sealed{"1": first, "2": second, "3": sealedReport(t, stranger, 3, &second.Hash)} {
		if err := os.WriteFile(filepath.Join(dir, name), s.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reports, err := drillReports([]string{public})
	if err != nil {
		t.Fatal(err)
	}
	g := &fakeGate{reports: reports}
	run := commandLine(t, g)
	code, stdout, stderr := run("drill", "record", filepath.Join(dir, "1"), filepath.Join(dir, "2"))
	if code != cli.OK || !strings.Contains(stdout, "report 2 of bank, L1 passed, is on record") {
		t.Fatalf("exit code %d, %q, %q", code, stdout, stderr)
	}
	r, ok := g.asked.(gating.DrillReport)
	if !ok || r.Cluster != "demo" || r.Previous != first.Hash.String() || r.Hash != second.Hash.String() || r.Key != string(key.Public().ID()) ||
		!r.Ended.Equal(*second.Report.Ended) || r.RTA == nil || *r.RTA != 2*time.Second {
		t.Errorf("the gate was told %+v", g.asked)
	}
	for _, c := range []struct {
		args string
		want cli.Code
		says string
	}{
		{"3", cli.Unverified, "not trusted"}, {"4", cli.Usage, "no such file"}, {".", cli.Usage, "is a directory"},
	} {
		if code, _, stderr := run("drill", "record", filepath.Join(dir, c.args)); code != c.want || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit code %d, %q; want %d, %q", c.args, code, stderr, c.want, c.says)
		}
	}
	if _, err := drillReports([]string{public, filepath.Join(dir, "none"), filepath.Join(dir, "drill.key")}); err == nil || !strings.Contains(err.Error(), "none") || !strings.Contains(err.Error(), "drill.key") {
		t.Errorf("keys that are none: %v", err)
	}
	if code, _, _ := run("drill", "record"); code != cli.Usage {
		t.Errorf("no file: exit code %d", code)
	}
}

// What a gate shows of phases: measured, compared, both, or neither, and never 0 or
// false for what is not known.
func TestDrillPhases(t *testing.T) {
	got := drillPhases(evidence.Report{
		Phases: []evidence.Phase{{Name: "fence", Absent: true}, {Name: "apply", Took: new(time.Second)}, {Name: "promote"}, {Name: "verify", Took: new(time.Minute)}},
		Compared: []evidence.Compared{
			{Phase: "apply", Finding: "doubled"},
			{Phase: "promote", Finding: "unknown"},
			{Phase: "verify", Finding: "steady"},
			{Phase: "fence", Finding: "absent"},
			{Phase: "total", Finding: "slower"},
		},
	})
	want := []registry.DrillPhase{
		{Name: "apply", Took: new(time.Second), Slower: new(true)},
		{Name: "promote"},
		{Name: "verify", Took: new(time.Minute), Slower: new(false)},
		{Name: "total", Slower: new(true)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestTell(t *testing.T) {
	var files []evidence.File
	for i := range 5 {
		files = append(files, evidence.File{Name: fmt.Sprint(i + 1)})
	}
	for _, c := range []struct {
		have, want int // reports on record before, and after
		gone       bool
	}{{0, 5, false}, {3, 5, false}, {4, 5, false}, {5, 5, false}, {2, 2, true}} {
		have := c.have
		err := tell(files, func(f evidence.File) error {
			n, err := strconv.Atoi(f.Name)
			switch {
			case err != nil:
				return err
			case c.gone:
				return &tidegate.Error{Class: tidegate.Transient, Err: errors.New("no gate")}
			case n == have:
				return nil // it is there
			case n != have+1:
				return &tidegate.Error{Class: tidegate.Refused, Err: errors.New("the next one is wanted")}
			}
			have = n
			return nil
		})
		if have != c.want || (err != nil) != c.gone {
			t.Errorf("%d on record before: %d after, %v", c.have, have, err)
		}
	}
	calls := 0
	if err := tell(files, func(evidence.File) error {
		calls++
		return &tidegate.Error{Class: tidegate.Refused, Err: errors.New("of another cluster")}
	}); err == nil || calls != len(files) {
		t.Errorf("what is never taken: %v after %d calls", err, calls)
	}
	if err := tell(nil, nil); err != nil {
		t.Errorf("none: %v", err)
	}
}
