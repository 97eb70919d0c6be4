package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/live"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// liveLevels are those of drills that move the live service, or have it meet a fault.
var liveLevels = []evidence.Level{evidence.L2, evidence.L3, evidence.L4}

// isLive reports whether the command line asks for such a drill.
func isLive(c *ucli.Context) bool {
	return slices.Contains(liveLevels, evidence.Level(c.String("level")))
}

// liveAsk is a live drill as the command line and its file ask for it.
type liveAsk struct {
	cfg   live.Config
	gates *live.Gates
	drill *live.Drill
}

func liveOf(c *ucli.Context) (*liveAsk, error) {
	if _, err := cli.Args(c); err != nil {
		return nil, err
	}
	var errs []error
	service, path := c.String("service"), c.String("config")
	if service == "" && path == "" {
		errs = append(errs, errors.New("drill which service? --service SERVICE"))
	}
	if path == "" {
		path = filepath.Join(drillDir, service+".live.yaml")
	}
	level := evidence.Level(c.String("level"))
	scenario, err := scenarioOf(level, live.Scenario(c.String("scenario")))
	errs = append(errs, err)
	if c.IsSet("backlog") {
		errs = append(errs, errors.New("--backlog: is of level L1; a live service has the one that it has"))
	}
	if d := c.Duration("limit"); d <= 0 {
		errs = append(errs, fmt.Errorf("--limit: want more than 0 (got %s)", d))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, cli.Usagef("%w", err)
	}
	ask, err := openLive(path, live.Options{Level: level, Scenario: scenario, Limit: c.Duration("limit")})
	if err != nil {
		return nil, err
	}
	if service != "" && service != string(ask.cfg.Service) {
		return nil, cli.Usagef("--service %s: %s is the file of service %s", service, path, ask.cfg.Service)
	}
	if _, fault := live.Expected(scenario); fault {
		if _, ok := ask.cfg.Faults[scenario]; !ok {
			return nil, cli.Usagef("--scenario %s: %s does not say how it is injected and healed: faults.%s", scenario, path, scenario)
		}
	}
	return ask, nil
}

// scenarioOf is what a drill of a level plays.
func scenarioOf(level evidence.Level, s live.Scenario) (live.Scenario, error) {
	only := map[evidence.Level]live.Scenario{evidence.L2: live.Planned, evidence.L4: live.PrimarySiteLost}
	if want, one := only[level]; one {
		if s != "" && s != want {
			return "", fmt.Errorf("--scenario: level %s plays %s (got %q)", level, want, s)
		}
		return want, nil
	}
	if _, ok := live.Expected(s); !ok {
		return "", fmt.Errorf("--scenario: want one of %v (got %q)", live.Scenarios(), s)
	}
	return s, nil
}

// openLive makes a drill out of its file; opts is what is chosen for this one.
func openLive(path string, opts live.Options) (*liveAsk, error) {
	cfg, digest, host, err := drillFile[live.Config](path)
	if err != nil {
		return nil, err
	}
	gates, err := live.NewGates(&cfg.Operator)
	if err != nil {
		return nil, err
	}
	opts.Version, opts.Config, opts.Host = cli.Version(), digest, host
	return &liveAsk{cfg: cfg, gates: gates, drill: live.New(vfs.OS(), clock.System(), gates, cfg, opts)}, nil
}

// kept is what the reports of all levels have in common: the chain, and the gates that are
// told.
func (a *liveAsk) kept() *drillAsk {
	return &drillAsk{cfg: shadow.Config{Service: a.cfg.Service, Gates: a.cfg.Operator.Gates, TLS: a.cfg.Operator.TLS, Evidence: a.cfg.Evidence}}
}

func livePlan(c *ucli.Context) error {
	ask, err := liveOf(c)
	if err != nil {
		return err
	}
	defer ask.gates.Close()
	return ask.plan(c)
}

func (a *liveAsk) plan(c *ucli.Context) error {
	p, err := a.drill.Plan(c.Context)
	if err != nil {
		return err
	}
	if err := cli.Print(c, p, func(w io.Writer) error { return writeLivePlan(w, &p) }); err != nil {
		return err
	}
	if len(p.Refused) > 0 {
		return &tidegate.Error{
			Op: "drill", Subject: string(p.Service), Class: tidegate.Refused, Err: errors.New(strings.Join(p.Refused, "; ")),
			Hint: "`tidegate status` and `tidegate gate explain " + string(p.Service) + "`",
		}
	}
	return nil
}

func writeLivePlan(w io.Writer, p *live.Plan) error {
	var b strings.Builder
	fmt.Fprintf(&b, "drill %s %s of %v, live: clients are concerned\n", p.Level, p.Scenario, p.Services)
	fmt.Fprintf(&b, "expected: %s\n", p.Expected)
	writes, target := p.Writer, p.Target
	if writes == "" {
		writes = cli.Unknown
	}
	fmt.Fprintf(&b, "writer: %s\n", writes)
	if target != "" {
		fmt.Fprintf(&b, "target: %s\n", target)
	}
	fmt.Fprintf(&b, "steps: %s\n", strings.Join(p.Steps, ", "))
	for _, run := range p.Inject {
		fmt.Fprintf(&b, "inject: %s\n", strings.Join(run, " "))
	}
	for _, run := range p.Heal {
		fmt.Fprintf(&b, "heal: %s\n", strings.Join(run, " "))
	}
	for _, one := range p.Phases {
		fmt.Fprintf(&b, "expected: %s: %s\n", one.Step, took(one.Expected))
	}
	fmt.Fprintf(&b, "recovery: predicted %s from the decision on, objective %s\n", took(p.Predicted), took(p.Objective))
	fmt.Fprintf(&b, "canaries: %s\nchecks: %s\n", strings.Join(p.Canaries, ", "), strings.Join(p.Checks, ", "))
	if p.LeftOver != "" {
		fmt.Fprintf(&b, "left over, and healed first: fault %s\n", p.LeftOver)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func liveRun(c *ucli.Context) error {
	ask, err := liveOf(c)
	if err != nil {
		return err
	}
	defer ask.gates.Close()
	if c.Bool("dry-run") {
		return ask.plan(c)
	}
	if !c.Bool("yes") {
		question := fmt.Sprintf("%s %s of %v, live: clients are concerned.\nType %s to go on: ", c.String("level"), c.String("scenario"), ask.drill.Services(), ask.cfg.Service)
		if err := confirm(c, question, string(ask.cfg.Service)); err != nil {
			return err
		}
	}
	kept := ask.kept()
	key, store, history, err := kept.chain(c.Context)
	if err != nil {
		return err
	}
	var result live.Result
	var verdict judge.Verdict
	line := func(elapsed time.Duration) string {
		return fmt.Sprintf("%s: %s", cli.Span(elapsed), ask.drill.Progress())
	}
	err = withLines(c, "drill "+string(ask.cfg.Service), line, func(ctx context.Context) error {
		result = ask.drill.Run(ctx)
		verdict = result.Judge(history)
		return nil
	})
	if err != nil {
		return err
	}
	// What was done to the service is put on record also when the operator has had enough.
	sealed, unkept := keepReport(context.WithoutCancel(c.Context), store, key, kept.cfg.Evidence, result.Report)
	printed := cli.Print(c, sealed.Report, func(w io.Writer) error { return writeReport(w, sealed) })
	if unkept == nil {
		kept.tellGate(c.Context, c.App.ErrWriter, store)
	}
	if result.Next != "" {
		fmt.Fprintln(c.App.ErrWriter, "next:", result.Next)
	}
	return drillEnd(drillVerdict(ask.cfg.Service, verdict), unkept, printed)
}
