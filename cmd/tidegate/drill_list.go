package main

import (
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/cli"
)

// listedDefault is how many reports of a service are listed if nothing else is said.
const listedDefault = 30

func drillListCommand() *ucli.Command {
	return &ucli.Command{
		Name: "list", Usage: "list reports, oldest first", ArgsUsage: "[FILE|DIRECTORY...]",
		Flags: evidenceFlags(
			&ucli.IntFlag{Name: "last", Value: listedDefault, Usage: "the newest `N` of each service in an archive; 0: all"}),
		Action: listEvidence,
		Description: "What the reports say, unproven: `tidegate drill verify` proves it. Ends with 9 when one cannot be read; the others are\n" +
			"listed.\n\n" +
			"Examples:\n" +
			"   tidegate drill list evidence/\n" +
			"   tidegate drill list --url file:///srv/archive --service bank --last 5",
	}
}

// listedDrill is one report as list prints it.
type listedDrill struct {
	File     string               `json:"file"`
	Service  tidegate.ServiceName `json:"service"`
	Number   evidence.Number      `json:"number"`
	ID       uuid.UUID            `json:"id"`
	Started  time.Time            `json:"started"`
	Level    evidence.Level       `json:"level"`
	Scenario string               `json:"scenario"`
	Outcome  evidence.Outcome     `json:"outcome"`
	Reasons  []string             `json:"reasons"`
	RTA      *time.Duration       `json:"rta_ns"`
	RTO      *time.Duration       `json:"rto_ns"`
	Lost     *int64               `json:"lost_records"`
	Hash     evidence.Hash        `json:"hash"`
}

// listedDrills is what list prints.
type listedDrills struct {
	Drills  []listedDrill `json:"drills"`
	Damaged []string      `json:"damaged"`
}

func listEvidence(c *ucli.Context) error {
	if c.Int("last") < 0 {
		return cli.Usagef("--last %d: want 0 or more", c.Int("last"))
	}
	read, err := readEvidence(c, c.Int("last"))
	if err != nil {
		return err
	}
	out := listedDrills{Drills: []listedDrill{}, Damaged: []string{}}
	var bad []error
	for _, f := range read.files {
		s, err := evidence.Open(f)
		if err != nil {
			out.Damaged, bad = append(out.Damaged, err.Error()), append(bad, err)
			continue
		}
		r := s.Report
		out.Drills = append(out.Drills, listedDrill{
			f.Name, r.Service, r.Number, r.ID, r.Started.At, r.Level, r.Scenario, r.Verdict.Outcome, r.Verdict.Reasons,
			r.Recovered.Actual, r.Recovered.Objective, r.Lost.Records, s.Hash,
		})
	}
	if err := cli.Print(c, out, out.write); err != nil {
		return err
	}
	if len(bad) > 0 {
		return bad[0]
	}
	return nil
}

func (l listedDrills) write(w io.Writer) error {
	t := cli.NewTable("service", "drill", "began", "level", "scenario", "outcome", "rta", "rto", "lost", "why")
	for _, d := range l.Drills {
		why := ""
		if len(d.Reasons) > 0 {
			why = d.Reasons[0]
		}
		t.Row(string(d.Service), fmt.Sprint(d.Number), d.Started.Format(time.RFC3339), string(d.Level), d.Scenario, string(d.Outcome),
			took(d.RTA), took(d.RTO), cli.Count(d.Lost), why)
	}
	if _, err := t.WriteTo(w); err != nil {
		return err
	}
	for _, text := range l.Damaged {
		fmt.Fprintf(w, "damaged: %s\n", text)
	}
	return nil
}
