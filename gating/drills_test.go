package gating

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
	"github.com/tidegate/tidegate/internal/clock"
)

// promotion is what a report of a drill that recovered something has.
var promotion = []registry.DrillPhase{{Name: "apply"}, {Name: "promote", Took: new(time.Second)}}

func TestTakeDrill(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	report := func(n uint64, hash, previous, outcome string, ago time.Duration) DrillReport {
		return DrillReport{
			Drill:   registry.Drill{ID: "id-" + hash, Number: n, Level: "L1", Outcome: outcome, Ended: now.Add(-ago), Phases: promotion, Hash: hash},
			Cluster: "demo", Service: "bank", Previous: previous,
		}
	}
	first := report(1, "aa", "", "passed", 2*time.Hour)
	on := &registry.Drills{Last: first.Drill, Passed: &first.Drill}
	second := func(change func(*DrillReport)) DrillReport {
		r := report(2, "bb", "aa", "passed", time.Hour)
		change(&r)
		return r
	}
	lint := second(func(r *DrillReport) { r.Level, r.Phases = "L0", nil })
	ridden := second(func(r *DrillReport) {
		r.Level, r.Phases = "L3", []registry.DrillPhase{{Name: "detect", Took: new(time.Second)}}
	})
	unmeasured := second(func(r *DrillReport) { r.Phases = []registry.DrillPhase{{Name: "promote"}} })
	other := second(func(r *DrillReport) { r.Cluster = "else" })
	endless := second(func(r *DrillReport) { r.Ended = time.Time{} })
	for _, c := range []struct {
		name   string
		on     *registry.Drills
		report DrillReport
		anew   bool
		passed string // hash of the newest pass; empty: none
		why    string // refused; "same": nothing changes
	}{
		{name: "first", report: first, passed: "aa"},
		{name: "next", on: on, report: report(2, "bb", "aa", "passed", time.Hour), passed: "bb"},
		{name: "failed", on: on, report: report(2, "bb", "aa", "failed", time.Hour), passed: "aa"},
		{name: "partial", on: on, report: report(2, "bb", "aa", "partial", time.Hour), passed: "aa"},
		{name: "never passed", report: report(1, "bb", "", "failed", time.Hour)},
		{name: "lint", on: on, report: lint, passed: "aa"},
		{name: "a fault that was ridden out", on: on, report: ridden, passed: "aa"},
		{name: "a promotion that was not measured", on: on, report: unmeasured, passed: "aa"},
		{name: "again", on: on, report: first, why: "same"},
		{name: "a failed one left out", on: on, report: report(3, "cc", "bb", "passed", time.Hour), why: "the next one is wanted"},
		{name: "another chain", on: on, report: report(2, "cc", "dd", "passed", time.Hour), why: "it follows report dd"},
		{name: "failed ones before it left out", report: report(5, "cc", "bb", "passed", time.Hour), why: "the next one is wanted"},
		{name: "begun anew", report: report(5, "cc", "bb", "passed", time.Hour), anew: true, passed: "cc"},
		{name: "another chain, an operator", on: on, report: report(1, "cc", "", "passed", time.Hour), anew: true, passed: "cc"},
		{name: "an old pass, an operator", on: on, report: report(2, "cc", "dd", "passed", 3*time.Hour), anew: true, passed: "cc"},
		{name: "an old pass", on: on, report: report(2, "cc", "aa", "passed", 3*time.Hour), why: "ended later"},
		{name: "future", on: on, report: report(2, "cc", "aa", "passed", -time.Hour), anew: true, why: "ahead of this gate's clock"},
		{name: "a clock a little ahead", on: on, report: report(2, "cc", "aa", "passed", -drillAhead), passed: "cc"},
		{name: "another cluster", report: other, anew: true, why: "of cluster"},
		{name: "no end", report: endless, anew: true, why: "when it ended"},
	} {
		s := &operatorService{cluster: "demo"}
		got, err := s.takeDrill(c.on, c.report, now, c.anew)
		switch {
		case c.why == "same":
			if got != nil || err != nil {
				t.Errorf("%s: %+v, %v; want no change", c.name, got, err)
			}
		case c.why != "":
			if err == nil || tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%s: %v, want refused: %s", c.name, err, c.why)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case got.Last.Hash != c.report.Hash || (got.Passed == nil) != (c.passed == "") || got.Passed != nil && got.Passed.Hash != c.passed:
			t.Errorf("%s: %+v, want last %s, passed %q", c.name, got, c.report.Hash, c.passed)
		}
	}
}

