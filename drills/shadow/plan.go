package shadow

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

// Plan is what a drill would do, and whether it may.
type Plan struct {
	Service   tidegate.ServiceName `json:"service"`
	Level     evidence.Level       `json:"level"`
	Scenario  string               `json:"scenario"`
	Standby   string               `json:"standby"`
	Refused   []string             `json:"refused"` // why it would not start; none: it would
	Isolation []evidence.Check     `json:"isolation"`
	LeftOvers []evidence.LeftOver  `json:"left_overs"` // that it would clean first
	Streams   []PlannedStream      `json:"streams"`
	Backlog   *int64               `json:"backlog_records"` // null: unknown or not counted so; with bytes null too the drill is refused
	Bytes     *int64               `json:"backlog_bytes"`   // of log
	Gate      evidence.Gate        `json:"gate"`
	Program   []string             `json:"program"`  // of an event-sourced service
	Postgres  bool                 `json:"postgres"` // a server on the service's base and log
	Canaries  []string             `json:"canaries"`
	Checks    []string             `json:"checks"`
	Recovery  *PlannedRecovery     `json:"recovery_type"` // null: it would not be looked for
}

// PlannedRecovery is what the recovery type would be held against; null: nothing.
type PlannedRecovery struct {
	Required  *string `json:"required"`
	Predicted *string `json:"predicted"`
}

// PlannedStream is a stream as it is at the live standby node now.
type PlannedStream struct {
	ID       tidegate.StreamID  `json:"stream_id"`
	Digest   *tidegate.Digest   `json:"digest"` // null: its service says none, and nothing would be compared
	DigestAt *tidegate.Position `json:"digest_at"`
	Records  *int64             `json:"records_behind"`
}

// Plan looks and tries as Run does before it begins, and makes and removes nothing.
func (d *Drill) Plan(ctx context.Context) (Plan, error) {
	p := Plan{
		Service: d.cfg.Service, Level: evidence.L1, Scenario: Scenario, Standby: d.cfg.Standby, Program: d.cfg.Program.Follow,
		Postgres: d.cfg.Postgres != nil, Refused: []string{}, LeftOvers: []evidence.LeftOver{}, Streams: []PlannedStream{}, Canaries: []string{}, Checks: []string{},
	}
	for _, c := range d.cfg.Canaries {
		p.Canaries = append(p.Canaries, c.Name)
	}
	for _, c := range d.cfg.Checks {
		p.Checks = append(p.Checks, c.Name)
	}
	if c := d.cfg.Recovery; c != nil {
		expected := (&run{d: d}).recoveryType()
		p.Recovery = &PlannedRecovery{expected.Required, expected.Predicted}
	}
	look, err := d.src.Look(ctx)
	if err != nil {
		return p, err
	}
	p.Isolation = slices.Concat([]evidence.Check{whoami(d.src.Identity())}, apart(d.cfg.Scratch, d.cfg.Live), d.own(ctx), d.src.Provoke(ctx))
	if err := breached(p.Isolation); err != nil {
		p.Refused = append(p.Refused, evidence.Sentence(err))
	}
	l := newLag(&d.cfg, d.src.Protection())
	l.take(lagBefore, look, d.clk.Boot())
	if why := l.ready(look.worst()); why != "" {
		p.Refused = append(p.Refused, why)
	}
	if _, err := d.left(look); err != nil {
		p.Refused = append(p.Refused, evidence.Sentence(err))
	}
	chosen, worst := d.opts.chosen(), look.worst()
	p.Gate, p.Backlog, p.Bytes = d.src.Protection(), chosen.Chosen, chosen.ChosenBytes
	switch {
	case d.opts.Backlog != nil:
	case p.Postgres:
		p.Bytes = worst.Bytes
	default:
		p.Backlog = worst.Records
	}
	for id, seen := range look {
		s := PlannedStream{ID: id, Records: seen.Records}
		if !seen.Digest.IsZero() {
			s.Digest, s.DigestAt = &seen.Digest, &seen.DigestAt
		}
		p.Streams = append(p.Streams, s)
	}
	slices.SortFunc(p.Streams, func(a, b PlannedStream) int { return slices.Compare(a.ID[:], b.ID[:]) })
	names, err := d.fs.List(d.cfg.Scratch)
	if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return p, err
	}
	for _, name := range names {
		if name != lockFile {
			p.LeftOvers = append(p.LeftOvers, evidence.LeftOver{What: "sandbox", Where: filepath.Join(d.cfg.Scratch, name)})
		}
	}
	return p, nil
}
