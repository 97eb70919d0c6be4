package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/pglab"
	"github.com/tidegate/tidegate/internal/pgrun"
)

// newPgLab makes a lab around a PostgreSQL server and starts its primary. When the
// test fails, the ends of all logs are printed, and the lab's directory stays.
func newPgLab(t *testing.T, cfg pglab.Config) (l *pglab.Lab, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tidegate-pg-") //nolint:usetesting // socket paths must fit into 107 bytes, and a failed lab stays
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.Bin, cfg.Scale = dir, binaries, 2
	if l, err = pglab.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log, _ := l.WarmLog() // it may not have come to be
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("logs are left in %s\n%s\nthe warm server:\n%s", dir, lab.Tails(dir, 30), log[max(0, len(log)-6000):])
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l, dir
}

// pgStage is a lab with a PostgreSQL server under test, with its clients.
type pgStage struct {
	*stage
	pg      *pglab.Lab
	clients *pglab.Clients
}

// newPostgres starts everything, arms the gate and starts clients and pgbench.
func newPostgres(t *testing.T, cfg pglab.Config, mode tidegate.Mode, b tidegate.Bounds) *pgStage {
	t.Helper()
	l, dir := newPgLab(t, cfg)
	s := &pgStage{stage: &stage{Lab: l.Lab, dir: dir}, pg: l}
	begun := time.Now()
	s.within(t, func(ctx context.Context) error { return l.Up(ctx, func(string) {}) })
	t.Logf("up, base crossed and followed after %s", since(begun))
	s.within(t, func(ctx context.Context) error { return l.Gate(ctx, mode, b) })
	level := pglab.Level(mode)
	var err error
	if s.clients, err = l.StartClients(4, level, filepath.Join(dir, "told")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.clients.Stop(); err != nil {
			t.Error(err)
		}
	})
	bench, err := l.Primary.Bench([]string{"PGOPTIONS=-c synchronous_commit=" + level}, "-c", "2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bench.Kill)
	s.until(t, "the warm server to show pgbench's work", func(ctx context.Context) error {
		some, err := l.Warm(ctx, "SELECT count(*) > 0 FROM pgbench_history")
		if err == nil && some != "t" {
			err = errors.New("there is none")
		}
		return err
	})
	s.more(t, 50)
	return s
}

// more waits until the clients were told of n more commits.
func (s *pgStage) more(t *testing.T, n int) {
	t.Helper()
	s.within(t, func(ctx context.Context) error { return s.pg.More(ctx, s.clients, n) })
}

// stalls stops the agent from shipping, and waits until nobody is told anything.
func (s *pgStage) stalls(t *testing.T) {
	t.Helper()
	s.within(t, func(ctx context.Context) error { return s.pg.Stall(ctx, 0) })
	s.quiet(t)
}

func (s *pgStage) quiet(t *testing.T) {
	t.Helper()
	s.within(t, func(ctx context.Context) error { return s.pg.Quiet(ctx, s.clients, 3*time.Second) })
}

// compare stops the clients and returns what they were told of against what is on
// the server that the route leads to. The servers must be sound otherwise.
func (s *pgStage) compare(t *testing.T) (loss pglab.Loss) {
	t.Helper()
	if err := s.clients.Stop(); err != nil {
		t.Fatal(err)
	}
	s.within(t, func(ctx context.Context) (err error) {
		if loss, err = s.pg.Loss(ctx, s.clients); err != nil {
			return err
		}
		return s.pg.Sound(ctx)
	})
	t.Logf("clients were told of %d commits, %d are lost over %s", loss.Told, loss.Lost, loss.Over.Round(time.Millisecond))
	return loss
}

// With one standby node of three nothing is durable, and no client of a PostgreSQL
// server is told anything; they are once the nodes are back. What the loss of the
// site leaves of what they were told is judged in TestPostgresRounds. What the other
// site shows and what is read there reaches the primary, too. So it is with an agent
// that is frozen.
func TestPostgresWaitsForTheOtherSite(t *testing.T) {
	s := newPostgres(t, pglab.Config{Feedback: true}, tidegate.ModeSync, tidegate.Bounds{})
	nodes := []string{"standby-d2", "standby-d3"}
	for _, node := range nodes {
		if err := s.Proc(node).Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	s.quiet(t)
	if waits, err := s.pg.Primary.Text(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); err != nil || waits == "0" {
		t.Errorf("%s commits wait for the other site: %v", waits, err)
	}
	for _, node := range nodes {
		if err := s.Proc(node).Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	s.more(t, 50)
	s.showsWhatItConfirms(t)
	s.keepsWhatIsRead(t)

	// An agent that stands still answers nobody, and nobody is let go for it.
	agent := s.Proc("agent-p1")
	if err := agent.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.quiet(t)
	if err := agent.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.more(t, 50)
	s.rehearses(t)
	if loss := s.compare(t); loss.Lost > 0 {
		t.Errorf("%d commits are lost that clients were told of", loss.Lost)
	}
	s.restores(t)
}

// restores rebuilds the server out of a standby node alone, which knows by now that all
// is committed that clients were told of.
func (s *pgStage) restores(t *testing.T) {
	const rows = "SELECT count(*) || ' rows ' || coalesce(max(n), 0) FROM told"
	into := s.pg.WarmHome() + "-restored"
	t.Cleanup(func() { endServer(t, into) })
	says(t, s.operate(t, 0, "restore", "--from", s.APIAddr("d1"), "--service", lab.Service, "--into", into, "--start", "--port", "5499", "--recoveries", "none"), "started: timeline")
	want, err := s.pg.Primary.Text(t.Context(), rows)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgrun.Query(t.Context(), fmt.Sprintf("host=%s port=5499 user=postgres dbname=postgres sslmode=disable", filepath.Join(into, "run")), rows)
	if err != nil || pgrun.Text(got) != want {
		t.Errorf("the restored server has %v, the primary %s: %v", got, want, err)
	}
	if left, err := filepath.Glob(into + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind are %q, %v", left, err)
	}
}

// endServer ends the server below a directory.
func endServer(t *testing.T, below string) {
	files, err := filepath.Glob(filepath.Join(below, "*", "*", "postmaster.pid"))
	if err != nil || len(files) != 1 {
		t.Errorf("servers below %s: %q, %v", below, files, err)
		return
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Error(err)
		return
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGQUIT)
	}
	if err != nil {
		t.Errorf("end the server of %s: %v", files[0], err)
	}
}
