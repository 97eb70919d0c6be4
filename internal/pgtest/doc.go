// Package pgtest runs real PostgreSQL servers for tests: primaries, replicas,
// pgbench, kills and restarts.
//
// Promise: every server and tool that a test starts through this package has
// ended, and its directory is gone, when the test has ended; a test process that
// is killed takes its servers along. A server is ready when the call that starts
// it returns. When PostgreSQL is not installed the test fails and names the
// command that installs it; it is never skipped.
// Not promised: durability. Servers run with fsync off unless a test asks for
// it: a killed process loses nothing that the kernel has, and tests are quick.
//
// The servers are those of package pgrun, with every error ending the test:
//
//	pgtest.New(t, cfg) --> [Server] = pgrun.Server + a test that fails and cleans up
package pgtest
