package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab/pglab"
	"github.com/tidegate/tidegate/internal/pgrun"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// pgAct is one disaster of a site with a PostgreSQL server.
type pgAct struct {
	number  int
	title   string
	cfg     pglab.Config
	mode    tidegate.Mode
	bounds  tidegate.Bounds
	cut     bool // the link carries nothing for a moment before the site is killed
	returns bool // the old primary comes back after the failover, and the service to it
	load    time.Duration
}

// pgActs are the two disasters.
var pgActs = []pgAct{
	{
		number: 1, title: "kill -9 of the whole primary site: primary, replica and agent; sync",
		mode: tidegate.ModeSync,
	},
	{
		number: 2, title: "the link stops, then kill -9 of the whole primary site, which comes back later, and the service to it; bounded",
		mode: tidegate.ModeBounded, bounds: tidegate.Bounds{Records: 5000, Window: 500 * time.Millisecond},
		cut: true, returns: true,
	},
}

// pgPatience bounds an act: the base crosses in it, and servers recover.
const pgPatience = 3 * time.Minute

// pgResult is what an act has shown.
type pgResult struct {
	act      pgAct
	takeover pglab.Takeover
	verdict  pglab.Verdict
	zombie   string      // what a client of the old primary got
	tail     wal.Summary // what was kept of the old primary's log
	back     pglab.Loss  // over the failback
	pause    time.Duration
	plan     *pb.Plan
	broken   []error // what did not hold
}

func postgresActs(ctx context.Context, out io.Writer, wanted func(int) bool, place func(*pgAct)) error {
	var results []*pgResult
	var broken []error
	for _, a := range pgActs {
		if !wanted(a.number) {
			continue
		}
		place(&a)
		r, err := a.play(ctx, out)
		if err != nil {
			return fmt.Errorf("act %d: %w", a.number, err)
		}
		results, broken = append(results, r), append(broken, r.broken...)
	}
	reportPostgres(out, results)
	return errors.Join(broken...)
}

func (a pgAct) play(ctx context.Context, out io.Writer) (r *pgResult, err error) {
	fmt.Fprintf(out, "\nAct %d: %s\n", a.number, a.title)
	ctx, cancel := context.WithTimeout(ctx, pgPatience)
	defer cancel()
	s := &stage{out: out, begun: time.Now()}
	s.say("a primary with pgbench's tables, and a replica of it")
	a.cfg.Scale, a.cfg.Replica, a.cfg.Returns = 5, true, a.returns
	l, err := pglab.New(ctx, a.cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Up(ctx, s.say); err != nil {
		return nil, err
	}
	s.say(fmt.Sprintf("the gate: %s", a.promise()))
	if err := l.Gate(ctx, a.mode, a.bounds); err != nil {
		return nil, err
	}
	r = &pgResult{act: a}
	return r, r.run(ctx, l, s)
}

func (a pgAct) promise() string {
	if a.mode == tidegate.ModeBounded {
		return fmt.Sprintf("%s, at most %d commits and %s", a.mode, a.bounds.Records, a.bounds.Window)
	}
	return string(a.mode)
}

func (r *pgResult) run(ctx context.Context, l *pglab.Lab, s *stage) error {
	level := pglab.Level(r.act.mode)
	s.say("clients commit, and write down every commit that is confirmed; pgbench beside them; synchronous_commit = " + level)
	clients, err := l.StartClients(4, level, filepath.Join(r.act.cfg.Dir, "told"))
	if err != nil {
		return err
	}
	defer clients.Stop() //nolint:errcheck // it is called before, unless something else has failed
	bench, err := l.Primary.Bench([]string{"PGOPTIONS=-c synchronous_commit=" + level}, "-c", "2", "-P", "1")
	if err != nil {
		return err
	}
	defer bench.Kill()
	if err := pgWatch(ctx, s, clients, bench, r.act.load); err != nil {
		return err
	}
	if r.act.cut {
		s.say(fmt.Sprintf("the link carries nothing any more; %s later:", cutOff))
		if err := l.Stall(ctx, cutOff); err != nil {
			return err
		}
	}
	s.say("DISASTER: " + r.act.title)
	if r.takeover, err = l.Lose(ctx, clients, "demo: "+r.act.title); err != nil {
		return err
	}
	s.say(r.takeover.Text)
	s.say(fmt.Sprintf("clients are told of commits at the DR site, %s after the kill", ms(r.takeover.RTO)))
	if err := pgWatch(ctx, s, clients, nil, 2*time.Second); err != nil {
		return err
	}
	s.say("comparing: the clients' log, the dead primary's log recovered by PostgreSQL up to the fork, pg_amcheck")
	if r.verdict, err = l.Judge(ctx, clients, r.act.mode, r.act.bounds, r.takeover.Plan); err != nil {
		return err
	}
	r.plan = r.takeover.Plan
	for _, err := range r.verdict.Broken {
		r.broken = append(r.broken, fmt.Errorf("act %d: %w", r.act.number, err))
	}
	s.say(fmt.Sprintf("told of %d commits, %d are lost; pgbench's tables are the same", r.verdict.Loss.Told, r.verdict.Loss.Lost))
	if r.act.returns {
		return r.comeBack(ctx, l, s)
	}
	return nil
}

// pgWatch shows progress for a while.
func pgWatch(ctx context.Context, s *stage, c *pglab.Clients, bench *pgrun.Process, span time.Duration) error {
	const every = 2 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.After(span + every/2)
	for had := c.Told(); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			return nil
		case <-tick.C:
		}
		now := c.Told()
		line := fmt.Sprintf("  %d commits confirmed, %.0f/s", now, float64(now-had)/every.Seconds())
		if bench != nil {
			lines := strings.Split(strings.TrimSpace(bench.Output()), "\n")
			line += "; pgbench " + strings.TrimPrefix(lines[len(lines)-1], "progress: ")
		}
		s.say(line)
		had = now
	}
}

