package pgrun

import "fmt"

// Env points PostgreSQL's programs at the server's Unix socket.
func (s *Server) Env() []string {
	return []string{"PGHOST=" + s.SocketDir, fmt.Sprintf("PGPORT=%d", Port), "PGUSER=" + Superuser, "PGDATABASE=postgres"}
}

// BenchDigest asks for a digest over all rows of pgbench's tables: equal on two
// servers whose tables are equal.
const BenchDigest = `SELECT md5(string_agg(d, ',' ORDER BY n)) FROM (
		SELECT 1 n, count(*) || ':' || sum(hashtextextended(t::text, 0)) d FROM pgbench_accounts t
		UNION ALL SELECT 2, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_branches t
		UNION ALL SELECT 3, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_tellers t
		UNION ALL SELECT 4, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_history t) x`

// Tool runs one of PostgreSQL's programs against the server and returns what it
// printed, which is in the error, too.
func (s *Server) Tool(name string, args ...string) (string, error) {
	out, err := s.Install.Try(s.Env(), name, args...)
	if err != nil {
		return out, fmt.Errorf("%s against %s: %w\n%s", name, s.Name, err, out)
	}
	return out, nil
}

// BenchInit fills the tables of pgbench; a scale of 1 is 100,000 accounts, 15 MB.
func (s *Server) BenchInit(scale int) error {
	_, err := s.Tool("pgbench", "-i", "-q", "-s", fmt.Sprint(scale))
	return err
}

// Bench starts pgbench's transactions in the background, with more environment
// and arguments: "-c", "4", "-T", "10". Without -T or -t it goes on until it is
// stopped.
func (s *Server) Bench(env []string, args ...string) (*Process, error) {
	bounded := false
	for _, a := range args {
		bounded = bounded || a == "-T" || a == "-t"
	}
	if !bounded {
		args = append(args, "-T", "86400")
	}
	return s.Install.Start(append(s.Env(), env...), "pgbench", append([]string{"-n"}, args...)...)
}
