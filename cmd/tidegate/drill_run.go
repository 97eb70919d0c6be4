package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// drillDir is where the files of drills lie, one a service.
const drillDir = "/etc/tidegate/drills"

func drillFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "service", Usage: "`SERVICE` to rehearse"},
		&ucli.StringFlag{Name: "level", Value: string(evidence.L1), Usage: "`LEVEL` of the drill: L0, a look at the plan; L1, the shadow promote; of the live service L2, there and back, L3, a fault, L4, its whole site"},
		&ucli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "drill's `FILE`", DefaultText: drillDir + "/SERVICE.yaml, from L2 on SERVICE.live.yaml"},
		&ucli.StringFlag{Name: "backlog", Usage: "`RECORDS`, or bytes of log as in 256MiB, that are left to replay at t0", DefaultText: "what the live standby has not applied"},
		&ucli.DurationFlag{Name: "limit", Value: time.Hour, Usage: "how long the whole drill may take"},
		&ucli.StringFlag{Name: "scenario", Usage: "`FAULT` that the live service meets, at level L3", DefaultText: "of L2 and L4 the only one that there is"},
		cli.OutputFlag(),
	}
}

func drillRunCommand() *ucli.Command {
	return &ucli.Command{
		Name: "run", Usage: "rehearse a recovery, time it, and sign what came of it: on an isolated clone, or live", ArgsUsage: " ",
		Flags: append(drillFlags(), &ucli.BoolFlag{Name: "dry-run", Usage: "look and try as a drill does before it begins; make and remove nothing, as `drill plan` does"},
			&ucli.BoolFlag{Name: "yes", Usage: "have clients of the live service concerned, from L2 on, without being asked to type its name"}),
		Action: drillRun,
		Description: "Reads base and log of a standby node under the drill's own identity, into a sandbox, starts the service's program or a\n" +
			"PostgreSQL server on them, replays the backlog, promotes the clone, writes canaries, asks the checks, and tears everything down; ^C does that at once.\n" +
			"What is live is only read. The report is signed and appended to the service's chain in any case.\n\n" +
			"Level L0 looks whether such a drill could begin, and would tell what it is for; it makes nothing, and its pass is none of a recovery.\n\n" +
			"Levels L2 to L4 are not isolated. They run under an operator's certificate, move the live service or have it meet a fault by the\n" +
			"file's own commands, heal that in any case, also after ^C, and time it by canaries that are written through the clients' route.\n\n" +
			"Ends with 0 passed, 9 failed or slower, 10 over the RPO, 11 over the RTO, 12 partial, 5 called off or interrupted, 4 refused.\n\n" +
			"Examples:\n" +
			"   tidegate drill run --service ledger\n" +
			"   tidegate drill run --service ledger --backlog 100000 -o json\n" +
			"   tidegate drill run --service shop --backlog 256MiB\n" +
			"   tidegate drill run --service ledger --level L2\n" +
			"   tidegate drill run --service ledger --level L3 --scenario link-cut --yes",
	}
}

func drillPlanCommand() *ucli.Command {
	return &ucli.Command{
		Name: "plan", Usage: "say what a drill would do, and whether it may", ArgsUsage: " ", Flags: drillFlags(), Action: drillPlan,
		Description: "Tries everything that must be refused to a drill, looks at the live standby node and for left-overs, and changes nothing.\n" +
			"From level L2 on: what would be run, and what the gate expects it to take. Ends with 4 when a drill would be refused now.",
	}
}

// drillAsk is a drill as the command line and its file ask for it.
type drillAsk struct {
	cfg   shadow.Config
	drill *shadow.Drill
	lint  bool // level L0: look at the plan, and recover nothing
}