// comeBack starts the old primary again. It knows nothing of what happened, and may
// confirm nothing.
func (r *pgResult) comeBack(ctx context.Context, l *pglab.Lab, s *stage) error {
	s.say("the old primary comes back; it knows nothing of what happened")
	if err := l.Return(); err != nil {
		return err
	}
	var err error
	if r.zombie, err = l.Stranger(ctx, pglab.Level(r.act.mode)); err != nil {
		r.broken = append(r.broken, fmt.Errorf("act %d: %w", r.act.number, err))
	}
	s.say("  a client at the old primary: " + r.zombie)
	s.say("the standby daemon beside it starts: its tail goes to quarantine, pg_rewind makes it follow")
	if err := l.TakeOver(ctx, r.verdict.Loss.Told-r.verdict.Loss.Lost); err != nil {
		return err
	}
	if r.tail, err = l.Quarantined(); err != nil {
		return err
	}
	s.say("  in quarantine: " + r.tail.String())
	if r.tail.Commits < r.verdict.Tail.Commits {
		r.broken = append(r.broken, fmt.Errorf("act %d: %d commits in quarantine, the old log has %d beyond the fork", r.act.number, r.tail.Commits, r.verdict.Tail.Commits))
	}
	return r.goHome(ctx, l, s)
}

// goHome fails back to the old primary under load, in sync: that loses nothing.
func (r *pgResult) goHome(ctx context.Context, l *pglab.Lab, s *stage) error {
	clients, err := l.StartClients(4, "on", filepath.Join(r.act.cfg.Dir, "told-later"))
	if err != nil {
		return err
	}
	defer clients.Stop() //nolint:errcheck // it is called before, unless something else has failed
	if err := l.More(ctx, clients, 100); err != nil {
		return err
	}
	clients.Mark()
	text, err := l.Failback(ctx, "demo: home again")
	s.say(text)
	if err != nil {
		return err
	}
	if err := l.More(ctx, clients, 100); err != nil {
		return err
	}
	r.pause = clients.Pause()
	if err := pgWatch(ctx, s, clients, nil, 2*time.Second); err != nil {
		return err
	}
	if err := clients.Stop(); err != nil {
		return err
	}
	if r.back, err = l.Loss(ctx, clients); err != nil {
		return err
	}
	s.say(fmt.Sprintf("home again: told of %d commits meanwhile, %d are lost; clients waited %s", r.back.Told, r.back.Lost, ms(r.pause)))
	if r.plan, err = l.Plan(ctx, r.plan.GetId()); err != nil { // it knows of the quarantine by now
		return err
	}
	if got := measured(r.plan).GetRecords(); got != int64(r.tail.Commits) { //nolint:gosec // a count
		r.broken = append(r.broken, fmt.Errorf("act %d: the failover's plan counts %d commits in the tail, quarantine has %d", r.act.number, got, r.tail.Commits))
	}
	if r.back.Lost > 0 {
		r.broken = append(r.broken, fmt.Errorf("act %d: the failback lost %d commits that clients were told of", r.act.number, r.back.Lost))
	}
	return nil
}

