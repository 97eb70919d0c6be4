package rpo

import (
	"encoding/json"
	"fmt"
	"time"
)

// Moment is a point of a failover at which a phase ends.
type Moment int

// The moments, PROTOCOL's t0 to t9; t3' is LeaseOver.
const (
	Fault         Moment = iota // t0: onset, or the last good synthetic write
	Suspected                   // t1: the detector suspects
	Decided                     // t2: rule or human decided, recorded
	Fenced                      // t3: R nodes promised
	LeaseOver                   // t3': the old holder can release no more
	CaughtUp                    // t4: W adopters at H
	Promoted                    // t5: the epoch is active
	Applied                     // t6: applied to H, digests equal
	Verified                    // t7: verification is green
	Rerouted                    // t8: first synthetic client write through the normal route
	Reconstituted               // t9: redundancy is back
	moments
)

var momentNames = [moments]string{
	"fault", "suspected", "decided", "fenced", "lease-over", "caught-up",
	"promoted", "applied", "verified", "rerouted", "reconstituted",
}

var phaseNames = [moments]string{
	"", "detect", "decide", "fence", "lease", "catch-up", "promote", "apply", "verify", "re-route", "reconstitute",
}

func (m Moment) String() string {
	if m < 0 || m >= moments {
		return fmt.Sprintf("moment(%d)", int(m))
	}
	return momentNames[m]
}

// MarshalText implements [encoding.TextMarshaler].
func (m Moment) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText accepts exactly the names that String gives.
func (m *Moment) UnmarshalText(b []byte) error {
	for i, n := range momentNames {
		if n == string(b) {
			*m = Moment(i)
			return nil
		}
	}
	return fmt.Errorf("parse moment %q: unknown", b)
}

// Phases are the time stamps of one failover, all of one clock. A moment that
// was not stamped is unknown, never 0. The zero value has no stamps. JSON form:
// {"stamps":{"fault":"2026-..."},"phases":[{"name":"detect","seconds":1.5}],"rta":...},
// where unknown durations are null and only the stamps are read back.
type Phases struct {
	at [moments]time.Time // zero: not stamped
}

// Stamp records when m came; the first stamp of a moment stays, so that a
// controller which takes a plan over cannot make a phase look shorter.
func (p *Phases) Stamp(m Moment, at time.Time) {
	if m >= 0 && m < moments && p.at[m].IsZero() {
		// UTC, and without the monotonic reading: another process compares it.
		p.at[m] = at.UTC().Round(0)
	}
}

// At returns the stamp of m and whether there is one.
func (p *Phases) At(m Moment) (time.Time, bool) {
	if m < 0 || m >= moments {
		return time.Time{}, false
	}
	return p.at[m], !p.at[m].IsZero()
}

// Phase is one step of a recovery and how long it took.
type Phase struct {
	Name     string
	Ends     Moment
	Duration time.Duration
	Known    bool // false: one of its two stamps is missing
}

// List returns the ten phases in order. Where nothing was verified, verify is
// unknown and re-route begins when everything was applied.
func (p *Phases) List() []Phase {
	list := make([]Phase, 0, moments-1)
	for m := Suspected; m < moments; m++ {
		from := m - 1
		if from == Verified && p.at[Verified].IsZero() {
			from = Applied
		}
		d, known := p.Between(from, m)
		list = append(list, Phase{Name: phaseNames[m], Ends: m, Duration: d, Known: known})
	}
	return list
}

// Between returns the time from one moment to another, and whether both were
// stamped in that order.
func (p *Phases) Between(from, to Moment) (time.Duration, bool) {
	a, okA := p.At(from)
	b, okB := p.At(to)
	if !okA || !okB || b.Before(a) {
		return 0, false
	}
	return b.Sub(a), true
}

// RTA is the recovery time actual: from the fault to the first client write.
func (p *Phases) RTA() (time.Duration, bool) { return p.Between(Fault, Rerouted) }

// Controllable is the part of the RTA after the decision.
func (p *Phases) Controllable() (time.Duration, bool) { return p.Between(Decided, Rerouted) }

type phasesJSON struct {
	Stamps       map[Moment]time.Time `json:"stamps"`
	Phases       []phaseJSON          `json:"phases"`
	RTA          *float64             `json:"rtaSeconds"`
	Controllable *float64             `json:"controllableSeconds"`
}

type phaseJSON struct {
	Name    string   `json:"name"`
	Seconds *float64 `json:"seconds"`
}

// MarshalJSON implements [json.Marshaler].
func (p Phases) MarshalJSON() ([]byte, error) {
	v := phasesJSON{Stamps: make(map[Moment]time.Time)}
	for m := range moments {
		if at, ok := p.At(m); ok {
			v.Stamps[m] = at
		}
	}
	for _, ph := range p.List() {
		v.Phases = append(v.Phases, phaseJSON{Name: ph.Name, Seconds: seconds(ph.Duration, ph.Known)})
	}
	v.RTA = seconds(p.RTA())
	v.Controllable = seconds(p.Controllable())
	return json.Marshal(v)
}

// UnmarshalJSON reads the stamps; durations follow from them.
func (p *Phases) UnmarshalJSON(b []byte) error {
	var v phasesJSON
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("parse phases: %w", err)
	}
	*p = Phases{}
	for m, at := range v.Stamps {
		p.Stamp(m, at)
	}
	return nil
}

func seconds(d time.Duration, known bool) *float64 {
	if !known {
		return nil
	}
	s := d.Seconds()
	return &s
}