// backlogOf is what --backlog says: a number of records, or with a unit bytes of log; nil
// where it says nothing.
func backlogOf(c *ucli.Context) (*shadow.Backlog, error) {
	text := c.String("backlog")
	if text == "" {
		return nil, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		return &shadow.Backlog{Records: n}, nil
	}
	var size config.Bytes
	if err := size.UnmarshalText([]byte(text)); err != nil {
		return nil, fmt.Errorf("--backlog: want a number of records, or bytes of log as in 256MiB (got %q)", text)
	}
	return &shadow.Backlog{Bytes: int64(size)}, nil
}

func drillOf(c *ucli.Context) (*drillAsk, error) {
	if _, err := cli.Args(c); err != nil {
		return nil, err
	}
	var errs []error
	service, path := c.String("service"), c.String("config")
	if service == "" && path == "" {
		errs = append(errs, errors.New("rehearse which service? --service SERVICE"))
	}
	if path == "" {
		path = filepath.Join(drillDir, service+".yaml")
	}
	level := evidence.Level(c.String("level"))
	if level != evidence.L0 && level != evidence.L1 {
		errs = append(errs, fmt.Errorf("--level: want L0, L1, L2, L3 or L4 (got %q)", level))
	}
	if level == evidence.L0 && c.IsSet("backlog") {
		errs = append(errs, errors.New("--backlog: is of level L1; at L0 nothing is replayed"))
	}
	if c.String("scenario") != "" {
		errs = append(errs, fmt.Errorf("--scenario: is of live drills, from L2 on (got %q)", c.String("scenario")))
	}
	backlog, badBacklog := backlogOf(c)
	if badBacklog != nil {
		errs = append(errs, badBacklog)
	}
	if d := c.Duration("limit"); d <= 0 {
		errs = append(errs, fmt.Errorf("--limit: want more than 0 (got %s)", d))
	}
	if len(errs) > 0 {
		return nil, cli.Usagef("%w", errors.Join(errs...))
	}
	opts := shadow.Options{Limit: c.Duration("limit"), Backlog: backlog}
	ask, err := openDrill(path, opts)
	if err != nil {
		return nil, err
	}
	if service != "" && service != string(ask.cfg.Service) {
		return nil, cli.Usagef("--service %s: %s is the file of service %s", service, path, ask.cfg.Service)
	}
	ask.lint = level == evidence.L0
	return ask, nil
}

// drillFile reads a drill's file, with what else a report says of where it comes from.
func drillFile[C config.Defaulter[C]](path string) (cfg C, digest *evidence.Hash, host string, err error) {
	if cfg, err = config.Load[C](path); err != nil {
		return cfg, nil, "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return cfg, nil, "", err
	}
	host, err = os.Hostname()
	return cfg, new(evidence.HashOf(text)), host, err
}

// openDrill makes a drill out of its file; opts is what is chosen for this one.
func openDrill(path string, opts shadow.Options) (*drillAsk, error) {
	cfg, digest, host, err := drillFile[shadow.Config](path)
	if err != nil {
		return nil, err
	}
	clk, fsys := clock.System(), vfs.OS()
	node, err := shadow.NewNode(fsys, clk, &cfg)
	if err != nil {
		return nil, err
	}
	opts.Version, opts.Config, opts.Host, opts.Open = cli.Version(), digest, host, open.Open
	return &drillAsk{cfg: cfg, drill: shadow.New(fsys, clk, node, cfg, opts)}, nil
}

func drillPlan(c *ucli.Context) error {
	if isLive(c) {
		return livePlan(c)
	}
	ask, err := drillOf(c)
	if err != nil {
		return err
	}
	return ask.plan(c)
}

func (a *drillAsk) plan(c *ucli.Context) error {
	p, err := a.drill.Plan(c.Context)
	if err != nil {
		return err
	}
	if err := cli.Print(c, p, func(w io.Writer) error { return writeDrillPlan(w, &p) }); err != nil {
		return err
	}
	if len(p.Refused) > 0 {
		return &tidegate.Error{
			Op: "rehearse", Subject: string(p.Service), Class: tidegate.Refused, Err: errors.New(strings.Join(p.Refused, "; ")),
			Hint: "docs/operating/drills.md says what a drill needs",
		}
	}
	return nil
}

