package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
)

// manager is a service manager made of a script around pg_ctl, which writes down
// what it was asked for. While there is a file "broken" beside it, it fails.
type manager struct {
	t       *testing.T
	calls   string // file
	broken  string // file
	service Service
}

// newManager keeps the server of p's data directory with the command line that a
// distribution would give it: it names none of this package's files.
func newManager(t *testing.T, p *pgtest.Server) *manager {
	t.Helper()
	dir := p.Place(t)
	m := &manager{t: t, calls: filepath.Join(dir, "calls"), broken: filepath.Join(dir, "broken")}
	as := ""
	if !p.Account.Self {
		as = fmt.Sprintf("setpriv --reuid=%d --regid=%d --clear-groups", p.Account.UID, p.Account.GID)
	}
	script := filepath.Join(dir, "manager")
	p.WriteFile(t, script, fmt.Sprintf(`#!/bin/sh
echo "$1" >>%[1]s
[ ! -e %[2]s ] || { echo "it is broken"; exit 7; }
ctl="%[3]s %[4]s/pg_ctl -D %[5]s -w -t 60"
case $1 in
start) $ctl -l %[6]s/pg.log start ;;
stop) $ctl status || exit 0; $ctl -m fast stop ;;
esac
`, m.calls, m.broken, as, p.BinDir, p.DataDir, dir), 0o755)
	m.service = Service{Start: []string{script, "start"}, Stop: []string{script, "stop"}}
	return m
}

// asked returns what the manager was asked for since the last time.
func (m *manager) asked() string {
	m.t.Helper()
	text, err := os.ReadFile(m.calls)
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	if err := os.RemoveAll(m.calls); err != nil {
		m.t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// TestServiceManager hands a primary over and takes it back, follows, and is
// promoted, with nothing but the manager's programs to start and stop it.
func TestServiceManager(t *testing.T) {
	old, next := pair(t, nil)
	old.Stop(t, pgtest.Fast) // from here on it is the manager's
	cfg := oldHome(t, old, next)
	m := newManager(t, old)
	cfg.Service = m.service
	s := open(t, cfg)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.StartAsItWas(within(t)))
	// Only who streams is waited for when it stops.
	eventually(t, "it to serve its replica", func() (bool, error) {
		v, err := old.Text(within(t), "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
		return err == nil && v == "1", nil // not yet
	})
	must(s.Stop(within(t), StopFast))
	if up, err := s.Running(); err != nil || up {
		t.Fatalf("it runs: %v, %v", up, err)
	}
	next.Promote(t)
	next.SQL(t, "CREATE TABLE kept (n int)")
	if got := m.asked(); got != "start stop" {
		t.Errorf("a server that was handed over: %s", got)
	}

	out, err := s.Rejoin(within(t), RejoinPlan{Lineage: lineageOf(t, next), Quarantine: filepath.Join(t.TempDir(), "q")})
	if err != nil || out.Diverged != nil {
		t.Fatalf("got %+v, %v", out, err)
	}
	if got := m.asked(); got != "stop" {
		t.Errorf("before the data is changed: %s", got)
	}
	follow(t, s)
	must(s.WaitReplayed(within(t), end(t, next)))
	for name, want := range map[string]string{"hba_file": s.inData(hbaFile), "cluster_name": cfg.SetDefaults().Name, "synchronous_standby_names": ""} {
		if got := sql(t, s, "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, err := s.Promote(within(t), ends(t, s, next)); err != nil {
		t.Fatal(err)
	}
	sql(t, s, "INSERT INTO kept VALUES (1)")
	must(s.Stop(within(t), StopImmediate))
	must(s.Stop(within(t), StopImmediate)) // also what is down is said to stay down
	if got := m.asked(); got != "start stop stop" {
		t.Errorf("a follower that was promoted: %s", got)
	}
}

// A manager that fails is an error that says what was run. What must end at once
// ends all the same, what may go on does.
func TestServiceManagerThatFails(t *testing.T) {
	old, next := pair(t, nil)
	old.Stop(t, pgtest.Fast)
	cfg := oldHome(t, old, next)
	m := newManager(t, old)
	cfg.Service = m.service
	s := open(t, cfg)
	old.WriteFile(t, m.broken, "", 0o644)
	t.Cleanup(func() { _ = os.Remove(m.broken) }) // before the server's own stop
	fails := func(what string, err error) {
		t.Helper()
		if tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(fmt.Sprint(err), m.service.Stop[0]) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	runs := func(want bool) {
		t.Helper()
		if up, err := s.Running(); err != nil || up != want {
			t.Errorf("runs: %v, %v", up, err)
		}
	}
	fails("start", s.StartAsItWas(within(t)))
	if err := os.Remove(m.broken); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAsItWas(within(t)); err != nil {
		t.Fatal(err)
	}
	old.WriteFile(t, m.broken, "", 0o644)
	fails("fast stop", s.Stop(within(t), StopFast))
	runs(true)
	fails("immediate stop", s.Stop(within(t), StopImmediate))
	runs(false)
	log, err := os.ReadFile(s.LogPath())
	if err != nil || !strings.Contains(string(log), "it is broken") {
		t.Errorf("the program's words: %q, %v", log, err)
	}
}