func TestDrillAge(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	w := newWorld(clock.NewFake(now))
	for _, c := range []struct{ ahead, want time.Duration }{{-time.Hour, time.Hour}, {drillAhead / 2, 0}, {time.Hour, -time.Hour}} {
		v := &registry.View{Drills: map[tidegate.ServiceName]registry.Entry[registry.Drills]{"bank": {Value: registry.Drills{Passed: &registry.Drill{Ended: now.Add(c.ahead)}}}}}
		if got := w.drillAge(v, "bank"); got == nil || *got != c.want {
			t.Errorf("passed %s from now: age %v, want %s", c.ahead, got, c.want)
		}
	}
	for _, d := range []map[tidegate.ServiceName]registry.Entry[registry.Drills]{nil, {"bank": {}}} {
		if got := w.drillAge(&registry.View{Drills: d}, "bank"); got != nil {
			t.Errorf("without a pass: age %s, want unknown", *got)
		}
	}
}

// Who runs drills with a key of his own has a chain of his own, in which nothing can be
// left out, and the newest of all counts. A key that replaces another goes on in its chain.
func TestTakeDrillOfChains(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s := &operatorService{cluster: "demo"}
	// As a gate wrote it that had one chain, of two keys in turn.
	var on *registry.Drills
	err := json.Unmarshal([]byte(`{"last":{"number":7,"level":"L1","outcome":"passed","ended":"2026-11-22T10:00:00Z","hash":"w7","key":"worker","phases":[{"name":"promote","took":1}]},
		"passed":{"number":7,"level":"L1","outcome":"passed","ended":"2026-11-22T10:00:00Z","hash":"w7","key":"worker"}}`), &on)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key, hash, previous string
		number              uint64
		ago                 time.Duration
		outcome             string
		anew                bool
		last, passed        string // on record then
		why                 string // refused
	}{
		{key: "operator", hash: "o2", previous: "o1", number: 2, why: "report 2 of its chain, 0 are on record"},
		{key: "operator", hash: "o1", number: 1, ago: 5 * time.Hour, outcome: "passed", last: "w7", passed: "w7"},
		{key: "operator", hash: "o1", number: 1, ago: 5 * time.Hour, outcome: "passed"},
		{key: "operator", hash: "o3", previous: "o2", number: 3, why: "report 3 of its chain, 1 are on record"},
		{key: "worker", hash: "x", number: 1, why: "report 1 of its chain, 7 are on record"},
		{key: "worker", hash: "w8", previous: "w7", number: 8, ago: 90 * time.Minute, outcome: "failed", last: "w8", passed: "w7"},
		{key: "operator", hash: "o2", previous: "o1", number: 2, ago: time.Hour, outcome: "passed", last: "o2", passed: "o2"},
		{key: "worker", hash: "w9", previous: "w8", number: 9, ago: 80 * time.Minute, outcome: "passed", last: "o2", passed: "o2"},
		{key: "worker2", hash: "w10", previous: "w9", number: 10, ago: 70 * time.Minute, outcome: "failed", last: "o2", passed: "o2"},
		{key: "worker", hash: "fork", previous: "w9", number: 10, ago: 60 * time.Minute, why: "report 10 of its chain, 10 are on record"},
		{key: "worker", hash: "w11", previous: "w10", number: 11, ago: 50 * time.Minute, outcome: "passed", last: "w11", passed: "w11"},
		{key: "worker2", hash: "x", previous: "w10", number: 11, why: "report 11 of its chain, 11 are on record"},
		{key: "operator", hash: "o9", previous: "o8", number: 9, ago: 40 * time.Minute, outcome: "failed", anew: true, last: "o9", passed: "w11"},
		{key: "worker2", hash: "w12", previous: "w11", number: 12, ago: 30 * time.Minute, outcome: "passed", last: "w12", passed: "w12"},
	} {
		r := DrillReport{Cluster: "demo", Service: "bank", Previous: c.previous, Drill: registry.Drill{
			Number: c.number, Level: "L1", Outcome: c.outcome, Ended: now.Add(-c.ago), Phases: promotion, Hash: c.hash, Key: c.key,
		}}
		next, err := s.takeDrill(on, r, now, c.anew)
		switch {
		case c.why != "":
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%s: %v, want refused: %s", c.hash, err, c.why)
			}
			continue
		case err != nil:
			t.Fatalf("%s: %v", c.hash, err)
		case c.last == "":
			if next != nil {
				t.Errorf("%s again: %+v, want no change", c.hash, next)
			}
			continue
		}
		if l := next.Levels["L1/"]; next.Last.Hash != c.last || next.Passed.Hash != c.passed || l.Last.Hash != c.last || l.Passed.Hash != c.passed {
			t.Errorf("%s: newest %s, passed %s, of the level %s and %s; want %s and %s", c.hash, next.Last.Hash, next.Passed.Hash, l.Last.Hash, l.Passed.Hash, c.last, c.passed)
		}
		b, err := json.Marshal(next) // as the registry keeps it
		if on = nil; err != nil || json.Unmarshal(b, &on) != nil {
			t.Fatal(err)
		}
	}
}

