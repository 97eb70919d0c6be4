package pgtest

import (
	"fmt"
	"testing"
)

// Env points PostgreSQL's programs at the server's Unix socket.
func (s *Server) Env() []string {
	return []string{"PGHOST=" + s.SocketDir, fmt.Sprintf("PGPORT=%d", Port), "PGUSER=" + Superuser, "PGDATABASE=postgres"}
}

// Tool runs one of PostgreSQL's programs against the server and returns what it
// printed; the test fails when it does.
func (s *Server) Tool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := s.Try(tb, s.Env(), name, args...)
	if err != nil {
		tb.Fatalf("%s against %s: %v\n%s", name, s.Name, err, out)
	}
	return out
}

// Beside starts one of PostgreSQL's programs against the server in the background.
func (s *Server) Beside(tb testing.TB, name string, args ...string) *Process {
	tb.Helper()
	return s.Install.Start(tb, s.Env(), name, args...)
}

// BenchInit fills the tables of pgbench; a scale of 1 is 100,000 accounts, 15 MB.
func (s *Server) BenchInit(tb testing.TB, scale int) {
	tb.Helper()
	s.Tool(tb, "pgbench", "-i", "-q", "-s", fmt.Sprint(scale))
}

// Bench starts pgbench's transactions in the background, with more arguments:
// "-c", "4", "-T", "10". Without -T or -t it goes on until it is stopped.
func (s *Server) Bench(tb testing.TB, args ...string) *Process {
	tb.Helper()
	bounded := false
	for _, a := range args {
		bounded = bounded || a == "-T" || a == "-t"
	}
	if !bounded {
		args = append(args, "-T", "86400")
	}
	return s.Beside(tb, "pgbench", append([]string{"-n"}, args...)...)
}

// BenchDigest is a digest over all rows of pgbench's tables: equal on two servers
// whose tables are equal.
func (s *Server) BenchDigest(tb testing.TB) string {
	tb.Helper()
	return s.SQL(tb, `SELECT md5(string_agg(d, ',' ORDER BY n)) FROM (
		SELECT 1 n, count(*) || ':' || sum(hashtextextended(t::text, 0)) d FROM pgbench_accounts t
		UNION ALL SELECT 2, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_branches t
		UNION ALL SELECT 3, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_tellers t
		UNION ALL SELECT 4, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_history t) x`)
}
