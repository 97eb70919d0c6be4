package probe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pgtest"
	pgprobe "github.com/tidegate/tidegate/stores/postgres/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "watchword"

// clinic is a server with a canary, and a role for probes.
func clinic(t *testing.T) *pgtest.Server {
	t.Helper()
	s := pgtest.New(t, pgtest.Config{})
	s.SQL(t, "CREATE ROLE tidegate_probe LOGIN PASSWORD '"+secret+"'; "+pgprobe.Setup)
	return s
}

// conn is how a gate would be told to reach a server: TCP, TLS, a passfile.
func conn(t *testing.T, s *pgtest.Server, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(file, []byte("*:*:*:*:"+password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("host=%s port=5432 user=tidegate_probe dbname=postgres sslmode=verify-full sslrootcert=%s passfile=%s", s.Host, s.CAFile(), file)
}

// client reads settings as a gate's file has them.
func client(t *testing.T, from string, lines ...string) probe.Client {
	t.Helper()
	c, err := pgprobe.New(from, section(t, lines...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func section(t *testing.T, lines ...string) config.Section {
	t.Helper()
	f, err := config.Parse[file]("test", []byte("settings:\n  "+strings.Join(lines, "\n  ")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return f.Settings
}

type file struct {
	Settings config.Section `yaml:"settings"`
}

func (f file) SetDefaults() file { return f }
func (f file) Validate() error   { return nil }

// try makes one attempt with a patience, and counts the answers that were heard.
func try(t *testing.T, c probe.Client, r probe.Request, patience time.Duration) (heard int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.Heard = func() { heard++ }
	err = c.Try(ctx, r)
	return heard, err
}

// long is for attempts that are to succeed on a busy machine.
const long = time.Minute

func TestWritesAndReads(t *testing.T) {
	s := clinic(t)
	a, b := client(t, "gate-a", "conn: "+conn(t, s, secret)), client(t, "gate-b", "conn: "+conn(t, s, secret), "synchronous_commit: remote_apply")
	for n := range 3 {
		for _, c := range []probe.Client{a, b} {
			if heard, err := try(t, c, probe.Request{Level: probe.Write, Number: uint64(n + 1), Epoch: 7}, long); err != nil || heard != 1 {
				t.Fatalf("write %d: heard %d times, %v", n, heard, err)
			}
		}
	}
	if got := s.SQL(t, "SELECT gate, epoch, n, at > now() - interval '1 hour' FROM tidegate.canary ORDER BY gate"); got != "gate-a|7|3|t\ngate-b|7|3|t" {
		t.Errorf("the canary has %q: want one row for each gate", got)
	}
	s.SQL(t, "REVOKE ALL ON tidegate.canary FROM tidegate_probe")
	if heard, err := try(t, a, probe.Request{Level: probe.Read}, long); err != nil || heard != 1 {
		t.Errorf("read: heard %d times, %v: want no rights on the canary to be needed", heard, err)
	}
}

// TestGoesToAnEndpoint leaves the route's address and nothing else behind.
func TestGoesToAnEndpoint(t *testing.T) {
	s := clinic(t)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close() // nobody listens there from here on
	_, port, _ := net.SplitHostPort(nobody.Addr().String())
	c := client(t, "gate-a", "conn: "+strings.Replace(conn(t, s, secret), "port=5432", "port="+port, 1))
	if heard, err := try(t, c, probe.Request{Level: probe.Write}, long); err == nil || heard != 0 || tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("where nobody is: heard %d times, %v", heard, err)
	}
	if heard, err := try(t, c, probe.Request{Level: probe.Write, At: s.Host + ":5432"}, long); err != nil || heard != 1 {
		t.Errorf("at the endpoint: heard %d times, %v", heard, err)
	}
}

func TestRefusals(t *testing.T) {
	s := clinic(t)
	follower := s.Replica(t, pgtest.Config{})
	for _, x := range []struct {
		name, conn, before, after string
		heard                     int
		class                     tidegate.Class
		says, hint                string
	}{
		{"a wrong password", conn(t, s, "wrong"), "", "", 1, tidegate.Misuse, "password authentication failed", "passfile"},
		{"no such database", strings.Replace(conn(t, s, secret), "dbname=postgres", "dbname=shop", 1), "", "", 1, tidegate.Misuse, `database "shop" does not exist`, "dbname"},
		{"a stranger's certificate", strings.Replace(conn(t, s, secret), "sslmode=verify-full sslrootcert="+s.CAFile(), "sslmode=verify-full", 1), "", "", 0, tidegate.Misuse, "certificate", "sslrootcert"},
		{"no rights", conn(t, s, secret), "REVOKE UPDATE ON tidegate.canary FROM tidegate_probe", "GRANT UPDATE ON tidegate.canary TO tidegate_probe", 1, tidegate.Misuse, "permission denied", "GRANT"},
		{"no canary", conn(t, s, secret), "ALTER TABLE tidegate.canary RENAME TO away", "ALTER TABLE tidegate.away RENAME TO canary", 1, tidegate.Misuse, "does not exist", "make the canary"},
		{
			"writes are off", conn(t, s, secret), "ALTER ROLE tidegate_probe SET default_transaction_read_only = on", "ALTER ROLE tidegate_probe RESET default_transaction_read_only",
			1, tidegate.Misuse, "read-only", "default_transaction_read_only",
		},
		{"a server that follows", conn(t, follower, secret), "", "", 0, tidegate.Transient, "in recovery", "leads to a standby"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.before != "" {
				s.SQL(t, x.before)
				defer s.SQL(t, x.after)
			}
			heard, err := try(t, client(t, "gate-a", "conn: "+x.conn), probe.Request{Level: probe.Write}, long)
			if err == nil || heard != x.heard || tidegate.ClassOf(err) != x.class || !strings.Contains(err.Error(), x.says) || !strings.Contains(tidegate.HintOf(err), x.hint) {
				t.Errorf("heard %d times: %v (%s), hint %q; want %d times, %q (%s), hint with %q", heard, err, tidegate.ClassOf(err), tidegate.HintOf(err), x.heard, x.says, x.class, x.hint)
			}
		})
	}
}

// TestGivesUpWithoutLettingACommitGo has commits wait for a standby that is not
// there. What a probe gives up must go on waiting: a cancelled wait lets its commit
// go without the other site.
func TestGivesUpWithoutLettingACommitGo(t *testing.T) {
	s := clinic(t)
	c := client(t, "gate-a", "conn: "+conn(t, s, secret))
	s.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	s.SQL(t, "SELECT pg_reload_conf()")
	s.UntilSQL(t, "SHOW synchronous_standby_names", "nobody")
	mark := s.LogSize(t)
	const waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate-probe' AND wait_event = 'SyncRep'"
	// As long as it takes to get there, on a busy machine, too.
	pgtest.Until(t, "a probe whose commit waits", func(context.Context) error {
		if heard, err := try(t, c, probe.Request{Level: probe.Write, Number: 1}, time.Second); err == nil {
			t.Fatalf("a commit that nobody confirmed was good (heard %d times)", heard)
		}
		if got := s.SQL(t, waiting); got != "1" {
			return errors.New(got + " wait")
		}
		return nil
	})
	for n := range 4 {
		heard, err := try(t, c, probe.Request{Level: probe.Write, Number: uint64(n + 2)}, long)
		if err == nil || heard != 1 || !strings.Contains(err.Error(), "an earlier write of this gate") || !strings.Contains(tidegate.HintOf(err), "not confirmed") {
			t.Errorf("while one waits: heard %d times, %v, hint %q", heard, err, tidegate.HintOf(err))
		}
	}
	if got := s.SQL(t, waiting); got != "1" {
		t.Errorf("%s backends wait, want the one of the first attempt", got)
	}
	if log := s.LogSince(t, mark); strings.Contains(log, "canceling") {
		t.Errorf("something was cancelled:\n%s", log)
	}
	s.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = ''")
	s.SQL(t, "SELECT pg_reload_conf()")
	s.UntilSQL(t, waiting, "0")
	if got := s.SQL(t, "SELECT n FROM tidegate.canary"); got != "1" {
		t.Errorf("the canary has %q, want the commit that waited", got)
	}
	if _, err := try(t, c, probe.Request{Level: probe.Write, Number: 9}, long); err != nil {
		t.Errorf("once commits are confirmed again: %v", err)
	}
}

// TestACancelledWaitIsNoSuccess: the server says COMMIT to a client whose wait was
// cancelled, and warns.
func TestACancelledWaitIsNoSuccess(t *testing.T) {
	s := clinic(t)
	c := client(t, "gate-a", "conn: "+conn(t, s, secret))
	s.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	s.SQL(t, "SELECT pg_reload_conf()")
	s.UntilSQL(t, "SHOW synchronous_standby_names", "nobody")
	done := make(chan error, 1)
	go func() { // ends with the attempt
		_, err := try(t, c, probe.Request{Level: probe.Write, Number: 1}, long)
		done <- err
	}()
	s.UntilSQL(t, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidegate-probe' AND wait_event = 'SyncRep'", "t")
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the server warns: canceling wait") {
		t.Errorf("%v: want the warning", err)
	}
}

func TestSettingsMistakes(t *testing.T) {
	for _, x := range []struct {
		lines []string
		want  []string
	}{
		{[]string{"table: 'Canary; DROP'", "synchronous_commit: off"}, []string{"settings.conn: want a connection string", "settings.table: ", "settings.synchronous_commit: "}},
		{[]string{"conn: host=x user=u password = 'p'"}, []string{"settings.conn: want no password"}},
		{[]string{"conn: postgres://u:p@x/db"}, []string{"settings.conn: want no password"}},
		{[]string{"conn: host=x replication=true"}, []string{"want an ordinary connection"}},
		{[]string{"conn: host=x port=y", "tabel: a.b"}, []string{"settings.conn: want a connection string", "settings.tabel"}},
	} {
		_, err := pgprobe.New("", section(t, x.lines...))
		for _, want := range x.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v; want %q", x.lines, err, want)
			}
		}
	}
	if _, err := pgprobe.New("", section(t, "conn: host=x user=u passfile=/etc/tidegate/pgpass")); err != nil {
		t.Error(err)
	}
}

// TestSetupIsDocumented: what the documents tell to run is what was tested.
func TestSetupIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/operating/postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(pgprobe.Setup, "\n") {
		if !strings.Contains(string(text), "    "+line+"\n") {
			t.Errorf("docs/operating/postgresql.md lacks %q", line)
		}
	}
}
