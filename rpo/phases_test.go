package rpo

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPhases(t *testing.T) {
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var p Phases
	for m := Fault; m <= Rerouted; m++ {
		if m == LeaseOver {
			continue // nobody saw it: its two neighbours are unknown
		}
		p.Stamp(m, begin.Add(time.Duration(m)*time.Second))
	}
	p.Stamp(Fenced, begin)
	want := map[string]bool{
		"detect": true, "decide": true, "fence": true, "lease": false, "catch-up": false,
		"promote": true, "apply": true, "verify": true, "re-route": true, "reconstitute": false,
	}
	got := map[string]bool{}
	for _, ph := range p.List() {
		got[ph.Name] = ph.Known
		if ph.Known && ph.Duration != time.Second {
			t.Errorf("%s took %s", ph.Name, ph.Duration)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d, ok := p.RTA(); !ok || d != 9*time.Second {
		t.Errorf("rta %s %v", d, ok)
	}
	if d, ok := p.Controllable(); !ok || d != 7*time.Second {
		t.Errorf("controllable %s %v", d, ok)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `{"name":"lease","seconds":null}`) {
		t.Errorf("unknown is not null: %s", text)
	}
	var back Phases
	if err := json.Unmarshal(text, &back); err != nil || back != p {
		t.Errorf("read back %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"stamps":{"noon":"2026-03-01T12:00:00Z"}}`), &back); err == nil {
		t.Error("an unknown moment was accepted")
	}
}

// A recovery that verifies nothing says so, and loses no phase by it.
func TestPhasesWithoutVerification(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var p Phases
	p.Stamp(Applied, at)
	p.Stamp(Rerouted, at.Add(90*time.Millisecond))
	for _, ph := range p.List() {
		switch ph.Ends {
		case Verified:
			if ph.Known {
				t.Errorf("verify took %s, want it unknown", ph.Duration)
			}
		case Rerouted:
			if !ph.Known || ph.Duration != 90*time.Millisecond {
				t.Errorf("re-route took %s, known %v", ph.Duration, ph.Known)
			}
		}
	}
}
