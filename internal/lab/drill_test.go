package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// signingKey makes the key that drills sign with, and its public half for the gate.
func signingKey(t *testing.T, s *stage) {
	t.Helper()
	if err := s.SigningKey(); err != nil {
		t.Fatal(err)
	}
}

// theDrillFile is the file of drills that rehearse the ledger; it is written once.
func theDrillFile(t *testing.T, s *stage) string {
	t.Helper()
	if file := s.File("drill.yaml"); filed(file) {
		return file
	}
	return drillFile(t, s)
}

func filed(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// drillFile writes the file of a drill that rehearses the ledger.
func drillFile(t *testing.T, s *stage) string {
	t.Helper()
	file := s.LedgerDrill("--receipts", "1000000")
	file["recovery"] = tree{"required": "repeating", "approach": "passive-standby", "class": "deterministic", "outputs": tree{
		"before": tree{"http": tree{"method": "POST", "url": "http://{address:http}/receipts"}}, "after": tree{"http": tree{"url": "http://{address:http}/receipts"}},
		"golden": tree{"http": tree{"url": "http://{address:http}/receipts?anew=true"}, "timeout": "1m"},
	}}
	return writeDrillFile(t, s, file)
}

// writeDrillFile writes the file of a drill that rehearses with d2.
func writeDrillFile(t *testing.T, s *stage, more tree) string {
	t.Helper()
	path, err := s.DrillFile(t.Context(), "d2", more)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// drill rehearses the recovery of the ledger from d2 under load: a clone is promoted and
// written to, and what is live goes on as if nothing had been.
func drill(t *testing.T, s *stage) {
	_, epoch := s.writer(t, s.Primaries(), 0)
	file := drillFile(t, s)
	says(t, s.ask(t, 0, "tidegate", "drill", "plan", "--config", file), "acquire an epoch: passed", "repeating required, repeating predicted", "write stream", "open-eur")
	text := s.ask(t, 0, "tidegate", "drill", "run", "--config", file, "--backlog", "100", "-o", "json")
	rep := reported(t, text)
	if rep.Verdict.Outcome != evidence.Passed || rep.Recovered.Actual == nil || len(rep.Streams) != 2 || *rep.Backlog.Records < 100 {
		t.Errorf("%s", text)
	}
	if r := rep.Recovery; r.Observed == nil || *r.Observed != "precise" || *r.Predicted != "repeating" || *r.Outcome != "lucky" {
		t.Errorf("%+v", r)
	}
	says(t, s.ask(t, 0, "tidegate", "drill", "matrix", s.File("evidence"), "--key", s.File("drill.pub")), "lucky", "repeating / precise")
	for _, c := range rep.Checks { // the live service goes on: the digest lies before the cut
		if c.Kind == "digest" && (c.Outcome != evidence.CheckPassed || c.Got == nil) {
			t.Errorf("%+v", c)
		}
	}
	s.until(t, "the gate to have the drill on record", func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if err == nil && st.GetServices()[0].GetPassedDrill().GetId() != rep.ID.String() {
			err = errors.New(st.GetServices()[0].GetPassedDrill().String())
		}
		return err
	})
	explained, _ := s.Tidegate(t.Context(), "gate", "explain", lab.Service) // other rules may not hold
	says(t, string(explained), "a drill passed")
	s.flows(t, "transfers after the drill")
	if _, now := s.writer(t, s.Primaries(), 0); now != epoch {
		t.Errorf("epoch %d, and %d before the drill", now, epoch)
	}
	left, err := os.ReadDir(s.File("drills"))
	if err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// damagedLog rehearses from a node one byte of whose log has changed on its disk: the
// drill says where, and that no recovery would come of it. The live service goes on.
func damagedLog(t *testing.T, s *stage) {
	file := theDrillFile(t, s)
	damaged := ""
	err := filepath.WalkDir(s.StandbyDir("d2"), func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".seg" {
			damaged = path
		}
		return err
	})
	if err != nil || damaged == "" {
		t.Fatalf("segments of d2: %q, %v", damaged, err)
	}
	text, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(damaged, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := len(text) / 2
	if _, err := f.WriteAt([]byte{text[at] + 1}, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	says(t, s.ask(t, 9, "tidegate", "drill", "run", "--config", file), "check prepare failed: ", "on node d2", "refused as corrupt: "+damaged)
	s.flows(t, "transfers with d2's log damaged")
}

// reported is the report in what a drill prints.
func reported(t *testing.T, text string) (rep evidence.Report) {
	t.Helper()
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &rep); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return rep
}

// rehearses recovers the server under test from d2, while clients and pgbench go on.
func (s *pgStage) rehearses(t *testing.T) {
	signingKey(t, s.stage)
	more := pglab.Drill()
	more["postgres"] = tree{"settings": tree{"fsync": "off"}}
	file := writeDrillFile(t, s.stage, more)
	rep := reported(t, s.ask(t, 0, "tidegate", "drill", "run", "--config", file, "--backlog", "1MiB", "-o", "json"))
	if rep.Verdict.Outcome != evidence.Passed || rep.Recovered.Actual == nil || *rep.Backlog.Bytes < 1<<20 || rep.Streams[0].Cut == nil {
		t.Errorf("%+v", rep)
	}
	for _, p := range rep.Phases {
		if p.Took != nil {
			t.Logf("%s took %s", p.Name, *p.Took)
		}
	}
	s.more(t, 50)
}
