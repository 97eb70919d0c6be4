package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillHistoryCommand() *ucli.Command {
	return &ucli.Command{
		Name: "history", Usage: "what the drills of each kind show together: passes, recovery times, phases", ArgsUsage: "[FILE|DIRECTORY...]",
		Flags: evidenceFlags(keyFlag()), Action: showHistory,
		Description: "Drills are of one kind when service, level, scenario, mode and size of the backlog are the same. Each phase is compared with those\n" +
			"of before by a rank test, never on fewer than 4 against 4. With --key the chains are verified first, and nothing is shown of\n" +
			"one that is not sound; without it this is what the reports say.\n\n" +
			"Example:\n" +
			"   tidegate drill history --url file:///srv/archive --service bank --key drill.pub",
	}
}

func showHistory(c *ucli.Context) error {
	reports, err := trustedReports(c)
	if err != nil {
		return err
	}
	out := historyOf(reports, time.Now())
	return cli.Print(c, out, func(w io.Writer) error {
		for i, one := range out {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := one.WriteText(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// trustedReports reads all the evidence that is named, verified where keys are.
func trustedReports(c *ucli.Context) (reports []evidence.Report, err error) {
	keys, err := trustedKeys(c)
	if err != nil {
		return nil, err
	}
	read, err := readEvidence(c, 0)
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		if err := evidence.Verify(read.files, keys, evidence.VerifyOptions{Whole: read.whole}).Err(); err != nil {
			return nil, err
		}
	}
	for _, f := range read.files {
		s, err := evidence.Open(f)
		if err != nil {
			return nil, err
		}
		reports = append(reports, s.Report)
	}
	return reports, nil
}

// historyOf sums the drills of each service up, with the objective of its newest one.
func historyOf(reports []evidence.Report, now time.Time) []judge.Summary {
	slices.SortStableFunc(reports, func(a, b evidence.Report) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Number, b.Number))
	})
	out := []judge.Summary{}
	for len(reports) > 0 {
		n := 1
		for n < len(reports) && reports[n].Service == reports[0].Service {
			n++
		}
		var runs []judge.Run
		var o judge.Objectives
		for i := range reports[:n] {
			runs = append(runs, reports[i].Judged())
			if rto := reports[i].Recovered.Objective; rto != nil {
				o.RTO = *rto
			}
			if rpo := reports[i].Lost.Objective; rpo != nil {
				o.RPO = *rpo
			}
		}
		out = append(out, judge.Summarise(runs, now, o)...)
		reports = reports[n:]
	}
	return out
}
