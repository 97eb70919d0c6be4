package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// changes carries out a planned change of role, and returns how long clients were
// told nothing.
func (s *pgStage) changes(t *testing.T, verb, target string) (plan *pb.Plan, pause time.Duration) {
	t.Helper()
	s.ready(t, verb, target)
	s.more(t, "commits right before the "+verb, 50)
	begun := time.Now()
	s.clients.pauses()
	s.within(t, func(ctx context.Context) error {
		b, err := s.Tidegate(ctx, append([]string{verb, "--to", target, "--reason", "the test moves it", "-o", "json"}, append(undrilled(), lab.Service)...)...)
		if err != nil {
			t.Logf("%s", b)
			return err
		}
		plan, err = lastPlan(b)
		return err
	})
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("the %s ended as %s: %s", verb, plan.GetOutcome(), plan.GetError())
	}
	for _, x := range plan.GetStreams() {
		if x.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_ZERO {
			t.Errorf("want zero loss, got %s: %s", x.GetLoss().GetKind(), x.GetLoss().GetWhy())
		}
		if h := x.GetHandover(); h == nil || h.GetHead().GetSeq() != x.GetHead().GetSeq() {
			t.Errorf("handed over %v, chosen %v", x.GetHandover(), x.GetHead())
		}
	}
	s.more(t, "commits through "+target, 100)
	pause = s.clients.pauses()
	t.Logf("%s to %s: done after %s, clients were told nothing for %s", verb, target, since(begun), pause.Round(time.Millisecond))
	return plan, pause
}

// followed waits until a server follows and shows what clients are told of now.
func (s *pgStage) followed(t *testing.T, what string, query func(context.Context, string) (string, error)) {
	t.Helper()
	s.clients.mu.Lock()
	due := len(s.clients.told)
	s.clients.mu.Unlock()
	s.until(t, what, func(ctx context.Context) error {
		rows, err := query(ctx, fmt.Sprintf("SELECT pg_is_in_recovery(), count(*) >= %d FROM told", due))
		if err == nil && rows != "t|t" {
			err = errors.New(rows)
		}
		return err
	})
}

func (s *pgStage) askPrimary(ctx context.Context, sql string) (string, error) {
	return ask(ctx, s.primary.Conn(), sql)
}

