package pgtest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/internal/pgtest"
)

func TestPrimaryAndReplica(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Checksums: true})
	if got := s.SQL(t, "SHOW wal_segment_size"); got != "1MB" {
		t.Errorf("wal_segment_size is %s", got)
	}
	dir := s.Tablespace(t, "slow")
	s.SQL(t, "CREATE TABLE far (n int) TABLESPACE slow; INSERT INTO far SELECT generate_series(1, 10)")
	s.BenchInit(t, 1)
	r := s.Replica(t, pgtest.Config{})
	bench := s.Bench(t, "-c", "2")
	s.UntilSQL(t, "SELECT count(*) > 100 FROM pgbench_history", "t")
	bench.Stop()
	r.UntilReplayed(t, s.LSN(t))
	if got, want := r.BenchDigest(t), s.BenchDigest(t); got != want {
		t.Errorf("digest of the replica is %s, of the primary %s", got, want)
	}
	if got := r.SQL(t, "SELECT sum(n), pg_tablespace_location((SELECT oid FROM pg_tablespace WHERE spcname = 'slow')) <> '"+dir+"' FROM far"); got != "55|t" {
		t.Errorf("the replica's tablespace: %s", got)
	}
	if c := r.Complaints(t, 0); len(c) > 0 {
		t.Errorf("the replica complains:\n%s", strings.Join(c, "\n"))
	}
	s.Kill(t)
	r.Promote(t)
	r.SQL(t, "INSERT INTO far VALUES (1)")
}

func TestKillAndRestart(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	s.BenchInit(t, 1)
	bench := s.Bench(t, "-c", "4")
	s.UntilSQL(t, "SELECT count(*) > 100 FROM pgbench_history", "t")
	mark := s.LogSize(t)
	s.Kill(t)
	<-bench.Done()
	if s.Running() {
		t.Fatal("it runs after a kill")
	}
	s.Start(t)
	s.UntilLog(t, mark, "database system was not properly shut down")
	s.Restart(t)
	s.Freeze(t, true)
	s.Freeze(t, false)
	if got := s.SQL(t, "SELECT count(*) > 100 FROM pgbench_history"); got != "t" {
		t.Errorf("rows after restarts: %s", got)
	}
}

func TestTCP(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	c, err := pgconn.Connect(t.Context(), s.TCP())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Error(err)
	}
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := pgconn.Connect(t.Context(), s.TCP("password=wrong")); err == nil {
		t.Error("a wrong password was taken")
	}
	if _, err := pgconn.Connect(t.Context(), s.TCP("sslrootcert=/etc/ssl/certs/ca-certificates.crt")); err == nil {
		t.Error("a stranger's certificate was taken")
	}
}
