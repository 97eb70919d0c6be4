// Package probe is the synthetic client of PostgreSQL services: the kind postgres
// of package gating/probe. An attempt connects as an ordinary client does, makes
// sure that the server is not in recovery, and at level write commits one row of a
// small table, at the synchronous_commit of the role or the one that is configured.
//
// Promise: nil at level write means that the server confirmed the commit without a
// warning: a wait for the other site that somebody cancelled is no success. An
// attempt that is given up never cancels such a wait, which would let the commit go
// unprotected; it closes its connection, and while the commit waits later attempts
// write nothing and say so. One backend is the most that a gate leaves waiting. The table holds one row for each gate and does not grow. A
// password is never read from the gate's file.
// Not promised: that the row survives a failover. It is a row like any other, and
// what the loss statement says holds for it, too.
//
// # Words
//
//   - canary: that table, made once by [Setup]
//
// # Picture
//
//	package gating -- Try --> [probe.Client] -- connect, SELECT, INSERT ... ON CONFLICT --> route or endpoint --> server
//
// All methods may be called concurrently. Nothing is written to disk here.
// docs/operating/postgresql.md has the rights and how to set up.
package probe
