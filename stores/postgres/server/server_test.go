package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
)

// TestFollowAndPromote is the whole way with every setting of the primary that
// would hurt a follower or the primary it becomes.
func TestFollowAndPromote(t *testing.T) {
	hurts := map[string]string{
		"max_connections": "77", "max_worker_processes": "11", "max_wal_senders": "13",
		"max_prepared_transactions": "5", "max_locks_per_transaction": "70",
		"archive_mode": "on", "archive_command": "true", "track_commit_timestamp": "on", "wal_level": "logical",
		"recovery_min_apply_delay": "1h", "restore_command": "false",
		"unix_socket_permissions": "0777", "cluster_name": "theirs", "log_min_messages": "panic", "primary_slot_name": "theirs",
	}
	switch v := pgtest.Find(t).Version; {
	case v < 16:
		hurts["promote_trigger_file"] = "/tmp/nobody"
	case v >= 18:
		hurts["idle_replication_slot_timeout"], hurts["io_method"] = "1s", "sync"
		fallthrough
	case v >= 17:
		hurts["summarize_wal"], hurts["sync_replication_slots"], hurts["synchronized_standby_slots"] = "on", "on", "theirs"
	}
	p := primary(t, hurts)
	p.Tablespace(t, "fast")
	p.SQL(t, "CREATE TABLE kept (n int) TABLESPACE fast")
	p.SQL(t, "INSERT INTO kept SELECT generate_series(1, 1000)")
	p.BenchInit(t, 1)
	p.SQL(t, "ALTER SYSTEM SET recovery_target_time = '2030-01-01'")
	p.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'tidegate_elsewhere'")

	s := open(t, home(t, p))
	restore(t, s, takeBase(t, p), nil)
	load := p.Bench(t, "-c", "4")
	follow(t, s)
	if err := s.Start(within(t), Serve); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("start of a follower to serve: %v, want misuse", err)
	}
	eventually(t, "streaming", func() (bool, error) {
		st, err := s.State(within(t))
		return st.Streaming && st.Recovery && !st.LastCommit.IsZero(), err
	})
	load.Stop()
	level(t, s, p)
	digest := p.BenchDigest(t)

	at := ends(t, s, p)
	out, err := s.Promote(within(t), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("promoted in %s", out.Took)
	if out.Timeline != 2 || out.Fork != at || out.Took <= 0 {
		t.Errorf("promotion is %+v, want timeline 2 at %s", out, at)
	}
	// With the primary's synchronous_standby_names this would wait for ever.
	sql(t, s, "INSERT INTO kept VALUES (0)")
	if got := sql(t, s, "SELECT count(*) FROM kept"); got != "1001" {
		t.Errorf("%s rows in the tablespace, want 1001", got)
	}
	if got := sql(t, s, benchDigest); got != digest {
		t.Errorf("tables differ from the primary's")
	}
	again, err := s.Promote(within(t), at)
	if err != nil || again.Fork != at || again.Took != 0 {
		t.Errorf("promote again: %+v, %v", again, err)
	}
	want := strings.Join([]string{
		"archive_mode=off", "cluster_name=tidegate", "max_connections=77", "max_locks_per_transaction=70", "max_prepared_transactions=5",
		"max_wal_senders=13", "max_worker_processes=11", "primary_slot_name=", "recovery_min_apply_delay=0", "recovery_target_time=",
		"restore_command=", "synchronous_standby_names=", "track_commit_timestamp=on", "wal_level=logical", "wal_log_hints=on",
	}, "\n")
	got := sql(t, s, `SELECT name || '=' || setting FROM pg_settings WHERE name IN ('archive_mode', 'cluster_name', 'max_connections',
		'max_locks_per_transaction', 'max_prepared_transactions', 'max_wal_senders', 'max_worker_processes', 'primary_slot_name',
		'recovery_min_apply_delay', 'recovery_target_time', 'restore_command', 'synchronous_standby_names',
		'track_commit_timestamp', 'wal_level', 'wal_log_hints') ORDER BY name`)
	if got != want {
		t.Errorf("settings (-want +got):\n%s", cmp.Diff(want, got))
	}
	if err := s.Checkpoint(within(t)); err != nil {
		t.Error(err)
	}

	// What an administrator sets on the new primary stays.
	sql(t, s, "ALTER SYSTEM SET synchronous_standby_names = 'tidegate_back'")
	if err := s.Stop(within(t), StopFast); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(within(t), Follow); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("start of a primary to follow: %v, want misuse", err)
	}
	if err := s.Start(within(t), Serve); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := sql(t, s, "SHOW synchronous_standby_names"); got != "tidegate_back" {
		t.Errorf("synchronous_standby_names is %q after a restart, want what was set", got)
	}
}

