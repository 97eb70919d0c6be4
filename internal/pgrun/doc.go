// Package pgrun runs real PostgreSQL servers on this machine: clusters made by
// initdb, replicas, PostgreSQL's own programs, kills and restarts. Tests use it
// through package pgtest, the demonstration and the soak directly.
//
// Promise: a server is ready when the call that starts it returns; [Server.Close]
// leaves no process, no shared memory and no directory of it behind; the kernel
// ends servers and programs with the process that started them. Each error of a
// server that would not start has the end of its log.
// Not promised: durability. Servers run with fsync off unless the settings say
// otherwise: a killed process loses nothing that the kernel has.
//
// # Words
//
//   - account: the user the server runs as; PostgreSQL refuses root, so programs
//     that run as root use "postgres" or "nobody"
//   - place:   a short directory that the account may enter and owns; a socket's
//     path must fit into 107 bytes
//
// # Picture
//
//	[New] ---------> initdb --> [Server] <-- [Server.Query], [Server.Beside], [Server.Try]
//	[Server.Replica] -> pg_basebackup -> [Server]   kill, freeze, stop, start
//
// Every server listens on the Unix socket in [Server.SocketDir], where everybody
// is trusted, and on a loopback address of its own ([Server.Host]), where a
// password is wanted (SCRAM) and TLS is offered. Servers may be used by many
// goroutines at once, except that one at a time starts, stops or kills.
//
// TIDEGATE_PG_BIN names another directory of binaries, for other versions. It may
// be that of a bare server: psql, pgbench and pg_amcheck are taken from the
// system's newest then, copies are made without pg_basebackup, and whoever wants
// another program is told that it is missing.
package pgrun