func writeDrillPlan(w io.Writer, p *shadow.Plan) error {
	var b strings.Builder
	fmt.Fprintf(&b, "drill %s %s of %s, with what node %s keeps\n", p.Level, p.Scenario, p.Service, p.Standby)
	if p.Bytes != nil {
		fmt.Fprintf(&b, "backlog: %s of log\n", cli.Size(*p.Bytes))
	} else {
		fmt.Fprintf(&b, "backlog: %s records\n", cli.Count(p.Backlog))
	}
	for _, s := range p.Streams {
		said := "its service says no digest"
		if s.DigestAt != nil {
			said = fmt.Sprintf("compared at %s, where the live service says digest %s", *s.DigestAt, *s.Digest)
		}
		fmt.Fprintf(&b, "stream %s: cut at the end of what is committed; %s\n", s.ID, said)
	}
	program := strings.Join(p.Program, " ")
	if p.Postgres {
		program = "a PostgreSQL server"
	}
	fmt.Fprintf(&b, "program: %s\ncanaries: %s\nchecks: %s\n", program, strings.Join(p.Canaries, ", "), strings.Join(p.Checks, ", "))
	if t := p.Recovery; t != nil {
		fmt.Fprintf(&b, "recovery type: %s required, %s predicted\n", orUnknown(t.Required), orUnknown(t.Predicted))
	}
	for _, l := range p.LeftOvers {
		fmt.Fprintf(&b, "left over, and cleaned first: %s %s\n", l.What, l.Where)
	}
	for _, i := range p.Isolation {
		fmt.Fprintf(&b, "isolation: %s: %s", i.Name, i.Outcome)
		if i.Why != "" {
			fmt.Fprintf(&b, ": %s", i.Why)
		}
		fmt.Fprintln(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func drillRun(c *ucli.Context) error {
	if isLive(c) {
		return liveRun(c)
	}
	ask, err := drillOf(c)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return ask.plan(c)
	}
	var done rehearsed
	line := func(elapsed time.Duration) string {
		return fmt.Sprintf("%s: %s", cli.Span(elapsed), ask.drill.Progress())
	}
	err = withLines(c, "drill "+string(ask.cfg.Service), line, func(ctx context.Context) (err error) {
		done, err = ask.rehearse(ctx)
		return err
	})
	if err != nil {
		return err
	}
	printed := cli.Print(c, done.sealed.Report, func(w io.Writer) error { return writeReport(w, done.sealed) })
	if done.unkept == nil {
		ask.tellGate(c.Context, c.App.ErrWriter, done.store)
	}
	return drillEnd(drillVerdict(ask.cfg.Service, done.verdict), done.unkept, printed)
}

// rehearsed is what came of a drill.
type rehearsed struct {
	verdict judge.Verdict
	sealed  evidence.Sealed // as far as it was kept
	store   *evidence.Store
	unkept  error // the report is not in its chain
}

// rehearse runs the drill, judges it against its history and appends its report. An error
// says that it did not begin.
func (a *drillAsk) rehearse(ctx context.Context) (rehearsed, error) {
	key, store, history, err := a.chain(ctx)
	if err != nil {
		return rehearsed{}, err
	}
	run := a.drill.Run
	if a.lint {
		run = a.drill.Lint
	}
	result := run(ctx)
	out := rehearsed{store: store, verdict: result.Judge(history)}
	// What was rehearsed is put on record also when the operator has had enough, and
	// printed also when that fails.
	out.sealed, out.unkept = keepReport(context.WithoutCancel(ctx), store, key, a.cfg.Evidence, result.Report)
	return out, nil
}

// drillEnd is the error that the command ends with: whatever became of the report, a
// verdict that is not passed keeps its code.
func drillEnd(verdict error, others ...error) error {
	other := errors.Join(others...)
	switch {
	case other == nil:
		return verdict
	case verdict == nil:
		return other
	}
	return cli.WithCode(cli.CodeOf(verdict), errors.Join(verdict, other))
}

// chain opens what the drill's report goes on from: a chain that is not whole is not gone
// on with.
func (a *drillAsk) chain(ctx context.Context) (*evidence.Key, *evidence.Store, []evidence.Report, error) {
	e := a.cfg.Evidence
	key, err := evidence.LoadKey(e.Key)
	if err != nil {
		return nil, nil, nil, err
	}
	trusted := []evidence.PublicKey{key.Public()}
	for _, path := range e.Trust {
		k, err := evidence.LoadPublicKey(path)
		if err != nil {
			return nil, nil, nil, err
		}
		trusted = append(trusted, k)
	}
	store, err := keptIn(ctx, e)
	if err != nil {
		return nil, nil, nil, err
	}
	files, err := store.Files(ctx, a.cfg.Service, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	proof := evidence.Verify(files, trusted, evidence.VerifyOptions{Whole: true})
	if err := proof.Err(); err != nil {
		return nil, nil, nil, err
	}
	var history []evidence.Report
	for _, chain := range proof.Chains {
		for i := range chain.Reports {
			history = append(history, chain.Reports[i].Report)
		}
	}
	return key, store, history, nil
}

// keptIn opens the place that a drill's reports go to, and makes the directories of this
// machine for it. An archive must be there.
func keptIn(ctx context.Context, e shadow.Evidence) (*evidence.Store, error) {
	if err := durable.MkdirAll(vfs.OS(), e.State); err != nil {
		return nil, err
	}
	if !e.Archive.IsZero() {
		b, err := open.Open(ctx, e.Archive)
		if err != nil {
			return nil, err
		}
		return evidence.NewStore(b), nil
	}
	if err := durable.MkdirAll(vfs.OS(), e.Directory); err != nil {
		return nil, err
	}
	return evidence.NewStore(dir.New(vfs.OS(), e.Directory)), nil
}

// keepReport appends the report to its chain. Where that fails, it is kept on this machine,
// in no chain. It returns the report in any case, sealed or not.
func keepReport(ctx context.Context, store *evidence.Store, key *evidence.Key, e shadow.Evidence, r evidence.Report) (evidence.Sealed, error) {
	sealed, err := store.Append(ctx, key, r)
	if err == nil {
		return sealed, nil
	}
	fail := func(hint string, errs ...error) error {
		return &tidegate.Error{
			Op: "append report to", Subject: store.String(), Class: tidegate.ClassOf(err), Err: errors.Join(append([]error{err}, errs...)...), Hint: hint,
		}
	}
	const lost = "the drill has run, and what is printed of its report is all that there is"
	r.Number, r.Previous = 1, nil // as the first of a chain of its own
	alone, sealErr := evidence.Seal(ctx, key, r)
	if sealErr != nil {
		return evidence.Sealed{Report: r}, fail(lost, sealErr)
	}
	path := filepath.Join(e.State, "drill-"+r.ID.String()+".unchained.dsse.json")
	if writeErr := durable.WriteFile(vfs.OS(), path, alone.Data); writeErr != nil {
		return alone, fail(lost, writeErr)
	}
	return alone, fail("the drill has run, and its signed report, in no chain, is " + path)
}

// drillVerdict is the error that the command ends with.
func drillVerdict(service tidegate.ServiceName, v judge.Verdict) error {
	if v.Outcome == judge.Passed {
		return nil
	}
	return cli.WithCode(cli.Code(v.ExitCode), &tidegate.Error{
		Op: "rehearse", Subject: string(service), Class: tidegate.Permanent, Err: fmt.Errorf("%s: %s", v.Outcome, strings.Join(v.Sentences(), "; ")),
		Hint: "the report above names each check and phase; docs/operating/drills.md says what to do",
	})
}
