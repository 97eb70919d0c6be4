package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillShowCommand() *ucli.Command {
	return &ucli.Command{
		Name: "show", Usage: "show one report", ArgsUsage: "FILE|NUMBER|latest",
		Flags: evidenceFlags(keyFlag(),
			&ucli.BoolFlag{Name: "html", Usage: "as a page that needs nothing else, to be printed or kept"},
			&ucli.BoolFlag{Name: "junit", Usage: "as JUnit XML, for a CI server"},
			&ucli.BoolFlag{Name: "envelope", Usage: "as it lies there, signatures and all: for whoever is to verify it"}),
		Action: showEvidence,
		Description: "Of an archive, say which report by its number, or latest. What a report says is shown as it says it; with --key its signature is\n" +
			"checked first, and nothing is shown of one that is not sound. With -o json it prints the bytes that are signed, indented.\n\n" +
			"Examples:\n" +
			"   tidegate drill show 0000000017.dsse.json --key drill.pub\n" +
			"   tidegate drill show latest --url file:///srv/archive --service bank --html >report.html",
	}
}

func showEvidence(c *ucli.Context) error {
	args, err := cli.Args(c, "FILE|NUMBER|latest")
	if err != nil {
		return err
	}
	forms := 0
	for _, form := range []bool{c.Bool("html"), c.Bool("junit"), c.Bool("envelope"), cli.WantsJSON(c)} {
		if form {
			forms++
		}
	}
	if forms > 1 {
		return cli.Usagef("a report is shown in one form: --html, --junit, --envelope or -o json")
	}
	keys, err := trustedKeys(c)
	if err != nil {
		return err
	}
	f, err := oneEvidence(c, args[0])
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		if err := evidence.Verify([]evidence.File{f}, keys, evidence.VerifyOptions{}).Err(); err != nil {
			return err
		}
	}
	s, err := evidence.Open(f)
	if err != nil {
		return err
	}
	w := c.App.Writer
	switch {
	case c.Bool("html"):
		return evidence.WriteHTML(w, s)
	case c.Bool("junit"):
		return evidence.WriteJUnit(w, s)
	case c.Bool("envelope"):
		_, err := w.Write(f.Data)
		return err
	case cli.WantsJSON(c):
		return writePayload(w, s)
	}
	if err := writeReport(w, s); err != nil {
		return err
	}
	if len(keys) == 0 {
		fmt.Fprintln(w, "signature: not checked; name the public key: --key FILE")
	} else {
		fmt.Fprintln(w, "signature: sound")
	}
	return nil
}