// Drills that recovered nothing do not stand for the schedule's: a clone is promoted all the same.
func TestRan(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	drill := func(after time.Duration, level, outcome string, phases ...registry.DrillPhase) registry.LevelDrills {
		return registry.LevelDrills{Last: registry.Drill{Level: level, Outcome: outcome, Ended: at.Add(after), Phases: phases}}
	}
	on := registry.Drills{Levels: map[string]registry.LevelDrills{
		"L0": drill(3*time.Hour, "L0", "passed"),
		"L1": drill(0, "L1", "failed", promotion...),
		"L2": drill(time.Hour, "L2", "interrupted", promotion...),
		"L3": drill(2*time.Hour, "L3", "passed", registry.DrillPhase{Name: "detect", Took: new(time.Second)}),
	}}
	v := &registry.View{Drills: map[tidegate.ServiceName]registry.Entry[registry.Drills]{"bank": {Value: on}}}
	if got := ran(v, "bank"); !got.Equal(at) {
		t.Errorf("ran at %s, want %s", got, at)
	}
}

// The newest drill of a level and scenario hides neither another's nor its own newest pass.
func TestDrillsByLevel(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s := &operatorService{cluster: "demo"}
	var on *registry.Drills
	for i, c := range []struct{ level, scenario, outcome string }{
		{"L0", "a", "passed"}, {"L1", "a", "passed"}, {"L3", "a", "passed"}, {"L1", "a", "failed"}, {"L3", "b", "failed"},
	} {
		r := DrillReport{Drill: registry.Drill{Number: uint64(i + 1), Level: c.level, Scenario: c.scenario, Outcome: c.outcome, Ended: now, Phases: promotion, Hash: strings.Repeat("a", i+1)}, Cluster: "demo", Service: "bank"}
		if c.level == "L0" {
			r.Phases = nil
		}
		if on != nil {
			r.Previous = on.Last.Hash
		}
		next, err := s.takeDrill(on, r, now, false)
		if err != nil {
			t.Fatal(err)
		}
		on = next
	}
	l := on.Levels
	if len(l) != 4 || l["L0/a"].Last.Number != 1 || l["L0/a"].Passed != nil || l["L1/a"].Last.Number != 4 || l["L1/a"].Passed.Number != 2 || l["L3/a"].Passed.Number != 3 ||
		l["L3/b"].Last.Number != 5 || l["L3/b"].Passed != nil || on.Passed.Number != 3 {
		t.Errorf("%+v", on)
	}
	passed := registry.Drill{Number: 1, Level: "L1", Outcome: "passed"}
	old := registry.Drills{Last: registry.Drill{Number: 2, Level: "L1", Outcome: "failed"}, Passed: &passed} // as before there were levels
	if l := old.ByLevel(); len(l) != 1 || l["L1/"].Last.Number != 2 || l["L1/"].Passed != &passed {
		t.Errorf("without levels: %+v", l)
	}
	cut := registry.Drill{Number: 3, Level: "L3", Scenario: "link-cut", Outcome: "failed", Ended: now}
	lost := registry.Drill{Number: 1, Level: "L3", Scenario: "primary-site-lost", Outcome: "passed", Ended: now.Add(-time.Hour)}
	old = registry.Drills{Last: cut, Passed: &lost, Levels: map[string]registry.LevelDrills{ // as before there were scenarios; the second since
		"L3": {Last: cut, Passed: &lost}, "L3/link-cut": {Last: registry.Drill{Level: "L3", Scenario: "link-cut", Ended: now.Add(-2 * time.Hour)}},
	}}
	if l := old.ByLevel(); len(l) != 2 || l["L3/link-cut"].Last.Number != 3 || l["L3/link-cut"].Passed != nil || l["L3/primary-site-lost"].Last.Number != 1 || l["L3/primary-site-lost"].Passed != &lost {
		t.Errorf("without scenarios: %+v", l)
	}
	if l := (&registry.Drills{}).ByLevel(); len(l) != 0 {
		t.Errorf("without a drill: %+v", l)
	}
}

