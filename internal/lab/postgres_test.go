package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

const pgStream = "main"

// pgStage is a lab whose service is a real PostgreSQL server, with a warm one
// beside the first node of the other site.
type pgStage struct {
	*stage
	primary *pgtest.Server
	home    string // of the warm server
	warm    *server.Server
	clients *pgClients
}

// newPostgres starts everything as the page on PostgreSQL says, in mode open, and
// returns once the warm server follows. With returns, a standby daemon stands beside
// the primary, too, which takes it over when the stream leaves it.
func newPostgres(t *testing.T, returns bool) *pgStage {
	t.Helper()
	s := &pgStage{primary: pgtest.New(t, pgtest.Config{Settings: map[string]string{"wal_log_hints": "on"}})}
	s.primary.SQL(t, `CREATE ROLE tidegate LOGIN REPLICATION; GRANT pg_monitor TO tidegate;
		GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO tidegate; GRANT EXECUTE ON FUNCTION pg_reload_conf TO tidegate;
		CREATE TABLE told (client int, n int, PRIMARY KEY (client, n))`)
	s.primary.BenchInit(t, 2)
	s.home = filepath.Join(s.primary.Place(t), "warm")
	endpoint, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	s.warm = s.warmServer(t, endpoint, server.Config{Home: s.home})
	if returns {
		s.warmServer(t, fmt.Sprintf("127.0.0.1:%d", pgtest.Port), server.Config{Home: s.home + "-p1", Data: s.primary.DataDir})
	}
	s.stage = layOut(t, lab.Plant{
		Primaries: 1, Agents: 1, NoService: true, Streams: []string{pgStream}, Store: "postgres", Mode: tidegate.ModeOpen,
		Returns: returns, Tune: s.tune(endpoint),
	})
	// The servers' account passes through these to the socket that it is fed by.
	for _, dir := range []string{s.dir, filepath.Join(s.dir, "d1"), s.RunDir("d1"), filepath.Join(s.dir, "p1"), s.RunDir("p1")} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // nothing else is in there to be kept from others
			t.Fatal(err)
		}
	}
	begun := time.Now()
	s.within(t, func(ctx context.Context) error { return s.Up(ctx, func(string) {}) })
	if err := s.StartProc("route", lab.SiteWitness, s.Bin("tidegate"), "route", "--config", s.File("route.yaml")); err != nil {
		t.Fatal(err)
	}
	s.until(t, "the warm server to follow", func(ctx context.Context) error {
		rows, err := s.askWarm(ctx, "SELECT pg_is_in_recovery(), count(*) FROM pgbench_accounts")
		if err == nil && rows != "t|200000" {
			err = errors.New(rows)
		}
		return err
	})
	t.Logf("up, base crossed and followed after %s", since(begun))
	return s
}

// tune writes the store's part of the configuration files.
func (s *pgStage) tune(endpoint string) func(string, map[string]any) {
	stream := func(endpoint, conn, slot string) []map[string]any {
		return []map[string]any{{
			"service": lab.Service, "stream": pgStream, "source": "postgres", "endpoint": endpoint,
			"settings": map[string]any{"conn": conn + " user=tidegate dbname=postgres sslmode=disable", "slot": slot, "set_names": true},
		}}
	}
	host, text, _ := strings.Cut(endpoint, ":")
	port, err := strconv.Atoi(text)
	if err != nil {
		panic(err) // FreeAddr made it
	}
	return func(name string, file map[string]any) {
		switch name {
		case "p1/agent.yaml":
			file["streams"] = stream(fmt.Sprintf("%s:%d", s.primary.Host, pgtest.Port), "host="+s.primary.SocketDir, "tidegate")
		case "d1/agent.yaml":
			file["streams"] = stream(endpoint, fmt.Sprintf("host=%s port=%d", filepath.Join(s.home, "run"), port), "tidegate_back")
		case "p1/standby.yaml":
			settings := map[string]any{
				"home": s.home + "-p1", "data": s.primary.DataDir, "bin_dir": s.primary.BinDir, "port": pgtest.Port,
				"listen": s.primary.Host, "socket_dirs": []string{s.primary.SocketDir},
				"rewind_from": fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", filepath.Join(s.home, "run"), port),
			}
			if !s.primary.Account.Self {
				settings["account"] = s.primary.Account.Name
			}
			file["warm"] = []map[string]any{{
				"service": lab.Service, "stream": pgStream, "store": "postgres", "settings": settings,
				"endpoint": fmt.Sprintf("%s:%d", s.primary.Host, pgtest.Port),
			}}
		case "d1/standby.yaml":
			settings := map[string]any{
				"home": s.home, "bin_dir": s.primary.BinDir, "listen": host, "port": port,
				"parameters": map[string]string{"ssl": "off"},
			}
			if !s.primary.Account.Self {
				settings["account"] = s.primary.Account.Name
			}
			file["warm"] = []map[string]any{{"service": lab.Service, "stream": pgStream, "store": "postgres", "endpoint": endpoint, "settings": settings}}
		}
	}
}

