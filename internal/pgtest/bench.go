package pgtest

import (
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// Tool runs one of PostgreSQL's programs against the server and returns what it
// printed; the test fails when it does.
func (s *Server) Tool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := s.Server.Tool(name, args...)
	must(tb, err)
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
	must(tb, s.Server.BenchInit(scale))
}

// Bench starts pgbench's transactions in the background, with more arguments:
// "-c", "4", "-T", "10". Without -T or -t it goes on until it is stopped.
func (s *Server) Bench(tb testing.TB, args ...string) *Process {
	tb.Helper()
	return beside(tb)(s.Server.Bench(nil, args...))
}

// BenchDigest is a digest over all rows of pgbench's tables: equal on two servers
// whose tables are equal.
func (s *Server) BenchDigest(tb testing.TB) string {
	tb.Helper()
	return s.SQL(tb, pgrun.BenchDigest)
}