func reportPostgres(out io.Writer, results []*pgResult) {
	t := newTable(out, results)
	t.row("", func(r *pgResult) string { return fmt.Sprintf("act %d, %s", r.act.number, r.act.promise()) })
	t.row("commits that clients were told of", func(r *pgResult) string { return fmt.Sprint(r.verdict.Loss.Told) })
	t.row("of them on the promoted server", func(r *pgResult) string { return fmt.Sprint(r.verdict.Loss.Told - r.verdict.Loss.Lost) })
	t.row("lost", func(r *pgResult) string { return fmt.Sprint(r.verdict.Loss.Lost) })
	t.row("loss statement", func(r *pgResult) string { return pglab.ClaimText(r.verdict.Claim) })
	t.row("RPO actual (told commits lost over)", func(r *pgResult) string { return ms(r.verdict.Loss.Over) })
	t.row("RPO actual, by the plan", func(r *pgResult) string { return rpoText(r.plan) })
	t.row("the dead primary's log beyond the fork", func(r *pgResult) string {
		return fmt.Sprintf("%d commits, %d bytes", r.verdict.Tail.Commits, r.verdict.Tail.Bytes())
	})
	t.row("pgbench's tables at the fork", func(r *pgResult) string { return fmt.Sprintf("%s %.12s on both", r.verdict.Fork, r.verdict.Digest) })
	t.row("all held (tables, books, pg_amcheck, claims)", func(r *pgResult) string { return yesNo(len(r.broken) == 0) })
	t.row("a client of the old primary, come back", func(r *pgResult) string {
		if r.zombie == "" {
			return "the site is gone"
		}
		return r.zombie
	})
	home := func(value func(*pgResult) string) func(*pgResult) string {
		return func(r *pgResult) string {
			if r.back.Told == 0 {
				return "the site is gone"
			}
			return value(r)
		}
	}
	t.row("in quarantine at the old primary", home(func(r *pgResult) string { return fmt.Sprintf("%d commits, %d bytes", r.tail.Commits, r.tail.Bytes()) }))
	t.row("what the failover's plan says of it", home(func(r *pgResult) string { return measuredLine(r.plan) }))
	t.row("failback: lost of the commits told meanwhile", home(func(r *pgResult) string { return fmt.Sprintf("%d of %d", r.back.Lost, r.back.Told) }))
	t.row("failback: clients waited", home(func(r *pgResult) string { return ms(r.pause) }))
	t.phases(func(r *pgResult) *pb.Plan { return r.plan })
	t.row("tidegate failover", func(r *pgResult) string { return ms(r.takeover.Took) })
	t.row("RTO actual (first commit told after the kill)", func(r *pgResult) string { return ms(r.takeover.RTO) })
	t.row("longest silence seen by the clients", func(r *pgResult) string { return ms(r.takeover.Pause) })
	t.end(func(r *pgResult) []error { return r.broken })
}

func rpoText(p *pb.Plan) string {
	switch {
	case p.GetRpoActual() != nil:
		return ms(p.GetRpoActual().AsDuration())
	case p.GetRpoActualMax() != nil:
		return "at most " + ms(p.GetRpoActualMax().AsDuration())
	}
	return "unknown"
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }
