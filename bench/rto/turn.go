package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// turn is one of the cases, with what its rounds have shown.
type turn struct {
	name   string
	lag    int64 // bytes of log that the standby has still to replay; 0: it is up to date
	played []played
	broken []error
}

// played is one round of a turn.
type played struct {
	takeover pglab.Takeover
	tables   int64 // bytes on the primary, indexes included
	behind   int64 // bytes of log that the standby had still to replay at the kill
	rate     float64
	loss     pglab.Loss
	load     string
}

// stage says where a turn stands.
type stage struct {
	out   io.Writer
	begun time.Time
}

func (s *stage) say(text string) {
	fmt.Fprintf(s.out, "%7.1fs  %s\n", time.Since(s.begun).Seconds(), text)
}

// progressEvery is how often a long step says how far it is.
const progressEvery = 15 * time.Second

// during runs a step, and says meanwhile how far it is.
func (s *stage) during(what string, step func() error, progress func() string) error {
	s.say(what)
	done := make(chan error, 1)
	go func() { done <- step() }() // owned by this loop; ends when the step does
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
		if text := progress(); text != "" {
			s.say("  " + text)
		}
	}
}

// grown tells how much of what a step will take on disk is there. Others who use
// the disk show, too: about.
func grown(expected int64) func() string {
	begun, had := time.Now(), freeBytes()
	return func() string {
		got := had - freeBytes()
		if got <= 0 {
			return "hardly begun"
		}
		left := time.Duration(float64(time.Since(begun)) * float64(max(0, expected-got)) / float64(got))
		return fmt.Sprintf("about %s of %s, ETA %s", figure.Human(got), figure.Human(expected), left.Round(time.Second))
	}
}

// seeding is what the product says of the base's way to the other site, with an ETA.
func seeding(ctx context.Context, l *pglab.Lab) string {
	st, err := l.Status(ctx)
	if err != nil {
		return "" // there is no gate yet, or it is busy
	}
	for _, svc := range st.GetServices() {
		for _, x := range svc.GetStreams() {
			for _, m := range x.GetMembers() {
				if text := m.GetStream().GetError(); text != "" {
					return m.GetNode() + ": " + text
				}
			}
		}
	}
	return ""
}

func freeBytes() int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(os.TempDir(), &st); err != nil {
		return 0 // progress then shows nothing
	}
	return int64(st.Bavail) * st.Bsize
}

// patience bounds a turn: tables of some gigabytes are filled, cross and are killed.
const patience = 2 * time.Hour

func (t *turn) play(ctx context.Context, out io.Writer, bin string, cfg pglab.Config, span time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := os.MkdirTemp("/tmp", "tidegate-rto-") // a socket's path must fit into 107 bytes
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			fmt.Fprintf(out, "logs are left in %s\n", dir)
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's account passes through it to its sockets
		return err
	}
	cfg.Dir, cfg.Bin, cfg.NoTwin = dir, bin, true
	s := &stage{out: out, begun: time.Now()}
	var l *pglab.Lab
	if err := s.during("filling pgbench's tables", func() (err error) {
		l, err = pglab.New(ctx, cfg)
		return err
	}, grown(2*int64(cfg.Scale)*pglab.ScaleBytes)); err != nil { // what is filled is logged, too
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := s.during("starting the sites", func() error { return l.Up(ctx, s.say) }, func() string { return seeding(ctx, l) }); err != nil {
		return err
	}
	if err := l.Gate(ctx, tidegate.ModeSync, tidegate.Bounds{}); err != nil {
		return err
	}
	p, err := t.lose(ctx, l, s, dir, span)
	if err != nil {
		return err
	}
	t.played = append(t.played, p)
	t.judge(&p)
	return nil
}

