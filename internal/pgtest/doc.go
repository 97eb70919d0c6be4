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
// # Words
//
//   - account: the user the server runs as; PostgreSQL refuses root, so tests
//     that run as root use "postgres" or "nobody"
//   - place:   a short directory that the account may enter and owns; a socket's
//     path must fit into 107 bytes, which t.TempDir's do not
//
// # Picture
//
//	[New] ---------> initdb --> [Server] <-- [Server.SQL], [Server.Bench], [Server.Tool]
//	[Server.Replica] -> pg_basebackup -> [Server]   kill, stop, restart, promote, logs
//
// Every server listens on the Unix socket in [Server.SocketDir], where everybody
// is trusted, and on a loopback address of its own ([Server.Host]), where a
// password is wanted (SCRAM) and TLS is offered. Servers may be used by many
// goroutines at once, except that one at a time starts, stops or kills.
//
// TIDEGATE_PG_BIN names another directory of binaries, for tests of other
// versions; a tool that is missing there is taken from the system's newest.
package pgtest
