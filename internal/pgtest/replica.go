package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Replica makes a hot standby of s by pg_basebackup, starts it and waits until
// it streams. Settings and HBA of cfg are its own; what it leaves out is s's.
func (s *Server) Replica(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	set := map[string]string{}
	for k, v := range s.cfg.Settings {
		set[k] = v
	}
	for k, v := range cfg.Settings {
		set[k] = v
	}
	cfg.Settings = set
	if cfg.Password == "" {
		cfg.Password = s.Password
	}
	r := prepare(tb, s.Name+"-replica", cfg)
	if s.canBackUp() {
		// A tablespace's path is the same for every server of this machine: without a map
		// of its own, each directory of the primary would be written into.
		args := []string{"-D", r.DataDir, "-h", s.SocketDir, "-p", fmt.Sprint(Port), "-U", Superuser, "-X", "stream", "-c", "fast", "-N"}
		for i, dir := range s.tablespaces(tb) {
			args = append(args, "-T", dir+"="+r.tablespaceDir(i))
		}
		s.Run(tb, "pg_basebackup", args...)
	} else {
		s.copyTo(tb, r)
	}
	r.Follow(tb, s)
	r.Start(tb)
	r.UntilSQL(tb, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "1")
	return r
}

func (s *Server) tablespaces(tb testing.TB) []string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	rows, err := s.Query(ctx, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '' ORDER BY 1")
	if err != nil {
		tb.Fatalf("%s: %v", s.Name, err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, r[0])
	}
	return out
}

// Follow makes s, which must not be running, a standby of primary at its next start.
func (s *Server) Follow(tb testing.TB, primary *Server) {
	tb.Helper()
	s.configure(tb, map[string]string{"primary_conninfo": primary.Conn("application_name=" + s.Name)})
	// pg_basebackup and pg_rewind bring the primary's own along, which would win.
	if err := os.Remove(filepath.Join(s.DataDir, "postgresql.auto.conf")); err != nil && !os.IsNotExist(err) {
		tb.Fatalf("follow: %v", err)
	}
	s.WriteFile(tb, filepath.Join(s.DataDir, "standby.signal"), "", 0o600)
}

// AdoptDataDir makes a server of a data directory that lies in the place of s
// under the given name, for backups that a test has made: it is configured and
// not started. cfg's zero value has no settings of the original.
func AdoptDataDir(tb testing.TB, name string, cfg Config, fill func(dataDir string)) *Server {
	tb.Helper()
	s := prepare(tb, name, cfg)
	if err := os.Mkdir(s.DataDir, 0o700); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	fill(s.DataDir)
	s.configure(tb, nil)
	err := filepath.WalkDir(s.DataDir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(s.Account.UID), int(s.Account.GID))
	})
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return s
}

// Promote makes a standby a primary and waits until it takes writes.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	// pg_promote(true) may cancel itself: its own snapshot conflicts with replay.
	s.SQL(tb, "SELECT pg_promote(false)")
	s.UntilSQL(tb, "SELECT pg_is_in_recovery()", "f")
}

// LSN is where the server's log ends: what it has flushed, or, on a standby,
// what it has replayed; "0/3000148".
func (s *Server) LSN(tb testing.TB) string {
	tb.Helper()
	return s.SQL(tb, "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END")
}

// UntilReplayed waits until the standby has replayed to lsn.
func (s *Server) UntilReplayed(tb testing.TB, lsn string) {
	tb.Helper()
	s.UntilSQL(tb, "SELECT pg_last_wal_replay_lsn() >= "+quote(lsn)+"::pg_lsn", "t")
}

// Tablespace makes a directory in the server's place and a tablespace in it.
func (s *Server) Tablespace(tb testing.TB, name string) string {
	tb.Helper()
	dir := filepath.Join(s.Dir, "ts-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatalf("tablespace: %v", err)
	}
	s.Give(tb, dir, 0o700)
	s.SQL(tb, "CREATE TABLESPACE "+name+" LOCATION "+quote(dir))
	return dir
}