// warmServer is the test's own handle on a server of the product, which is stopped
// when the test ends.
func (s *pgStage) warmServer(t *testing.T, endpoint string, cfg server.Config) *server.Server {
	t.Helper()
	if _, err := fmt.Sscanf(endpoint, "127.0.0.1:%d", &cfg.Port); err != nil {
		t.Fatal(err)
	}
	cfg.BinDir, cfg.Upstream = s.primary.BinDir, server.Upstream{SocketDir: "/run"}
	if a := s.primary.Account; !a.Self {
		cfg.Account = &server.Account{UID: a.UID, GID: a.GID}
	}
	w, err := server.New(vfs.OS(), clock.System(), slog.New(slog.DiscardHandler), cfg.SetDefaults())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Stop(context.Background(), server.StopImmediate); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(w.LogPath()); err == nil && t.Failed() {
			t.Logf("the last of %s:\n%s", w.LogPath(), text[max(0, len(text)-6000):])
		}
	})
	return w
}

// askWarm asks the warm server over its own socket, whatever it is.
func (s *pgStage) askWarm(ctx context.Context, sql string) (string, error) {
	found, err := filepath.Glob(filepath.Join(s.home, "run", ".s.PGSQL.*[0-9]"))
	if err != nil || len(found) == 0 {
		return "", errors.Join(err, errors.New("the warm server does not listen"))
	}
	_, port, _ := strings.Cut(filepath.Base(found[0]), "PGSQL.")
	return ask(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", filepath.Join(s.home, "run"), port), sql)
}

// throughRoute asks whatever the route leads to.
func (s *pgStage) throughRoute(ctx context.Context, sql string) (string, error) {
	return ask(ctx, s.routeConn(), sql)
}

func (s *pgStage) routeConn() string {
	host, port, _ := strings.Cut(strings.TrimPrefix(s.Route(), "http://"), ":")
	return fmt.Sprintf("host=%s port=%s user=postgres password=%s dbname=postgres sslmode=disable connect_timeout=3", host, port, s.primary.Password)
}

// ask returns the last result's rows, as psql -At prints them.
func ask(ctx context.Context, conn, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := pgconn.Connect(ctx, conn)
	if err != nil {
		return "", err
	}
	results, err := c.Exec(ctx, sql).ReadAll()
	err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	if err != nil || len(results) == 0 {
		return "", err
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		var cells []string
		for _, cell := range row {
			cells = append(cells, string(cell))
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return strings.Join(lines, "\n"), nil
}

// pgClients write one row after the other through the route and remember which
// commits they were told of.
type pgClients struct {
	conn, level string

	mu     sync.Mutex
	told   map[string]time.Time // "client|n"
	newest time.Time
	first  time.Time // the first since Mark
	failed error     // the newest failure
	pause  time.Duration
}

// load starts clients at a synchronous_commit; they end with the test.
func (s *pgStage) load(t *testing.T, n int, level string) (stop func()) {
	t.Helper()
	s.clients = &pgClients{conn: s.routeConn(), level: level, told: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { s.clients.run(ctx, i) })
	}
	stop = func() { cancel(); all.Wait() }
	t.Cleanup(stop)
	return stop
}

func (c *pgClients) run(ctx context.Context, client int) {
	for n := 0; ctx.Err() == nil; {
		err := c.session(ctx, client, &n)
		c.mu.Lock()
		c.failed = err
		c.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // clients do not storm a server that is away
		}
	}
}

// session writes until something fails. What was not confirmed is never written again:
// nobody knows whether it is there.
func (c *pgClients) session(ctx context.Context, client int, n *int) error {
	pg, err := pgconn.Connect(ctx, c.conn+" options='-c synchronous_commit="+c.level+"'")
	if err != nil {
		return err
	}
	defer pg.Close(context.Background())
	for ctx.Err() == nil {
		*n++
		if _, err := pg.Exec(ctx, fmt.Sprintf("INSERT INTO told VALUES (%d, %d)", client, *n)).ReadAll(); err != nil {
			return err
		}
		c.mu.Lock()
		now := time.Now()
		if !c.newest.IsZero() {
			c.pause = max(c.pause, now.Sub(c.newest))
		}
		c.newest = now
		if c.first.IsZero() {
			c.first = c.newest
		}
		c.told[fmt.Sprintf("%d|%d", client, *n)] = c.newest
		c.mu.Unlock()
	}
	return nil
}

// pauses returns the longest time between two confirmations since it was called last.
func (c *pgClients) pauses() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pause
	c.pause = 0
	return p
}