func writePayload(w io.Writer, s evidence.Sealed) error {
	var b bytes.Buffer
	if err := json.Indent(&b, s.Payload, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}

// oneEvidence reads the report that which names: a file, or where flags name an archive
// the number of a service's report.
func oneEvidence(c *ucli.Context, which string) (f evidence.File, err error) {
	if c.String("archive") == "" && c.String("url") == "" {
		files, dir, err := readPath(which)
		if err == nil && dir {
			return f, cli.Usagef("%s is a directory: name one report in it, as `tidegate drill list %s` lists them", which, which)
		}
		if err != nil {
			return f, &tidegate.Error{Op: "read evidence", Subject: which, Class: tidegate.Misuse, Err: err}
		}
		return files[0], nil
	}
	if c.String("service") == "" {
		return f, cli.Usagef("which service's report? --service SERVICE")
	}
	if which == "latest" {
		files, err := readStore(c, 1)
		if err != nil {
			return f, err
		}
		return files[0], nil
	}
	n, err := strconv.ParseUint(which, 10, 64)
	if err != nil || n == 0 {
		return f, cli.Usagef("%q: want the number of a report, or latest", which)
	}
	store, err := openEvidence(c)
	if err != nil {
		return f, err
	}
	return store.Read(c.Context, archive.Drill{Service: tidegate.ServiceName(c.String("service")), Number: n}.Name())
}

// writeReport prints a report for people, the verdict first.
func writeReport(w io.Writer, s evidence.Sealed) error {
	r := s.Report
	fmt.Fprintf(w, "%s: drill %d of %s, %s %s\n", strings.ToUpper(string(r.Verdict.Outcome)), r.Number, r.Service, r.Level, r.Scenario)
	for _, reason := range r.Verdict.Reasons {
		fmt.Fprintf(w, "  %s\n", reason)
	}
	fmt.Fprintf(w, "began %s on %s, version %s\n", r.Started.At.Format(time.RFC3339), r.Ran.Host, r.Ran.Version)
	fmt.Fprintf(w, "backlog %s records, %s; gate %s\n", cli.Count(r.Backlog.Records), cli.MaybeSize(r.Backlog.Bytes), orUnknown(r.Gate.Mode))
	fmt.Fprintf(w, "recovery time %s of %s, predicted %s\n", took(r.Recovered.Actual), took(r.Recovered.Objective), took(r.Recovered.Predicted))
	fmt.Fprintf(w, "loss %s of %s: %s records, %s\n", took(r.Lost.Actual), took(r.Lost.Objective), cli.Count(r.Lost.Records), cli.MaybeSize(r.Lost.Bytes))
	writeRecoveryType(w, &r.Recovery)
	for _, part := range []func(io.Writer, evidence.Report) error{writeReportPhases, writeReportChecks, writeReportAround} {
		fmt.Fprintln(w)
		if err := part(w, r); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nreport %s\nhash %s\n", r.ID, s.Hash)
	if r.Previous != nil {
		fmt.Fprintf(w, "follows %s\n", *r.Previous)
	}
	for _, id := range s.KeyIDs {
		fmt.Fprintf(w, "signed with key %s\n", id)
	}
	return nil
}

func writeRecoveryType(w io.Writer, r *evidence.Recovery) {
	fmt.Fprintf(w, "recovery type %s, predicted %s, required %s", orUnknown(r.Observed), orUnknown(r.Predicted), orUnknown(r.Required))
	if r.Outcome != nil {
		fmt.Fprintf(w, ": %s", *r.Outcome)
	}
	fmt.Fprintln(w)
	for _, why := range r.Reasons {
		fmt.Fprintf(w, "  %s\n", why)
	}
}

func writeReportPhases(w io.Writer, r evidence.Report) error {
	history := map[string]evidence.Compared{}
	for _, one := range r.Compared {
		history[one.Phase] = one
	}
	t := cli.NewTable("phase", "took", "usual", "ratio", "against history")
	row := func(name string, d *time.Duration) {
		h, compared := history[name]
		if !compared {
			t.Row(name, took(d), "", "", "not compared")
			return
		}
		ratio := cli.Unknown
		if h.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *h.Ratio)
		}
		t.Row(name, took(d), took(h.BaselineMedian), ratio, fmt.Sprintf("%s, %d against %d", h.Finding, h.Newest, h.Baseline))
	}
	for _, p := range r.Phases {
		if p.Absent {
			t.Row(p.Name, "", "", "", "drills of this level have none")
			continue
		}
		row(p.Name, p.Took)
	}
	row("total", r.Recovered.Actual)
	_, err := t.WriteTo(w)
	return err
}

func writeReportChecks(w io.Writer, r evidence.Report) error {
	t := cli.NewTable("check", "kind", "outcome", "wanted", "got", "took")
	var why []string
	for _, list := range [][]evidence.Check{r.Checks, r.Isolation} {
		for _, k := range list {
			t.Row(k.Name, k.Kind, string(k.Outcome), k.Wanted, orUnknown(k.Got), took(k.Took))
			if k.Why != "" {
				why = append(why, fmt.Sprintf("%s: %s", k.Name, k.Why))
			}
		}
	}
	if _, err := t.WriteTo(w); err != nil {
		return err
	}
	for _, line := range why {
		fmt.Fprintln(w, line)
	}
	if r.Isolation == nil {
		fmt.Fprintln(w, "isolation was not looked at")
	}
	return nil
}

// writeReportAround prints what the drill did to its surroundings.
func writeReportAround(w io.Writer, r evidence.Report) error {
	t := cli.NewTable("lag of the live standby", "looks", "p50", "p99", "longest", "records", "size")
	for i, seen := range []evidence.LagSeen{r.Lag.Before, r.Lag.During, r.Lag.After} {
		t.Row([]string{"before", "during", "after"}[i], fmt.Sprint(seen.Samples), took(seen.Median), took(seen.P99), took(seen.Max), cli.Count(seen.Records), cli.MaybeSize(seen.Bytes))
	}
	if _, err := t.WriteTo(w); err != nil {
		return err
	}
	if r.LeftOvers == nil {
		fmt.Fprintln(w, "it was not looked for what was left behind")
	}
	for _, l := range r.LeftOvers {
		state := "still there"
		if l.Removed {
			state = "removed"
		}
		fmt.Fprintf(w, "left behind, %s: %s %s\n", state, l.What, l.Where)
	}
	for _, st := range r.Streams {
		fmt.Fprintf(w, "%s: cut at %s, state %s, expected %s\n", st.Name, orUnknown(st.Cut), orUnknown(st.Observed), orUnknown(st.Expected))
	}
	return nil
}

// took prints a time that may be unknown.
func took(d *time.Duration) string {
	if d == nil {
		return cli.Unknown
	}
	return cli.Span(*d)
}

// orUnknown prints what may be unknown.
func orUnknown[T any](v *T) string {
	if v == nil {
		return cli.Unknown
	}
	return fmt.Sprint(*v)
}
