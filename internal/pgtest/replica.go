package pgtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// Replica makes a hot standby of s by pg_basebackup, starts it and waits until
// it streams. Settings and HBA of cfg are its own; what it leaves out is s's.
func (s *Server) Replica(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	return owned(tb)(s.Server.Replica(cfg))
}

// Follow makes s, which must not be running, a standby of primary at its next start.
func (s *Server) Follow(tb testing.TB, primary *Server) {
	tb.Helper()
	must(tb, s.Server.Follow(primary.Server))
}

// AdoptDataDir makes a server of a data directory that lies in the place of s
// under the given name, for backups that a test has made: it is configured and
// not started. cfg's zero value has no settings of the original.
func AdoptDataDir(tb testing.TB, name string, cfg Config, fill func(dataDir string)) *Server {
	tb.Helper()
	return owned(tb)(pgrun.Adopt(name, cfg, func(dir string) error { fill(dir); return nil }))
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
	s.UntilSQL(tb, "SELECT pg_last_wal_replay_lsn() >= "+"'"+lsn+"'::pg_lsn", "t")
}

// Tablespace makes a directory in the server's place and a tablespace in it.
func (s *Server) Tablespace(tb testing.TB, name string) string {
	tb.Helper()
	dir := filepath.Join(s.Dir, "ts-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatalf("tablespace: %v", err)
	}
	s.Give(tb, dir, 0o700)
	s.SQL(tb, "CREATE TABLESPACE "+name+" LOCATION '"+dir+"'")
	return dir
}