// mark forgets the first confirmation, so that the next is it.
func (c *pgClients) mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first = time.Time{}
}

// more waits until the clients were told of n more commits.
func (s *pgStage) more(t *testing.T, what string, n int) {
	t.Helper()
	s.clients.mu.Lock()
	had := len(s.clients.told)
	s.clients.mu.Unlock()
	s.until(t, what, func(context.Context) error {
		s.clients.mu.Lock()
		defer s.clients.mu.Unlock()
		if got := len(s.clients.told) - had; got < n {
			return errors.Join(fmt.Errorf("%d commits confirmed", got), s.clients.failed)
		}
		return nil
	})
}

// nothing waits until the clients have been told nothing for a while.
func (s *pgStage) nothing(t *testing.T, span time.Duration) {
	t.Helper()
	s.until(t, "clients to be told nothing", func(context.Context) error {
		s.clients.mu.Lock()
		defer s.clients.mu.Unlock()
		if age := time.Since(s.clients.newest); age < span {
			return fmt.Errorf("the newest confirmation is %s old", age)
		}
		return nil
	})
}

// bench starts pgbench on the primary and waits until the warm server shows some of
// its work.
func (s *pgStage) bench(t *testing.T) {
	t.Helper()
	s.primary.Bench(t, "-c", "2")
	s.until(t, "the warm server to show pgbench's work", func(ctx context.Context) error {
		some, err := s.askWarm(ctx, "SELECT count(*) > 0 FROM pgbench_history")
		if err == nil && some != "t" {
			err = errors.New("there is none")
		}
		return err
	})
}

// set changes the stream's gate and waits until the record has it.
func (s *pgStage) set(t *testing.T, want pb.Mode, args ...string) {
	t.Helper()
	s.operate(t, 0, append(append([]string{"gate", "set", "--reason", "the base is there"}, args...), lab.Service+"/"+pgStream)...)
	s.until(t, "the record to say so", func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				g := x.GetView().GetEpoch().GetGate()
				if g.GetState() == pb.GateState_GATE_STATE_ARMED && g.GetMode() == want {
					return nil
				}
				err = fmt.Errorf("it says %s %s", g.GetState(), g.GetMode())
			}
		}
		return err
	})
}

// loses kills the whole primary site and fails over, and returns the plan.
func (s *pgStage) loses(t *testing.T) *pb.Plan {
	t.Helper()
	_, old := s.writer(t, s.Primaries(), 0)
	s.primary.Kill(t)
	s.KillSite(lab.SitePrimary)
	return s.takes(t, old)
}

// takes fails over from a primary site that is silent, and returns the plan once
// clients are told of commits under the other site's own agent, above an epoch.
func (s *pgStage) takes(t *testing.T, old tidegate.Epoch) *pb.Plan {
	t.Helper()
	begun := time.Now()
	s.clients.mark()
	var plan *pb.Plan
	s.within(t, func(ctx context.Context) error {
		text, p, err := s.Failover(ctx, "the test lost the primary site")
		if err != nil {
			t.Log(text)
		}
		plan = p
		return err
	})
	done := since(begun)
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("the failover ended as %s", plan.GetOutcome())
	}
	s.more(t, "commits at the other site", 20)
	s.clients.mu.Lock()
	first := s.clients.first.Sub(begun).Round(time.Millisecond)
	s.clients.mu.Unlock()
	took := []string{}
	for _, p := range plan.GetPhases().GetPhases() {
		if p.GetTook() != nil {
			took = append(took, fmt.Sprintf("%s %s", p.GetName(), p.GetTook().AsDuration().Round(100*time.Microsecond)))
		}
	}
	t.Logf("site lost; plan done after %s, first commit confirmed after %s: %s", done, first, strings.Join(took, ", "))
	_, epoch := s.writer(t, s.Standbys()[:1], old)
	s.more(t, fmt.Sprintf("commits under the other site's own agent in epoch %s", epoch), 100)
	return plan
}

