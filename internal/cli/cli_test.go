package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/internal/pki"
)

// A verdict of a drill has the exit code that scripts are promised.
func TestCodesOfVerdicts(t *testing.T) {
	took, lost := time.Second, time.Duration(0)
	for want, change := range map[Code]func(*judge.Run){
		OK:           func(*judge.Run) {},
		Refused:      func(r *judge.Run) { *r = judge.Run{Refused: []string{"no space"}} },
		Aborted:      func(r *judge.Run) { r.Interrupted = []string{"^C"} },
		Unverified:   func(r *judge.Run) { r.Checks[0].Outcome = judge.Fail },
		RPOBreached:  func(r *judge.Run) { r.RPA = new(time.Minute) },
		RTOBreached:  func(r *judge.Run) { r.RTA = new(time.Minute) },
		UnknownState: func(r *judge.Run) { r.Harm = judge.Finding{} },
	} {
		run := judge.Run{
			RTA: &took, RPA: &lost,
			Checks: []judge.Finding{{Name: "digest", Outcome: judge.Pass}},
			Harm:   judge.Finding{Outcome: judge.Pass},
		}
		change(&run)
		v := judge.Judge(run, nil, judge.Objectives{RTO: 2 * time.Second, RPO: time.Second})
		if Code(v.ExitCode) != want {
			t.Errorf("%s for %v: exit code %d, want %d", v.Outcome, v.Reasons, v.ExitCode, want)
		}
	}
}

func TestCodeOf(t *testing.T) {
	classed := func(c tidegate.Class, err error) error { return &tidegate.Error{Op: "op", Class: c, Err: err} }
	plain := errors.New("cause")
	for name, tc := range map[string]struct {
		err  error
		want Code
	}{
		"nil":                {nil, OK},
		"unclassified":       {plain, Failed},
		"usage":              {Usagef("no"), Usage},
		"misuse":             {classed(tidegate.Misuse, plain), Usage},
		"missing file":       {classed(tidegate.Misuse, os.ErrNotExist), NotFound},
		"refused":            {classed(tidegate.Refused, plain), Refused},
		"fenced":             {tidegate.ErrFenced, Conflict},
		"conflict":           {classed(tidegate.Transient, tidegate.ErrConflict), Conflict},
		"not found":          {classed(tidegate.Permanent, tidegate.ErrNotFound), NotFound},
		"interrupted":        {fmt.Errorf("wait: %w", context.Canceled), Aborted},
		"timeout":            {fmt.Errorf("wait: %w", context.DeadlineExceeded), Unreachable},
		"dial":               {&net.OpError{Op: "dial", Err: plain}, Unreachable},
		"transient":          {classed(tidegate.Transient, plain), Unreachable},
		"full disk":          {classed("", tidegate.ErrFull), Failed},
		"corrupt":            {&tidegate.CorruptError{Path: "x"}, Unverified},
		"diverged":           {classed(tidegate.Refused, tidegate.ErrDiverged), Unverified},
		"tls alert":          {&net.OpError{Op: "remote error", Err: plain}, Auth},
		"unknown authority":  {x509.UnknownAuthorityError{}, Auth},
		"foreign cluster":    {classed(tidegate.Refused, pki.ErrOtherCluster), Auth},
		"explicit":           {WithCode(RPOBreached, classed(tidegate.Refused, plain)), RPOBreached},
		"silent":             {Exit(UnknownState), UnknownState},
		"remote denied":      {Remote("op", "", connect.NewError(connect.CodePermissionDenied, plain)), Auth},
		"remote unreachable": {Remote("op", "", connect.NewError(connect.CodeUnavailable, plain)), Unreachable},
		"remote refusal":     {Remote("op", "", api.Error(refusal())), Refused},
		"remote internal":    {Remote("op", "", connect.NewError(connect.CodeInternal, plain)), Failed},
		"remote diverged":    {Remote("op", "", api.Error(classed(tidegate.Corrupt, tidegate.ErrDiverged))), Unverified},
		"remote alert":       {Remote("op", "", connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "remote error", Err: plain})), Auth},
	} {
		t.Run(name, func(t *testing.T) {
			if got := CodeOf(tc.err); got != tc.want {
				t.Errorf("got %d, want %d for %v", got, tc.want, tc.err)
			}
		})
	}
}

func refusal() error {
	return &tidegate.Error{
		Op: "failover", Subject: "bank", Class: tidegate.Refused, Hint: "attest it",
		Err: &api.RulesError{Rules: []*pb.RuleVerdict{{Rule: "primary-fenced", Reason: "open mode"}}},
	}
}

func app(result error) *cli.App {
	return &cli.App{Name: "prog", Commands: []*cli.Command{
		{Name: "do", Action: func(c *cli.Context) error {
			args, err := Args(c, "service")
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%s dry=%v reason=%q\n", args[0], c.Bool("dry-run"), c.String("reason"))
			return result
		}, Flags: []cli.Flag{&cli.BoolFlag{Name: "dry-run"}, &cli.StringFlag{Name: "reason", Aliases: []string{"r"}}, OutputFlag()}},
		{Name: "group", Subcommands: []*cli.Command{{Name: "list", Flags: []cli.Flag{OutputFlag()}, Action: func(c *cli.Context) error {
			return Print(c, map[string]int{"n": 1}, func(w io.Writer) error { _, err := fmt.Fprintln(w, "one"); return err })
		}}}},
	}}
}