const benchDigest = `SELECT md5(string_agg(d, ',' ORDER BY n)) FROM (
	SELECT 1 n, count(*) || ':' || sum(hashtextextended(t::text, 0)) d FROM pgbench_accounts t
	UNION ALL SELECT 2, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_branches t
	UNION ALL SELECT 3, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_tellers t
	UNION ALL SELECT 4, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_history t) x`

// TestBaseWithoutConfiguration is Debian's case: all of it is in /etc.
func TestBaseWithoutConfiguration(t *testing.T) {
	p := primary(t, nil)
	cfg := home(t, p)
	cfg.Listen = p.Host
	cfg.Port = 6543
	s := open(t, cfg)
	settings := map[string]string{
		"work_mem": "5MB", "default_text_search_config": "pg_catalog.german", "synchronous_standby_names": "*",
		"ssl": "on", "ssl_cert_file": "/nowhere", "data_directory": "/nowhere", "hba_file": "/etc/nowhere", "log_directory": "/nowhere",
		"stats_temp_directory": "/nowhere",
	}
	restore(t, s, takeBase(t, p), settings, configFile, hbaFile, identFile)
	follow(t, s)
	at := ends(t, s, p)
	if _, err := s.Promote(within(t), at); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"work_mem": "5MB", "default_text_search_config": "pg_catalog.german", "synchronous_standby_names": "", "ssl": "off",
		"shared_buffers": "32MB", "port": "6543", "listen_addresses": p.Host,
	} {
		if got := sql(t, s, "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	// A client with a password comes in, one without does not.
	env := []string{"PGHOST=" + p.Host, "PGPORT=6543", "PGUSER=postgres", "PGDATABASE=postgres"}
	if out, err := p.Try(t, append(env, "PGPASSWORD="+p.Password), "psql", "-Atc", "select 1"); err != nil {
		t.Errorf("client with a password: %v: %s", err, out)
	}
	if out, err := p.Try(t, append(env, "PGPASSWORD=wrong"), "psql", "-Atc", "select 1"); err == nil {
		t.Errorf("client with a wrong password came in: %s", out)
	}
}

// TestSettingsGrow raises a size on the primary, which stops replay on a follower
// with the old one.
func TestSettingsGrow(t *testing.T) {
	for _, who := range []string{"run", "promote"} {
		t.Run(who, func(t *testing.T) {
			p := primary(t, nil)
			s := follower(t, p, home(t, p))
			level(t, s, p)
			var w *watching
			if who == "run" {
				w = watchOver(t, s)
			}
			p.SQL(t, "ALTER SYSTEM SET max_connections = 90")
			p.Restart(t)
			at := end(t, p)
			if who == "run" {
				f := w.until(t, FoundInsufficient)
				if f.Hint == "" || !strings.Contains(f.Message, "insufficient parameter settings") {
					t.Errorf("finding is %+v", f)
				}
				level(t, s, p)
				if got := sql(t, s, "SHOW max_connections"); got != "90" {
					t.Errorf("max_connections is %s, want 90", got)
				}
				return
			}
			eventually(t, "replay to stand still", func() (bool, error) {
				st, err := s.State(within(t))
				return st.Paused && st.Received >= at, err
			})
			p.Kill(t)
			st, err := s.State(within(t))
			if err != nil {
				t.Fatal(err)
			}
			out, err := s.Promote(within(t), st.Received)
			if err != nil {
				t.Fatal(err)
			}
			if got := sql(t, s, "SHOW max_connections"); got != "90" || out.Fork != st.Received {
				t.Errorf("max_connections is %s, want 90; promotion is %+v", got, out)
			}
		})
	}
}

// TestServerOutlivesItsMinder leaves a server, finds it again, and has it killed
// in both roles.
func TestServerOutlivesItsMinder(t *testing.T) {
	p := primary(t, nil)
	cfg := home(t, p)
	first := follower(t, p, cfg)
	before, err := first.pidRecord()
	if err != nil {
		t.Fatal(err)
	}
	first.hangUp(within(t))

	s := open(t, cfg)
	follow(t, s)
	after, err := s.pidRecord()
	if err != nil || after.pid != before.pid {
		t.Fatalf("process is %d, want %d: %v", after.pid, before.pid, err)
	}
	w := watchOver(t, s)
	kill := func() {
		t.Helper()
		r, err := s.pidRecord()
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(r.pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another process", func() (bool, error) {
			now, err := s.pidRecord()
			return now.pid != 0 && now.pid != r.pid && (now.status == "ready" || now.status == "standby"), err
		})
		if err := s.WaitReady(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	w.until(t, FoundCrash)
	level(t, s, p)

	at := ends(t, s, p)
	w.until(t, FoundUpstream)
	if _, err := s.Promote(within(t), at); err != nil {
		t.Fatal(err)
	}
	sql(t, s, "CREATE TABLE after (n int)")
	kill()
	if st, err := s.State(within(t)); err != nil || st.Recovery || st.Timeline != 2 {
		t.Errorf("state after a crash of the new primary is %+v, %v", st, err)
	}
	sql(t, s, "INSERT INTO after VALUES (1)")

	// A server that is stopped is left alone.
	if err := s.Stop(within(t), StopFast); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(within(t), StopFast); err != nil {
		t.Errorf("stop again: %v", err)
	}
	if running, err := s.Running(); err != nil || running {
		t.Errorf("running is %v, %v", running, err)
	}
	// What stands in postmaster.pid after a crash may be the number of a stranger.
	s.writePid(t, os.Getpid())
	if running, err := s.Running(); err != nil || running {
		t.Errorf("a stranger is taken for the server: %v, %v", running, err)
	}
}

func (s *Server) writePid(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(s.inData(pidFile), fmt.Appendf(nil, "%d\n%s\n", pid, s.DataDir()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(s.inData(pidFile)) })
}

func TestPauseAndPromote(t *testing.T) {
	p := primary(t, nil)
	s := follower(t, p, home(t, p))
	at := level(t, s, p)
	if err := s.Pause(within(t)); err != nil {
		t.Fatal(err)
	}
	p.SQL(t, "CREATE TABLE later (n int)")
	eventually(t, "log to come", func() (bool, error) {
		st, err := s.State(within(t))
		return st.Received > at && st.Paused && st.Replayed <= at, err
	})
	// It holds more than the place at which it should begin its own way.
	if _, err := s.Promote(within(t), at); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("promotion within what is held: %v, want diverged", err)
	}
	if st, err := s.State(within(t)); err != nil || !st.Recovery {
		t.Errorf("state after a refusal is %+v, %v", st, err)
	}
	if err := s.Pause(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(within(t)); err != nil {
		t.Fatal(err)
	}
	level(t, s, p)
	if err := s.Checkpoint(within(t)); err != nil {
		t.Error(err)
	}
	if err := s.Pause(within(t)); err != nil {
		t.Fatal(err)
	}
	p.SQL(t, "INSERT INTO later VALUES (1)")
	p.Stop(t, pgtest.Fast)
	st, err := s.State(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Promote(within(t), st.Received); err != nil {
		t.Fatal(err)
	}
	if got := sql(t, s, "SELECT n FROM later"); got != "1" {
		t.Errorf("row is %q", got)
	}
}

// TestStartsThatFail says why in the server's words.
func TestStartsThatFail(t *testing.T) {
	p := primary(t, nil)
	base := takeBase(t, p)
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
		hint   string
	}{
		"library":  {func(c *Config) { c.Settings["shared_preload_libraries"] = "nosuchlib" }, "nosuchlib", "shared_preload_libraries"},
		"setting":  {func(c *Config) { c.Settings["no_such_setting"] = "1" }, "no_such_setting", "postgresql.conf"},
		"address":  {func(c *Config) { c.Listen = "192.0.2.1" }, "could not create any TCP/IP sockets", "listen"},
		"memory":   {func(c *Config) { c.Settings["shared_buffers"] = "100000GB" }, "shared_buffers", "postgresql.conf"},
		"nobinary": {func(c *Config) { c.BinDir = "/nowhere" }, "no such file", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := home(t, p)
			test.change(&cfg)
			s := open(t, cfg)
			restore(t, s, base, nil)
			err := s.Start(within(t), Follow)
			if err == nil {
				err = s.WaitReady(within(t))
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(tidegate.HintOf(err), test.hint) {
				t.Errorf("got %v\nhint: %s\nwant %q and %q", err, tidegate.HintOf(err), test.want, test.hint)
			}
		})
	}
}

func TestAside(t *testing.T) {
	p := primary(t, nil)
	s := follower(t, p, home(t, p))
	to := filepath.Join(s.cfg.Home, "old")
	if _, err := s.Aside(within(t), to); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("moved aside while it runs: %v", err)
	}
	if _, err := s.Restore(within(t), nil); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("restored over data: %v", err)
	}
	if err := s.Stop(within(t), StopFast); err != nil {
		t.Fatal(err)
	}
	if moved, err := s.Aside(within(t), to); err != nil || !moved {
		t.Fatalf("moved %v, %v", moved, err)
	}
	if _, err := os.Stat(filepath.Join(to, dataDir, controlFile)); err != nil {
		t.Error(err)
	}
	if moved, err := s.Aside(within(t), to); err != nil || moved {
		t.Errorf("moved nothing: %v, %v", moved, err)
	}
	restore(t, s, takeBase(t, p), nil)
	follow(t, s)
	level(t, s, p)
}
