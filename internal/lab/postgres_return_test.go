package lab_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// pgBack is what the tests of the way back arm: K binds, once the link has stopped.
var pgBack = tidegate.Bounds{Records: 1000, Window: 500 * time.Millisecond}

// changes carries out a planned change of role under load.
func (s *pgStage) changes(t *testing.T, verb, target string) {
	t.Helper()
	s.ready(t, verb, target)
	s.more(t, 50)
	s.clients.Mark()
	begun := time.Now()
	s.planned(t, verb, target)
	s.more(t, 100)
	t.Logf("%s to %s: done after %s, clients were told nothing for %s", verb, target, since(begun), s.clients.Pause().Round(time.Millisecond))
}

// followed waits until a server follows and shows what clients are told of now.
func (s *pgStage) followed(t *testing.T, who string, query func(context.Context, string) (string, error)) {
	t.Helper()
	due := s.clients.Told()
	s.within(t, func(ctx context.Context) error { return s.pg.Follows(ctx, who, query, due) })
}

// A server under load is handed over to the other site and back, by plan. The old
// primary follows in between, on its own data.
func TestPostgresSwitchoverAndBack(t *testing.T) {
	s := newPostgres(t, pglab.Config{Returns: true}, tidegate.ModeSync, tidegate.Bounds{})
	_, east := s.writer(t, s.Primaries(), 0)
	const birth = "SELECT (pg_stat_file('PG_VERSION')).modification"
	made, err := s.pg.Primary.Text(t.Context(), birth)
	if err != nil {
		t.Fatal(err)
	}

	s.changes(t, "switchover", "d1")
	_, west := s.writer(t, []string{"d1"}, east)
	s.followed(t, "p1", s.pg.Primary.Text)
	if got, err := s.pg.Primary.Text(t.Context(), birth); err != nil || got != made {
		t.Errorf("the old primary's data is not what it was: %s, was %s: %v", got, made, err)
	}

	s.changes(t, "failback", "p1")
	s.writer(t, []string{"p1"}, west)
	s.followed(t, "d1", s.pg.Warm)
	s.timeline(t, 3)
	if loss := s.compare(t); loss.Lost > 0 {
		t.Errorf("%d commits are lost that clients were told of", loss.Lost)
	}
	if err := s.Died(); err != nil {
		t.Errorf("not all went without a restart: %v", err)
	}
}

// timeline checks that the server behind the route is on a timeline that all the
// switches before led to, each once.
func (s *pgStage) timeline(t *testing.T, want int) {
	t.Helper()
	s.within(t, func(ctx context.Context) error {
		got, err := s.pg.ThroughRoute(ctx, fmt.Sprintf(`SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) = '%08X',
			(SELECT count(*) FROM string_to_table(pg_read_file('pg_wal/%08X.history'), E'\n') l WHERE l <> '')`, want, want))
		if err == nil && got != fmt.Sprintf("t|%d", want-1) {
			err = fmt.Errorf("timeline %d, forks: %s", want, got)
		}
		return err
	})
}

// A primary site that is lost comes back with commits that nobody else has, and
// which its clients were told of within the bounds: its server leaves them behind
// in quarantine, where they are counted, follows, and takes the stream back.
func TestPostgresLostPrimaryReturns(t *testing.T) {
	s := newPostgres(t, pglab.Config{Returns: true}, tidegate.ModeBounded, pgBack)
	s.stalls(t)
	took := s.takes(t, func(ctx context.Context) (pglab.Takeover, error) {
		return s.pg.Lose(ctx, s.clients, "the test lost the site")
	})
	_, west := s.writer(t, []string{"d1"}, 0)

	// The site is switched on again, the server first, as a machine does it.
	begun := time.Now()
	if err := s.pg.Return(); err != nil {
		t.Fatal(err)
	}
	due := s.clients.Told()
	s.within(t, func(ctx context.Context) error { return s.pg.TakeOver(ctx, due) })
	t.Logf("the old primary follows %s after its site was switched on", since(begun))
	s.measured(t, took.Plan)
	s.quarantined(t)

	s.changes(t, "failback", "p1")
	s.writer(t, []string{"p1"}, west)
	s.followed(t, "d1", s.pg.Warm)
	s.withinBounds(t)
}

