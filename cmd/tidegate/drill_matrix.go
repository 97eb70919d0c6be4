package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillMatrixCommand() *ucli.Command {
	return &ucli.Command{
		Name: "matrix", Usage: "recovery types of services: required, predicted and observed", ArgsUsage: "[FILE|DIRECTORY...]",
		Flags: evidenceFlags(keyFlag()), Action: showMatrix,
		Description: "One row for each service, out of its reports: what it requires, what its approach and operator class let expect, and what its\n" +
			"newest drill with an answer has seen; below it the same for every approach and class. What no drill has seen is unknown, and so is\n" +
			"what newer ones (the last column has the newest) have not seen again.\n" +
			"With --key the chains are verified first, and nothing is shown of one that is not sound.\n\n" +
			"Ends with 9 when a service was seen to recover weaker than it requires or than predicted, else with 12 when one is unknown.\n\n" +
			"Examples:\n" +
			"   tidegate drill matrix --url file:///srv/archive --key drill.pub\n" +
			"   tidegate drill matrix /var/lib/tidegate-drill/evidence -o json",
	}
}

func showMatrix(c *ucli.Context) error {
	reports, err := trustedReports(c)
	if err != nil {
		return err
	}
	m := evidence.MatrixOf(reports)
	if err := cli.Print(c, m, func(w io.Writer) error { return writeMatrix(w, &m) }); err != nil {
		return err
	}
	var names []string
	for _, r := range m.Services {
		if r.Outcome == m.Outcome() {
			names = append(names, string(r.Service))
		}
	}
	fail := func(code cli.Code, why, hint string) error {
		return cli.WithCode(code, &tidegate.Error{Op: "compare recovery types of", Subject: strings.Join(names, ", "), Class: tidegate.Permanent, Err: errors.New(why), Hint: hint})
	}
	switch m.Outcome() {
	case recovery.Failed:
		return fail(cli.Unverified, "weaker than required or predicted", "`tidegate drill show` of the drill in that row has what was counted")
	case recovery.Undecided:
		return fail(cli.UnknownState, "the recovery type is unknown", "name the outputs in the drill's file, block recovery, and rehearse: docs/operating/drills.md")
	}
	return nil
}

func writeMatrix(w io.Writer, m *evidence.Matrix) error {
	t := cli.NewTable("service", "approach", "class", "required", "predicted", "observed", "outcome", "drill", "began", "newest")
	var why []string
	for _, r := range m.Services {
		drill, began, newest := cli.Unknown, cli.Unknown, cli.Unknown
		if r.Drill != nil {
			drill, began = fmt.Sprint(*r.Drill), r.Began.UTC().Format(time.RFC3339)
		}
		if r.Newest != nil {
			newest = fmt.Sprint(*r.Newest)
		}
		t.Row(string(r.Service), r.Approach.String(), r.Class.String(), r.Required.String(), r.Predicted.String(), r.Observed.String(), string(r.Outcome), drill, began, newest)
		for _, reason := range r.Reasons {
			why = append(why, fmt.Sprintf("%s: %s", r.Service, reason))
		}
	}
	if _, err := t.WriteTo(w); err != nil {
		return err
	}
	for _, line := range why {
		fmt.Fprintln(w, line)
	}
	heads := []string{"predicted / observed"}
	for _, class := range recovery.Classes() {
		heads = append(heads, class.String())
	}
	grid := cli.NewTable(heads...)
	for cells := m.Cells; len(cells) > 0; cells = cells[len(recovery.Classes()):] {
		row := []string{cells[0].Approach.String()}
		for _, c := range cells[:len(recovery.Classes())] {
			row = append(row, c.Predicted.String()+" / "+c.Observed.String())
		}
		grid.Row(row...)
	}
	fmt.Fprintln(w)
	_, err := grid.WriteTo(w)
	return err
}
