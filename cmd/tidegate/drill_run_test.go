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
	"github.com/tidegate/tidegate/archive/bucket/open"
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
	r := refusedReport(t)
	id := r.ID
	blocked := filepath.Join(home, "evidence") // a file where the chain's directory should be
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store := evidence.NewStore(dir.New(vfs.OS(), blocked))
	sealed, err := keepReport(t.Context(), store, key, shadow.Evidence{Directory: blocked}.SetDefaults(), r)
	if err == nil || sealed.Report.ID != id {
		t.Fatalf("%+v, %v", sealed.Report, err)
	}
	path := filepath.Join(home, "drill-"+id.String()+".unchained.dsse.json")
	data, readErr := os.ReadFile(path)
	if _, openErr := evidence.Open(evidence.File{Data: data}); readErr != nil || openErr != nil || !strings.Contains(tidegate.HintOf(err), path) {
		t.Errorf("%v, %v, hint %q", readErr, openErr, tidegate.HintOf(err))
	}
	nowhere := shadow.Evidence{Directory: filepath.Join(home, "none", "evidence")}.SetDefaults()
	if sealed, err = keepReport(t.Context(), store, key, nowhere, r); err == nil || sealed.Report.ID != id {
		t.Errorf("where nothing can be written: %+v, %v", sealed.Report, err)
	}
}

// TestEvidenceGoesToAnArchive: the chain of two machines' drills is one, in their archive;
// a report that it does not take lies on the machine.
func TestEvidenceGoesToAnArchive(t *testing.T) {
	home := t.TempDir()
	if _, err := evidence.NewKey(filepath.Join(home, "key")); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(home, "archive")
	machine := func(name string) *drillAsk {
		e := shadow.Evidence{Archive: open.Config{URL: "file://" + at}, State: filepath.Join(home, name), Key: filepath.Join(home, "key")}
		return &drillAsk{cfg: shadow.Config{Service: "bank", Evidence: e.SetDefaults()}}
	}
	one, two := machine("one"), machine("two")
	if _, _, _, err := one.chain(t.Context()); tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("an archive that is not there: %v", err)
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	var last evidence.Sealed
	for i, m := range []*drillAsk{one, two, one} {
		key, store, history, err := m.chain(t.Context())
		if err != nil || len(history) != i {
			t.Fatalf("drill %d: %d before it, %v", i+1, len(history), err)
		}
		r := refusedReport(t)
		if last, err = keepReport(t.Context(), store, key, m.cfg.Evidence, r); err != nil || last.Report.Number != evidence.Number(i+1) {
			t.Fatalf("report %d: number %d, %v", i+1, last.Report.Number, err)
		}
	}
	if want := filepath.Join(at, filepath.FromSlash(last.Name)); last.Name != "drills/bank/0000000003.dsse.json" || !exists(want) {
		t.Errorf("it lies in %s", last.Name)
	}
	key, store, _, err := two.chain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at, at+".away"); err != nil {
		t.Fatal(err)
	}
	r := refusedReport(t)
	if _, err := keepReport(t.Context(), store, key, two.cfg.Evidence, r); err == nil || !exists(filepath.Join(home, "two", "drill-"+r.ID.String()+".unchained.dsse.json")) {
		t.Errorf("an archive that is away: %v", err)
	}
}

// refusedReport is of a drill that did not begin.
func refusedReport(t *testing.T) evidence.Report {
	t.Helper()
	id, err := evidence.NewID()
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Report{
		ID: id, Cluster: "prod", Service: "bank", Level: evidence.L1, Scenario: shadow.Scenario, Started: evidence.Moment{At: time.Unix(1, 0).UTC()},
		Verdict: evidence.Verdict{Outcome: evidence.Refused, Reasons: []string{"no room"}}, Ran: evidence.Ran{Host: "dr-1", Version: "test"},
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
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