// TestDrillEvidence has reports recorded at a real gate over its API.
func TestDrillEvidence(t *testing.T) {
	s := newSite(t, "w1", "w2", "w3")
	errForged := errors.New("forged")
	s.reports = func(b []byte) (r DrillReport, err error) {
		if json.Unmarshal(b, &r) != nil {
			return r, &tidegate.Error{Op: "read report", Class: tidegate.Corrupt, Err: errForged}
		}
		return r, nil
	}
	s.startGate("gate-a", nil, nil)
	op, drill := s.operator(tidegate.RoleOperator), s.operator(tidegate.RoleDrill)
	s.register()
	s.addStreams(pb.Mode_MODE_SYNC, nil) // with an override of drill-fresh
	record := func(r any) error {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = drill.RecordDrill(t.Context(), connect.NewRequest(&pb.RecordDrillRequest{Envelope: b}))
		return api.FromError("record drill", "ledger", err)
	}
	fresh := func() *pb.RuleVerdict {
		t.Helper()
		var found *pb.RuleVerdict
		s.eventually("the rules to be asked", func() error {
			got, err := op.GateExplain(t.Context(), connect.NewRequest(&pb.GateExplainRequest{Service: "ledger"}))
			if err != nil {
				return err
			}
			i := slices.IndexFunc(got.Msg.GetRules(), func(r *pb.RuleVerdict) bool { return r.GetRule() == rules.DrillFresh })
			found = got.Msg.GetRules()[i]
			return nil
		})
		return found
	}
	if r := fresh(); r.GetKnown() || r.GetOverriddenBy() == nil {
		t.Fatalf("without evidence: %v", r)
	}
	if err := record("x"); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Fatalf("forged: %v", err)
	}
	ended := time.Now().Add(-time.Minute)
	pass := DrillReport{Drill: registry.Drill{ID: "a", Number: 1, Level: "L1", Scenario: "shadow", Outcome: "passed", Ended: ended, RTA: new(2 * time.Second), Phases: promotion, Hash: "aa"}, Cluster: "demo", Service: "ledger"}
	strange := pass
	strange.Service = "nobody"
	if err := record(strange); !errors.Is(err, tidegate.ErrNotFound) {
		t.Fatalf("a service that is not there: %v", err)
	}
	ridden := pass
	ridden.ID, ridden.Level, ridden.Scenario, ridden.Phases, ridden.Hash = "r", "L3", "controller-lost", []registry.DrillPhase{{Name: "detect", Took: new(time.Second)}}, "rr"
	if err := record(ridden); err != nil {
		t.Fatal(err)
	}
	s.eventually("the status to show the newest", func() error {
		st, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{Service: "ledger"}))
		if err != nil || st.Msg.GetServices()[0].GetLastDrill().GetId() != "r" {
			return errors.Join(err, errors.New("it is not on record"))
		}
		return nil
	})
	if r := fresh(); r.GetKnown() || r.GetOverriddenBy() == nil {
		t.Fatalf("after a fault that was ridden out: %v", r)
	}
	pass.Number, pass.Previous = 2, "rr"
	for range 2 { // the answer to the first may have been lost
		if err := record(pass); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually("drill-fresh to hold", func() error {
		if r := fresh(); !r.GetKnown() || !r.GetHolds() || r.GetOverriddenBy() != nil {
			return errors.New(r.GetReason())
		}
		return nil
	})
	fail := pass
	fail.ID, fail.Number, fail.Hash, fail.Previous, fail.Outcome = "b", 3, "bb", "aa", "failed"
	if err := record(fail); err != nil {
		t.Fatal(err)
	}
	s.eventually("the status to show both", func() error {
		st, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{Service: "ledger"}))
		if err != nil {
			return err
		}
		one := st.Msg.GetServices()[0]
		if one.GetLastDrill().GetId() != "b" || one.GetPassedDrill().GetId() != "a" || one.GetPassedDrill().GetRta().AsDuration() != 2*time.Second {
			return errors.New(one.String())
		}
		return nil
	})
	if _, err := drill.SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{Service: "ledger"})); tidegate.ClassOf(api.FromError("set mode", "ledger", err)) != tidegate.Refused {
		t.Fatalf("a drill sets the mode: %v", err)
	}
	noted := 0
	for _, e := range s.audit("ledger", time.Time{}) {
		if e.GetAction() == ActionDrill {
			noted++
		}
	}
	if noted != 3 {
		t.Fatalf("%d audit entries of drills, want 3", noted)
	}
}

// A worker's drill has ended though an operator's of the same kind ended later; one that
// was on record before, or is of another kind, is not what a claim ended with.
func TestOnRecord(t *testing.T) {
	drill := func(id, level string) registry.Drill {
		return registry.Drill{ID: id, Number: 1, Level: level, Scenario: "shadow-promote"}
	}
	mine, theirs := drill("mine", "L1"), drill("theirs", "L1")
	on := registry.Drills{
		Last: theirs, Levels: map[string]registry.LevelDrills{theirs.Kind(): {Last: theirs}},
		Chains: map[string]registry.Drill{"worker": mine, "operator": theirs, "lint": drill("lint", "L0")},
	}
	claim := registry.Claim{Level: "L1", Scenario: "shadow-promote"}
	for id, want := range map[string]bool{"mine": true, "theirs": true, "lint": false, "nobody": false, "": false} {
		if r, known := onRecord(on, claim, id); known != want || known && r.ID != id {
			t.Errorf("%q: %v, %v", id, r.ID, known)
		}
	}
	claim.Newest = "mine"
	if _, known := onRecord(on, claim, "mine"); known {
		t.Error("it ended with a report that was there before it began")
	}
}
