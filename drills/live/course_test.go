package live

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

// TestCourse: a drill that goes well takes every step of its kind, once, in order.
func TestCourse(t *testing.T) {
	for scenario, want := range map[Scenario][]Step{Planned: ofPlanned, PrimarySiteLost: ofFailsOver, Thermal: ofFailsOver, LinkCut: ofRidesOut} {
		var got []Step
		now := tidegate.Instant(1)
		c := NewCourse(scenario, now)
		for ; c.Step() != Over; now++ {
			got = append(got, c.Step())
			c = c.Next(Event{}, now)
		}
		if got = append(got, Over); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", scenario, got, want)
		}
		if e, _ := c.Ended(); e != (Event{}) || c.Next(Event{Failed: "late"}, now).Step() != Over {
			t.Errorf("%s: ended early by %+v", scenario, e)
		}
	}
}

// TestCourseHeals: whatever happens, and wherever, what was injected is healed, once, and
// the drill comes to its end by later and later steps.
func TestCourseHeals(t *testing.T) {
	all := append(Scenarios(), Planned)
	rapid.Check(t, func(t *rapid.T) {
		now := tidegate.Instant(1)
		c := NewCourse(rapid.SampledFrom(all).Draw(t, "scenario"), now)
		first := Event{}
		var took []Step
		for c.Step() != Over {
			here := c.Step()
			if len(took) > 0 && here <= took[len(took)-1] {
				t.Fatalf("%v after %v", here, took)
			}
			took = append(took, here)
			e := rapid.SampledFrom([]Event{{}, {}, {}, {Failed: "wrong"}, {Called: "enough"}}).Draw(t, "event")
			if first == (Event{}) {
				first = e
			}
			now++
			c = c.Next(e, now)
			if at, ok := c.Done(here); ok != (e == Event{}) || ok && at != now {
				t.Fatalf("%v: done %d, %t", here, at, ok)
			}
		}
		if slices.Contains(took, Inject) != slices.Contains(took, Heal) {
			t.Fatalf("took %v", took)
		}
		if e, _ := c.Ended(); e != first {
			t.Fatalf("ended by %+v, and the first was %+v", e, first)
		}
	})
}

// TestExpectations: every scenario says what must be seen, and how the gate says it is
// looked for in words that gates have.
func TestExpectations(t *testing.T) {
	said := map[Scenario][]string{
		PrimarySiteLost: {"probe fails: connection refused", "unknown: eur: the writer p1 has been silent for 6s", "finding: stream bank/eur: its writer p1 has not reported to this gate"},
		Thermal:         {"probe fails: timeout"},
		AgentLost:       {"unknown: eur: the writer p1 has been silent for 6s"},
		LinkCut:         {"at risk: eur: the gate is closed: the service waits for the DR site", "unsafe: eur: the gate is degraded since batch 7: loss is not bounded"},
		LinkOneWay:      {"unsafe: eur: a disaster now loses 12 records, the oldest 6s old; the objective is 5s"},
		StandbyNodeLost: {"finding: standby d2: silent for 6s", "at risk: eur: 2 of 3 members answer"},
		WipedDisk:       {"finding: standby d2: runs on another data directory than the registered one"},
		CorruptSegment:  {"at risk: eur: member d2: open stream 12: open delta log: open log /d2/log: /d2/log/1.seg: record at 20494: batch 3e payload checksum mismatch (want 91d2bf7f, got bc0a1bd3)", "finding: standby d2: 4096 bytes of stream 12 in quarantine"},
		DiskFull:        {"at risk: eur: member d2: refused as full: less than 67108864 bytes left on the disk of node d2", "finding: standby d2: its disk is full in about 2m0s at this rate", "finding: standby d2: 3% of its disk is free"},
		ControllerLost:  {"gate g1:7412: no answer: connection refused"},
		RegistryLost:    {"registry: does not answer", "finding: registry: the registry does not answer; role changes wait"},
		LinkSlow:        nil,
	}
	for _, s := range Scenarios() {
		e, ok := Expected(s)
		lines, tried := said[s]
		if !ok || !tried || (e.Says == nil) != (len(lines) == 0) || (e.Says == nil) != (e.What == "") {
			t.Errorf("%s: %+v, %v", s, e, lines)
			continue
		}
		for _, line := range lines {
			if !e.Says.MatchString(line) {
				t.Errorf("%s: %q is not recognised", s, line)
			}
		}
		if e.Says != nil && e.Says.MatchString("at risk: eur: 2 of 3 members are caught up") {
			t.Errorf("%s: said of any service under load", s)
		}
		if onDisk := s == WipedDisk || s == CorruptSegment || s == DiskFull; onDisk && e.Says.MatchString("at risk: eur: 2 of 3 members answer") {
			t.Errorf("%s: said of any node that is started again", s)
		}
		if e.FailsOver && e.Clients == Served {
			t.Errorf("%s: clients cannot be served while it fails over", s)
		}
	}
	if _, ok := Expected(Planned); ok || len(Scenarios()) != len(said) {
		t.Errorf("%v", Scenarios())
	}
}