func TestRun(t *testing.T) {
	boom := &tidegate.Error{Op: "open log", Subject: "x", Class: tidegate.Corrupt, Hint: "look at it", Err: errors.New("bad")}
	for name, tc := range map[string]struct {
		args           string
		result         error
		code           Code
		stdout, stderr string
	}{
		"flags after arguments": {args: "do bank --dry-run -r why", code: OK, stdout: "bank dry=true reason=\"why\"\n"},
		"flags before":          {args: "do --reason=why bank", code: OK, stdout: "bank dry=false reason=\"why\"\n"},
		"dashes end flags":      {args: "do -- --dry-run", code: OK, stdout: "--dry-run dry=false reason=\"\"\n"},
		"error with hint":       {args: "do bank", result: boom, code: Unverified, stdout: "bank dry=false reason=\"\"\n", stderr: "prog: open log x: bad\nhint: look at it\n"},
		"silent":                {args: "do bank", result: Exit(RPOBreached), code: RPOBreached, stdout: "bank dry=false reason=\"\"\n"},
		"missing argument":      {args: "do", code: Usage, stderr: "prog: missing argument <service>\nhint: `prog --help` lists commands and flags\n"},
		"extra argument":        {args: "do a b", code: Usage, stderr: "prog: unexpected argument \"b\"\nhint: `prog --help` lists commands and flags\n"},
		"unknown flag":          {args: "do a --dry", code: Usage, stderr: "prog: flag provided but not defined: -dry\nhint: `prog --help` lists commands and flags\n"},
		"unknown command":       {args: "dont", code: Usage, stderr: "prog: unknown command \"dont\"\nhint: `prog --help` lists commands and flags\n"},
		"unknown with flags":    {args: "group lst -o json", code: Usage, stderr: "prog: unknown command \"lst\"\nhint: `prog --help` lists commands and flags\n"},
		"unknown subcommand":    {args: "group lst", code: Usage, stderr: "prog: unknown command \"lst\"\nhint: `prog --help` lists commands and flags\n"},
		"text":                  {args: "group list", code: OK, stdout: "one\n"},
		"json":                  {args: "group list -o json", code: OK, stdout: "{\n  \"n\": 1\n}\n"},
		"format before action":  {args: "do bank -o xml", code: Usage, stderr: "prog: unknown output format \"xml\": want text or json\nhint: `prog --help` lists commands and flags\n"},
		"unknown format":        {args: "group list -o xml", code: Usage, stderr: "prog: unknown output format \"xml\": want text or json\nhint: `prog --help` lists commands and flags\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Run(t.Context(), app(tc.result), append([]string{"prog"}, strings.Fields(tc.args)...), nil, &stdout, &stderr)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if diff := cmp.Diff(tc.stdout, stdout.String()); diff != "" {
				t.Errorf("stdout:\n%s", diff)
			}
			if diff := cmp.Diff(tc.stderr, stderr.String()); diff != "" {
				t.Errorf("stderr:\n%s", diff)
			}
		})
	}
}

func TestRunPrintsHelpForGroups(t *testing.T) {
	for _, args := range [][]string{{"prog"}, {"prog", "--help"}, {"prog", "group"}, {"prog", "do", "--help"}} {
		var stdout, stderr bytes.Buffer
		if code := Run(t.Context(), app(nil), args, nil, &stdout, &stderr); code != OK || !strings.Contains(stdout.String(), "USAGE") || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, code, stdout.String(), stderr.String())
		}
	}
}

func TestPrintProtoIsStable(t *testing.T) {
	var b bytes.Buffer
	if err := writeJSON(&b, &pb.LogPos{Epoch: 3, Chain: "ab"}); err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"epoch\": \"3\",\n  \"seq\": \"0\",\n  \"chain\": \"ab\"\n}\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestPrintEventIsOneLine(t *testing.T) {
	var b bytes.Buffer
	if err := PrintEvent(&b, &pb.RuleVerdict{Rule: "target"}); err != nil {
		t.Fatal(err)
	}
	want := `{"rule":"target","holds":false,"reason":"","override":"","evidence":[],"known":false}` + "\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTableAligns(t *testing.T) {
	table := NewTable("stream", "mode")
	table.Row("main", "sync")
	table.Row("a-longer-one", "")
	var b bytes.Buffer
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	want := "STREAM        MODE\nmain          sync\na-longer-one  -\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestQuantities(t *testing.T) {
	seven := int64(7)
	for got, want := range map[string]string{
		Count[int64](nil): "unknown", Count(&seven): "7", MaybeSize(nil): "unknown",
		Size(0): "0 B", Size(1023): "1023 B", Size(1536): "1.5 KiB", Size(1 << 40): "1.0 TiB",
		Span(1234567): "1.2ms", Span(61234567890): "1m1s", Span(1234): "1µs",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