// A server under load is handed over to the other site and back, by plan. The old
// primary follows in between, on its own data.
func TestPostgresSwitchoverAndBack(t *testing.T) {
	s := newPostgres(t, true)
	s.set(t, pb.Mode_MODE_SYNC, "--mode", "sync")
	stop := s.load(t, 4, "on")
	s.bench(t)
	_, east := s.writer(t, s.Primaries(), 0)
	made, err := s.askPrimary(t.Context(), "SELECT oid FROM pg_database WHERE datname = 'postgres'; SELECT (pg_stat_file('PG_VERSION')).modification")
	if err != nil {
		t.Fatal(err)
	}

	s.changes(t, "switchover", "d1")
	_, west := s.writer(t, []string{"d1"}, east)
	s.followed(t, "p1 to follow", s.askPrimary)
	if got, err := s.askPrimary(t.Context(), "SELECT (pg_stat_file('PG_VERSION')).modification"); err != nil || got != made {
		t.Errorf("the old primary's data is not what it was: %s, was %s: %v", got, made, err)
	}

	s.changes(t, "failback", "p1")
	s.writer(t, []string{"p1"}, west)
	s.followed(t, "d1 to follow again", s.askWarm)
	s.timeline(t, 3)

	lost, told, _ := s.compare(t, stop)
	t.Logf("clients were told of %d commits, %d are lost", told, lost)
	if lost > 0 {
		t.Errorf("%d commits are lost that clients were told of", lost)
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
		got, err := s.throughRoute(ctx, fmt.Sprintf(`SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) = '%08X',
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
	const window, records = 500 * time.Millisecond, 1000
	s := newPostgres(t, true)
	s.set(t, pb.Mode_MODE_BOUNDED, "--mode", "bounded", "--window", window.String(), "--records", strconv.Itoa(records))
	stop := s.load(t, 4, "remote_write")
	s.bench(t)
	s.more(t, "commits", 50)
	stopShipping := errors.Join(os.MkdirAll(s.File("p1", "rates"), 0o750), os.WriteFile(s.File("p1", "rates", "ship"), []byte("0\n"), 0o640))
	if stopShipping != nil {
		t.Fatal(stopShipping)
	}
	s.nothing(t, 3*time.Second)
	plan := s.loses(t)
	_, west := s.writer(t, []string{"d1"}, 0)

	// The site is switched on again, the server first, as a machine does it.
	if err := os.Remove(s.File("p1", "rates", "ship")); err != nil {
		t.Fatal(err)
	}
	s.primary.Start(t)
	begun := time.Now()
	for _, p := range s.Procs(lab.SitePrimary) {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	s.followed(t, "p1 to follow", s.askPrimary)
	t.Logf("the old primary follows %s after its site was switched on", since(begun))
	s.measured(t, plan)
	s.quarantined(t)

	s.changes(t, "failback", "p1")
	s.writer(t, []string{"p1"}, west)
	s.followed(t, "d1 to follow again", s.askWarm)
	lost, told, _ := s.compare(t, stop)
	t.Logf("clients were told of %d commits, %d are lost", told, lost)
	if lost == 0 || lost > records {
		t.Errorf("%d commits are lost, want some and at most %d", lost, records)
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
	found, err := filepath.Glob(filepath.Join(s.home+"-p1", "quarantine", "*-diverged", "summary.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("summaries in quarantine: %v, %v", found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	var q struct {
		Log wal.Summary `json:"log"`
	}
	if err := json.Unmarshal(text, &q); err != nil {
		t.Fatal(err)
	}
	t.Logf("in quarantine: %s", q.Log)
	if q.Log.Commits == 0 || len(q.Log.XIDs) == 0 || q.Log.Oldest == nil {
		t.Errorf("its summary is %s", text)
	}
}

// A primary site that is cut off and frozen while the other site takes over goes on
// as if nothing had been. Nobody is told of a commit by it any more, and what it had
// confirmed within its bounds is kept and counted.
func TestPostgresZombie(t *testing.T) {
	const window, records = 500 * time.Millisecond, 1000
	s := newPostgres(t, true)
	s.set(t, pb.Mode_MODE_BOUNDED, "--mode", "bounded", "--window", window.String(), "--records", strconv.Itoa(records))
	stop := s.load(t, 4, "remote_write")
	s.bench(t)
	s.more(t, "commits", 50)
	_, old := s.writer(t, s.Primaries(), 0)
	stopShipping := errors.Join(os.MkdirAll(s.File("p1", "rates"), 0o750), os.WriteFile(s.File("p1", "rates", "ship"), []byte("0\n"), 0o640))
	if stopShipping != nil {
		t.Fatal(stopShipping)
	}
	s.nothing(t, 3*time.Second)
	// Clients that the route does not move: they stay with the old primary.
	loyal := &pgClients{conn: s.primary.Conn(), level: "remote_write", told: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() { loyal.run(ctx, 100+i) })
	}
	defer all.Wait()
	defer cancel()
	s.until(t, "commits to wait", func(ctx context.Context) error {
		n, err := s.askPrimary(ctx, "SELECT count(*) >= 2 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%(10%'")
		if err == nil && n != "t" {
			err = errors.New("they do not")
		}
		return err
	})
	s.primary.Freeze(t, true)
	s.within(t, func(ctx context.Context) error { return s.FreezeSite(ctx, lab.SitePrimary, 0) })

	plan := s.takes(t, old)
	s.primary.Freeze(t, false)
	if err := s.ThawSite(lab.SitePrimary); err != nil {
		t.Fatal(err)
	}
	thawed := time.Now()
	s.followed(t, "the zombie to follow", s.askPrimary)
	t.Logf("the zombie follows %s after it was thawed", since(thawed))
	cancel()
	all.Wait()
	if n := len(loyal.told); n > 0 {
		t.Errorf("%d commits were confirmed by a primary that nobody else heard", n)
	}
	s.measured(t, plan)
	s.quarantined(t)
	lost, told, _ := s.compare(t, stop)
	t.Logf("clients were told of %d commits, %d are lost", told, lost)
	if lost == 0 || lost > records {
		t.Errorf("%d commits are lost, want some and at most %d", lost, records)
	}
}