// takes loses the site and returns how it was survived. What is claimed are the
// bounds that were armed.
func (s *pgStage) takes(t *testing.T, lose func(context.Context) (pglab.Takeover, error)) (took pglab.Takeover) {
	t.Helper()
	s.within(t, func(ctx context.Context) (err error) {
		took, err = lose(ctx)
		return err
	})
	if took.Plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("the failover ended as %s", took.Plan.GetOutcome())
	}
	t.Logf("site lost; failover took %s, first commit after %s: %s", took.Took.Round(time.Millisecond), took.RTO.Round(time.Millisecond), pglab.PhasesText(took.Plan))
	for _, x := range took.Plan.GetStreams() {
		l := x.GetLoss()
		if l.GetKind() != pb.LossKind_LOSS_KIND_AT_MOST || l.GetBounds().GetRecords() != pgBack.Records || l.GetBounds().GetWindow().AsDuration() != pgBack.Window {
			t.Errorf("want the bounds claimed, got %v", l)
		}
	}
	return took
}

// withinBounds stops the clients: some commits must be lost, and no more than K.
func (s *pgStage) withinBounds(t *testing.T) {
	t.Helper()
	if loss := s.compare(t); loss.Lost == 0 || int64(loss.Lost) > pgBack.Records {
		t.Errorf("%d commits are lost, want some and at most %d", loss.Lost, pgBack.Records)
	}
}

// measured waits until the gate has the account of what was left behind, once.
func (s *pgStage) measured(t *testing.T, plan *pb.Plan) {
	t.Helper()
	s.until(t, "the loss to be measured", func(ctx context.Context) error {
		p, err := s.Plan(ctx, plan.GetId())
		if err != nil {
			return err
		}
		for _, x := range p.GetStreams() {
			m := x.GetLoss().GetMeasured()
			if m == nil || m.GetRecords() == 0 {
				return fmt.Errorf("measured: %v", m)
			}
			t.Logf("left behind: %d commits in %d tails, over %s", m.GetRecords(), m.GetBundles(), m.GetWindow().AsDuration())
			if m.GetBundles() != 1 {
				t.Errorf("it was counted %d times", m.GetBundles())
			}
		}
		return nil
	})
}

// quarantined checks that the old primary's own log is kept with its summary.
func (s *pgStage) quarantined(t *testing.T) {
	t.Helper()
	q, err := s.pg.Quarantined()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("in quarantine: %s", q)
	if q.Commits == 0 || len(q.XIDs) == 0 || q.Oldest == nil {
		t.Errorf("its summary is %+v", q)
	}
}

// A primary site that is cut off and frozen while the other site takes over goes on
// as if nothing had been. Nobody is told of a commit by it any more, and what it had
// confirmed within its bounds is kept and counted.
func TestPostgresZombie(t *testing.T) {
	s := newPostgres(t, pglab.Config{Returns: true}, tidegate.ModeBounded, pgBack)
	_, old := s.writer(t, s.Primaries(), 0)
	s.stalls(t)
	loyal, err := s.pg.StartStrangers(2, pglab.Level(tidegate.ModeBounded), filepath.Join(s.dir, "loyal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := loyal.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.until(t, "their commits to wait, too", func(ctx context.Context) error {
		n, err := s.pg.Primary.Text(ctx, "SELECT count(*) >= 2 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND client_addr IS NULL AND query LIKE 'INSERT INTO told%'")
		if err == nil && n != "t" {
			err = errors.New("they do not")
		}
		return err
	})
	silent := time.Now()
	if err := s.pg.Primary.Freeze(true); err != nil {
		t.Fatal(err)
	}
	s.within(t, func(ctx context.Context) error { return s.FreezeSite(ctx, lab.SitePrimary, 0) })

	took := s.takes(t, func(ctx context.Context) (pglab.Takeover, error) {
		return s.pg.Survive(ctx, s.clients, "the test froze the site", old, silent)
	})
	if err := errors.Join(s.pg.Primary.Freeze(false), s.ThawSite(lab.SitePrimary)); err != nil {
		t.Fatal(err)
	}
	thawed := time.Now()
	s.followed(t, "the zombie", s.pg.Primary.Text)
	t.Logf("the zombie follows %s after it was thawed", since(thawed))
	if err := loyal.Stop(); err != nil {
		t.Error(err)
	}
	if n := loyal.Told(); n > 0 {
		t.Errorf("%d commits were confirmed by a primary that nobody else heard", n)
	}
	s.measured(t, took.Plan)
	s.quarantined(t)
	s.withinBounds(t)
}
