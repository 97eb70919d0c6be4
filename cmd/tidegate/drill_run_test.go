package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/vfs"
)

// TestReportIsKept: the report of a drill whose chain cannot be gone on with is signed and
// kept beside it, and is there to be printed even when that fails too.
func TestReportIsKept(t *testing.T) {
	home := t.TempDir()
	key, err := evidence.NewKey(filepath.Join(home, "key"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := evidence.NewID()
	if err != nil {
		t.Fatal(err)
	}
	r := evidence.Report{
		ID: id, Cluster: "prod", Service: "bank", Level: evidence.L1, Scenario: shadow.Scenario, Started: evidence.Moment{At: time.Unix(1, 0).UTC()},
		Verdict: evidence.Verdict{Outcome: evidence.Refused, Reasons: []string{"no room"}}, Ran: evidence.Ran{Host: "dr-1", Version: "test"},
	}
	blocked := filepath.Join(home, "evidence") // a file where the chain's directory should be
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store := evidence.NewStore(dir.New(vfs.OS(), blocked))
	sealed, err := keepReport(t.Context(), store, key, &shadow.Config{Evidence: shadow.Evidence{Directory: blocked}}, r)
	if err == nil || sealed.Report.ID != id {
		t.Fatalf("%+v, %v", sealed.Report, err)
	}
	path := filepath.Join(home, "drill-"+id.String()+".unchained.dsse.json")
	data, readErr := os.ReadFile(path)
	if _, openErr := evidence.Open(evidence.File{Data: data}); readErr != nil || openErr != nil || !strings.Contains(tidegate.HintOf(err), path) {
		t.Errorf("%v, %v, hint %q", readErr, openErr, tidegate.HintOf(err))
	}
	nowhere := &shadow.Config{Evidence: shadow.Evidence{Directory: filepath.Join(home, "none", "evidence")}}
	if sealed, err = keepReport(t.Context(), store, key, nowhere, r); err == nil || sealed.Report.ID != id {
		t.Errorf("where nothing can be written: %+v, %v", sealed.Report, err)
	}
}

// TestDrillEnd: a verdict keeps its exit code, whatever became of its report.
func TestDrillEnd(t *testing.T) {
	failed, full := cli.WithCode(cli.Unverified, errors.New("failed")), errors.New("no room")
	if err := drillEnd(nil, nil, nil); err != nil {
		t.Error(err)
	}
	if err := drillEnd(failed, nil, nil); cli.CodeOf(err) != cli.Unverified {
		t.Error(err)
	}
	if err := drillEnd(nil, full, nil); !errors.Is(err, full) {
		t.Error(err)
	}
	if err := drillEnd(failed, nil, full); cli.CodeOf(err) != cli.Unverified || !errors.Is(err, full) {
		t.Error(err)
	}
}