// lose puts load on the service, kills its site and fails over.
func (t *turn) lose(ctx context.Context, l *pglab.Lab, s *stage, dir string, span time.Duration) (p played, err error) {
	level := pglab.Level(tidegate.ModeSync)
	clients, err := l.StartClients(4, level, filepath.Join(dir, "told"))
	if err != nil {
		return p, err
	}
	defer clients.Stop() //nolint:errcheck // it is called before, unless something else has failed
	bench, err := l.Primary.Bench([]string{"PGOPTIONS=-c synchronous_commit=" + level}, "-c", "8", "-j", "2", "-P", "5")
	if err != nil {
		return p, err
	}
	defer bench.Kill()
	s.say(fmt.Sprintf("load for %s: pgbench with 8 clients, and 4 that keep a log, all at synchronous_commit = %s", span, level))
	select {
	case <-ctx.Done():
		return p, context.Cause(ctx)
	case <-time.After(span):
	}
	if err := t.fallBehind(ctx, l, s); err != nil {
		return p, err
	}
	had, begun := clients.Told(), time.Now()
	if err := l.More(ctx, clients, 200); err != nil {
		return p, err
	}
	p.rate = float64(clients.Told()-had) / time.Since(begun).Seconds()
	if p.tables, err = number(l.Primary.Text(ctx, "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname LIKE 'pgbench%' AND relkind = 'r'")); err != nil {
		return p, err
	}
	if p.behind, err = l.Behind(ctx); err != nil {
		return p, err
	}
	p.load = load()
	s.say(fmt.Sprintf("kill -9 of the primary site: %s of tables, %s of log to be replayed", figure.Human(p.tables), figure.Human(p.behind)))
	old, err := l.Writes(ctx, "p1", 0)
	if err != nil {
		return p, err
	}
	killed := time.Now()
	if err := l.KillSite(); err != nil {
		return p, err
	}
	if t.lag > 0 {
		if _, err := l.Warm(ctx, "SELECT pg_wal_replay_resume()"); err != nil {
			return p, err
		}
	}
	if p.takeover, err = l.Survive(ctx, clients, "rto: "+t.name, old, killed); err != nil {
		return p, err
	}
	s.say(p.takeover.Text)
	s.say(fmt.Sprintf("clients are told of commits again, %s after the kill", p.takeover.RTO.Round(time.Millisecond)))
	if err := clients.Stop(); err != nil {
		return p, err
	}
	p.loss, err = l.Loss(ctx, clients)
	return p, err
}

// fallBehind keeps the standby from replaying until it has enough to do. What the
// load writes in that time is little; rows are written anew in bulk beside it.
func (t *turn) fallBehind(ctx context.Context, l *pglab.Lab, s *stage) error {
	if t.lag == 0 {
		return nil
	}
	if _, err := l.Warm(ctx, "SELECT pg_wal_replay_pause()"); err != nil {
		return err
	}
	s.say("the standby receives and does not replay")
	begun, said := time.Now(), time.Now()
	for n := 0; ; n++ {
		got, err := l.Behind(ctx)
		if err != nil || got >= t.lag {
			return err
		}
		if time.Since(said) > progressEvery {
			said = time.Now()
			left := time.Duration(float64(time.Since(begun)) * float64(t.lag-got) / float64(max(got, 1)))
			s.say(fmt.Sprintf("  %s of %s, ETA %s", figure.Human(got), figure.Human(t.lag), left.Round(time.Second)))
		}
		if err := l.Rewrite(ctx, n); err != nil {
			return err
		}
	}
}

func number(text string, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// judge keeps what a round must not show.
func (t *turn) judge(p *played) {
	if p.loss.Lost > 0 {
		t.broken = append(t.broken, fmt.Errorf("%s: %d of %d confirmed commits are lost, in mode sync", t.name, p.loss.Lost, p.loss.Told))
	}
	if out := p.takeover.Plan.GetOutcome(); out != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.broken = append(t.broken, fmt.Errorf("%s: the failover ended as %s", t.name, out))
	}
	for _, x := range p.takeover.Plan.GetPhases().GetPhases() {
		if x.GetTook() == nil {
			t.broken = append(t.broken, fmt.Errorf("%s: how long the phase %s took is not known", t.name, x.GetName()))
		}
	}
}