// compare stops the clients and returns how many commits that they were told of are
// not on the server that the route leads to, of how many, and over which time they
// were told. The server must be sound otherwise.
func (s *pgStage) compare(t *testing.T, stop func()) (lost, told int, span time.Duration) {
	t.Helper()
	stop()
	var rows string
	s.within(t, func(ctx context.Context) (err error) {
		rows, err = s.throughRoute(ctx, "SELECT client, n FROM told")
		return err
	})
	left := maps.Clone(s.clients.told)
	for row := range strings.SplitSeq(rows, "\n") {
		delete(left, row)
	}
	if len(left) > 0 {
		times := slices.SortedFunc(maps.Values(left), time.Time.Compare)
		span = times[len(times)-1].Sub(times[0])
	}
	// Every transaction of pgbench changes all four sums by the same amount.
	s.within(t, func(ctx context.Context) error {
		sums, err := s.throughRoute(ctx, `SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history),
			sum(abalance) = (SELECT sum(bbalance) FROM pgbench_branches), sum(abalance) = (SELECT sum(tbalance) FROM pgbench_tellers),
			(SELECT count(*) > 0 FROM pgbench_history) FROM pgbench_accounts`)
		if err == nil && sums != "t|t|t|t" {
			t.Errorf("the books of pgbench do not agree: %s", sums)
		}
		return err
	})
	log, err := os.ReadFile(s.warm.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"PANIC", "incorrect resource manager data checksum", "contrecord", "unexpected pageaddr"} {
		if bytes.Contains(log, []byte(bad)) {
			t.Errorf("the warm server's log says %q:\n%s", bad, log)
		}
	}
	return len(left), len(s.clients.told), span
}

// A site with a PostgreSQL server is lost under load, with every process of it.
// What its clients were told is committed is there after the failover, on the
// server that followed at the other site.
func TestPostgres(t *testing.T) {
	s := newPostgres(t, false)
	s.set(t, pb.Mode_MODE_SYNC, "--mode", "sync")
	stop := s.load(t, 4, "on")
	s.bench(t)
	s.more(t, "commits that the other site holds", 50)

	// With one node of three nothing is durable, and nobody is told anything.
	for _, node := range []string{"standby-d2", "standby-d3"} {
		if err := s.Proc(node).Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	s.nothing(t, 3*time.Second)
	if waits := s.primary.SQL(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); waits == "0" {
		t.Error("no commit waits for the other site")
	}
	for _, node := range []string{"standby-d2", "standby-d3"} {
		if err := s.Proc(node).Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	s.more(t, "commits once the nodes are back", 50)

	plan := s.loses(t)
	for _, x := range plan.GetStreams() {
		if x.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_ZERO {
			t.Errorf("want zero loss proven, got %s: %s", x.GetLoss().GetKind(), x.GetLoss().GetWhy())
		}
	}
	lost, told, _ := s.compare(t, stop)
	t.Logf("clients were told of %d commits, %d are lost", told, lost)
	if lost > 0 {
		t.Errorf("%d commits are lost that clients were told of", lost)
	}
}

// A bounded stream whose link has stopped goes on for as long as its bounds let
// it, and what is lost with the site then is within what the plan says.
func TestPostgresBounded(t *testing.T) {
	const window, records = 500 * time.Millisecond, 1000
	s := newPostgres(t, false)
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
	lost, told, span := s.compare(t, stop)
	for _, x := range plan.GetStreams() {
		l := x.GetLoss()
		t.Logf("clients were told of %d commits, %d are lost, told within %s; claimed: %s, %s records, %s: %s",
			told, lost, span.Round(time.Millisecond), l.GetKind(), strconv.FormatInt(l.GetBounds().GetRecords(), 10), l.GetBounds().GetWindow().AsDuration(), l.GetWhy())
		if l.GetKind() != pb.LossKind_LOSS_KIND_AT_MOST || l.GetBounds().GetRecords() != records || l.GetBounds().GetWindow().AsDuration() != window {
			t.Errorf("want the bounds claimed, got %v", l)
		}
	}
	if lost == 0 || lost > records {
		t.Errorf("%d commits are lost, want some and at most %d", lost, records)
	}
}
