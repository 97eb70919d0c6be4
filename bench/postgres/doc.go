// Package postgres measures a crossing of PostgreSQL beside PostgreSQL's own means,
// on real processes, in the same minutes: `make bench-postgres`.
//
// Promise: every figure of the product stands beside the same thing done natively,
// measured in turns with it on the same server, and the median of the rounds' ratios
// is what is judged, for a machine is never equally fast twice. Both cross by TLS,
// both are durable at the end, and while one is measured the other is stopped.
// Not promised: that figures of two runs can be compared, ratios aside.
//
// # Words
//
//   - native:   pg_receivewal, or a hot standby that follows the primary itself
//   - ours:     tidegate-agent beside the primary, a standby node, the warm server
//   - backlog:  log that was written while the far side was stopped
//   - turn:     one measurement of one of the two; a round has a turn of each, and
//     who goes first alternates
//
// # Picture
//
//	backlog   primary -TLS-> pg_receivewal: a directory
//	          primary -> agent -TLS-> standby node: D
//	catch-up  primary -TLS-> hot standby: replayed
//	          primary -> agent -TLS-> standby node -> warm server: replayed
//	latency   pgbench -> primary -distance-> hot standby, synchronous
//	          pgbench -> primary -> agent -distance-> standby node, mode sync or bounded
//
// The measurements are tests behind the build tag "bench", because the servers of
// internal/pgtest belong to tests; nothing else runs them.
package postgres
